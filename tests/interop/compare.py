"""What Envoy and meshsec say of the same bytes, and which differences are meant.

Agreement: the same verdict, or meshsec refuses what Envoy lets pass, for a listed reason. Under ``compatibility:
istio`` the verdicts are the same, and so is what the application sees.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from interop.client import Answer, Client
from interop.generate import Case, Question
from interop.sidecar import running
from meshsec import Decision, Reason
from meshsec.authn import NeedKeys
from meshsec.matching import end_twin, parse_path_pattern
from meshsec.resources import Action
from meshsec.sources._forwarded import believed

__all__ = ["Difference", "Tally", "ask_all", "compare", "decided", "served"]


@dataclass(frozen=True)
class Difference:
    """A request of which the two do not say the same."""

    case: Case
    question: Question
    envoy: Answer
    ours: Decision
    why: str


@dataclass
class Tally:
    """What a run has seen."""

    requests: int = 0
    policies: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    listed: Counter[str] = field(default_factory=Counter)
    differences: list[Difference] = field(default_factory=list)


def served(cases: Sequence[Case]):  # type: ignore[no-untyped-def]
    """Envoy with all of these."""
    domains = sorted(
        {name for case in cases for name in (case.config.trust_domain, *case.config.trust_domain_aliases)}
    )
    return running([(case.site, case.policy.to_envoy()) for case in cases], domains)


def decided(case: Case, question: Question) -> Decision:
    """What meshsec says."""
    now = time.time()
    connection = believed(question.connection(case.site), question.request, case.config, None, now=now)
    answer = case.policy.decide(connection, question.request, {}, now=now)
    if isinstance(answer, NeedKeys):
        raise TypeError("every key set is written into its rule")
    return answer


def ask_all(client: Client, pairs: Iterable[tuple[Case, Question]], tally: Tally) -> None:
    """Ask both about every request."""
    for case, question in pairs:
        envoy = client.ask(question.route(case.site), question.bytes)
        tally.requests += 1
        tally.statuses[envoy.status] += 1
        found = compare(case, question, envoy, decided(case, question), tally.listed)
        if found is not None:
            tally.differences.append(found)


def compare(
    case: Case, question: Question, envoy: Answer, ours: Decision, listed: Counter[str] | None = None
) -> Difference | None:
    """None where they agree."""
    passes = envoy.status == 200
    if ours.allowed and passes:
        why = _seen(case, question, envoy, ours)
        return Difference(case, question, envoy, ours, why) if why else None
    if ours.status == envoy.status:
        return None
    reason = _listed(case, question, envoy, ours)
    if reason is None:
        why = f"Envoy says {envoy.status}, meshsec {ours.status} ({ours.reason})"
        return Difference(case, question, envoy, ours, why)
    if listed is not None:
        listed[reason] += 1
    return None


def _seen(case: Case, question: Question, envoy: Answer, ours: Decision) -> str | None:
    """How what the application sees differs, if it does: the path, and the headers made of claims."""
    target = ours.edits.target if ours.edits.target is not None else question.target
    wanted = {"path": target.partition("?")[0]}
    asked = _token_is_asked_for_here(case, question)
    if (
        not asked
        and _credentials(question) <= 1
        and len(case.policy.requests) == 1 == len(case.policy.requests[0].spec.jwt_rules)
    ):
        wanted |= dict(ours.edits.add_headers)
    given = {name: envoy.headers.get(f"echo-{name}", "").partition("?")[0] for name in wanted}
    wanted |= (marks := _marks(case, envoy, ours))
    given |= {name: envoy.headers.get(f"echo-{name}", "") for name in marks}
    return (
        "; ".join(
            f"{name} is {given[name]!a} behind Envoy, {value!a} behind meshsec"
            for name, value in wanted.items()
            if given[name] != value
        )
        or None
    )


_TRIALS: Final = {
    Reason.DENY_RULE: ("trial-deny", "denied"),
    Reason.ALLOW_RULE: ("trial-allow", "allowed"),
    Reason.NO_ALLOW_RULE: ("trial-allow", "denied"),
}


def _marks(case: Case, envoy: Answer, ours: Decision) -> dict[str, str]:
    """What AUDIT policies and those on trial should have left; where doubt widens ours, only what Envoy marked."""
    policies = {policy.action for policy in case.policy.rules.policies}
    if case.config.compatibility == "istio":
        trials = {trial.action for trial in case.policy.rules.trials}
        found = {"trial-deny": "allowed"} if Action.DENY in trials else {}
        found |= dict(_TRIALS[trial.reason] for trial in ours.dry_run)
        return found | ({"audited": "true" if ours.audited else "false"} if Action.AUDIT in policies else {})
    marked = Action.AUDIT in policies and envoy.headers.get("echo-audited") == "true"
    return {"audited": "true" if ours.audited else "false"} if marked else {}


def _credentials(question: Question) -> int:
    lines = sum(name.lower() in ("authorization", "x-token", "cookie") for name, _ in question.headers)
    return lines + question.target.count("token=")


def _host_is_odd(case: Case, question: Question) -> bool:
    """With a port or a dot at the end, or no one host at all."""
    hosts = [value for name, value in question.headers if name.lower() == "host"]
    return len(hosts) != 1 or ":" in hosts[0] or hosts[0].endswith(".") or question.target.lower().startswith("http")


def _path_is_odd(case: Case, question: Question) -> bool:
    """Spelt in another way than a policy would, or than this one does."""
    path = question.target.partition("?")[0]
    return any(piece in path for piece in ("//", "%", "/.", "\\", *'"<>^`{|}[]')) or "%" in json.dumps(
        [item for item in case.documents if item.get("kind") == "AuthorizationPolicy"]
    )


def _slash_at_the_end_counts(case: Case, question: Question) -> bool:
    """In the path, or in a policy."""
    included = [parse_path_pattern(text) for item in case.policy.requests for text in item.include_paths]
    ends = any(end_twin(pattern) for pattern in (*_patterns(case, "paths"), *included))
    return ends or question.target.partition("?")[0].partition("#")[0].endswith("/")


def _token_is_asked_for_here(case: Case, question: Question) -> bool:
    """By an annotation of ours, for a path in another spelling than it is written in."""
    written = [text for item in case.policy.requests for text in (*item.include_paths, *item.exclude_paths)]
    encoded = any("%" in text for text in written)
    return bool(written) and (encoded or _path_is_odd(case, question) or _slash_at_the_end_counts(case, question))


def _header_is_repeated(case: Case, question: Question) -> bool:
    names = [name.lower() for name, _ in question.headers]
    return len(set(names)) < len(names)


def _address_is_forwarded(case: Case, question: Question) -> bool:
    """Where the configuration counts the proxies, both believe the same one."""
    told = any(name.lower() == "x-forwarded-for" for name, _ in question.headers)
    return told and not case.config.num_trusted_proxies


def _header_is_forged(case: Case, question: Question) -> bool:
    """One that a rule makes of claims, on a request that Envoy does not take it from."""
    names = {name.lower() for name, _ in question.headers}
    return not names.isdisjoint(case.policy.tokens.output_headers)


def _peer_is_odd(case: Case, question: Question) -> bool:
    """Of another form than Istio's."""
    return question.peer is not None and question.peer.split("/")[3::2] != ["ns", "sa"]


