"""RequestAuthentication, compiled: which tokens a request carries, whether they hold, and who the caller is.

Stricter than Istio's proxy where that leaves a door open: every token that a rule can see must hold, two tokens for
one rule are refused, and headers that carry claims are taken from the client first, whatever follows. This file must
not know policies, servers, or where keys come from.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from .._values import quick
from ..attributes import RequestFacts, RequestPrincipal
from ..decision import Reason
from ..errors import ConfigError, KeysUnavailableError, Problem, TokenError
from ..resources import Compatibility, IssuerConfig, RequestAuthentication
from ._judge import Accepted, judge_text, missing
from ._keys import KeySnapshot, KeySource, NeedKeys, Refused
from ._locate import Location, Place, without_parameters
from ._requirement import walk_as_istio
from ._rule import Rule, Trigger

__all__ = ["CompiledRequestAuthentication", "TokenResult", "compile_request_authentication", "is_preflight_head"]


@quick
@dataclass(frozen=True, slots=True)
class TokenResult:
    """What authentication found.

    Attributes:
        principal: the end user; None without an accepted token.
        error: why the request must be refused; its code is a :class:`meshsec.decision.Reason`.
        remove_headers: lower-case names of headers that the client sent and the application must not get.
        add_headers: name and value of the headers made of claims.
        query: the query without the token; None: unchanged.
        accepted: whoever any accepted token is about, the principal first: all of these tokens count.
        text: the principal's token as it came.
        seen: the request as the rules of authorization see it, which is as the application will: without what is
            removed, with what is added. None: as it came.
    """

    principal: RequestPrincipal | None = None
    error: TokenError | None = None
    remove_headers: tuple[str, ...] = ()
    add_headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    query: str | None = field(default=None, repr=False)
    seen: RequestFacts | None = field(default=None, repr=False, compare=False)
    accepted: tuple[RequestPrincipal, ...] = field(default=(), repr=False, compare=False)
    text: str | None = field(default=None, repr=False, compare=False)


_NOTHING: Final = TokenResult()
_HEADER: Final = Place.HEADER
_PARAMETER: Final = Place.PARAMETER
_PREFLIGHT: Final = "OPTIONS"


@dataclass(frozen=True, slots=True)
class CompiledRequestAuthentication:
    """All rules of one workload, frozen. Build with :func:`compile_request_authentication`.

    Attributes:
        rules: by issuer.
        output_headers: every header that a rule may set, lower case, hyphens for underscores: always taken from the
            client first.
        sources: the key sets that are not written into the rules.
        istio: whether tokens are looked for and combined as Istio's proxy does.
    """

    rules: tuple[Rule, ...]
    output_headers: frozenset[str]
    sources: tuple[KeySource, ...]
    istio: bool = False
    _has_triggers: bool = field(default=False, init=False, repr=False, compare=False)
    _parameters: tuple[Location, ...] = field(default=(), init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_has_triggers", any(rule.trigger for rule in self.rules))
        places = dict.fromkeys(location for rule in self.rules for location in rule.locations)
        object.__setattr__(self, "_parameters", tuple(place for place in places if place.place is _PARAMETER))

    def authenticate(
        self, facts: RequestFacts, keys: KeySnapshot, *, now: float, ask: bool = True
    ) -> TokenResult | NeedKeys:
        """Find and verify the tokens of a request.

        Args:
            facts: the request.
            keys: the key sets at hand.
            now: wall clock, POSIX seconds.
            ask: whether a question may be the answer; without, the result is always final.

        Returns:
            The principal and the edits, or an error to refuse with; or a question, where a fetch that is permitted
            or in flight may bring the missing key.

        A CORS preflight (OPTIONS with Origin and Access-Control-Request-Method) has no identity: its tokens are not
        read, as in Istio.
        """
        if not self.rules:
            return _NOTHING
        stripped = self._stripped(facts)
        if _is_preflight(facts):
            seen = None if self.istio else _edited(facts, stripped, ())
            return TokenResult(remove_headers=stripped, seen=seen)
        try:
            if self.istio:
                walk = walk_as_istio(self.rules, facts, keys, now, ask=ask)
                if isinstance(walk, NeedKeys):
                    return walk
                return _result(walk.accepted[::-1], facts, stripped, walk.seen)
            accepted = self._verify(facts, keys, now, ask=ask)
            return accepted if isinstance(accepted, NeedKeys) else _result(accepted, facts, stripped)
        except TokenError as error:
            return TokenResult(error=error, remove_headers=stripped)

    def situation(self, method: str, readings: Sequence[str], *, preflight: bool) -> tuple[bool, ...]:
        """What a request line has to do with the answer of :meth:`authenticate`, given the header lines.

        Args:
            method: of the request.
            readings: of its path, in all of which it is judged.
            preflight: whether the header lines are those of a CORS preflight, whose method then counts.

        Returns:
            Equal for two requests with the same header lines if the answer is, and :meth:`is_in_query` of neither.
        """
        asked = preflight and method == _PREFLIGHT
        if not self._has_triggers:
            return (asked,)
        return (asked, *(rule.trigger.fires(readings) for rule in self.rules if rule.trigger))

    def is_in_query(self, facts: RequestFacts) -> bool:
        """Whether a token may stand in the query, which then has to do with the answer, too."""
        return bool(facts.target.query) and any(location.find(facts) for location in self._parameters)

    @property
    def token_headers(self) -> frozenset[str]:
        """The headers in which a token may stand, lower case."""
        places = [location for rule in self.rules for location in rule.locations]
        return frozenset(
            "cookie" if location.place is Place.COOKIE else location.name
            for location in places
            if location.place is not Place.PARAMETER
        )

    def window(self, facts: RequestFacts, keys: KeySnapshot, now: float) -> tuple[float, float] | None:
        """Between which two moments :meth:`authenticate` says the same of a request that it let pass.

        None where nothing may be remembered of it: its tokens are to be verified anew every time, Istio's proxy
        would go by tokens that do not hold, or a token stands where it would be remembered, too.
        """
        if not self.rules:
            return -math.inf, math.inf
        if self.istio or self.is_in_query(facts):
            return None
        try:
            accepted = [] if _is_preflight(facts) else self._verify(facts, keys, now, ask=False)
        except TokenError:
            return None
        if isinstance(accepted, NeedKeys) or any(item.rule.state(keys).cache is None for item in accepted):
            return None
        times = [(-math.inf, math.inf), *(item.rule.profile.lifetime(item.token.claims) for item in accepted)]
        return max(begins for begins, _ in times), min(ends for _, ends in times)

    def _verify(self, facts: RequestFacts, keys: KeySnapshot, now: float, *, ask: bool) -> list[Accepted] | NeedKeys:
        """Every token that an active rule sees must hold. Raises TokenError: why the first one does not."""
        active = self._active(facts.target.readings) if self._has_triggers else self.rules
        accepted: list[Accepted] = []
        refused: list[Refused] = []
        for location, text in _tokens(active, facts).items():
            those = active if len(active) == 1 else [rule for rule in active if location in rule.locations]
            found = judge_text(text, location, those, keys, now)
            if isinstance(found, Accepted):
                accepted.append(found)
            elif refused or (ask and found.askable):
                refused.append(found)
            else:
                raise found.error
        if refused:
            # A question is asked only where all others hold or wait, too.
            if all(item.askable for item in refused):
                return NeedKeys.of(refused)
            raise refused[0].error
        if (
            self._has_triggers
            and any(rule.trigger for rule in active)
            and not any(item.rule.trigger for item in accepted)
        ):
            raise missing()
        if len(accepted) > 1:
            accepted.sort(key=lambda item: self.rules.index(item.rule))
        return accepted

    def _active(self, readings: Sequence[str]) -> list[Rule]:
        return [rule for rule in self.rules if rule.trigger is None or rule.trigger.fires(readings)]

    def _stripped(self, facts: RequestFacts) -> tuple[str, ...]:
        """Either spelling: where headers become variables (CGI, WSGI) ``x_user`` and ``x-user`` are one name."""
        if not self.output_headers:
            return ()
        return tuple(name for name in facts.headers if name.replace("_", "-") in self.output_headers)


def compile_request_authentication(
    resources: Sequence[RequestAuthentication],
    *,
    compatibility: Compatibility = "safe",
    token_cache: bool = True,
    own: Mapping[str, IssuerConfig] | None = None,
) -> CompiledRequestAuthentication:
    """Compile the resources that apply to one workload; they are used together, as in Istio.

    Args:
        resources: already selected.
        compatibility: ``istio`` finds, reads and combines tokens as Istio's proxy does; unless a resource has our
            annotations, or an issuer's tokens are JWT-SVIDs, which Istio does not know.
        token_cache: whether tokens verified with keys that are written into a rule are remembered.
        own: what mesh.yaml says of some issuers.

    Raises:
        ConfigError: an inline key set holds no usable key, or a rule does not go together with what mesh.yaml says.
    """
    rules: list[Rule] = []
    problems: list[Problem] = []
    for resource in resources:
        trigger = Trigger.of(resource)
        for index, rule in enumerate(resource.spec.jwt_rules):
            try:
                mine = (own or {}).get(rule.issuer)
                rules.append(Rule.of(rule, trigger, compatibility, token_cache=token_cache, own=mine))
            except (KeysUnavailableError, ValueError) as error:
                name = "jwks" if isinstance(error, KeysUnavailableError) else "issuer"
                field_path = f"spec.jwtRules[{index}].{name}"
                kind = f"RequestAuthentication {resource.id}"
                problems.append(Problem(str(error), source=resource.location, resource=kind, field=field_path))
    if problems:
        raise ConfigError(problems)
    rules.sort(key=lambda rule: rule.profile.issuer)
    names = frozenset(name.replace("_", "-") for rule in rules for name in rule.outputs.names)
    sources = tuple(dict.fromkeys(rule.source for rule in rules if rule.source is not None))
    istio = compatibility == "istio" and not any(rule.trigger or rule.profile.workloads_of for rule in rules)
    return CompiledRequestAuthentication(tuple(rules), names, sources, istio)


def _tokens(rules: Sequence[Rule], facts: RequestFacts) -> dict[Location, str]:
    """The tokens that these rules see. Raises TokenError for two in one rule's places, or none where one must be."""
    found: dict[Location, str] = {}
    for rule in rules:
        present = False
        for location in rule.locations:
            for token in location.find(facts):
                if present:
                    raise TokenError("Jwt is given more than once", code=Reason.JWT_SEVERAL)
                found[location] = token
                present = True
        if not present and rule.must_be_present:
            raise missing()
    return found


