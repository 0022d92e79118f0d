"""Whom the reader of an audit knows: keys of authors and reviewers, certificates of time-stamp authorities."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from prereg_moe.errors import Invalid, Problem
from prereg_moe.trust.keys import fingerprint, public_key, read_small

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

__all__ = ["Known"]

MAX_BYTES = 4 << 20
_BLOCK = re.compile(r"-----BEGIN ([A-Z ]{1,40})-----[A-Za-z0-9+/=\s]{1,20000}-----END \1-----")


@dataclass(frozen=True, slots=True)
class Known:
    """Keys and authorities a reader knows from elsewhere.

    Attributes:
        keys: fingerprints of public keys.
        authorities: certificates of time-stamp authorities, or of who vouches for them.
    """

    keys: frozenset[str] = frozenset()
    authorities: tuple[Certificate, ...] = ()

    @classmethod
    def read(cls, paths: Iterable[Path]) -> Known:
        """Return what files hold: public keys (OpenSSH lines or PEM) and certificates (PEM), any number a file.

        Raises:
            Invalid: a file holds none, or one that cannot be read.
            NotCheckable: a file cannot be read.
        """
        keys: set[str] = set()
        authorities: list[Certificate] = []
        for path in paths:
            text = read_small(path, MAX_BYTES).decode("utf-8", "replace")
            lines = [line for line in text.splitlines() if line.startswith("ssh-ed25519 ")]
            blocks = [(block[1], block[0]) for block in _BLOCK.finditer(text)]
            if not lines and not blocks:
                raise Invalid(Problem(str(path), "holds no key and no certificate", "give a .pub or a .pem file"))
            lines += [block for label, block in blocks if label != "CERTIFICATE"]
            keys |= {fingerprint(public_key(line, str(path))) for line in lines}
            authorities += [_certificate(block, path) for label, block in blocks if label == "CERTIFICATE"]
        return cls(frozenset(keys), tuple(dict.fromkeys(authorities)))


def _certificate(block: str, path: Path) -> Certificate:
    from cryptography.x509 import load_pem_x509_certificate

    try:
        return load_pem_x509_certificate(block.encode())
    except ValueError as error:
        raise Invalid(Problem(str(path), f"holds a certificate that cannot be read ({error})")) from error
