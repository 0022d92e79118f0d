"""A model from a local folder, and what is in it: which layers route, how, and whether exactly.

`load_model` reads a folder, `read_outline` what can be known of one without its weights. `discover` finds the routed
layers of any transformers model by the shape of its module tree and one small forward pass. No architecture name is
known here.
"""

from prereg_moe.lab.models.discovery import MoE, MoELayer, Unsupported, discover
from prereg_moe.lab.models.loading import load_model, read_outline

__all__ = ["MoE", "MoELayer", "Unsupported", "discover", "load_model", "read_outline"]
