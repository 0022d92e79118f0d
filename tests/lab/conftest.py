"""Tests of the lab share tiny models and oracles that lie beside them."""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))

torch.set_num_threads(1)  # the models are tiny: more threads only wait for each other
