"""The tokens of a request as Istio's proxy finds and combines them: for ``compatibility: istio`` alone.

istiod makes of n rules ``any(R1 … Rn, all(any(R1, missing) … any(Rn, missing)))``, and Envoy walks it: a rule holds
if every token in its places does; one that held and is not forwarded is gone for the rules after it; the first rule
that holds ends the walk, whatever stands in the places of the others. This file must not know what an application
gets of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final

from ..attributes import RequestFacts
from ..decision import Reason
from ..errors import TokenError
from ._judge import Accepted, judge, missing
from ._keys import KeySnapshot, NeedKeys, Refused
from ._locate import Location, Place, without_parameters
from ._rule import Rule
from ._token import read_token

__all__ = ["Walk", "walk_as_istio"]

# Of several failures Envoy tells the weightiest, and of equals the last.
_WEIGHT: Final = {Reason.JWT_MISSING: 0, Reason.JWT_ISSUER: 1}
_OTHER: Final = 2


def walk_as_istio(
    rules: Sequence[Rule], facts: RequestFacts, keys: KeySnapshot, now: float, *, ask: bool
) -> Walk | NeedKeys:
    """Go through the rules. Raises TokenError."""
    for rule in rules:
        if rule.must_be_present and not any(location.find_as_istio(facts) for location in rule.locations):
            raise missing()
    walk = Walk(facts, keys, now)
    failure = _any(walk.outcomes(rules))
    if failure is not None and len(rules) > 1:
        failure = _any(iter((failure, _all(walk.outcomes(rules)))))
    if failure is not None and failure.code != Reason.JWT_MISSING:
        if ask and walk.refused:
            return NeedKeys.of(walk.refused)
        raise failure
    return walk


@dataclass(slots=True)
class Walk:
    """One request on its way through the rules.

    Attributes:
        seen: the request as it is by now: without the tokens that are spent, and without what a client put into the
            headers that the rules asked so far make of claims; with what these rules did put there.
        accepted: the tokens that held, the one that is the identity last.
        refused: the tokens that other keys may hold for.
    """

    seen: RequestFacts
    keys: KeySnapshot
    now: float
    accepted: list[Accepted] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)

    def outcomes(self, rules: Iterable[Rule]) -> Iterator[TokenError | None]:
        """Rule after rule, as far as they are asked for: None where it holds."""
        return map(self._outcome, rules)

    def _outcome(self, rule: Rule) -> TokenError | None:
        self.seen = _with_headers(self.seen, dict.fromkeys(rule.outputs.names, ()))
        places = sorted(rule.locations, key=lambda location: location.rank)
        found = [(place, text) for place in places for text in place.find_as_istio(self.seen)]
        if not found:
            return missing()
        for place, text in reversed(found):
            failure = self._verify(rule, place, text)
            if failure is not None:
                return failure
        return None

    def _verify(self, rule: Rule, place: Location, text: str) -> TokenError | None:
        try:
            verdict = judge(read_token(text, lenient=True), place, (rule,), self.keys, self.now)
        except TokenError as error:
            return error
        if not isinstance(verdict, Accepted):
            self.refused += [verdict] if verdict.askable else []
            return verdict.error
        self.accepted.append(verdict)
        if not rule.forward:
            self.seen = _without(self.seen, place)
        for name, value in rule.outputs.values(verdict.token):
            self.seen = _with_headers(self.seen, {name: (*self.seen.headers.get(name, ()), value)})
        return None


def _with_headers(facts: RequestFacts, lines: Mapping[str, tuple[str, ...]]) -> RequestFacts:
    """The request with these lines for these headers; without a line, without the header."""
    headers = {name: values for name, values in {**facts.headers, **lines}.items() if values}
    return replace(facts, headers=MappingProxyType(headers))


def _without(facts: RequestFacts, place: Location) -> RequestFacts:
    """The request without a spent token; cookies stay."""
    if place.place is Place.HEADER:
        return _with_headers(facts, {place.name: ()})
    if place.place is Place.PARAMETER and facts.target.query is not None:
        query = without_parameters(facts.target.query, {place.name})
        return replace(facts, target=replace(facts.target, query=query))
    return facts


def _any(outcomes: Iterator[TokenError | None]) -> TokenError | None:
    """None as soon as one holds."""
    told = missing()
    for failure in outcomes:
        if failure is None:
            return None
        if _weight(failure) >= _weight(told):
            told = failure
    return told


def _all(outcomes: Iterator[TokenError | None]) -> TokenError | None:
    """Whether each holds or finds no token; the first that does neither is told."""
    return next((failure for failure in outcomes if failure and failure.code != Reason.JWT_MISSING), None)


def _weight(failure: TokenError) -> int:
    return _WEIGHT.get(Reason(failure.code), _OTHER)
