"""One token against one rule: signature first, then the claims, as Istio's proxy reads them.

Pure: keys and time are handed in. Messages are Istio's where it has one; none repeats anything of the token. This
file must not know where in a request a token was found.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, Self

from .._values import quick
from ..attributes import RequestPrincipal
from ..decision import Reason
from ..errors import ConfigError, KeysUnavailableError, TokenError
from ..jose import ASYMMETRIC_ALGORITHMS, SYMMETRIC_ALGORITHMS, KeySet, UnverifiedJws, parse_jws, read_frozen_object
from ..resources import Compatibility, IssuerConfig, JWTRule
from ..spiffe import SpiffeId, TrustDomain, read_bundle, verify_jwt_svid

__all__ = [
    "TokenProfile",
    "UnverifiedToken",
    "VerifiedToken",
    "inline_keys",
    "jwt_svid_keys",
    "read_token",
    "verify_token",
]

LEEWAY: Final = 60  # seconds, each way, as Istio's proxy has it

# Shared secrets get as far as this only in a set that is written into a rule and names an HS algorithm. Istio's proxy
# does not know RFC 9864's name for EdDSA on curve Ed25519, and what it refuses is never let pass.
_ALGORITHMS: Final = (ASYMMETRIC_ALGORITHMS | SYMMETRIC_ALGORITHMS) - {"Ed25519"}
_TIME_CLAIMS: Final = ("iat", "nbf", "exp")
_TIME_LIMIT: Final = 1 << 64
_FAR_FUTURE: Final = 1 << 48  # what is below needs no closer look
# Claims whose text is a list of words (istio.io: claims with space-delimited values).
_SPLIT_CLAIMS: Final = frozenset({"scope", "permission"})
_NOTHING_OF_ITS_OWN: Final = IssuerConfig()


@dataclass(slots=True)  # as UnverifiedJws
class UnverifiedToken:
    """A token in the right form, read once. Nothing in it is true yet.

    Attributes:
        unverified_issuer: the ``iss`` it claims; None where it has none. Good for choosing a rule, and nothing else.
        text: the token as it came.
    """

    unverified_issuer: str | None
    _jws: UnverifiedJws = field(repr=False)
    _claims: Mapping[str, Any] = field(repr=False)
    text: str = field(repr=False)

    @property
    def unverified_kid(self) -> str:
        """What its header calls the key that signed it; empty where it names none."""
        return str(self._jws.unverified_header.get("kid") or "")

    @property
    def unverified_subject(self) -> str:
        """The ``sub`` it claims; empty where it has none, or none that is text. As good as its issuer."""
        subject = self._claims.get("sub")
        return subject if isinstance(subject, str) else ""

    def verify(self, profile: TokenProfile, keys: KeySet, now: float) -> VerifiedToken:
        """Check signature, types, issuer, times and audience, in this order; for Istio the signature comes last.

        Raises:
            TokenError: the first of them that does not hold.
        """
        if profile.workloads_of is not None:
            return self._verify_svid(profile, profile.workloads_of, keys, now)
        if profile.tenants:
            keys = keys.speaking_for((profile.issuer, self.unverified_issuer or ""))
        if profile.istio:
            self._check_claims(profile, now)
            self._jws.verify(keys, _ALGORITHMS)
        else:
            self._jws.verify(keys, _ALGORITHMS)
            self._check_claims(profile, now)
        return VerifiedToken(profile.principal(self._claims), self._claims, self._jws.payload_segment)

    def _verify_svid(self, profile: TokenProfile, domain: TrustDomain, keys: KeySet, now: float) -> VerifiedToken:
        """By SPIFFE's rules. An ``iss`` is anything that its trust domain likes: the domain itself is put there."""
        if not profile.is_for(None, self.unverified_subject):
            raise TokenError("Jwt issuer is not configured", code=Reason.JWT_ISSUER)
        svid = verify_jwt_svid(self._jws, {domain: keys}, audience=profile.audiences, now=now)
        claims = {**svid.claims, "iss": profile.issuer}
        return VerifiedToken(profile.principal(claims), claims, self._jws.payload_segment)

    def _check_claims(self, profile: TokenProfile, now: float) -> None:
        claims = self._claims
        _check_types(claims)
        if not profile.is_for(self.unverified_issuer) or not profile.is_tenant(claims):
            raise TokenError("Jwt issuer is not configured", code=Reason.JWT_ISSUER)
        _check_times(claims, now, profile)
        _check_audience(claims, profile.audiences)


