"""Evidence made elsewhere is taken in: the group `import`. The other verbs do not ask who made it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from prereg_moe.cli import show
from prereg_moe.cli.common import find_study, json_option, root_option
from prereg_moe.errors import Invalid, Problem

if TYPE_CHECKING:
    from prereg_moe.registry import Registry

__all__ = ["import_"]

_source = click.Path(path_type=Path)


@click.group("import")
def import_() -> None:
    """Take in evidence made elsewhere, for a frozen registration of schema prereg-moe/import/1.

    The files are copied and sealed, and the evidence is derived from them; `verdict`, `report` and `audit` go on from
    there. What evidence of a kind can support at most is shown in every report.

    \b
    Example:
      prereg-moe import summary command-a-plus table1.csv
    """


@import_.command()
@click.argument("id_", metavar="ID")
@click.argument("file", type=_source)
@click.option("--data", type=_source, help="The folder of files released beside the numbers: they are checked, too.")
@root_option
@json_option
def summary(id_: str, file: Path, data: Path | None, root: Path | None, as_json: bool) -> None:
    """Take in published estimates as printed (CSV, one row a claim): `verdict` then gives readings, never verdicts.

    \b
    Example:
      prereg-moe import summary command-a-plus table1.csv --data released/
    """
    _take_in(id_, "summary", file, data, root, as_json)


@import_.command()
@click.argument("id_", metavar="ID")
@click.argument("file", type=_source)
@root_option
@json_option
def rows(id_: str, file: Path, root: Path | None, as_json: bool) -> None:
    """Take in the score of every item in every registered cell (CSV, JSON, JSON lines, Parquet).

    \b
    Example:
      prereg-moe import rows routing-audit rows.csv
    """
    _take_in(id_, "rows", file, None, root, as_json)


@import_.command("lm-eval")
@click.argument("id_", metavar="ID")
@click.argument("folder", type=_source)
@root_option
@json_option
def lm_eval(id_: str, folder: Path, root: Path | None, as_json: bool) -> None:
    """Take in results and samples as `lm_eval --log_samples` writes them: a baseline and its ablations.

    FOLDER holds the registered runs, each the --output_path of one. Samples are matched by the hashes of document,
    prompt and target; what does not match is refused by name.

    \b
    Example:
      prereg-moe import lm-eval my-ablation runs/
    """
    _take_in(id_, "lm-eval", folder, None, root, as_json)


def _take_in(id_: str, kind: str, source: Path, data: Path | None, root: Path | None, as_json: bool) -> None:
    from prereg_moe.importing import take_in
    from prereg_moe.registry import now

    registry, id_ = find_study(root, id_)
    _require(registry, id_)
    with show.waiting("importing", as_json):
        imported, head = take_in(registry, id_, kind, source, data=data, time=now())
    evidence = imported["evidence"]
    if kind == "summary":
        what = f"{len(evidence['claims'])} rows of printed numbers"
    else:
        items = sum(len(cell["items"]) for cell in evidence["cells"].values())
        what = f"{len(evidence['cells'])} cells, {items} paired items"
    checked = "" if imported["checks"] is None else f"; {len(imported['checks']['files'])} released files checked"
    lines = [f"{what} from {len(imported['sources'])} files{checked}", f"head {head}"]
    show.say({"sources": imported["sources"], "checks": imported["checks"], "head": head}, lines, as_json)


def _require(registry: Registry, id_: str) -> None:
    from prereg_moe.importing import is_imported

    if not is_imported(registry.registration(id_)):
        raise Invalid(Problem(id_, "is a study that is run here", f"run `prereg-moe run {id_}`"))
