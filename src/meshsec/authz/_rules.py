"""Compiled policies: frozen data that says attribute, patterns, negated or not; an index or an export reads it too.

Must not know: Istio's API objects, attributes of a request.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..resources import Action
from ._match import Doubt, Test
from ._patterns import Pattern
from ._verdict import Verdict

__all__ = ["CompiledPolicy", "Condition", "Conditions", "PolicyRule"]


@dataclass(frozen=True, slots=True)
class Condition:
    """One attribute that must match any of its patterns, or, negated, none of them.

    Attributes:
        key: the attribute.
        patterns: what the policy's values became.
        negated: whether no pattern may match.
        slot: where the attribute's value stands among the values read from a request.
        doubt: what decides where a value could be seen either way.
        meets: how a value meets patterns: a function of ``_match``.
    """

    key: str
    patterns: tuple[Pattern, ...]
    negated: bool
    slot: int
    doubt: Doubt
    meets: Callable[[Any, Doubt], Test] = field(repr=False)
    _test: Test | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def test(self) -> Test:
        """Whether any of the patterns matches a value; compiled when first asked for, which most never are."""
        if self._test is None:
            object.__setattr__(self, "_test", self.meets(self.patterns, self.doubt))
        return self._test or self.test

    def holds(self, values: Sequence[Any]) -> bool:
        """Whether the request meets the condition."""
        return self.test(values[self.slot]) is not self.negated


Conditions = tuple[Condition, ...]
"""Conditions that must all hold."""


@dataclass(frozen=True, slots=True)
class PolicyRule:
    """One rule of one policy. It matches where any source, any operation and every ``when`` does.

    Attributes:
        policy: ``namespace/name``.
        index: the rule's place in the policy, from 0.
        action: what a match means.
        sources: alternatives; none at all means any.
        operations: alternatives; none at all means any.
        when: what must hold in any case.
        verdict: what is said where this rule decides; not looked at for AUDIT and CUSTOM, which decide nothing.
    """

    policy: str
    index: int
    action: Action
    sources: tuple[Conditions, ...]
    operations: tuple[Conditions, ...]
    when: Conditions
    verdict: Verdict = field(repr=False)

    def matches(self, values: Sequence[Any]) -> bool:
        """Whether the request whose values these are is one this rule speaks of: one condition after the other."""
        for condition in self.when:
            if condition.test(values[condition.slot]) is condition.negated:
                return False
        return _any_holds(self.sources, values) and _any_holds(self.operations, values)


def _any_holds(alternatives: tuple[Conditions, ...], values: Sequence[Any]) -> bool:
    if not alternatives:
        return True
    for conditions in alternatives:
        for condition in conditions:
            if condition.test(values[condition.slot]) is condition.negated:
                break
        else:
            return True
    return False


@dataclass(frozen=True, slots=True)
class CompiledPolicy:
    """One policy.

    Attributes:
        id: ``namespace/name``.
        action: what a match means.
        rules: any of which may match; without one, none ever does.
        dry_run: whether it is on trial: what it says is recorded and has no effect.
    """

    id: str
    action: Action
    rules: tuple[PolicyRule, ...]
    dry_run: bool = False
