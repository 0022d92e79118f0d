"""Checks of files released beside published numbers: do the tables and families follow from the routing mass?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prereg_moe import canonical
from prereg_moe.atlas.describe import describe_released
from prereg_moe.atlas.released import read_families, read_mass, read_summary
from prereg_moe.importing.schema import Released

__all__ = ["check_released"]


def check_released(released: Released, folder: Path) -> dict[str, Any]:
    """Return what follows from released routing mass, as plain JSON, with the digests of the files.

    Args:
        released: names of the files.
        folder: where they lie.

    Raises:
        NotCheckable: a file cannot be read.
        Invalid: it is not of the format of `prereg-moe atlas --mass`.
    """
    named = [name for name in (released.mass, released.families, released.summary) if name is not None]
    mass = read_mass(folder / released.mass)
    found = describe_released(
        mass,
        families=read_families(folder / released.families, mass.atlas) if released.families is not None else None,
        summary=read_summary(folder / released.summary, mass.atlas) if released.summary is not None else None,
    )
    compared = found["released"] or {"families": None, "shared_core": None, "tables": []}
    return {
        "files": {name: canonical.digest_file(folder / name) for name in named},
        "model": found["model"],
        "layers": found["layers"],
        "experts": found["experts"],
        "axes": found["axes"],
        "rule": found["families"]["rule"],
        "excluded": found["families"]["excluded"],
        "tables": compared["tables"],
        "families": compared["families"],
        "shared_core": compared["shared_core"],
        "group": found["group"],
        "layer_shuffle": found["layer_shuffle"],
    }
