"""RequestAuthentication, compiled: which tokens a request carries, whether they hold, and who the caller is.

Stricter than Istio's proxy where that leaves a door open: every token that a rule can see must hold, two tokens for
one rule are refused, and headers that carry claims are taken from the client first, whatever follows. This file must
not know policies, servers, or where keys come from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ..attributes import RequestFacts, RequestPrincipal
from ..decision import Reason
from ..errors import ConfigError, KeysUnavailableError, Problem, TokenError
from ..resources import Compatibility, RequestAuthentication
from ._keys import KeySnapshot, KeySource, NeedKeys
from ._locate import Location, Place, without_parameters
from ._rule import Rule, Trigger
from ._token import UnverifiedToken, VerifiedToken, read_token

__all__ = ["CompiledRequestAuthentication", "TokenResult", "compile_request_authentication"]


@dataclass(frozen=True, slots=True)
class TokenResult:
    """What authentication found.

    Attributes:
        principal: the end user; None without an accepted token.
        error: why the request must be refused; its code is a :class:`meshsec.decision.Reason`.
        remove_headers: lower-case names of headers that the client sent and the application must not get.
        add_headers: name and value of the headers made of claims.
        query: the query without the token; None: unchanged.
    """

    principal: RequestPrincipal | None = None
    error: TokenError | None = None
    remove_headers: tuple[str, ...] = ()
    add_headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    query: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class _Accepted:
    """A token that held against one of the rules that see it."""

    rule: Rule
    location: Location
    token: VerifiedToken


@dataclass(frozen=True, slots=True)
class _Refused:
    """A token that held against none: the last reason, and the key sets that, fetched anew, may change it."""

    error: TokenError
    askable: tuple[KeySource, ...]


@dataclass(frozen=True, slots=True)
class CompiledRequestAuthentication:
    """All rules of one workload, frozen. Build with :func:`compile_request_authentication`.

    Attributes:
        rules: by issuer.
        output_headers: every header that a rule may set, lower case, hyphens for underscores: always taken from the
            client first.
        sources: the key sets that are not written into the rules.
    """

    rules: tuple[Rule, ...]
    output_headers: frozenset[str]
    sources: tuple[KeySource, ...]

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
        stripped = self._stripped(facts)
        if not self.rules or _is_preflight(facts):
            return TokenResult(remove_headers=stripped)
        try:
            accepted = self._verify(facts, keys, now, ask=ask)
            return accepted if isinstance(accepted, NeedKeys) else _result(accepted, facts, stripped)
        except TokenError as error:
            return TokenResult(error=error, remove_headers=stripped)

    def _verify(self, facts: RequestFacts, keys: KeySnapshot, now: float, *, ask: bool) -> list[_Accepted] | NeedKeys:
        """Every token that an active rule sees must hold. Raises TokenError."""
        readings = facts.target.readings
        active = [rule for rule in self.rules if rule.trigger is None or rule.trigger.fires(readings)]
        accepted: list[_Accepted] = []
        needed: list[KeySource] = []
        for location, text in _tokens(active, facts).items():
            token = read_token(text)
            found = _judge(token, location, _responsible(active, location, token), keys, now)
            if isinstance(found, _Accepted):
                accepted.append(found)
            elif ask and found.askable:
                needed += found.askable
            else:
                raise found.error
        if needed:
            return NeedKeys(tuple(dict.fromkeys(needed)))
        if any(rule.trigger for rule in active) and not any(item.rule.trigger for item in accepted):
            raise _missing()
        return sorted(accepted, key=lambda item: item.rule.profile.issuer)

    def _stripped(self, facts: RequestFacts) -> tuple[str, ...]:
        """Either spelling: where headers become variables (CGI, WSGI) ``x_user`` and ``x-user`` are one name."""
        if not self.output_headers:
            return ()
        return tuple(name for name in facts.headers if name.replace("_", "-") in self.output_headers)


def compile_request_authentication(
    resources: Sequence[RequestAuthentication], *, compatibility: Compatibility = "safe"
) -> CompiledRequestAuthentication:
    """Compile the resources that apply to one workload; they are used together, as in Istio.

    Args:
        resources: already selected.
        compatibility: ``istio`` also takes tokens without ``exp``; the other differences stay for now.

    Raises:
        ConfigError: an inline key set holds no usable key.
    """
    rules: list[Rule] = []
    problems: list[Problem] = []
    for resource in resources:
        trigger = Trigger.of(resource)
        for index, rule in enumerate(resource.spec.jwt_rules):
            try:
                rules.append(Rule.of(rule, trigger, compatibility))
            except KeysUnavailableError as error:
                field_path = f"spec.jwtRules[{index}].jwks"
                kind = f"RequestAuthentication {resource.id}"
                problems.append(Problem(str(error), source=resource.location, resource=kind, field=field_path))
    if problems:
        raise ConfigError(problems)
    rules.sort(key=lambda rule: rule.profile.issuer)
    names = frozenset(name.replace("_", "-") for rule in rules for name in rule.outputs.names)
    sources = tuple(dict.fromkeys(rule.source for rule in rules if rule.source is not None))
    return CompiledRequestAuthentication(tuple(rules), names, sources)


def _tokens(rules: Sequence[Rule], facts: RequestFacts) -> dict[Location, str]:
    """The tokens that these rules see. Raises TokenError for two in one rule's places, or none where one must be."""
    found: dict[Location, str] = {}
    for rule in rules:
        mine = [(location, token) for location in rule.locations for token in location.find(facts)]
        if len(mine) > 1:
            raise TokenError("Jwt is given more than once", code=Reason.JWT_SEVERAL)
        if not mine and rule.must_be_present:
            raise _missing()
        found.update(mine)
    return found


