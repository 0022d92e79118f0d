"""Time stamps (RFC 3161): an authority signs that bytes existed when it saw their digest.

What is stamped is the ledger's head, the SHA-256 of its last line: whoever has the ledger can check it
with any tool (``openssl ts -verify -digest <hex> -in FILE.tsr -CAfile authority.pem``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from prereg_moe.errors import Invalid, Problem

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

__all__ = ["Stamp", "read_stamp", "request", "unverified"]

_SHA256 = "2.16.840.1.101.3.4.2.1"
_GRANTED = (0, 1)  # as asked, or with modifications


@dataclass(frozen=True, slots=True)
class Stamp:
    """An authority's answer.

    Attributes:
        digest: what it stamped, ``sha256:<hex>``.
        time: when, UTC, by the authority's clock.
        authority: who says it signed.
    """

    digest: str
    time: datetime
    authority: str


def request(line: bytes) -> bytes:
    """Return the request (DER) that asks an authority to stamp the SHA-256 of a line and to send its certificate."""
    from rfc3161_client import HashAlgorithm, TimestampRequestBuilder

    return TimestampRequestBuilder().data(line).hash_algorithm(HashAlgorithm.SHA256).build().as_bytes()


def read_stamp(data: bytes, where: str) -> Stamp:
    """Return what an answer (DER) says; who signed it is not checked.

    Raises:
        Invalid: it is no answer over a SHA-256, or the authority refused.
    """
    from rfc3161_client import decode_timestamp_response

    try:
        answer = decode_timestamp_response(data)
        if answer.status not in _GRANTED:
            said = "; ".join(answer.status_string) or f"status {answer.status}"
            raise Invalid(Problem(where, f"the authority refused ({said})", "ask again, or ask another"))
        info = answer.tst_info
        if info.message_imprint.hash_algorithm.dotted_string != _SHA256:
            raise Invalid(Problem(where, "stamps another kind of digest than SHA-256", "ask again"))
        return Stamp(f"sha256:{info.message_imprint.message.hex()}", info.gen_time, _authority(answer))
    except ValueError as error:
        found = f"is {_what(data)}, not an authority's answer (RFC 3161, binary)"
        raise Invalid(Problem(where, found, "send it the request, and keep the file it answers with")) from error


def _what(data: bytes) -> str:
    """Return what a file is that somebody took for an authority's answer."""
    if not data:
        return "empty"
    if (
        data[:1] == b"\x30" and data[2:5] == b"\x02\x01\x01"
    ):  # a sequence that begins with the version, as a request does
        return "a request"
    begin = " ".join(data[:40].decode("utf-8", "replace").split())
    return f"text ({begin!r} ...)" if begin.isprintable() else f"{len(data)} bytes of something else"


def unverified(data: bytes, digest: str, authorities: Sequence[Certificate]) -> str | None:
    """Return why an answer over a digest is not shown to be signed by any of the authorities, None where it is."""
    from rfc3161_client import VerificationError, VerifierBuilder, decode_timestamp_response

    verifier = VerifierBuilder(roots=list(authorities)).build()
    try:
        verifier.verify(decode_timestamp_response(data), bytes.fromhex(digest.removeprefix("sha256:")))
    except (VerificationError, ValueError) as error:
        return str(error)
    return None


def _authority(answer: Any) -> str:
    """Return the name in the certificate an answer says it was signed with."""
    from cryptography.x509 import load_der_x509_certificate

    certificates = [load_der_x509_certificate(data) for data in answer.signed_data.certificates]
    for signer in answer.signed_data.signer_infos:
        for one in certificates:
            if (one.issuer, one.serial_number) == (signer.issuer, signer.serial_number):
                return one.subject.rfc4514_string()
        return f"a certificate of {signer.issuer.rfc4514_string()}"
    return "nobody"