@quick
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
    payload: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class TokenProfile:
    """What a rule asks of a token's claims.

    Attributes:
        issuer: what ``iss`` must be; empty: anything, or nothing.
        audiences: any of which must be in ``aud``, normalized; empty: no check.
        split_claims: top-level claims whose text is split at spaces.
        istio: whether to judge as Istio's proxy does: the signature after the claims, and no ``exp``, or 0, means
            never.
        tenants: for an issuer that is a template: each ``iss`` that it stands for, and the ``tid`` of it.
        workloads_of: the trust domain whose JWT-SVIDs are taken, and no other tokens; None: end users' tokens are.
    """

    issuer: str
    audiences: frozenset[str]
    split_claims: frozenset[str]
    istio: bool = False
    tenants: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    workloads_of: TrustDomain | None = None

    @classmethod
    def of(
        cls, rule: JWTRule, compatibility: Compatibility = "safe", own: IssuerConfig = _NOTHING_OF_ITS_OWN
    ) -> Self:
        """The profile of a rule, with what mesh.yaml says of its issuer."""
        workloads_of = SpiffeId.parse(rule.issuer).trust_domain if own.jwt_svid else None
        normalized = str if workloads_of else _normalized
        return cls(
            rule.issuer,
            frozenset(map(normalized, rule.audiences)),
            _SPLIT_CLAIMS.union(rule.space_delimited_claims),
            istio=compatibility == "istio",
            tenants=own.by_name(rule.issuer),
            workloads_of=workloads_of,
        )

    def is_for(self, issuer: str | None, subject: str = "") -> bool:
        """Whether a token that claims these is its business."""
        if self.workloads_of is not None:
            return subject.startswith(f"{self.issuer}/")
        if self.tenants:
            return issuer in self.tenants
        return not self.issuer or issuer == self.issuer

    def is_tenant(self, claims: Mapping[str, Any]) -> bool:
        """Whether the tenant of a templated issuer is the very one that its ``iss`` names."""
        return not self.tenants or claims.get("tid") == self.tenants[claims["iss"]]

    def lifetime(self, claims: Mapping[str, Any]) -> tuple[float, float]:
        """The first and the last moment at which claims that were checked hold."""
        expiry = int(claims.get("exp", 0))
        never = self.istio and not expiry
        return math.ceil(claims.get("nbf", 0)) - LEEWAY, math.inf if never else expiry + LEEWAY

    def principal(self, claims: Mapping[str, Any]) -> RequestPrincipal:
        """The end user, from claims that were checked; what is inside them is read-only already."""
        seen = dict(claims)
        for name in self.split_claims:
            text = seen.get(name)
            if isinstance(text, str):
                seen[name] = _words(text)
        return RequestPrincipal(seen.get("iss", ""), seen.get("sub", ""), MappingProxyType(seen))


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


def read_token(token: str, *, lenient: bool = False) -> UnverifiedToken:
    """Read a token's form, leniently as in :func:`meshsec.jose.parse_jws`, and the issuer it claims.

    Raises TokenError; verifies nothing.
    """
    jws = parse_jws(token, lenient=lenient)
    try:
        # Read-only below; this copy of the top is never handed out, and quicker to look into.
        claims = read_frozen_object(jws.unverified_payload).copy()
    except ValueError:
        raise TokenError("Jwt payload is an invalid JSON", code=Reason.JWT_MALFORMED) from None
    issuer = claims.get("iss")
    if not isinstance(issuer, str) and "iss" in claims:
        raise _wrong_type("iss", "a string")
    return UnverifiedToken(issuer, jws, claims, token)


def inline_keys(rule: JWTRule, own: IssuerConfig = _NOTHING_OF_ITS_OWN) -> KeySet | None:
    """The key set that is written into a rule, None where there is none. Raises KeysUnavailableError."""
    if rule.jwks is None:
        return None
    if own.jwt_svid:
        return jwt_svid_keys(rule.issuer, rule.jwks.encode())[0]
    return KeySet.parse(rule.jwks, allow_symmetric=True)