def _namespace_has_a_star(case: Case, question: Question) -> bool:
    """One that could reach beyond the namespace."""
    return any("*" in str(pattern) for pattern in _patterns(case, "source.namespace"))


def _patterns(case: Case, key: str) -> Iterator[Any]:
    """All that the policies ask of one attribute."""
    for policy in case.policy.rules.policies:
        for rule in policy.rules:
            for conditions in (*rule.sources, *rule.operations, rule.when):
                yield from (pattern for item in conditions if item.key == key for pattern in item.patterns)


def _any(case: Case, question: Question) -> bool:
    return True


def _several_rules(case: Case, question: Question) -> bool:
    return sum(len(item.spec.jwt_rules) for item in case.policy.requests) > 1


_AUTHORIZATION: Final = frozenset({Reason.DENY_RULE, Reason.NO_ALLOW_RULE})
_TOKEN: Final = frozenset({
    Reason.JWT_SIGNATURE, Reason.JWT_ISSUER, Reason.JWT_EXPIRED, Reason.JWT_AUDIENCE, Reason.JWT_UNKNOWN_KEY,
    Reason.JWT_ALGORITHM, Reason.JWT_CLAIM_TYPE, Reason.JWT_NOT_YET_VALID,
})  # fmt: skip

# The only thing that meshsec lets pass and Envoy does not: the header is gone before the rules look.
_LAXER: Final = "a header that is made of claims, sent by the client, is always removed"

