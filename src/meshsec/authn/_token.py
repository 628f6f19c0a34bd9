"""One token against one rule: signature first, then the claims, as Istio's proxy reads them.

Pure: keys and time are handed in. Messages are Istio's where it has one; none repeats anything of the token. This
file must not know where in a request a token was found.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self

from ..attributes import RequestPrincipal, freeze_claims
from ..decision import Reason
from ..errors import TokenError
from ..jose import ASYMMETRIC_ALGORITHMS, SYMMETRIC_ALGORITHMS, KeySet, UnverifiedJws, parse_jws, read_json_object
from ..resources import Compatibility, JWTRule

__all__ = ["TokenProfile", "UnverifiedToken", "VerifiedToken", "inline_keys", "read_token", "verify_token"]

LEEWAY: Final = 60  # seconds, each way, as Istio's proxy has it

# Shared secrets get as far as this only in a set that is written into a rule and names an HS algorithm.
_ALGORITHMS: Final = ASYMMETRIC_ALGORITHMS | SYMMETRIC_ALGORITHMS
_TEXT_CLAIMS: Final = ("sub", "jti")
_TIME_CLAIMS: Final = ("iat", "nbf", "exp")
_TIME_LIMIT: Final = 1 << 64
# Claims whose text is a list of words (istio.io: claims with space-delimited values).
_SPLIT_CLAIMS: Final = frozenset({"scope", "permission"})


@dataclass(frozen=True, slots=True)
class UnverifiedToken:
    """A token in the right form, read once. Nothing in it is true yet.

    Attributes:
        unverified_issuer: the ``iss`` it claims; None where it has none. Good for choosing a rule, and nothing else.
    """

    unverified_issuer: str | None
    _jws: UnverifiedJws = field(repr=False)
    _claims: Mapping[str, Any] = field(repr=False)

    @property
    def names_key(self) -> bool:
        """Whether its header says which key signed it."""
        return bool(self._jws.unverified_header.get("kid"))

    def verify(self, profile: TokenProfile, keys: KeySet, now: float) -> VerifiedToken:
        """Check signature, types, issuer, times and audience, in this order. Raises TokenError."""
        self._jws.verify(keys, _ALGORITHMS)
        _check_types(self._claims)
        if profile.issuer and self.unverified_issuer != profile.issuer:
            raise TokenError("Jwt issuer is not configured", code=Reason.JWT_ISSUER)
        _check_times(self._claims, now, must_expire=profile.must_expire)
        _check_audience(self._claims, profile.audiences)
        return VerifiedToken(profile.principal(self._claims), self._claims, self._jws.payload_segment.decode("ascii"))


@dataclass(frozen=True, slots=True)
class VerifiedToken:
    """A token that held against a rule.

    Attributes:
        principal: what policies see: space-delimited claims are split.
        claims: the claims as the token has them.
        payload: the payload segment, base64url.
    """

    principal: RequestPrincipal
    claims: Mapping[str, Any] = field(repr=False)
    payload: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class TokenProfile:
    """What a rule asks of a token's claims.

    Attributes:
        issuer: what ``iss`` must be; empty: anything, or nothing.
        audiences: any of which must be in ``aud``, normalized; empty: no check.
        split_claims: top-level claims whose text is split at spaces.
        must_expire: whether ``exp`` is required; where it is not, 0 means never, as in Istio.
    """

    issuer: str
    audiences: frozenset[str]
    split_claims: frozenset[str]
    must_expire: bool = True

    @classmethod
    def of(cls, rule: JWTRule, compatibility: Compatibility = "safe") -> Self:
        """The profile of a rule."""
        audiences = frozenset(map(_normalized, rule.audiences))
        split = _SPLIT_CLAIMS.union(rule.space_delimited_claims)
        return cls(rule.issuer, audiences, split, must_expire=compatibility == "safe")

    def principal(self, claims: Mapping[str, Any]) -> RequestPrincipal:
        """The end user, from claims that were checked."""
        split = {name: _words(claims[name]) for name in self.split_claims if isinstance(claims.get(name), str)}
        return RequestPrincipal(claims.get("iss", ""), claims.get("sub", ""), freeze_claims({**claims, **split}))


def verify_token(token: str, rule: JWTRule, keys: KeySet, *, now: float) -> RequestPrincipal:
    """Verify a token against one rule.

    Args:
        token: the compact form.
        rule: whose issuer, audiences and space-delimited claims count.
        keys: the only keys that may have signed it.
        now: wall clock, POSIX seconds; 60 seconds of skew are allowed each way, as in Istio.

    Returns:
        The end user, claims read-only all the way down.

    Raises:
        TokenError: ``code`` is a :class:`meshsec.decision.Reason`. ``exp`` is required.

    Does **not** check ``typ``, ``iat`` in the future, ``jti`` against replay, or any binding to a connection.
    """
    return read_token(token).verify(TokenProfile.of(rule), keys, now).principal


def read_token(token: str) -> UnverifiedToken:
    """Read a token's form and the issuer it claims. Raises TokenError; verifies nothing."""
    jws = parse_jws(token)
    try:
        claims = read_json_object(jws.unverified_payload)
    except ValueError:
        raise TokenError("Jwt payload is an invalid JSON", code=Reason.JWT_MALFORMED) from None
    issuer = claims.get("iss")
    if "iss" in claims and not isinstance(issuer, str):
        raise _wrong_type("iss", "a string")
    return UnverifiedToken(issuer, jws, claims)


