"""From AuthorizationPolicies, already selected for a workload, to rules that can be evaluated.

Must not know: requests, selectors.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from ..errors import ConfigError, Problem
from ..resources import Action, AuthorizationPolicy, MeshConfig, Operation, Rule, Source
from ._evaluate import CompiledAuthorization
from ._match import Doubt
from ._patterns import Scope
from ._rows import OPERATION_FIELDS, SOURCE_FIELDS, Row, find_row
from ._rules import CompiledPolicy, Condition, Conditions, PolicyRule

__all__ = ["compile_authorization"]

_ENFORCED: Final = (Action.AUDIT, Action.DENY, Action.ALLOW)

# Go's strconv.ParseBool, by which Istio reads the annotation; what it cannot read is enforced.
_DRY_RUN: Final = "istio.io/dry-run"
_TRUE: Final = frozenset({"1", "t", "T", "true", "TRUE", "True"})


def compile_authorization(policies: Sequence[AuthorizationPolicy], *, config: MeshConfig) -> CompiledAuthorization:
    """Compile the policies of one workload.

    Args:
        policies: all that apply to it, those of the root namespace too; selectors are not looked at. Dry-run policies
            are left out: they enforce nothing, and a dry-run ALLOW does not turn on default-deny.
        config: trust domains and compatibility.

    Raises:
        ConfigError: a value or an attribute cannot be enforced; all problems at once.
    """
    slots = _Slots()
    compiled: list[CompiledPolicy] = []
    problems: list[Problem] = []
    for policy in sorted(policies, key=lambda item: (item.namespace, item.name)):
        if policy.metadata.annotations.get(_DRY_RUN) in _TRUE:
            continue
        try:
            compiled.append(_compile_policy(policy, config, slots))
        except ValueError as error:
            resource = f"AuthorizationPolicy {policy.id}"
            problems.append(Problem(str(error), source=policy.location, resource=resource))
    if problems:
        raise ConfigError(problems)
    return CompiledAuthorization.of(compiled, slots.rows)


def _compile_policy(policy: AuthorizationPolicy, config: MeshConfig, slots: _Slots) -> CompiledPolicy:
    action = policy.spec.action
    if action not in _ENFORCED:
        raise ValueError(f"action {action} cannot be enforced")
    scope = Scope(policy.namespace, (config.trust_domain, *config.trust_domain_aliases))
    compiler = _Compiler(action, scope, config.compatibility == "istio", slots)
    rules = tuple(compiler.rule(policy.id, index, rule) for index, rule in enumerate(policy.spec.rules or ()))
    return CompiledPolicy(policy.id, action, rules)


@dataclass(slots=True)
class _Slots:
    """Gives each attribute that any rule asks for a place, so that a request's value is read once."""

    rows: list[Row] = field(default_factory=list)
    places: dict[str, int] = field(default_factory=dict)

    def place(self, key: str, row: Row) -> int:
        """The place of an attribute, a new one where it has none yet."""
        if key not in self.places:
            self.places[key] = len(self.rows)
            self.rows.append(row)
        return self.places[key]


@dataclass(frozen=True, slots=True)
class _Compiler:
    """Compiles the rules of one policy."""

    action: Action
    scope: Scope
    istio: bool
    slots: _Slots

    def rule(self, policy: str, index: int, rule: Rule) -> PolicyRule:
        return PolicyRule(
            policy,
            index,
            self.action,
            tuple(self._fields(item.source, SOURCE_FIELDS) for item in rule.from_ or ()),
            tuple(self._fields(item.operation, OPERATION_FIELDS) for item in rule.to or ()),
            tuple(
                condition
                for item in rule.when or ()
                for condition in self._both(item.key, item.values, item.not_values)
            ),
        )

    def _fields(self, entry: Source | Operation, fields: Mapping[str, str]) -> Conditions:
        return tuple(
            condition
            for name, key in fields.items()
            for condition in self._both(key, getattr(entry, name), getattr(entry, f"not_{name}"))
        )

    def _both(self, key: str, values: Sequence[str], not_values: Sequence[str]) -> Iterable[Condition]:
        for texts, negated in ((values, False), (not_values, True)):
            if texts:
                yield self._condition(key, texts, negated=negated)

    def _condition(self, key: str, texts: Sequence[str], *, negated: bool) -> Condition:
        row = find_row(key)
        patterns = tuple(dict.fromkeys(pattern for text in texts for pattern in row.parse(text, self.scope)))
        # Doubt makes a DENY match and an ALLOW not; what is negated is judged the other way round before.
        doubt = Doubt(matches=(self.action is not Action.ALLOW) is not negated, istio=self.istio)
        return Condition(key, patterns, negated, self.slots.place(key, row), row.test(patterns, doubt))
