"""The verbs that show whether a study is what it says."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import click
from rich.markup import escape

from prereg_moe.cli import show
from prereg_moe.cli.common import find_study, json_option, root_option
from prereg_moe.errors import Invalid, NotCheckable, Problem
from prereg_moe.registry import Registry

__all__ = ["attack", "audit", "bundle"]


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--head", "expected", help="The ledger's head you were given: sha256:...")
@click.option(
    "--claims",
    type=click.Path(path_type=Path, dir_okay=False),
    help="A manuscript (.tex, .md) or a list (.yaml) that refers to verdicts and numbers: each is checked.",
)
@click.option(
    "--known",
    type=click.Path(path_type=Path, dir_okay=False),
    multiple=True,
    help="A public key or a time-stamp authority's certificate you know to be whose it is said to be. May be repeated.",
)
@root_option
@json_option
def audit(
    path: Path, expected: str | None, claims: Path | None, known: tuple[Path, ...], root: Path | None, as_json: bool
) -> None:
    """Recompute everything from the bytes, in numbered steps, and say what backs it; needs no model and no torch.

    PATH is a registry, a registration's folder, its id, or a bundle. With --known, signatures, time stamps and
    challenges have to be by somebody you know. With --claims, what a manuscript says is checked against the verdicts;
    exit code 1 where something is stronger, not registered or another number.

    \b
    Examples:
      prereg-moe audit prereg-moe-demo --head sha256:...
      prereg-moe audit prereg-moe-demo --claims paper.tex
    """
    from prereg_moe import ledger
    from prereg_moe.auditing import audit as audit_
    from prereg_moe.claims import check_claims, read_manuscript
    from prereg_moe.trust import Known

    if expected is not None and not re.fullmatch(r"sha256:[0-9a-f]{64}", expected):  # a slip, no sign of tampering
        raise Invalid(
            Problem("--head", f"{expected!r} is no head", "give sha256: and 64 hex digits, as `status` prints it")
        )
    said = read_manuscript(claims) if claims else ()
    friends = Known.read(known) if known else Known()
    with _audited(path, root) as (registry, ids), show.waiting("recomputing", as_json):
        checked = check_claims(registry, said)
        sealed = {seal.registration for seal in ledger.examine(registry.ledger())[0]}
        ids += sorted({one.registration for one in said} & sealed - set(ids))  # a verdict counts if its audit holds
        results = [audit_(registry, id_, expected_head=expected, known=friends) for id_ in ids]
    code = next((code for code in (3, 4, 5, 2) if any(result.exit_code == code for result in results)), 0)
    code = code or int(any(one.outcome != "supported" for one in checked))
    document = {"exit_code": code, "registrations": [show.audit_json(result) for result in results]}
    if as_json:
        show.print_json(document | ({"claims": [show.claim_json(one) for one in checked]} if claims else {}))
    else:
        for result in results:
            show.show_audit(result)
        show.show_claims(checked)
    sys.exit(code)


@click.command()
@click.argument("id_", metavar="ID")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@root_option
@json_option
def bundle(id_: str, file: Path, root: Path | None, as_json: bool) -> None:
    """Put everything `audit` reads of a registration into one archive, which `audit` opens itself.

    \b
    Example:
      prereg-moe bundle testbed testbed.zip
    """
    from prereg_moe.bundling import pack

    registry, id_ = find_study(root, id_)
    with show.waiting("packing", as_json):
        packed = pack(registry, id_, file)
    left_out = [f"left out: {escape(source)}; get it to check its digests" for source in packed.left_out]
    lines = [f"wrote {escape(str(file))}: {packed.files} files, {packed.bytes} bytes", *left_out, f"head {packed.head}"]
    document = {"file": str(file), **asdict(packed), "left_out": list(packed.left_out)}
    show.say(document, lines, as_json)


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@root_option
@json_option
def attack(path: Path, root: Path | None, as_json: bool) -> None:
    """Play every known cheat on a copy of a study, and say which the audit catches, and where.

    PATH is what `audit` takes. The study itself is only read. Exit code 3 where a cheat passes that should not.

    \b
    Example:
      prereg-moe attack prereg-moe-demo
    """
    from prereg_moe.attack import UNSEEN, play

    with _audited(path, root) as (registry, ids), show.steps(as_json) as steps:
        results = {id_: play(registry, id_, progress=steps(id_)) for id_ in ids}
    code = 0 if all(one.as_it_should for outcomes in results.values() for one in outcomes) else 3
    if as_json:
        studies = {id_: [show.outcome_json(one) for one in outcomes] for id_, outcomes in results.items()}
        show.print_json({"exit_code": code, "registrations": studies, "unseen": list(UNSEEN)})
    else:
        for id_, outcomes in results.items():
            show.show_attack(id_, outcomes, UNSEEN)
    sys.exit(code)


@contextmanager
def _audited(path: Path, root: Path | None) -> Iterator[tuple[Registry, list[str]]]:
    """Give the registry and the registrations a user means by a folder, an id, or a bundle."""
    from prereg_moe.bundling import opened

    if path.is_file():
        with opened(path) as found:
            yield found
    else:
        yield _in_folder(path, root)


def _in_folder(path: Path, root: Path | None) -> tuple[Registry, list[str]]:
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
