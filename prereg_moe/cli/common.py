"""What the verbs share: their common options, and finding what a user names."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from prereg_moe.errors import Invalid, Problem

if TYPE_CHECKING:
    from prereg_moe.registry import Registry

__all__ = ["find_study", "json_option", "processors", "refuse_imported", "registry_of", "root_of", "root_option"]

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
root_option = click.option(
    "--root",
    type=click.Path(path_type=Path, file_okay=False),
    help="The registry: the folder that holds registrations/. Default: the nearest one upwards.",
)


def registry_of(root: Path | None) -> Registry:
    """Return the registry at ``root``, or at or above the current folder."""
    from prereg_moe.registry import Registry

    return Registry.find(root or Path.cwd())


def root_of(folder: Path) -> Path:
    """Return the root of the registry a folder lies in, or the folder itself where it lies in none."""
    try:
        return registry_of(folder).root
    except Invalid:
        return folder.resolve()  # a document outside any registry can still be read


def find_study(root: Path | None, name: str) -> tuple[Registry, str]:
    """Return the registry and the id a user means by an id or by a registration's folder."""
    folder = Path(name)
    if (folder / "registration.yaml").is_file():
        return registry_of(root or folder), folder.resolve().name
    registry = registry_of(root)
    if Path(name).name != name or not (registry.registration(name) / "registration.yaml").is_file():
        raise Invalid(Problem(name, "is not a registration here", f"look in {registry.root / 'registrations'}"))
    return registry, name


def refuse_imported(registry: Registry, id_: str) -> None:
    """Refuse a registration of evidence made elsewhere where something would be computed here.

    Raises:
        Invalid: it is one.
    """
    from prereg_moe.importing import is_imported

    if is_imported(registry.registration(id_)):
        raise Invalid(Problem(id_, "is of evidence made elsewhere", "this verb is for studies that are run here"))


def processors() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
