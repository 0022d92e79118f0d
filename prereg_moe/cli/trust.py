"""The verbs that let others vouch for a study: a signature, a time stamp, a reviewer's challenge. All go by files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.markup import escape

from prereg_moe import canonical
from prereg_moe.cli import show
from prereg_moe.cli.common import find_study, json_option, root_option
from prereg_moe.errors import Invalid, Problem

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

__all__ = ["trust"]

_file = click.Path(path_type=Path, dir_okay=False)
_key_option = click.option(
    "--key", "key_file", type=_file, required=True, help="Your private Ed25519 key (ssh-keygen's or openssl's)."
)


@click.group()
def trust() -> None:
    """Let others vouch for a study: who, not later than, not earlier than.

    What is added lies in the registration's trust/ and is sealed. `audit` says what each part proves and what not.

    \b
    Example:
      prereg-moe trust sign testbed --key ~/.ssh/id_ed25519
    """


@trust.command()
@click.argument("file", type=_file)
@json_option
def keygen(file: Path, as_json: bool) -> None:
    """Make an Ed25519 key: FILE, which you keep to yourself, and FILE.pub, which others know you by.

    `ssh-keygen -t ed25519 -f FILE` makes the same, and asks for a passphrase; `ssh-keygen -p -f FILE` adds one.

    \b
    Example:
      prereg-moe trust keygen author
    """
    from prereg_moe.trust import make_key

    who = make_key(file)
    lines = [f"wrote {escape(str(file))} (keep it) and {escape(str(file))}.pub (give it away)", f"fingerprint {who}"]
    show.say({"key": str(file), "public": f"{file}.pub", "fingerprint": who}, lines, as_json)


@trust.command()
@click.argument("id_", metavar="ID")
@_key_option
@root_option
@json_option
def sign(id_: str, key_file: Path, root: Path | None, as_json: bool) -> None:
    """Sign a frozen registration and the ledger as it is now, as its author.

    \b
    Example:
      prereg-moe trust sign testbed --key author
    """
    from prereg_moe.registry import now
    from prereg_moe.trust import fingerprint
    from prereg_moe.trust import sign as sign_

    registry, id_ = find_study(root, id_)
    key = _key(key_file)
    path, head = sign_(registry, id_, key, time=now())
    who = fingerprint(key.public_key())
    lines = [f"wrote {escape(str(path))}, signed by {who}", f"head {head}"]
    show.say({"file": str(path), "fingerprint": who, "head": head}, lines, as_json)


@trust.command()
@click.argument("id_", metavar="ID")
@click.option("--request", "asked", type=_file, help="Write here what to send to an authority.")
@click.option("--response", "answer", type=_file, help="Keep the authority's answer that lies here.")
@root_option
@json_option
def timestamp(id_: str, asked: Path | None, answer: Path | None, root: Path | None, as_json: bool) -> None:
    """Have a time-stamp authority (RFC 3161) say that the ledger as it is now exists.

    Once to write the request, and again to keep the answer. In between, on any machine with a network:
    curl -H 'Content-Type: application/timestamp-query' --data-binary @FILE.tsq URL > FILE.tsr

    \b
    Examples:
      prereg-moe trust timestamp testbed --request testbed.tsq
      prereg-moe trust timestamp testbed --response testbed.tsr
    """
    from prereg_moe.registry import now
    from prereg_moe.trust import keep_stamp, read_small, request_stamp

    if (asked is None) == (answer is None):
        raise Invalid(Problem("trust timestamp", "needs --request or --response", "first the one, then the other"))
    registry, id_ = find_study(root, id_)
    if asked is not None:
        canonical.write(asked, request_stamp(registry, id_))
        line = f"wrote {escape(str(asked))}: send it to an authority, keep its answer with --response"
        show.say({"request": str(asked)}, [line], as_json)
        return
    if answer is not None:
        stamp, head = keep_stamp(registry, id_, read_small(answer), where=str(answer), time=now())
        said = f"{stamp.time:%Y-%m-%dT%H:%M:%SZ} by the clock of {stamp.authority}, whose signature `audit` checks"
        show.say({"time": str(stamp.time), "head": head}, [escape(said), f"head {head}"], as_json)


@trust.command()
@click.argument("id_", metavar="ID")
@click.option("--nonce", "answer", type=_file, required=True, help="The nonce a reviewer signed for this registration.")
@root_option
@json_option
def challenge(id_: str, answer: Path, root: Path | None, as_json: bool) -> None:
    """Seal a reviewer's challenge: the null draws follow from its nonce, and the study can run.

    For registrations that leave their draws to a reviewer (controls.null.seed: challenge). The reviewer makes FILE with
    `prereg-moe trust nonce`.

    \b
    Example:
      prereg-moe trust challenge testbed --nonce nonce.json
    """
    from prereg_moe.registry import now
    from prereg_moe.trust import answer_challenge, read_small

    registry, id_ = find_study(root, id_)
    frozen, head = answer_challenge(registry, id_, read_small(answer), where=str(answer), time=now())
    conditions = len(frozen.plan)
    lines = [f"the null draws are drawn: {conditions} conditions can run", f"head {head}"]
    show.say({"registration": frozen.digest, "conditions": conditions, "head": head}, lines, as_json)


@trust.command()
@click.argument("digest")
@_key_option
@click.option("--out", type=_file, default=Path("nonce.json"), show_default=True, help="Where to write it.")
@json_option
def nonce(digest: str, key_file: Path, out: Path, as_json: bool) -> None:
    """Give a challenge, as a reviewer: a new nonce, signed for the frozen registration with this DIGEST.

    Give one nonce for a registration and no second one, and note when you did: no score of a random expert set in the
    study is older.

    \b
    Example:
      prereg-moe trust nonce sha256:... --key reviewer
    """
    from prereg_moe.registry import now
    from prereg_moe.trust import fingerprint, give_nonce

    key = _key(key_file)
    canonical.write(out, give_nonce(digest, key, nonce=os.urandom(32), time=now()))
    who = fingerprint(key.public_key())
    lines = [f"wrote {escape(str(out))}, signed by {who}: send it to the author"]
    show.say({"file": str(out), "fingerprint": who}, lines, as_json)


def _key(path: Path) -> Ed25519PrivateKey:
    from prereg_moe.trust import read_private

    return read_private(path, lambda: click.prompt(f"Passphrase of {path}", hide_input=True, err=True))
