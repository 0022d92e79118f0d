"""Ed25519 keys and what they sign: an in-toto statement in a DSSE envelope.

A statement names one file and its digest, and says something of it (its predicate)::

    {"_type":"https://in-toto.io/Statement/v1",
     "subject":[{"name":"frozen.json","digest":{"sha256":"..."}}],
     "predicateType":"prereg-moe:signature/1",
     "predicate":{"head":"sha256:...","key":"ssh-ed25519 AAAA...","registration":"testbed"}}

The predicate holds the key it was signed with, so an envelope can be checked alone. Whose key it
is, nobody but its reader can know: keys are shown by their OpenSSH fingerprint.
"""

from __future__ import annotations

import base64
import copy
import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prereg_moe import canonical
from prereg_moe.errors import Invalid, NotCheckable, Problem, Stopped, Tampered

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

__all__ = [
    "Statement",
    "decode",
    "fingerprint",
    "make_key",
    "opened",
    "public_key",
    "read_private",
    "read_small",
    "signed",
]

STATEMENT = "https://in-toto.io/Statement/v1"
PAYLOAD = "application/vnd.in-toto+json"
MAX_BYTES = 1 << 16
_KEYGEN = "make one: `prereg-moe trust keygen KEY`, or ssh-keygen -t ed25519 -f KEY"


@dataclass(frozen=True, slots=True)
class Statement:
    """What was signed.

    Attributes:
        subject: digest of the file it is about, ``sha256:<hex>``.
        predicate: what it says; ``key`` is the public key as OpenSSH writes it.
    """

    subject: str
    predicate: Mapping[str, Any]


def make_key(path: Path) -> str:
    """Write a new Ed25519 key in OpenSSH's format, and beside it ``<path>.pub``; return its fingerprint.

    Raises:
        Invalid: a file lies there.
        Stopped: it cannot be written.
    """
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(form.Encoding.PEM, form.PrivateFormat.OpenSSH, form.NoEncryption())
    public = path.with_name(path.name + ".pub")
    if path.exists() or public.exists():
        raise Invalid(Problem(str(path), "is there already", "name another file"))
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(private)
        public.write_text(written(key.public_key()) + "\n", "utf-8")
    except OSError as error:
        raise Stopped(Problem(str(path), f"cannot be written ({error.strerror})", "choose another folder")) from error
    return fingerprint(key.public_key())


def read_private(path: Path, passphrase: Callable[[], str]) -> Ed25519PrivateKey:
    """Return the private key in a file of OpenSSH's or of PKCS #8's PEM format.

    Args:
        passphrase: asked where the file is encrypted.

    Raises:
        Invalid: it is no Ed25519 key, or the passphrase is wrong.
        NotCheckable: it cannot be read.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_ssh_private_key

    data = read_small(path)
    load = load_ssh_private_key if b"OPENSSH PRIVATE KEY" in data else load_pem_private_key
    try:
        try:
            key = load(data, None)
        except (TypeError, ValueError) as error:
            if "encrypt" not in str(error) and "password" not in str(error).lower():
                raise
            key = load(data, passphrase().encode())
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise Invalid(_no_private(path, data)) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise Invalid(Problem(str(path), "is no Ed25519 key", _KEYGEN))
    return key


def _no_private(path: Path, data: bytes) -> Problem:
    """Return what is wrong with a file that does not open as a private key, as far as it shows."""
    if b"PRIVATE KEY" in data:
        return Problem(str(path), "does not open", "is the passphrase right, and the file whole?")
    if data.startswith((b"ssh-", b"-----BEGIN PUBLIC KEY")):
        return Problem(str(path), "is a public key", "give the private one, the file beside it without .pub")
    return Problem(str(path), "is no private key", _KEYGEN)


def public_key(text: str, where: str) -> Ed25519PublicKey:
    """Return the public key in a line as OpenSSH writes it, or in PEM.

    Raises:
        Invalid: it is no Ed25519 public key.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key, load_ssh_public_key

    try:
        data = text.encode()
        key = load_pem_public_key(data) if "BEGIN" in text else load_ssh_public_key(data)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise Invalid(Problem(where, "holds no public key", "give a line like ssh-ed25519 AAAA...")) from error
    if not isinstance(key, Ed25519PublicKey):
        raise Invalid(Problem(where, "holds a key that is not Ed25519", _KEYGEN))
    return key


