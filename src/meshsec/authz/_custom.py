"""Which requests an external authorizer must be asked about: the CUSTOM policies of one workload.

Must not know: how an authorizer is asked, or what comes of its answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, Self

from ..attributes import Attributes
from ._index import RuleIndex
from ._rows import Row
from ._rules import CompiledPolicy, PolicyRule

__all__ = ["NO_CUSTOM", "CompiledCustom"]


@dataclass(frozen=True, slots=True)
class CompiledCustom:
    """The CUSTOM policies of one workload; frozen, and safe to share between threads.

    Attributes:
        policies: by namespace and name.
        by_provider: the same by who may have to be asked, in the order in which they are.
    """

    policies: tuple[CompiledPolicy, ...]
    by_provider: Mapping[str, tuple[CompiledPolicy, ...]]
    _rules: Mapping[str, RuleIndex] = field(repr=False, compare=False)
    _readers: tuple[Callable[[Attributes], Any], ...] = field(repr=False, compare=False)

    @classmethod
    def of(cls, policies: Sequence[tuple[str, CompiledPolicy]], rows: Sequence[Row]) -> Self:
        """Sort the rules by provider."""
        found: dict[str, tuple[CompiledPolicy, ...]] = dict.fromkeys(sorted({name for name, _ in policies}), ())
        for provider, policy in policies:
            found[provider] = (*found[provider], policy)
        return cls(
            tuple(policy for _, policy in policies),
            MappingProxyType(found),
            _rules={
                provider: RuleIndex.of([rule for policy in mine for rule in policy.rules], rows)
                for provider, mine in found.items()
            },
            _readers=tuple(row.read for row in rows),
        )

    @property
    def providers(self) -> tuple[str, ...]:
        """Who may have to be asked, in the order in which they are."""
        return tuple(self.by_provider)

    def matching(self, provider: str, attributes: Attributes) -> PolicyRule | None:
        """The first rule by which the provider must be asked about one reading of a request; None: it need not be.

        A fact that is not known makes a rule that needs it match, negated or not: when in doubt, it is asked.
        """
        rules = self._rules.get(provider)
        return rules.first([read(attributes) for read in self._readers]) if rules else None


NO_CUSTOM: Final = CompiledCustom.of((), ())
"""What most workloads have."""
