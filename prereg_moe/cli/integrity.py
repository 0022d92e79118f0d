"""The verbs that show whether a study is what it says."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from prereg_moe.cli import show
from prereg_moe.cli.common import find_study, json_option, root_option
from prereg_moe.errors import NotCheckable, Problem
from prereg_moe.registry import Registry

__all__ = ["audit"]


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--head", "expected", help="The ledger's head you were given: sha256:...")
@root_option
@json_option
def audit(path: Path, expected: str | None, root: Path | None, as_json: bool) -> None:
    """Recompute everything from the bytes, in numbered steps; needs no model and no torch.

    PATH is a registry, a registration's folder, or its id.

    \b
    Example:
      prereg-moe audit prereg-moe-demo --head sha256:...
    """
    from prereg_moe.auditing import audit as audit_

    registry, ids = _audited(path, root)
    with show.waiting("recomputing", as_json):
        results = [audit_(registry, id_, expected_head=expected) for id_ in ids]
    code = next((code for code in (3, 4, 5, 2) if any(result.exit_code == code for result in results)), 0)
    if as_json:
        show.print_json({"exit_code": code, "registrations": [show.audit_json(result) for result in results]})
    else:
        for result in results:
            show.show_audit(result)
    sys.exit(code)


def _audited(path: Path, root: Path | None) -> tuple[Registry, list[str]]:
    from prereg_moe import ledger
    from prereg_moe.registry import Registry

    if (path / "registrations").is_dir():
        registry = Registry(path.resolve())
        seals, _ = ledger.examine(registry.ledger())
        folders = sorted(entry.parent.name for entry in (path / "registrations").glob("*/frozen.json"))
        ids = list(dict.fromkeys([*(seal.registration for seal in seals), *folders]))
        if not ids:
            raise NotCheckable(Problem(str(path), "holds nothing that was sealed", "there is nothing to audit yet"))
        return registry, ids
    if path.is_dir() and path.resolve().parent.name in ("registrations", "reports"):
        return Registry(path.resolve().parent.parent), [path.resolve().name]
    registry, id_ = find_study(root, str(path))
    return registry, [id_]
