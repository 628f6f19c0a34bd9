"""May it? AUDIT marks, DENY refuses, ALLOW admits, in this order (istio.io AuthorizationPolicy).

Must not know: how a value is read or matched, or what happens to a refused request.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Self

from ..attributes import Attributes
from ..decision import DryRun, Reason
from ..resources import Action
from ._explain import explain
from ._index import RuleIndex
from ._rows import Row
from ._rules import CompiledPolicy
from ._verdict import Verdict

__all__ = ["CompiledAuthorization"]

_NO_ALLOW_POLICY: Final = Verdict(Reason.NO_ALLOW_POLICY)
_NO_ALLOW_RULE: Final = Verdict(Reason.NO_ALLOW_RULE)


@dataclass(frozen=True, slots=True)
class CompiledAuthorization:
    """The AuthorizationPolicies of one workload; frozen, and safe to share between threads.

    Attributes:
        policies: those that are enforced, by namespace and name. Among rules that match, the first is named.
        trials: those on trial (dry-run), which are only recorded.
        rows: the attributes they ask for, each at its slot.
    """

    policies: tuple[CompiledPolicy, ...]
    trials: tuple[CompiledPolicy, ...]
    rows: tuple[Row, ...]
    _readers: tuple[Callable[[Attributes], Any], ...] = field(repr=False, compare=False)
    _line_readers: tuple[tuple[int, Callable[[str, str], Any]], ...] = field(repr=False, compare=False)
    _audit: RuleIndex | None = field(repr=False, compare=False)
    _deny: RuleIndex | None = field(repr=False, compare=False)
    _allow: RuleIndex | None = field(repr=False, compare=False)
    _trial_deny: RuleIndex | None = field(repr=False, compare=False)
    _trial_allow: RuleIndex | None = field(repr=False, compare=False)

    @classmethod
    def of(cls, policies: Sequence[CompiledPolicy], rows: Sequence[Row]) -> Self:
        """Sort the rules by action. An ALLOW policy without rules counts: it refuses everything."""

        def rules(those: Sequence[CompiledPolicy], action: Action) -> RuleIndex | None:
            found = [policy.rules for policy in those if policy.action is action]
            return RuleIndex.of([rule for rules in found for rule in rules], rows) if found else None

        enforced = tuple(policy for policy in policies if not policy.dry_run)
        trials = tuple(policy for policy in policies if policy.dry_run)
        return cls(
            enforced,
            trials,
            tuple(rows),
            _readers=tuple(row.read for row in rows),
            _line_readers=tuple((slot, row.of_line) for slot, row in enumerate(rows) if row.of_line is not None),
            _audit=rules(enforced, Action.AUDIT),
            _deny=rules(enforced, Action.DENY),
            _allow=rules(enforced, Action.ALLOW),
            _trial_deny=rules(trials, Action.DENY),
            _trial_allow=rules(trials, Action.ALLOW),
        )

    @property
    def headers(self) -> frozenset[str]:
        """The headers whose values any rule looks at, lower case; but for the host."""
        return frozenset(name for row in self.rows for name in row.headers)

    def evaluate(self, attributes: Attributes) -> Verdict:
        """Decide one reading of one request.

        A fact that is not known (an address, a port, a host) makes a DENY rule that needs it match and an ALLOW rule
        not match, negated or not. ``remote.ip`` is the directly connected peer's address: no header is believed,
        but under ``compatibility: istio``.

        Does not check: the token (authn did), the peer's certificate, or the other readings of the path.
        """
        return self._judge(self.read(attributes))

    def read(self, attributes: Attributes) -> list[Any]:
        """The values of a request that the rules look at, for :meth:`evaluate_line`."""
        return [read(attributes) for read in self._readers]

    def evaluate_line(self, known: Sequence[Any], method: str, path: str) -> Verdict:
        """As :meth:`evaluate`, of a request that differs from another one at most in its method and its path.

        Args:
            known: what :meth:`read` said of the other one.
            method: of this one.
            path: the reading that is judged.
        """
        return self._judge(self._with_line(known, method, path))

    def _with_line(self, known: Sequence[Any], method: str, path: str) -> list[Any]:
        values = [*known]
        for slot, read in self._line_readers:
            values[slot] = read(method, path)
        return values

    def _judge(self, values: Sequence[Any]) -> Verdict:
        audited = self._audit.policies(values) if self._audit else ()
        dry_run = self._on_trial(values) if self.trials else ()
        if self._deny and (rule := self._deny.first(values)):
            verdict = rule.verdict
        elif self._allow is None:
            verdict = _NO_ALLOW_POLICY
        else:
            rule = self._allow.first(values)
            verdict = rule.verdict if rule else _NO_ALLOW_RULE
        return replace(verdict, audited=audited, dry_run=dry_run) if audited or dry_run else verdict

    def _on_trial(self, values: Sequence[Any]) -> tuple[DryRun, ...]:
        """Each action by itself, beside what is enforced, as in Istio's proxy."""
        found: list[DryRun] = []
        if self._trial_deny and (rule := self._trial_deny.first(values)):
            found.append(DryRun(Reason.DENY_RULE, rule.policy, rule.index))
        if self._trial_allow:
            rule = self._trial_allow.first(values)
            found.append(DryRun(Reason.ALLOW_RULE, rule.policy, rule.index) if rule else DryRun(Reason.NO_ALLOW_RULE))
        return tuple(found)

    def explain(self, attributes: Attributes) -> str:
        """Say in plain words why :meth:`evaluate` decides as it does: the reason, then one line for each policy.

        Claims and the headers that hold secrets are named, never shown.
        """
        return self._explain(self.read(attributes))

    def explain_line(self, known: Sequence[Any], method: str, path: str) -> str:
        """As :meth:`explain`, of what :meth:`evaluate_line` decides."""
        return self._explain(self._with_line(known, method, path))

    def _explain(self, values: Sequence[Any]) -> str:
        return explain(self._judge(values), (*self.policies, *self.trials), self.rows, values)
