"""A reviewer's challenge: a nonce nobody knew before, which the null draws follow from.

The reviewer signs a random nonce over the digest of the frozen registration (:func:`give_nonce`); the
seed of the draws is HMAC-SHA-256(nonce, digest ‖ "|null draws"). Which experts are the random sets is
then unknown before the nonce is, so no score of one can be older. The nonce is for one registration:
used for two, the draws of the second could be known before it was frozen.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from typing import TYPE_CHECKING

from prereg_moe import canonical, ledger
from prereg_moe.errors import Deviated, Invalid, Problem, Tampered
from prereg_moe.freezing import frozen_atlases, load_frozen
from prereg_moe.frozen import Frozen, challenged, derive
from prereg_moe.registry import Registry, read_bytes
from prereg_moe.trust.keys import Statement, decode, opened, signed
from prereg_moe.trust.sealing import trust_folder

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

__all__ = ["CHALLENGE", "answer_challenge", "give_nonce", "nonce_of", "seed_given", "used_by"]

CHALLENGE = "prereg-moe:challenge/1"
SCHEMA = "prereg-moe/draws/1"
_NONCE = re.compile(r"[0-9a-f]{64}\Z")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}\Z")


def give_nonce(digest: str, key: Ed25519PrivateKey, *, nonce: bytes, time: str) -> bytes:
    """Return a reviewer's challenge: the envelope around a nonce signed over a frozen registration's digest.

    Args:
        digest: ``sha256:<hex>``, as `freeze` printed it.
        nonce: 32 random bytes nobody has seen.
        time: when it is given; the reviewer's word.

    Raises:
        Invalid: the digest is none.
    """
    if not _DIGEST.match(digest):
        raise Invalid(Problem(digest[:80], "is no digest", "give the sha256:... that `freeze` printed"))
    return signed(key, CHALLENGE, digest, {"nonce": nonce.hex(), "time": time})


def answer_challenge(
    registry: Registry, id_: str, data: bytes, *, where: str = "the challenge", time: str
) -> tuple[Frozen, str]:
    """Seal a challenge and the null draws that follow from it; return the study with its draws, and the new head.

    Args:
        where: what to call the challenge in an error.

    Raises:
        Invalid: no challenge is registered, it is none, or one for another registration.
        Deviated: a challenge is sealed already, the run has begun, or the nonce was used before.
        Tampered: the challenge's signature does not hold.
    """
    frozen, seals = load_frozen(registry, id_), ledger.parse(registry.ledger())
    if not challenged(frozen.registration):
        todo = "register controls.null.seed: challenge to leave the draws to a reviewer"
        raise Invalid(Problem(id_, "waits for no challenge: its null draws are frozen", todo))
    if (stage := ledger.stage(seals, id_)) not in ledger.FOLLOWS["challenge"]:
        raise Deviated(Problem(id_, f"a challenge cannot follow {stage}", "it is sealed once, right behind the freeze"))
    data = data.strip()  # what mail adds
    try:
        decode(data, where, CHALLENGE)
    except Tampered as error:  # not what was sealed: what somebody hands in
        todo = "give the file that the reviewer's `prereg-moe trust nonce` wrote"
        raise Invalid(Problem(where, "is no reviewer's challenge", todo)) from error
    statement, _ = opened(data, where, CHALLENGE)
    if statement.subject != frozen.digest:
        raise Invalid(Problem(where, "is for another registration", f"ask for one for {frozen.digest}"))
    spent = canonical.digest(nonce_of(statement, where))
    if others := used_by(seals, spent):
        raise Deviated(Problem(where, f"its nonce was used for {', '.join(others)}", "ask for a new one"))
    draws = {
        "schema": SCHEMA,
        "registration": frozen.digest,
        "challenge": canonical.digest(data),
        "draws": derive(frozen.registration, frozen_atlases(registry, frozen), _seed(statement))["draws"],
    }
    paths = trust_folder(registry, id_) / "challenge.json", registry.registration(id_) / "draws.json"
    canonical.write(paths[0], data)
    canonical.write(paths[1], draws)
    head = registry.seal("challenge", id_, paths, time=time, body={"nonce": spent})
    return load_frozen(registry, id_), head


def seed_given(registry: Registry, frozen: Frozen) -> str:
    """Return the seed of the null draws that a sealed challenge gives.

    Raises:
        NotCheckable: the challenge is gone.
        Tampered: it is none, or for another registration.
    """
    path = trust_folder(registry, frozen.registration.id) / "challenge.json"
    statement = decode(read_bytes(path), registry.name(path), CHALLENGE)
    if statement.subject != frozen.digest:
        raise Tampered(Problem(registry.name(path), "is for another registration", "restore it"))
    return _seed(statement)


def nonce_of(statement: Statement, where: str) -> bytes:
    """Return the nonce of a challenge.

    Raises:
        Tampered: it has none.
    """
    nonce = statement.predicate.get("nonce")
    if not isinstance(nonce, str) or not _NONCE.match(nonce):
        raise Tampered(Problem(where, "holds no nonce of 32 bytes", "ask for a new one"))
    return bytes.fromhex(nonce)


def used_by(seals: tuple[ledger.Seal, ...], nonce: str) -> list[str]:
    """Return the registrations whose challenges hold a nonce, by its digest."""
    return [seal.registration for seal in seals if seal.kind == "challenge" and seal.body.get("nonce") == nonce]


def _seed(statement: Statement) -> str:
    message = f"{statement.subject}|null draws".encode()
    return hmac.new(nonce_of(statement, "challenge.json"), message, hashlib.sha256).hexdigest()
