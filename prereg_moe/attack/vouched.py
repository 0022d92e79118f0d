"""Cheats of what others vouch for: the order in git, signatures, time stamps, challenges.

A git history, a signature or a stamp is made on the copy. A challenge changes what is run, so its
cheats are played on studies that were challenged.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import replace
from importlib.resources import files
from typing import TYPE_CHECKING

from prereg_moe import canonical, trust
from prereg_moe.attack.changes import year_before
from prereg_moe.attack.copies import Copy
from prereg_moe.attack.kinds import LEDGER, OTHER, NotTried, cheat
from prereg_moe.trust import Known

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

# ------------------------------------------------------------------ order in git


def _git(copy: Copy, *arguments: str, date: str = "2026-01-01T00:00:00Z") -> None:
    """Run git in the copy's root, whatever the configuration of this machine."""
    git = shutil.which("git")
    if git is None:
        raise NotTried("git is not installed")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    dates = {"GIT_AUTHOR_DATE": date, "GIT_COMMITTER_DATE": date}
    quiet = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    options = ("-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "core.hooksPath=/dev/null", "-c", "gc.auto=0")
    subprocess.run(  # noqa: S603 - fixed arguments, no shell
        [git, "-C", str(copy.registry.root), *options, *arguments],
        check=True,
        capture_output=True,
        env={**kept, **quiet, **dates},
        timeout=60,
    )


def _commit(copy: Copy, *paths: str, date: str = "2026-01-01T00:00:00Z") -> None:
    if paths:
        _git(copy, "add", "-A", "-f", "--", *paths)
    _git(copy, "commit", "-q", "--allow-empty", "-m", "x", date=date)


def _begin(copy: Copy) -> tuple[list[str], str]:
    """Begin a history with an empty commit; return what a freeze would commit, and the folder of the evidence."""
    _git(copy, "init", "-q")
    _commit(copy)
    name = copy.registry.name
    return [name(copy.folder / "frozen.json"), name(copy.registry.ledger_path)], name(copy.reports)


@cheat("run first, register later", row=4, tier="git", needs="finish")
def _(copy: Copy) -> str:
    """Commits the evidence, and the registration behind it."""
    freeze, evidence = _begin(copy)
    _commit(copy, evidence)
    _commit(copy, *freeze)
    return evidence


@cheat("run first, and the commits dated the other way round", row=3, tier="git", needs="finish")
def _(copy: Copy) -> str:
    """Commits the evidence, and behind it the registration with a date of years before."""
    freeze, evidence = _begin(copy)
    _commit(copy, evidence, date="2026-01-01T00:00:00Z")
    _commit(copy, *freeze, date="2001-01-01T00:00:00Z")
    return evidence


@cheat("run first, taken back, registered, and brought again", row=4, tier="git", needs="finish")
def _(copy: Copy) -> str:
    """Commits the evidence, removes it, commits the registration, and then the evidence as if it were new."""
    freeze, evidence = _begin(copy)
    _commit(copy, evidence)
    _git(copy, "rm", "-q", "-r", "--cached", "--", evidence)
    _git(copy, "commit", "-q", "-m", "x")
    _commit(copy, *freeze)
    _commit(copy, evidence)
    return evidence


@cheat("run first on a branch, and merged behind the registration", row=4, tier="git", needs="finish")
def _(copy: Copy) -> str:
    """Commits the evidence on a branch that knows no registration, and merges it behind the registration."""
    freeze, evidence = _begin(copy)
    _commit(copy, *freeze)
    _git(copy, "branch", "registered")
    _git(copy, "reset", "-q", "--soft", "HEAD~1")
    _git(copy, "rm", "-q", "-r", "--cached", "--", *freeze)
    _commit(copy, evidence)
    _git(copy, "merge", "-q", "--no-ff", "-s", "ours", "-m", "x", "registered")
    return evidence


# ------------------------------------------------------------------ signatures


def _key(number: int) -> Ed25519PrivateKey:
    """Return the n-th key of this attack: the first is the author's, which readers know."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32)


def _known_author() -> Known:
    return Known(keys=frozenset({trust.fingerprint(_key(1).public_key())}))


def _sign(copy: Copy, subject: str, head: str, *, by: int = 1) -> bytes:
    from prereg_moe.trust.keys import signed
    from prereg_moe.trust.sealing import SIGNATURE

    return signed(_key(by), SIGNATURE, subject, {"registration": copy.id, "head": head})


def _add(copy: Copy, name: str, data: bytes) -> str:
    """Put a file among what is trusted, sealed as if a command had made it."""
    path = copy.folder / "trust" / name
    canonical.write(path, data)
    copy.registry.seal("trust", copy.id, [path], time=copy.seals[-1].time)
    return name


@cheat("the signature of another registration", tier="signature", needs="freeze", known=_known_author)
def _(copy: Copy) -> str:
    """Puts the author's signature of another registration in place of one of this."""
    return _add(copy, "signature-90.json", _sign(copy, OTHER, copy.head))


@cheat("the signature of an earlier ledger", row=2, tier="signature", needs="freeze", known=_known_author)
def _(copy: Copy) -> str:
    """Keeps the author's signature of this registration with a ledger that was made later."""
    return _add(copy, "signature-90.json", _sign(copy, copy.frozen.digest, OTHER))


@cheat("signed by somebody else", tier="signature", needs="freeze", known=_known_author)
def _(copy: Copy) -> str:
    """Signs this registration with a key that is not the author's."""
    return _add(copy, "signature-90.json", _sign(copy, copy.frozen.digest, copy.head, by=2))


@cheat("other words under a signature", tier="signature", needs="freeze", known=_known_author)
def _(copy: Copy) -> str:
    """Takes the author's signature of another registration and puts this one's statement into it."""
    theirs, ours = (canonical.loads(_sign(copy, subject, copy.head)) for subject in (OTHER, copy.frozen.digest))
    return _add(copy, "signature-90.json", canonical.dumps({**theirs, "payload": ours["payload"]}))


@cheat("signed, and backdated behind it", row=3, tier="signature", needs="freeze", known=_known_author)
def _(copy: Copy) -> str:
    """Moves every seal back a year once it is signed, rebuilds the chain and publishes its new head."""
    path, _head = trust.sign(copy.registry, copy.id, _key(1), time=copy.seals[-1].time)
    copy.reseal(lambda seal: replace(seal, time=year_before(seal.time)))
    return path.name


# ------------------------------------------------------------------ time stamps


def _given(name: str) -> bytes:
    """Return what a time-stamp authority made for this attack gave: its certificate, a stamp of another ledger."""
    return files("prereg_moe.attack").joinpath(name).read_bytes()


def _known_authority() -> Known:
    from cryptography.x509 import load_pem_x509_certificate

    return Known(authorities=(load_pem_x509_certificate(_given("authority.pem")),))


@cheat("the time stamp of another ledger", row=3, tier="time stamp", needs="freeze", known=_known_authority)
def _(copy: Copy) -> str:
    """Puts an authority's stamp of another ledger in place of one of this."""
    import rfc3161_client  # noqa: F401 - what the stamp is read with

    return _add(copy, "timestamp-90.tsr", _given("another.tsr"))


@cheat("another digest under a time stamp", row=3, tier="time stamp", needs="freeze", known=_known_authority)
def _(copy: Copy) -> str:
    """Writes the digest of this ledger's head into an authority's stamp of another."""
    from prereg_moe.trust.stamps import read_stamp

    stamp = _given("another.tsr")
    theirs, ours = (bytes.fromhex(d.removeprefix("sha256:")) for d in (read_stamp(stamp, "").digest, copy.head))
    return _add(copy, "timestamp-90.tsr", stamp.replace(theirs, ours))


# ------------------------------------------------------------------ challenges


@cheat("a nonce that was known", row=4, tier="challenge", needs="challenge")
def _(copy: Copy) -> str:
    """Uses a nonce that had been given for another registration before, so that the draws could be known."""
    mine = copy.seals[copy.at("challenge")]
    before = [replace(mine, registration="another", kind=kind, files={}, body={}) for kind in ("atlas", "freeze")]
    copy.insert(copy.at("freeze"), *before, replace(mine, registration="another", files={}))
    return "challenge.json"


@cheat("a challenge behind the run", row=4, needs="challenge")
def _(copy: Copy) -> str:
    """Moves the challenge behind the start of the run, when its draws had been scored."""
    seals = copy.seals
    at, start = copy.at("challenge"), copy.at("start")
    copy.chain([*seals[:at], *seals[at + 1 : start + 1], seals[at], *seals[start + 1 :]])
    return LEDGER


@cheat("a nonce of one's own", row=4, needs="challenge")
def _(copy: Copy) -> str:
    """Puts a nonce signed by oneself in place of the reviewer's and keeps the draws, all sealed again."""
    nonce = bytes(32)
    data = trust.give_nonce(copy.frozen.digest, _key(2), nonce=nonce, time=copy.seals[-1].time)
    canonical.write(copy.folder / "trust/challenge.json", data)
    spent = canonical.digest(nonce)
    copy.reseal(lambda seal: replace(seal, body={"nonce": spent}) if copy.own(seal, "challenge") else seal)
    return "draws.json"


@cheat("the challenge of another registration", row=4, needs="challenge")
def _(copy: Copy) -> str:
    """Puts a challenge given for another registration in place of this one's, sealed again."""
    data = trust.give_nonce(OTHER, _key(2), nonce=bytes(32), time=copy.seals[-1].time)
    canonical.write(copy.folder / "trust/challenge.json", data)
    copy.reseal()
    return "challenge.json"
