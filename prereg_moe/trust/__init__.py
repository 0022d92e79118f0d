"""Trust beyond the record's own consistency: order in git, signatures, time stamps, challenges.

A record that agrees with itself can be made up as a whole. Each **tier** adds something its
author alone could not have made, and says what it proves and what it does not (:data:`TIERS`).
What is added lies in ``registrations/<id>/trust/``, bound by seals:

    signature-<n>.json     an author's signature of the frozen registration and the ledger's head
    timestamp-<n>.tsr      a time-stamp authority's answer (RFC 3161) over the ledger's head
    challenge.json         a reviewer's signed nonce; ``../draws.json`` holds the draws it gave

Everything goes by files, so a machine without a network can be used. Keys are Ed25519, as
``ssh-keygen`` or ``openssl`` make them. Signing and checking signatures and stamps need
``pip install 'prereg-moe[trust]'``; without it an audit says that they are not checked.
"""

from __future__ import annotations

from prereg_moe.trust.challenges import answer_challenge, give_nonce, seed_given
from prereg_moe.trust.keys import fingerprint, make_key, read_private, read_small
from prereg_moe.trust.known import Known
from prereg_moe.trust.sealing import keep_stamp, request_stamp, sign
from prereg_moe.trust.tiers import TIERS, Tier, look

__all__ = [
    "TIERS",
    "Known",
    "Tier",
    "answer_challenge",
    "fingerprint",
    "give_nonce",
    "keep_stamp",
    "look",
    "make_key",
    "read_private",
    "read_small",
    "request_stamp",
    "seed_given",
    "sign",
]
