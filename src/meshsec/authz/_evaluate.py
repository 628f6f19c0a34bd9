"""May it? AUDIT marks, DENY refuses, ALLOW admits, in this order (istio.io AuthorizationPolicy).

Must not know: how a value is read or matched, or what happens to a refused request.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from ..attributes import Attributes
from ..decision import Reason
from ..resources import Action
from ._explain import explain
from ._rows import Row
from ._rules import CompiledPolicy, PolicyRule
from ._verdict import Verdict

__all__ = ["CompiledAuthorization"]


@dataclass(frozen=True, slots=True)
class CompiledAuthorization:
    """The AuthorizationPolicies of one workload; frozen, and safe to share between threads.

    Attributes:
        policies: those that are enforced, by namespace and name. Among rules that match, the first is named.
        rows: the attributes they ask for, each at its slot.
    """

    policies: tuple[CompiledPolicy, ...]
    rows: tuple[Row, ...]
    _readers: tuple[Callable[[Attributes], Any], ...] = field(repr=False, compare=False)
    _audit: tuple[PolicyRule, ...] = field(repr=False, compare=False)
    _deny: tuple[PolicyRule, ...] = field(repr=False, compare=False)
    _allow: tuple[PolicyRule, ...] | None = field(repr=False, compare=False)

    @classmethod
    def of(cls, policies: Sequence[CompiledPolicy], rows: Sequence[Row]) -> Self:
        """Sort the rules by action. An ALLOW policy without rules counts: it refuses everything."""
        rules: dict[Action, list[PolicyRule]] = {}
        for policy in policies:
            rules.setdefault(policy.action, []).extend(policy.rules)
        return cls(
            tuple(policies),
            tuple(rows),
            _readers=tuple(row.read for row in rows),
            _audit=tuple(rules.get(Action.AUDIT, ())),
            _deny=tuple(rules.get(Action.DENY, ())),
            _allow=tuple(rules[Action.ALLOW]) if Action.ALLOW in rules else None,
        )

    def evaluate(self, attributes: Attributes) -> Verdict:
        """Decide one reading of one request.

        A fact that is not known (an address, a port, a host) makes a DENY rule that needs it match and an ALLOW rule
        not match, negated or not. ``remote.ip`` is the directly connected peer's address: no header is trusted.

        Does not check: the token (authn did), the peer's certificate, or the other readings of the path.
        """
        values = [read(attributes) for read in self._readers]
        audited = tuple(dict.fromkeys(rule.policy for rule in self._audit if rule.matches(values)))
        for rule in self._deny:
            if rule.matches(values):
                return Verdict(Reason.DENY_RULE, rule.policy, rule.index, audited)
        if self._allow is None:
            return Verdict(Reason.NO_ALLOW_POLICY, audited=audited)
        for rule in self._allow:
            if rule.matches(values):
                return Verdict(Reason.ALLOW_RULE, rule.policy, rule.index, audited)
        return Verdict(Reason.NO_ALLOW_RULE, audited=audited)

    def explain(self, attributes: Attributes) -> str:
        """Say in plain words why :meth:`evaluate` decides as it does: the reason, then one line for each policy.

        Claims and the headers that hold secrets are named, never shown.
        """
        values = [read(attributes) for read in self._readers]
        return explain(self.evaluate(attributes), self.policies, self.rows, values)