def _responsible(rules: Sequence[Rule], location: Location, token: UnverifiedToken) -> list[Rule]:
    """The rules for this place and issuer; those that require a token here come alone, where there are any."""
    readers = [rule for rule in rules if location in rule.locations and rule.is_for(token.unverified_issuer)]
    return [rule for rule in readers if rule.trigger] or readers


def _judge(
    token: UnverifiedToken, location: Location, rules: Sequence[Rule], snapshot: KeySnapshot, now: float
) -> _Accepted | _Refused:
    """The first rule that accepts the token, as in Istio; of several refusals the last is told."""
    error = TokenError("Jwt issuer is not configured", code=Reason.JWT_ISSUER)
    askable: list[KeySource] = []
    for rule in rules:
        state = rule.state(snapshot)
        try:
            if state.keys is None:
                raise TokenError("Jwks remote fetch is failed", code=Reason.KEYS_UNAVAILABLE)
            return _Accepted(rule, location, token.verify(rule.profile, state.keys, now))
        except TokenError as refusal:
            error = refusal
            if state.fetchable and rule.source and _is_about_keys(refusal, token):
                askable.append(rule.source)
    return _Refused(error, tuple(askable))


def _is_about_keys(error: TokenError, token: UnverifiedToken) -> bool:
    """Whether other keys may change the verdict: a token that names no key may be signed by one we have not seen."""
    if error.code == Reason.JWT_SIGNATURE:
        return not token.names_key
    return error.code in (Reason.KEYS_UNAVAILABLE, Reason.JWT_UNKNOWN_KEY)


def _result(accepted: Sequence[_Accepted], facts: RequestFacts, stripped: tuple[str, ...]) -> TokenResult:
    """The first rule's token is the caller's identity, as in Istio; every token that is not forwarded goes."""
    if not accepted:
        return TokenResult(remove_headers=stripped)
    first = accepted[0]
    spent = [item.location for item in accepted if not item.rule.forward]
    headers = (location.name for location in spent if location.place is Place.HEADER)
    parameters = {location.name for location in spent if location.place is Place.PARAMETER}
    return TokenResult(
        first.token.principal,
        remove_headers=(*stripped, *headers),
        add_headers=tuple(first.rule.outputs.values(first.token)),
        query=without_parameters(facts.target.query or "", parameters) if parameters else None,
    )


def _is_preflight(facts: RequestFacts) -> bool:
    headers = facts.headers
    return (
        facts.method == "OPTIONS"
        and any(headers.get("origin", ()))
        and any(headers.get("access-control-request-method", ()))
    )


def _missing() -> TokenError:
    return TokenError("Jwt is missing", code=Reason.JWT_MISSING)
