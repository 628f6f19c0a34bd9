"""CUSTOM: which external authorizer must be asked about a request, and what its answer makes of the request.

The question is a value and so is the answer; whoever drives the policy asks. This file must not know HTTP clients, or
the settings of a provider beyond the headers that are its own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final

from ..attributes import Attributes, AuthContext, Connection, RequestFacts
from ..authn import NeedKeys
from ..authz import CompiledCustom, PolicyRule
from ..decision import Decision, Edits, Outcome, Reason
from ..resources import MeshConfig

__all__ = ["CheckAnswer", "NeedCheck", "Passed", "check", "reserved_headers"]

_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE: Final = re.compile("[\t\x20-\x7e\x80-\xff]*")

# A client's own, even where an authorizer may replace them.
_CLIENTS: Final = frozenset({"authorization", "cookie"})

_Lines = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class NeedCheck:
    """A question: does the provider of a CUSTOM policy let this request pass?

    Nothing in it says who the user is: tokens are not verified yet, and tell nothing.

    Attributes:
        provider: who must be asked.
        policy: ``namespace/name`` of the CUSTOM policy that matches.
        rule: the index of the rule that matches.
        method: the request's.
        target: path and query, normalized: what the application would get.
        host: as sent, lower case.
        headers: (lower-case name, value) lines without Host; of one name in the order they came.
        scheme: the connection's.
        connection: what the transport knows; its peer is verified.
    """

    provider: str
    policy: str
    rule: int
    method: str
    target: str = field(repr=False)
    host: str | None
    headers: _Lines = field(repr=False)
    scheme: str
    connection: Connection


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckAnswer:
    """What a provider said of one request.

    Attributes:
        allowed: whether the request passes; DENY and ALLOW policies still have their say then.
        provider: who said it; whoever asked fills it in.
        status: of the answer to a refused request, from 300 to 599.
        body: of the answer to a refused request.
        request_headers: set on a request that passes, in place of the client's lines of these names.
        response_headers: added to the response.
        failure: why the provider gave no answer of its own; None where it did.

    Raises:
        ValueError: a header or the status is not one that HTTP knows.
    """

    allowed: bool
    provider: str = ""
    status: int = 403
    body: bytes = field(default=b"", repr=False)
    request_headers: _Lines = field(default=(), repr=False)
    response_headers: _Lines = field(default=(), repr=False)
    failure: str | None = None

    def __post_init__(self) -> None:
        if not 300 <= self.status <= 599:
            raise ValueError(f"{self.status} is no status of a refusal")
        for name, value in (*self.request_headers, *self.response_headers):
            if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
                raise ValueError(f"the header {name[:80]!a} is malformed")


@dataclass(frozen=True, slots=True)
class Passed:
    """A request that no authorizer refused, as it goes on.

    Attributes:
        facts: with the headers that providers set, and without those that only they may set.
        remove_headers: names of the client's headers that the application must not get.
        add_headers: what providers set.
        response_headers: what they add to the response.
        told: for the explanation, a line for each that was asked.
    """

    facts: RequestFacts
    remove_headers: tuple[str, ...] = ()
    add_headers: _Lines = field(default=(), repr=False)
    response_headers: _Lines = field(default=(), repr=False)
    told: tuple[str, ...] = ()

    def completed(self, context: AuthContext) -> AuthContext:
        """The decision with what providers did to the request and the response."""
        if not (self.remove_headers or self.add_headers or self.response_headers or self.told):
            return context
        edits = context.decision.edits
        spent = set(map(_one_spelling, edits.remove_headers))
        kept = (line for line in self.add_headers if _one_spelling(line[0]) not in spent)
        edits = replace(
            edits,
            remove_headers=tuple(dict.fromkeys((*self.remove_headers, *edits.remove_headers))),
            add_headers=(*kept, *edits.add_headers),
            response_headers=(*edits.response_headers, *self.response_headers),
        )
        details = _with_lines(context.decision, self.told)
        return replace(context, decision=replace(context.decision, edits=edits, _details=details))


def check(
    custom: CompiledCustom,
    reserved: frozenset[str],
    connection: Connection,
    facts: RequestFacts,
    answers: Sequence[NeedKeys | CheckAnswer],
) -> Passed | NeedCheck | Decision:
    """Ask each provider whose rules match, one after the other; all of them must agree.

    Args:
        custom: the CUSTOM policies.
        reserved: headers that are taken from the client, however the request goes on.
        connection: what the transport knows.
        facts: the request.
        answers: what providers said already.
    """
    known = {answer.provider: answer for answer in answers if isinstance(answer, CheckAnswer)}
    passed = Passed(facts)
    for provider in custom.providers:
        rule = _matching(custom, provider, connection, passed.facts)
        if rule is None:
            continue
        answer = known.get(provider)
        if answer is None:
            return _question(provider, rule, connection, passed.facts)
        if not answer.allowed:
            return _refusal(answer, rule)
        passed = _set(passed, answer, rule)
    return _without(passed, reserved.difference(_one_spelling(name) for name, _ in passed.add_headers))


def reserved_headers(custom: CompiledCustom, config: MeshConfig) -> frozenset[str]:
    """Names, hyphens for underscores, of what only a provider may set: a client that sends them is lying.

    Istio leaves the client's line where the provider sets none. What the provider is also shown, it has judged.
    """
    if config.compatibility == "istio":
        return frozenset()
    settings = (config.extension_providers.get(provider) for provider in custom.providers)
    return frozenset(
        _one_spelling(name)
        for item in settings
        if item is not None
        for name in item.headers_to_upstream_on_allow
        if "*" not in name and name.lower() not in {*_CLIENTS, *map(str.lower, item.include_request_headers_in_check)}
    )


def _matching(
    custom: CompiledCustom, provider: str, connection: Connection, facts: RequestFacts
) -> PolicyRule | None:
    """A rule that matches any reading of the path."""
    for path in facts.target.readings:
        rule = custom.matching(provider, Attributes(connection, facts, path, None))
        if rule is not None:
            return rule
    return None


def _question(provider: str, rule: PolicyRule, connection: Connection, facts: RequestFacts) -> NeedCheck:
    headers = tuple((name, value) for name, lines in facts.headers.items() if name != "host" for value in lines)
    target = facts.target.raw
    return NeedCheck(
        provider, rule.policy, rule.index, facts.method, target, facts.host, headers, facts.scheme, connection
    )


def _refusal(answer: CheckAnswer, rule: PolicyRule) -> Decision:
    asked = _asked(answer, rule)
    return Decision(
        Outcome.UNAUTHENTICATED if answer.status == 401 else Outcome.DENY,
        Reason.CHECK_DENIED if answer.failure is None else Reason.CHECK_FAILED,
        "",
        rule.policy,
        rule.index,
        status=answer.status,
        edits=Edits(response_headers=answer.response_headers, body=answer.body),
        _details=lambda: asked,
    )


def _set(passed: Passed, answer: CheckAnswer, rule: PolicyRule) -> Passed:
    """Later policies see the request as the provider left it, as they do in Istio."""
    passed = _without(passed, frozenset(_one_spelling(name) for name, _ in answer.request_headers))
    lines: dict[str, tuple[str, ...]] = {}
    for name, value in answer.request_headers:
        lines[name.lower()] = (*lines.get(name.lower(), ()), value.strip(" \t"))
    return Passed(
        replace(passed.facts, headers=MappingProxyType({**passed.facts.headers, **lines})) if lines else passed.facts,
        passed.remove_headers,
        (*passed.add_headers, *answer.request_headers),
        (*passed.response_headers, *answer.response_headers),
        (*passed.told, _asked(answer, rule)),
    )


def _without(passed: Passed, names: frozenset[str]) -> Passed:
    """Either spelling: where headers become variables (CGI, WSGI) ``x_user`` and ``x-user`` are one name."""
    gone = [name for name in passed.facts.headers if _one_spelling(name) in names]
    if not gone:
        return passed
    kept = {name: lines for name, lines in passed.facts.headers.items() if name not in gone}
    return replace(
        passed,
        facts=replace(passed.facts, headers=MappingProxyType(kept)),
        remove_headers=(*passed.remove_headers, *gone),
        add_headers=tuple(line for line in passed.add_headers if _one_spelling(line[0]) not in names),
    )


def _one_spelling(name: str) -> str:
    return name.lower().replace("_", "-")


def _asked(answer: CheckAnswer, rule: PolicyRule) -> str:
    verdict = "passed" if answer.allowed else "denied"
    said = "said so" if answer.failure is None else f"failed: {answer.failure}"
    provider = f"provider {answer.provider} {said}"
    return f"{verdict}: rule {rule.index} of the CUSTOM policy {rule.policy} matches, and {provider}"


def _with_lines(decision: Decision, lines: Iterable[str]) -> Callable[[], str]:
    def details() -> str:
        return "\n".join(_all_lines(decision, lines))

    return details


def _all_lines(decision: Decision, lines: Iterable[str]) -> Iterator[str]:
    yield decision._details()
    yield from (f"  {line}" for line in lines)
