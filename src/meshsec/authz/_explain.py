"""Why a verdict is what it is, in words an operator can act on. Only computed when asked for.

Must not know: how a condition is matched.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from ..decision import Reason
from ._rows import Row
from ._rules import CompiledPolicy, Condition, Conditions, PolicyRule
from ._verdict import Verdict

__all__ = ["explain"]

_REASONS: Final = {
    Reason.DENY_RULE: "denied: rule {rule} of the DENY policy {policy} matches",
    Reason.ALLOW_RULE: "allowed: rule {rule} of the ALLOW policy {policy} matches",
    Reason.NO_ALLOW_POLICY: "allowed: no DENY rule matches, and there is no ALLOW policy",
    Reason.NO_ALLOW_RULE: "denied: there are ALLOW policies, and no rule of theirs matches",
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
    lines = [_REASONS[verdict.reason].format(policy=verdict.policy, rule=verdict.rule)]
    lines += (f"  {policy.action} {policy.id}: {_policy(policy, rows, values)}" for policy in policies)
    return "\n".join(lines)


def _policy(policy: CompiledPolicy, rows: Sequence[Row], values: Sequence[Any]) -> str:
    if not policy.rules:
        return "has no rules, so nothing matches"
    rule = min(policy.rules, key=lambda item: len(_failing(item, values)))
    failing = _failing(rule, values)
    said = [_condition(condition, rows, values) for condition in failing or _holding(rule, values)]
    verb = "does not match" if failing else "matches"
    return f"rule {rule.index} {verb}: {'; '.join(said) or 'it is for every request'}"


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