def inline_keys(rule: JWTRule) -> KeySet | None:
    """The key set that is written into a rule, None where there is none. Raises KeysUnavailableError."""
    return None if rule.jwks is None else KeySet.parse(rule.jwks, allow_symmetric=True)


def _check_types(claims: Mapping[str, Any]) -> None:
    for name in _TEXT_CLAIMS:
        if not isinstance(claims.get(name, ""), str):
            raise _wrong_type(name, "a string")
    for name in _TIME_CLAIMS:
        _check_time(name, claims.get(name, 0))
    audience = claims.get("aud", "")
    if not isinstance(audience, str) and not _is_text_list(audience):
        raise _wrong_type("aud", "a string or string list")


def _check_time(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _wrong_type(name, "an integer")
    if not 0 <= value < _TIME_LIMIT:
        raise _wrong_type(name, "a positive 64 bit integer")


def _check_times(claims: Mapping[str, Any], now: float, *, must_expire: bool) -> None:
    """Fractions of a second are cut off, as Istio's proxy does."""
    if now + LEEWAY < int(claims.get("nbf", 0)):
        raise TokenError("Jwt not yet valid", code=Reason.JWT_NOT_YET_VALID)
    expiry = int(claims.get("exp", 0))
    if must_expire and "exp" not in claims:
        raise TokenError("Jwt payload [exp] field is required", code=Reason.JWT_NO_EXPIRY)
    if now > expiry + LEEWAY and (expiry or must_expire):
        raise TokenError("Jwt is expired", code=Reason.JWT_EXPIRED)


def _check_audience(claims: Mapping[str, Any], audiences: frozenset[str]) -> None:
    found = claims.get("aud", ())
    named = [found] if isinstance(found, str) else found
    if audiences and audiences.isdisjoint(map(_normalized, named)):
        raise TokenError("Audiences in Jwt are not allowed", code=Reason.JWT_AUDIENCE)


def _normalized(audience: str) -> str:
    """Without ``http://`` or ``https://`` in front and one slash at the end, on both sides alike."""
    for scheme in ("http://", "https://"):
        if audience.startswith(scheme):
            audience = audience[len(scheme) :]
            break
    return audience.removesuffix("/")


def _words(text: str) -> list[str] | str:
    """Split at the space character alone; nothing but spaces stays as it is."""
    return [word for word in text.split(" ") if word] or text


def _is_text_list(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _wrong_type(name: str, wanted: str) -> TokenError:
    return TokenError(f"Jwt payload [{name}] field is not {wanted}", code=Reason.JWT_CLAIM_TYPE)
