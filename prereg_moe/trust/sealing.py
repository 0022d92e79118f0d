"""Adding to a study's trust: an author's signature, an authority's time stamp. Each is a file and its seal."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from prereg_moe import canonical, ledger
from prereg_moe.errors import Problem, Tampered
from prereg_moe.freezing import read_frozen
from prereg_moe.registry import Registry
from prereg_moe.trust.keys import signed
from prereg_moe.trust.stamps import Stamp, read_stamp, request

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

__all__ = ["SIGNATURE", "keep_stamp", "request_stamp", "sign", "trust_folder"]

SIGNATURE = "prereg-moe:signature/1"


def trust_folder(registry: Registry, id_: str) -> Path:
    """The folder of what others vouch for."""
    return registry.registration(id_) / "trust"


def sign(registry: Registry, id_: str, key: Ed25519PrivateKey, *, time: str) -> tuple[Path, str]:
    """Sign a frozen registration and the ledger's head, seal the signature; return its file and the new head.

    Raises:
        Invalid: it is not frozen.
        Tampered: it, or the ledger, is not what was sealed.
    """
    frozen = canonical.digest(read_frozen(registry, id_))
    head = ledger.head(ledger.parse(registry.ledger()))
    path = _next(registry, id_, "signature", ".json")
    canonical.write(path, signed(key, SIGNATURE, frozen, {"registration": id_, "head": head}))
    return path, registry.seal("trust", id_, [path], time=time)


def request_stamp(registry: Registry, id_: str) -> bytes:
    """Return the request (DER) that asks a time-stamp authority to stamp the ledger's head.

    Raises:
        Invalid: the registration is not frozen.
        Tampered: it, or the ledger, is not what was sealed.
    """
    read_frozen(registry, id_)
    return request(ledger.parse(registry.ledger())[-1].line)


def keep_stamp(registry: Registry, id_: str, data: bytes, *, where: str = "the answer", time: str) -> tuple[Stamp, str]:
    """Keep an authority's answer and seal it; return what it says and the new head.

    Args:
        where: what to call the answer in an error.

    Raises:
        Invalid: it is no answer of an authority, or a refusal.
        Tampered: it stamps something else than this ledger behind the freeze.
    """
    frozen = canonical.digest(read_frozen(registry, id_))
    stamp = read_stamp(data, where)
    seals = ledger.parse(registry.ledger())
    freeze = next(index for index, seal in enumerate(seals) if seal.body.get("digest") == frozen)
    if stamp.digest not in {seal.digest for seal in seals[freeze:]}:
        todo = f"send the request that `prereg-moe trust timestamp {id_} --request FILE` writes"
        raise Tampered(Problem(where, "stamps something else than this ledger behind the freeze", todo))
    path = _next(registry, id_, "timestamp", ".tsr")
    canonical.write(path, data)
    return stamp, registry.seal("trust", id_, [path], time=time)


def _next(registry: Registry, id_: str, stem: str, suffix: str) -> Path:
    folder = trust_folder(registry, id_)
    sealed = ledger.sealed_files(ledger.parse(registry.ledger()), id_)
    number = sum(name.startswith(f"{registry.name(folder)}/{stem}-") for name in sealed) + 1
    return folder / f"{stem}-{number}{suffix}"
