"""One legacy Policy, compiled: who a peer is, whether the token of an origin holds, and whose identity counts.

As Istio 1.4 decided, but for what must hold here everywhere: a token that is seen must hold, and a path is judged
normalized. This file must not know ports, or which policy is whose.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self

from ..attributes import Bound, PeerIdentity, RequestFacts, RequestPrincipal, freeze_claims
from ..decision import Reason
from ..errors import ConfigError, KeysUnavailableError, Problem, TokenError
from ..resources import Jwt, JWTRule, MeshConfig, MeshPolicy, MtlsMode, Policy, PrincipalBinding
from ._binding import check_binding
from ._keys import KeySnapshot, NeedKeys
from ._legacy_trigger import LegacyTrigger
from ._request import CompiledRequestAuthentication, TokenResult
from ._rule import Rule

__all__ = ["LegacyPolicy", "LegacyRefusal", "LegacyResult"]

_PEER_FAILED: Final = "Peer authentication failed."
_ORIGIN_FAILED: Final = "Origin authentication failed."

# A token that another gateway exchanged: it stands in this header, and holds the first one's claims in this claim.
_EXCHANGED_HEADER: Final = "ingress-authorization"
_EXCHANGED_PREFIX: Final = "istio"
_EXCHANGED_CLAIM: Final = "original_claims"


@dataclass(frozen=True, slots=True)
class LegacyResult:
    """What authentication found.

    Attributes:
        peer: the peer, where the policy asks for one.
        principal: the end user, from a token that holds.
        judged: the same as policies see it: every text claim split at spaces.
        bound: whose identity counts.
        text: the principal's token as it came; None for an exchanged one, which is a gateway's.
    """

    peer: PeerIdentity | None = None
    principal: RequestPrincipal | None = None
    judged: RequestPrincipal | None = None
    bound: Bound = field(default_factory=Bound)
    text: str | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class LegacyRefusal:
    """Why a request is answered 401.

    Attributes:
        reason: the code.
        message: the body's text.
        why: what is told to operators.
    """

    reason: Reason
    message: str
    why: str

    @classmethod
    def of_peer(cls, reason: Reason, why: str) -> Self:
        """The connection is at fault."""
        return cls(reason, _PEER_FAILED, why)

    @property
    def is_of_peer(self) -> bool:
        """Whether the connection is at fault, so that no token would help."""
        return self.message == _PEER_FAILED


@dataclass(frozen=True, slots=True)
class LegacyPolicy:
    """One policy, compiled. The one without any field is what holds where no policy does.

    Attributes:
        trust_domain: ours; a peer must be of the same.
        peers: the modes of mutual TLS that are taken.
        peer_is_optional: whether a peer that none of them takes passes, unknown.
        origins: groups of rules: in each every token that is seen must hold; the first group that holds ends.
        exchanged: the issuers of exchanged tokens.
        origin_is_optional: whether a request passes that none of them takes.
        lenient: whether it may then hold a bad token.
        binding: whose identity counts.
    """

    trust_domain: str = ""
    peers: tuple[MtlsMode, ...] = ()
    peer_is_optional: bool = False
    origins: tuple[CompiledRequestAuthentication, ...] = ()
    exchanged: frozenset[str] = frozenset()
    origin_is_optional: bool = False
    lenient: bool = False
    binding: PrincipalBinding = PrincipalBinding.USE_PEER

    @classmethod
    def of(cls, policy: Policy | MeshPolicy, config: MeshConfig) -> Self:
        """Compile. Raises ConfigError where an inline key set has no usable key."""
        spec = policy.spec
        istio = config.compatibility == "istio"
        jwts = [origin.jwt for origin in spec.origins]
        rules = _rules(policy, jwts, config)
        return cls(
            config.trust_domain,
            tuple(MtlsMode(peer.mtls.mode) for peer in spec.peers),
            spec.peer_is_optional,
            tuple(_group(rule) for rule in rules) if istio else (_group(*rules),) if rules else (),
            frozenset(jwt.issuer for jwt in jwts if _is_exchanged(jwt)),
            spec.origin_is_optional,
            istio,
            spec.principal_binding,
        )

    @property
    def mode(self) -> MtlsMode:
        """What its ports take on the wire."""
        if not self.peers:
            return MtlsMode.DISABLE
        plaintext = self.peer_is_optional or MtlsMode.PERMISSIVE in self.peers
        return MtlsMode.PERMISSIVE if plaintext else MtlsMode.STRICT

    def authenticate(
        self, peer: PeerIdentity | None, facts: RequestFacts, keys: KeySnapshot, *, now: float, ask: bool
    ) -> LegacyResult | LegacyRefusal | NeedKeys:
        """Judge the peer, then the origin. See :meth:`CompiledLegacy.authenticate`."""
        known = self._peer(peer)
        if isinstance(known, LegacyRefusal):
            return known
        found = self._origin(peer, facts, keys, now=now, ask=ask)
        if isinstance(found, LegacyRefusal | NeedKeys):
            return found
        user = found.principal
        judged = None if user is None else _split(user)
        return LegacyResult(known, user, judged, self._bound(known, judged), found.text)

    def _peer(self, peer: PeerIdentity | None) -> PeerIdentity | LegacyRefusal | None:
        if not self.peers:
            return None
        if peer is not None and peer.id.trust_domain.name == self.trust_domain:
            return peer
        if self.peer_is_optional or (peer is None and MtlsMode.PERMISSIVE in self.peers):
            return None
        if peer is None:
            return LegacyRefusal.of_peer(Reason.PEER_REQUIRED, "no verified peer, and the policy asks for one")
        why = f"{peer.id} is not of the trust domain {self.trust_domain}, as a legacy policy demands"
        return LegacyRefusal.of_peer(Reason.PEER_DISTRUSTED, why)

    def _origin(
        self, peer: PeerIdentity | None, facts: RequestFacts, keys: KeySnapshot, *, now: float, ask: bool
    ) -> TokenResult | LegacyRefusal | NeedKeys:
        """The end user and the token; neither where none is asked for, or none need be there."""
        error = self._unbound()
        for group in self.origins:
            found = group.authenticate(facts, keys, now=now, ask=ask)
            if isinstance(found, NeedKeys):
                return found
            try:
                if found.error is None and found.principal is not None:
                    if not self.lenient:
                        check_binding(found.principal, peer)  # the outer token is the one that may be bound
                    return self._original(found.principal, found.text)
                error = found.error or error
            except TokenError as malformed:
                error = malformed
        missing = error is not None and error.code in (Reason.JWT_MISSING, Reason.ORIGIN_REQUIRED)
        if error is None or (self.origin_is_optional and (missing or self.lenient)):
            return TokenResult()
        return LegacyRefusal(Reason(error.code), _ORIGIN_FAILED, str(error))

    def _unbound(self) -> TokenError | None:
        if self.origins or self.binding is PrincipalBinding.USE_PEER:
            return None
        return TokenError("the policy binds the principal to an origin and names none", code=Reason.ORIGIN_REQUIRED)

    def _original(self, principal: RequestPrincipal, text: str | None) -> TokenResult:
        """Whom a token is about. Raises TokenError where an exchanged one does not say.

        An exchanged one is a gateway's and counts where its header is read: it does not travel as the user's own.
        """
        if principal.issuer not in self.exchanged:
            return TokenResult(principal, text=text)
        claims = principal.claims.get(_EXCHANGED_CLAIM)
        if not isinstance(claims, Mapping):
            raise TokenError(f"Jwt payload [{_EXCHANGED_CLAIM}] field is not an object", code=Reason.JWT_CLAIM_TYPE)
        return TokenResult(RequestPrincipal(_first(claims.get("iss")), _first(claims.get("sub")), claims))

    def _bound(self, peer: PeerIdentity | None, user: RequestPrincipal | None) -> Bound:
        audience = "" if user is None else _first(user.claims.get("aud"))
        if self.binding is PrincipalBinding.USE_PEER:
            return Bound("" if peer is None else peer.id.trust_domain.name + peer.id.path, audience)
        return Bound(user.name if user and user.issuer and user.subject else "", audience)


def _rules(policy: Policy | MeshPolicy, jwts: Iterable[Jwt], config: MeshConfig) -> list[Rule]:
    rules, problems = [], []
    for index, jwt in enumerate(jwts):
        trigger = LegacyTrigger.of(jwt, config.compatibility)
        try:
            own = config.issuers.get(jwt.issuer)
            cached = config.keys.token_cache
            rules.append(Rule.of(_rule(jwt), trigger, config.compatibility, token_cache=cached, own=own))
        except (KeysUnavailableError, ValueError) as error:
            field_path = (
                f"spec.origins[{index}].jwt.{'jwks' if isinstance(error, KeysUnavailableError) else 'issuer'}"
            )
            problems.append(
                Problem(str(error), source=policy.location, resource=f"{policy.kind} {policy.id}", field=field_path)
            )
    if problems:
        raise ConfigError(problems)
    return rules


def _rule(jwt: Jwt) -> JWTRule:
    """The same as one of today's rules; the token always stays where it is."""
    prefix = _EXCHANGED_PREFIX if _is_exchanged(jwt) else ""
    given: dict[str, Any] = {
        "audiences": jwt.audiences,
        "from_headers": [{"name": name, "prefix": prefix} for name in jwt.jwt_headers],
        "from_params": jwt.jwt_params,
    }
    return JWTRule(
        issuer=jwt.issuer,
        jwks_uri=jwt.jwks_uri,
        jwks=jwt.jwks,
        forward_original_token=True,
        **{name: values for name, values in given.items() if values},
    )


def _group(*rules: Rule) -> CompiledRequestAuthentication:
    sources = (rule.source for rule in rules if rule.source is not None)
    return CompiledRequestAuthentication(rules, frozenset(), tuple(dict.fromkeys(sources)))


def _is_exchanged(jwt: Jwt) -> bool:
    return tuple(name.lower() for name in jwt.jwt_headers) == (_EXCHANGED_HEADER,)


def _split(user: RequestPrincipal) -> RequestPrincipal:
    """Every text of several words becomes a list of them, ``iss`` and ``sub`` too; the first words name the user."""
    texts = ((name, value) for name, value in user.claims.items() if isinstance(value, str) and " " in value)
    words = {name: tuple(word for word in text.split(" ") if word) for name, text in texts}
    claims = freeze_claims({**user.claims, **{name: found for name, found in words.items() if found}})
    return RequestPrincipal(_first(claims.get("iss")), _first(claims.get("sub")), claims)


def _first(claim: object) -> str:
    """A text, or the first of a list of texts; else nothing."""
    first = claim[0] if isinstance(claim, tuple) and claim else claim
    return first if isinstance(first, str) else ""
