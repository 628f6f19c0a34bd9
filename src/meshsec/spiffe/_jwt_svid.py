"""JWT-SVIDs: a workload's identity as a token (JWT-SVID sections 2 to 5).

Stricter in its form than an end user's token: three header members and no other, and the subject's own trust domain
answers for the signature. This file must not know where a token or a bundle comes from.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from ..errors import SpiffeIdError, TokenError
from ..jose import KeySet, UnverifiedJws, parse_jws, read_frozen_object
from ._id import SpiffeId, TrustDomain

__all__ = ["JwtSvid", "verify_jwt_svid"]

LEEWAY: Final = 60  # seconds, as for end users' tokens

_ALGORITHMS: Final = frozenset({
    "RS256", "RS384", "RS512", "ES256", "ES384", "ES512", "PS256", "PS384", "PS512",
})  # fmt: skip
_HEADER: Final = frozenset({"alg", "kid", "typ"})
_TYPES: Final = ("JWT", "JOSE")


@dataclass(frozen=True, slots=True)
class JwtSvid:
    """A workload that a token speaks for.

    Attributes:
        id: who it is.
        audience: for whom the token was made; the verifier is among them.
        expires_at: POSIX seconds.
        claims: every claim, read-only all the way down.
    """

    id: SpiffeId
    audience: tuple[str, ...]
    expires_at: float
    claims: Mapping[str, Any] = field(repr=False)


def verify_jwt_svid(
    token: str | UnverifiedJws,
    authorities: Mapping[TrustDomain, KeySet],
    *,
    audience: str | Collection[str],
    now: float,
) -> JwtSvid:
    """Verify a JWT-SVID.

    Args:
        token: the compact form, or what was read of it.
        authorities: of each trust domain the JWT authorities of its bundle (``BundleDocument.jwt_keys``), which are
            keys with ``use: jwt-svid`` and no others.
        audience: the verifier's own name, which must be in ``aud``; or its names, any of which must.
        now: wall clock, POSIX seconds; a token is taken up to 60 seconds after ``exp``, and before ``nbf``.

    Raises:
        TokenError: the token's form, subject, signature, times or audience does not hold.

    Does **not** look at ``iss`` and ``iat``, nor at ``jti`` for replay: a bearer token may be used again by whoever
    sees it.
    """
    jws = parse_jws(token) if isinstance(token, str) else token
    _check_header(jws.unverified_header)
    claims = _claims(jws)
    subject = _subject(claims)
    keys = authorities.get(subject.trust_domain)
    if keys is None:
        raise TokenError("the subject's trust domain has no bundle here", code="jwt_unknown_key")
    jws.verify(keys, _ALGORITHMS)
    expires_at = _check_times(claims, now)
    names = (audience,) if isinstance(audience, str) else audience
    return JwtSvid(subject, _audience(claims, names), expires_at, claims)


def _check_header(header: Mapping[str, Any]) -> None:
    if header["alg"] not in _ALGORITHMS:
        raise TokenError("Jwt header [alg] is not supported", code="jwt_algorithm")
    if not _HEADER.issuperset(header):
        raise TokenError("a JWT-SVID's header holds alg, kid and typ, and nothing else", code="jwt_critical_header")
    if "typ" in header and header["typ"] not in _TYPES:
        raise TokenError("a JWT-SVID's typ is JWT or JOSE", code="jwt_malformed")


def _claims(jws: UnverifiedJws) -> Mapping[str, Any]:
    try:
        return read_frozen_object(jws.unverified_payload)
    except ValueError:
        raise TokenError("Jwt payload is an invalid JSON", code="jwt_malformed") from None


def _subject(claims: Mapping[str, Any]) -> SpiffeId:
    subject = claims.get("sub")
    try:
        found = SpiffeId.parse(subject) if isinstance(subject, str) else None
    except SpiffeIdError:
        found = None
    if found is None or not found.path:
        raise TokenError("a JWT-SVID's sub is the SPIFFE ID of a workload", code="jwt_claim_type")
    return found


def _check_times(claims: Mapping[str, Any], now: float) -> float:
    if "exp" not in claims:
        raise TokenError("Jwt payload [exp] field is required", code="jwt_no_expiry")
    expires_at, begins = _time(claims, "exp"), _time(claims, "nbf")
    if not now <= expires_at + LEEWAY:  # written so that a clock of NaN is refused
        raise TokenError("Jwt is expired", code="jwt_expired")
    if now + LEEWAY < begins:
        raise TokenError("Jwt not yet valid", code="jwt_not_yet_valid")
    return expires_at


def _time(claims: Mapping[str, Any], name: str) -> float:
    value = claims.get(name, 0)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1 << 64:
        raise TokenError(f"Jwt payload [{name}] field is not a positive 64 bit integer", code="jwt_claim_type")
    return float(math.floor(value))


def _audience(claims: Mapping[str, Any], names: Collection[str]) -> tuple[str, ...]:
    found = claims.get("aud", ())
    named = (found,) if isinstance(found, str) else found
    if not isinstance(named, tuple) or not all(isinstance(item, str) for item in named):
        raise TokenError("Jwt payload [aud] field is not a string or string list", code="jwt_claim_type")
    if not any(name and name in named for name in names):
        raise TokenError("Audiences in Jwt are not allowed", code="jwt_audience")
    return named