def jwt_svid_keys(trust_domain: str, bundle: bytes) -> tuple[KeySet, int]:
    """The JWT authorities of a SPIFFE bundle, and for how many seconds they are good.

    Args:
        trust_domain: its SPIFFE ID, ``spiffe://…``.
        bundle: the JSON text.

    Raises:
        KeysUnavailableError: no bundle, or one without keys of ``use: jwt-svid``.
    """
    try:
        document = read_bundle(SpiffeId.parse(trust_domain).trust_domain, bundle)
    except ConfigError as error:
        raise KeysUnavailableError(str(error)) from None
    if not document.jwt_keys:
        raise KeysUnavailableError("the bundle has no JWT authority")
    return document.jwt_keys, document.refresh_hint


def _check_types(claims: Mapping[str, Any]) -> None:
    get = claims.get
    subject, identifier = get("sub", ""), get("jti", "")
    if not (isinstance(subject, str) and isinstance(identifier, str)):
        raise _wrong_type("jti" if isinstance(subject, str) else "sub", "a string")
    issued, begins, ends = get("iat", 0), get("nbf", 0), get("exp", 0)
    if not (
        type(issued) is type(begins) is type(ends) is int
        and 0 <= issued < _FAR_FUTURE
        and 0 <= begins < _FAR_FUTURE
        and 0 <= ends < _FAR_FUTURE
    ):
        for name in _TIME_CLAIMS:
            _check_time(name, get(name, 0))
    audience = claims.get("aud", "")
    if not isinstance(audience, str) and not _is_text_list(audience):
        raise _wrong_type("aud", "a string or string list")


def _check_time(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _wrong_type(name, "an integer")
    # As a double, which is what Istio's proxy makes of it: 2^64 - 1 is 2^64.
    if not 0 <= value < _TIME_LIMIT or float(value) == _TIME_LIMIT:
        raise _wrong_type(name, "a positive 64 bit integer")


def _check_times(claims: Mapping[str, Any], now: float, profile: TokenProfile) -> None:
    """Fractions of a second are cut off, as Istio's proxy does. Written so that a clock of NaN is refused."""
    if not now + LEEWAY >= int(claims.get("nbf", 0)):
        raise TokenError("Jwt not yet valid", code=Reason.JWT_NOT_YET_VALID)
    expiry = int(claims.get("exp", 0))
    if not expiry and not profile.istio and "exp" not in claims:
        raise TokenError("Jwt payload [exp] field is required", code=Reason.JWT_NO_EXPIRY)
    if not now <= expiry + LEEWAY and (expiry or not profile.istio):
        raise TokenError("Jwt is expired", code=Reason.JWT_EXPIRED)


def _check_audience(claims: Mapping[str, Any], audiences: frozenset[str]) -> None:
    found = claims.get("aud", ())
    named = (found,) if isinstance(found, str) else found
    # What has no slash is normalized already; that is the usual one.
    if not audiences or (found in audiences and "/" not in found):
        return
    if audiences.isdisjoint(map(_normalized, named)):
        raise TokenError("Audiences in Jwt are not allowed", code=Reason.JWT_AUDIENCE)


def _normalized(audience: str) -> str:
    """Without ``http://`` or ``https://`` in front and one slash at the end, on both sides alike."""
    for scheme in ("http://", "https://"):
        if audience.startswith(scheme):
            audience = audience[len(scheme) :]
            break
    return audience.removesuffix("/")


def _words(text: str) -> tuple[str, ...] | str:
    """Split at the space character alone; nothing but spaces stays as it is."""
    words = text.split(" ")
    return tuple(words if "" not in words else filter(None, words)) or text


def _is_text_list(value: object) -> bool:
    return isinstance(value, tuple) and all(isinstance(item, str) for item in value)


def _wrong_type(name: str, wanted: str) -> TokenError:
    return TokenError(f"Jwt payload [{name}] field is not {wanted}", code=Reason.JWT_CLAIM_TYPE)