# Reason of ours, what makes it one of the meant differences, and which. Each is a row of
# docs/explanation/differences-from-istio.md, and has a test of its own.
LISTED: Final[tuple[tuple[frozenset[Reason], Callable[[Case, Question], bool], str], ...]] = (
    (
        frozenset({Reason.TARGET_AMBIGUOUS, Reason.TARGET_MALFORMED}),
        _path_is_odd,
        "a path that could be read differently",
    ),
    (frozenset({Reason.TARGET_CONTROL_CHARACTER}), _path_is_odd, "an encoded control character"),
    (frozenset({Reason.HOST_INVALID, Reason.HOST_MISSING}), _any, "a host that could be read differently"),
    (frozenset({Reason.AUTHORIZATION_REPEATED}), _any, "two Authorization lines"),
    (_AUTHORIZATION, _path_is_odd, "a path with more than one reading"),
    (_AUTHORIZATION, _slash_at_the_end_counts, "a slash at the end of a path"),
    (_AUTHORIZATION, _host_is_odd, "a host with a port or a dot at its end"),
    (_AUTHORIZATION, _header_is_repeated, "a header that came in several lines"),
    (_AUTHORIZATION, _header_is_forged, "a header that is made of claims, sent by the client"),
    (_AUTHORIZATION, _address_is_forwarded, "an address in X-Forwarded-For"),
    (_AUTHORIZATION, _namespace_has_a_star, "a star that reaches beyond the namespace"),
    (_AUTHORIZATION, _peer_is_odd, "a SPIFFE ID of another form than Istio's"),
    (frozenset({Reason.JWT_NO_EXPIRY}), _any, "a token without an end"),
    (frozenset({Reason.JWT_EXPIRED}), _any, "a token whose end is 0"),
    (frozenset({Reason.JWT_CRITICAL_HEADER}), _any, "a token with an extension"),
    (frozenset({Reason.JWT_SEVERAL}), _any, "several tokens for one rule"),
    (frozenset({Reason.JWT_MALFORMED}), _any, "a token whose form could be read differently"),
    (_TOKEN, _several_rules, "a bad token where another rule reads"),
    (_TOKEN | {Reason.JWT_MISSING}, _token_is_asked_for_here, "a path that asks for a token in any spelling"),
)


def _listed(case: Case, question: Question, envoy: Answer, ours: Decision) -> str | None:
    """Why they may differ, if they may."""
    if (envoy.status, ours.status) == (404, 400) and question.target == "*":
        return "a request to *, which both refuse"
    if case.config.compatibility == "istio":
        return None
    if ours.allowed:
        return _LAXER if envoy.status == 403 and _header_is_forged(case, question) else None
    for reasons, applies, why in LISTED:
        if ours.reason in reasons and applies(case, question):
            return why
    return None if envoy.status == 200 else "both refuse, for different reasons"