def written(key: Ed25519PublicKey) -> str:
    """Return a public key as OpenSSH writes it, without a comment."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def fingerprint(key: Ed25519PublicKey) -> str:
    """Return ``SHA256:...`` as ``ssh-keygen -l`` shows it."""
    blob = base64.b64decode(written(key).split()[1])
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")


def signed(key: Ed25519PrivateKey, kind: str, subject: str, predicate: Mapping[str, Any]) -> bytes:
    """Return the canonical bytes of an envelope around a signed statement about a frozen registration.

    Args:
        kind: the predicate type.
        subject: digest of frozen.json.
    """
    from securesystemslib.dsse import Envelope
    from securesystemslib.signer import CryptoSigner, SSlibKey

    statement = {
        "_type": STATEMENT,
        "subject": [{"name": "frozen.json", "digest": {"sha256": subject.removeprefix("sha256:")}}],
        "predicateType": kind,
        "predicate": {**predicate, "key": written(key.public_key())},
    }
    envelope = Envelope(canonical.dumps(statement), PAYLOAD, {})
    public = SSlibKey.from_crypto(key.public_key(), keyid=fingerprint(key.public_key()))
    envelope.sign(CryptoSigner(key, public))
    return canonical.dumps(envelope.to_dict())


def decode(data: bytes, where: str, kind: str) -> Statement:
    """Return the statement in an envelope, its signature unchecked; needs no library.

    Raises:
        Tampered: it is no envelope around a statement of this kind.
    """
    try:
        envelope = canonical.loads(data, where)
        statement = canonical.loads(base64.b64decode(envelope["payload"], validate=True), where)
        [subject] = statement["subject"]
        digest, predicate = subject["digest"]["sha256"], statement["predicate"]
        kinds = (envelope["payloadType"], statement["_type"], statement["predicateType"])
        known = kinds == (PAYLOAD, STATEMENT, kind) and isinstance(predicate["key"], str)
    except (ValueError, KeyError, TypeError) as error:
        raise Tampered(Problem(where, f"is no signed statement ({error!r})", "restore it")) from error
    if not known:
        raise Tampered(Problem(where, f"is a statement of another kind than {kind}", "restore it"))
    return Statement(f"sha256:{digest}", predicate)


def opened(data: bytes, where: str, kind: str) -> tuple[Statement, str]:
    """Return the statement in an envelope whose signature holds, and the fingerprint of its key.

    Raises:
        Tampered: it is no such envelope, or the signature is not one of its key over these bytes.
    """
    from securesystemslib.dsse import Envelope
    from securesystemslib.exceptions import Error
    from securesystemslib.signer import SSlibKey

    statement = decode(data, where, kind)
    try:
        key = public_key(statement.predicate["key"], where)
        envelope = Envelope.from_dict(copy.deepcopy(canonical.loads(data, where)))
        envelope.verify([SSlibKey.from_crypto(key, keyid=fingerprint(key))], 1)
    except (Invalid, Error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Tampered(Problem(where, f"its signature does not hold ({error})", "restore it")) from error
    return statement, fingerprint(key)


def read_small(path: Path, most: int = MAX_BYTES) -> bytes:
    """Return the bytes of a file that should not be long.

    Raises:
        Invalid: it is longer.
        NotCheckable: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
    except OSError as error:
        raise NotCheckable(Problem(str(path), f"cannot be read ({error.strerror})", "name a file")) from error
    if len(data) > most:
        raise Invalid(Problem(str(path), f"is longer than {most} bytes", "is it the right file?"))
    return data
