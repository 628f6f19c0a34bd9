"""Tokens that only the holder of one certificate, or of one key, may use (RFC 8705 section 3, RFC 9449).

Checked for every request and after everything else, the cache of verified tokens included: the same token may arrive
over another connection. This file must not know how a token or a certificate was verified.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from hmac import compare_digest
from typing import Final

from ..attributes import PeerIdentity, RequestPrincipal
from ..decision import Reason
from ..errors import TokenError
from ..jose import decode_base64url

__all__ = ["check_binding"]

_CONFIRMATION: Final = "x5t#S256"
_KEY_THUMBPRINT: Final = "jkt"  # DPoP, RFC 9449 section 6.1


def check_binding(principal: RequestPrincipal | None, peer: PeerIdentity | None) -> None:
    """Check that a token with ``cnf`` / ``x5t#S256`` came over a connection of that very certificate.

    One with ``jkt`` wants a proof of its key with every request (DPoP), which nobody here can check: as a mere bearer
    token it must not be taken (RFC 9449 section 7.1).

    Args:
        principal: the end user, from a token that was verified; None where there is none.
        peer: who the connection's certificate says it is.

    Raises:
        TokenError: ``jwt_bound``: another certificate or none, or a key. ``jwt_claim_type``: it cannot be read.

    Does **not** look at the other confirmation methods of RFC 7800.
    """
    confirmation = principal.claims.get("cnf") if principal is not None else None
    if confirmation is None:
        return
    if not isinstance(confirmation, Mapping):
        raise TokenError("Jwt payload [cnf] field is not an object", code=Reason.JWT_CLAIM_TYPE)
    if _KEY_THUMBPRINT in confirmation:
        raise TokenError("Jwt is bound to a key that it does not prove", code=Reason.JWT_BOUND)
    if _CONFIRMATION not in confirmation:
        return
    digest = peer.certificate_sha256 if peer is not None else None
    if digest is None or not compare_digest(digest, _digest(confirmation[_CONFIRMATION])):
        raise TokenError("Jwt is bound to another certificate", code=Reason.JWT_BOUND)


def _digest(value: object) -> bytes:
    if isinstance(value, str):
        with suppress(ValueError):
            return decode_base64url(value.encode("ascii"))
    raise TokenError("Jwt payload [cnf] field holds no certificate thumbprint", code=Reason.JWT_CLAIM_TYPE)