def _result(
    accepted: Sequence[Accepted], facts: RequestFacts, stripped: tuple[str, ...], seen: RequestFacts | None = None
) -> TokenResult:
    """The first rule's token is the caller's identity, as in Istio; every token that is not forwarded goes."""
    if not accepted:
        return TokenResult(remove_headers=stripped, seen=seen or _edited(facts, stripped, ()))
    first = accepted[0]
    headers, parameters = list(stripped), list[str]()
    for item in accepted:
        if not item.rule.forward:
            location = item.location
            if location.place is _HEADER:
                headers.append(location.name)
            elif location.place is _PARAMETER:
                parameters.append(location.name)
    removed, added = tuple(headers), first.rule.outputs.values(first.token)
    query = without_parameters(facts.target.query or "", parameters) if parameters else None
    seen = seen or _edited(facts, removed, added)
    principals = tuple([item.token.principal for item in accepted])
    # By position, which is quicker: this is on the way of every request.
    return TokenResult(first.token.principal, None, removed, added, query, seen, principals, first.text)


def _edited(facts: RequestFacts, removed: Sequence[str], added: Sequence[tuple[str, str]]) -> RequestFacts | None:
    if not removed and not added:
        return None
    headers = dict(facts.headers.items())
    for name in removed:
        headers.pop(name, None)
    for name, value in added:
        headers[name] = (*headers.get(name, ()), value)
    return facts.with_headers(MappingProxyType(headers))


def _is_preflight(facts: RequestFacts) -> bool:
    return facts.method == _PREFLIGHT and is_preflight_head(facts)


def is_preflight_head(facts: RequestFacts) -> bool:
    """Whether a request's headers are those of a CORS preflight, which it is if its method is OPTIONS."""
    headers = facts.headers
    return any(headers.get("origin", ())) and any(headers.get("access-control-request-method", ()))
