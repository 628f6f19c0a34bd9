"""From AuthorizationPolicies, already selected for a workload, to rules that can be evaluated.

Must not know: requests, selectors.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Final

from ..decision import Reason
from ..errors import ConfigError, Problem
from ..resources import Action, AuthorizationPolicy, MeshConfig, Operation, Rule, Source
from ._custom import CompiledCustom
from ._evaluate import CompiledAuthorization
from ._match import Doubt
from ._patterns import Scope
from ._rows import OPERATION_FIELDS, SOURCE_FIELDS, Row, find_row
from ._rules import CompiledPolicy, Condition, Conditions, PolicyRule
from ._verdict import Verdict

__all__ = ["compile_authorization", "compile_custom"]

_doubt: Final = cache(Doubt)  # there are four
_REASONS: Final = {Action.ALLOW: Reason.ALLOW_RULE}
_ENFORCED: Final = (Action.AUDIT, Action.DENY, Action.ALLOW)


def compile_authorization(
    policies: Sequence[AuthorizationPolicy], *, config: MeshConfig, secret_headers: Collection[str] = ()
) -> CompiledAuthorization:
    """Compile the policies of one workload.

    Args:
        policies: all that apply to it, those of the root namespace too; selectors are not looked at. Dry-run policies
            enforce nothing, and a dry-run ALLOW does not turn on default-deny.
        config: trust domains and compatibility.
        secret_headers: lower case; no explanation shows their values, nor those of headers whose names say so.

    Raises:
        ConfigError: a value or an attribute cannot be enforced; all problems at once.
    """
    slots = _Slots()
    compiled = _compile_each(policies, _ENFORCED, config, slots)
    return CompiledAuthorization.of(compiled, [row.hiding(secret_headers) for row in slots.rows])


def compile_custom(policies: Sequence[AuthorizationPolicy], *, config: MeshConfig) -> CompiledCustom:
    """Compile the CUSTOM policies of one workload.

    Args:
        policies: as for :func:`compile_authorization`, but CUSTOM all of them.
        config: trust domains, compatibility, and which providers there are.

    Raises:
        ConfigError: a value or an attribute cannot be enforced, or a provider is not known; all problems at once.
    """
    known = config.extension_providers
    unknown = [_unknown_provider(policy, known) for policy in policies if _provider(policy) not in known]
    if unknown:
        raise ConfigError(unknown)
    slots = _Slots()
    providers = {policy.id: _provider(policy) for policy in policies}
    compiled = _compile_each(policies, (Action.CUSTOM,), config, slots)
    return CompiledCustom.of([(providers[policy.id], policy) for policy in compiled], slots.rows)


def _provider(policy: AuthorizationPolicy) -> str:
    return policy.spec.provider.name if policy.spec.provider else ""


def _unknown_provider(policy: AuthorizationPolicy, known: Iterable[str]) -> Problem:
    """Istio would deny what the policy matches; a mistake in a name is better told than served."""
    names = ", ".join(sorted(known)) or "none"
    return Problem(
        f"no authorizer {_provider(policy)[:80]!a} is in meshConfig.extensionProviders; it has: {names}",
        source=policy.location,
        resource=f"AuthorizationPolicy {policy.id}",
        field="spec.provider.name",
    )


def _compile_each(
    policies: Sequence[AuthorizationPolicy], actions: Collection[Action], config: MeshConfig, slots: _Slots
) -> list[CompiledPolicy]:
    """In the order of namespaces and names. Raises ConfigError with every problem."""
    compiled: list[CompiledPolicy] = []
    problems: list[Problem] = []
    for policy in sorted(policies, key=lambda item: (item.namespace, item.name)):
        try:
            if policy.spec.action not in actions:
                raise ValueError(f"action {policy.spec.action} cannot be enforced")
            compiled.append(_compile_policy(policy, config, slots))
        except ValueError as error:
            resource = f"AuthorizationPolicy {policy.id}"
            problems.append(Problem(str(error), source=policy.location, resource=resource))
    if problems:
        raise ConfigError(problems)
    return compiled


def _compile_policy(policy: AuthorizationPolicy, config: MeshConfig, slots: _Slots) -> CompiledPolicy:
    action = policy.spec.action
    domains = (config.trust_domain, *config.trust_domain_aliases)
    scope = Scope(policy.namespace, domains, config.path_normalization)
    compiler = _Compiler(action, scope, config.compatibility == "istio", slots)
    rules = tuple(compiler.rule(policy.id, index, rule) for index, rule in enumerate(policy.spec.rules or ()))
    return CompiledPolicy(policy.id, action, rules, policy.dry_run)


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
    """Compiles the rules of one policy; what is written twice becomes one condition."""

    action: Action
    scope: Scope
    istio: bool
    slots: _Slots
    known: dict[tuple[str, bool], dict[Sequence[str], Condition]] = field(default_factory=dict)

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
            Verdict(_REASONS.get(self.action, Reason.DENY_RULE), policy, index),
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
                known = self.known.setdefault((key, negated), {})
                if texts not in known:
                    known[texts] = self._condition(key, texts, negated=negated)
                yield known[texts]

    def _condition(self, key: str, texts: Sequence[str], *, negated: bool) -> Condition:
        row = find_row(key, istio=self.istio)
        patterns = tuple([pattern for text in texts for pattern in row.parse(text, self.scope)])
        patterns = tuple(dict.fromkeys(patterns)) if len(patterns) > 1 else patterns
        # Doubt makes a DENY match and an ALLOW not; what is negated is judged the other way round before.
        doubt = _doubt((self.action is not Action.ALLOW) is not negated, self.istio)
        return Condition(key, patterns, negated, self.slots.place(key, row), doubt, row.test)
