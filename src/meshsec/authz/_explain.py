"""Why a verdict is what it is, in words an operator can act on. Only computed when asked for.

Must not know: how a condition is matched.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from ..decision import Reason
from ..resources import Action
from ._rows import Row
from ._rules import CompiledPolicy, Condition, Conditions, PolicyRule
from ._verdict import Verdict

__all__ = ["explain"]

_REASONS: Final = {
    Reason.DENY_RULE: "a DENY rule matches",
    Reason.ALLOW_RULE: "an ALLOW rule matches",
    Reason.NO_ALLOW_POLICY: "no DENY rule matches, and there is no ALLOW policy",
    Reason.NO_ALLOW_RULE: "no rule of the ALLOW policies matches",
}
_ON_TRIAL: Final = " (dry-run)"
_TRIALS: Final = {
    Reason.DENY_RULE: "would be denied: rule {rule} of the DENY policy {policy} matches",
    Reason.ALLOW_RULE: "would be allowed: rule {rule} of the ALLOW policy {policy} matches",
    Reason.NO_ALLOW_RULE: "would be denied: no rule of the ALLOW policies on trial matches",
}
_LISTED: Final = 5
# By whether the condition is negated, and whether it holds.
_VERBS: Final = {
    (False, True): "is one of",
    (False, False): "is not one of",
    (True, True): "is none of",
    (True, False): "is, and must not be, one of",
}


def explain(verdict: Verdict, policies: Iterable[CompiledPolicy], rows: Sequence[Row], values: Sequence[Any]) -> str:
    """The reason, then a line for each policy: its rule that matches, or the nearest one and why it does not."""
    policies = tuple(policies)
    lines = [_REASONS[verdict.reason] + _because(verdict, policies, rows, values)]
    lines += (
        f"  {policy.action}{_ON_TRIAL if policy.dry_run else ''} {policy.id}: {_policy(policy, rows, values)}"
        for policy in policies
    )
    lines += (
        f"  dry-run: {_TRIALS[trial.reason].format(policy=trial.policy, rule=trial.rule)}"
        for trial in verdict.dry_run
    )
    return "\n".join(lines)


def _because(verdict: Verdict, policies: Sequence[CompiledPolicy], rows: Sequence[Row], values: Sequence[Any]) -> str:
    """The conditions of the rule that decided; where none did, of the ALLOW rule that came nearest."""
    if verdict.reason is Reason.NO_ALLOW_RULE:
        rules = [rule for policy in policies if policy.action is Action.ALLOW for rule in _enforced(policy)]
        if not rules:
            return ""
        nearest = _nearest_rule(rules, values)
        return f"; the nearest is {nearest.policy} rule {nearest.index}: {_said(nearest, rows, values)}"
    for policy in policies:
        if policy.id == verdict.policy and verdict.rule is not None:
            return f": {_said(policy.rules[verdict.rule], rows, values)}"
    return ""


def _enforced(policy: CompiledPolicy) -> tuple[PolicyRule, ...]:
    return () if policy.dry_run else policy.rules


def _policy(policy: CompiledPolicy, rows: Sequence[Row], values: Sequence[Any]) -> str:
    if not policy.rules:
        return "has no rules, so nothing matches"
    rule = _nearest_rule(policy.rules, values)
    verb = "does not match" if _failing(rule, values) else "matches"
    return f"rule {rule.index} {verb}: {_said(rule, rows, values)}"


def _nearest_rule(rules: Sequence[PolicyRule], values: Sequence[Any]) -> PolicyRule:
    """The rule that would need the least to match; one that is about another operation is farther than any other."""

    def distance(rule: PolicyRule) -> tuple[bool, int]:
        elsewhere = any(not condition.holds(values) for condition in _nearest(rule.operations, values))
        return elsewhere, len(_failing(rule, values))

    return min(rules, key=distance)


def _said(rule: PolicyRule, rows: Sequence[Row], values: Sequence[Any]) -> str:
    """What keeps the rule from matching, or else what makes it match."""
    conditions = _failing(rule, values) or _holding(rule, values)
    return "; ".join(_condition(condition, rows, values) for condition in conditions) or "it is for every request"


def _failing(rule: PolicyRule, values: Sequence[Any]) -> list[Condition]:
    """The fewest conditions that would have to change for the rule to match."""
    nearest = (_nearest(rule.sources, values), _nearest(rule.operations, values), rule.when)
    return [condition for conditions in nearest for condition in conditions if not condition.holds(values)]


def _holding(rule: PolicyRule, values: Sequence[Any]) -> Iterator[Condition]:
    """The conditions by which a rule matches."""
    yield from _nearest(rule.sources, values)
    yield from _nearest(rule.operations, values)
    yield from rule.when


def _nearest(alternatives: tuple[Conditions, ...], values: Sequence[Any]) -> Conditions:
    return min(
        alternatives,
        key=lambda conditions: sum(not condition.holds(values) for condition in conditions),
        default=(),
    )


def _condition(condition: Condition, rows: Sequence[Row], values: Sequence[Any]) -> str:
    row = rows[condition.slot]
    shown = row.show(values[condition.slot]) or "(absent)"
    verb = _VERBS[condition.negated, condition.holds(values)]
    return f"{condition.key} {shown} {verb} {'(hidden)' if row.secret else _listed(condition)}"


def _listed(condition: Condition) -> str:
    texts = [str(pattern) for pattern in condition.patterns[:_LISTED]]
    more = len(condition.patterns) - _LISTED
    return ", ".join(texts) + (f" and {more} more" if more > 0 else "")
