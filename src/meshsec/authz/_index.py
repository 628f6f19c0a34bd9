"""Many rules at once: which of them match a request is told by a few bit masks, not by asking one after the other.

A rule becomes *clauses*: one for each source with each operation, and the ``when`` in each of them. A clause is
conditions that must all hold. Every clause has a bit, those of the first rule the highest.

Conditions on the same attribute stand in one *column*. For the request's value a column finds the mask of all its
conditions that hold in one look (:mod:`._find`). The clauses that match are those that every column leaves over:

    alive = every clause
    for each column:          alive = alive & free | alive & found, where free are those without a condition in it
    for each negated column:  alive = alive without found

Where all the clauses that are left are free, the value is not even looked up. The highest bit that is left in the end
is the first rule that matches. An AND of two masks is one machine instruction for thirty rules, so a decision among
thousands costs about what it costs among ten, whatever a caller sends.

Must not know: actions, what a value is, how one is read or matched.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any, Final, Self

from ._find import Find, absent, finder, set_bits
from ._rows import Row
from ._rules import Condition, Conditions, PolicyRule

__all__ = ["RuleIndex"]

# A rule with more clauses gets one bit, for its ``when`` alone; where that is left over, the rule is asked itself.
_MANY_CLAUSES: Final = 64

_Place = tuple[int, bool, bool, bool, int]
"""Slot, negated or not, doubt, and which of several such conditions in its clause: what makes a column."""

_Column = tuple[int, Find, int, int]
"""Slot, from its value to the clauses whose condition holds, those for None, and those without a condition here."""


@dataclass(frozen=True, slots=True)
class RuleIndex:
    """Rules, any of which may match: as asking each with :meth:`PolicyRule.matches`, but quick where they are many.

    Attributes:
        owners: the rule of each clause, by bit.
    """

    owners: tuple[PolicyRule, ...]
    _unsure: int = field(repr=False)
    _columns: tuple[_Column, ...] = field(repr=False)
    _negated: tuple[_Column, ...] = field(repr=False)
    _every: int = field(repr=False)

    @classmethod
    def of(cls, rules: Sequence[PolicyRule], rows: Sequence[Row]) -> Self:
        """Index rules; ``rows`` are the attributes, at the slots that the rules' conditions name."""
        owners: list[PolicyRule] = []
        unsure = 0
        columns: dict[_Place, _Parts] = {}
        for rule in reversed(rules):
            for clause in _clauses(rule):
                bit = 1 << len(owners)
                owners.append(rule)
                unsure |= bit if _is_unsure(rule) else 0
                for place, condition in zip(_places(clause), clause, strict=True):
                    columns.setdefault(place, _Parts()).add(condition, bit)
        every = (1 << len(owners)) - 1
        # The column that binds most clauses comes first: often it leaves none.
        order = sorted(columns.items(), key=lambda item: -item[1].bound.bit_count())
        made = [(negated, parts.column(slot, rows[slot], every)) for (slot, negated, *_), parts in order]
        return cls(
            tuple(owners),
            unsure,
            tuple(column for negated, column in made if not negated),
            tuple(column for negated, column in made if negated),
            every,
        )

    def first(self, values: Sequence[Any]) -> PolicyRule | None:
        """The first rule that matches a request whose values these are."""
        alive = self._alive(values)
        while alive:
            bit = alive.bit_length() - 1
            rule = self.owners[bit]
            if not self._unsure or not self._unsure >> bit & 1 or rule.matches(values):
                return rule
            alive ^= 1 << bit
        return None

    def policies(self, values: Sequence[Any]) -> tuple[str, ...]:
        """The policies of all rules that match."""
        unsure, owners = self._unsure, self.owners
        matching = (
            owners[bit]
            for bit in set_bits(self._alive(values))
            if not unsure >> bit & 1 or owners[bit].matches(values)
        )
        return tuple(dict.fromkeys(rule.policy for rule in matching))

    def _alive(self, values: Sequence[Any]) -> int:
        """The clauses that match, but for what is unsure."""
        alive = self._every
        for slot, find, missing, free in self._columns:
            rest = alive & free
            if rest == alive:
                continue
            value = values[slot]
            found = missing if value is None else find(value)
            alive = rest | alive & found if found else rest
            if not alive:
                return 0
        for slot, find, missing, free in self._negated:
            if alive & free != alive:
                value = values[slot]
                alive ^= alive & (missing if value is None else find(value))
        return alive


@dataclass(slots=True)
class _Parts:
    """The conditions of one column, and the clauses that have each.

    Attributes:
        conditions: each once.
        masks: of the clauses, by the identity of the condition.
        bound: all of these clauses.
    """

    conditions: list[Condition] = field(default_factory=list)
    masks: dict[int, int] = field(default_factory=dict)
    bound: int = 0

    def add(self, condition: Condition, bit: int) -> None:
        """Note that a clause has the condition."""
        mask = self.masks.get(id(condition), 0)
        if not mask:
            self.conditions.append(condition)
        self.masks[id(condition)] = mask | bit
        self.bound |= bit

    def column(self, slot: int, row: Row, every: int) -> _Column:
        """Compile."""
        doubt = self.conditions[0].doubt
        parts = [(condition.patterns, self.masks[id(condition)]) for condition in self.conditions]
        return slot, finder(row.test)(parts, doubt), absent(row.test, parts, doubt), every ^ self.bound


def _is_unsure(rule: PolicyRule) -> bool:
    return len(rule.sources) * len(rule.operations) > _MANY_CLAUSES


def _clauses(rule: PolicyRule) -> Iterator[Conditions]:
    if _is_unsure(rule):
        yield rule.when
        return
    for source, operation in product(rule.sources or ((),), rule.operations or ((),)):
        yield (*source, *operation, *rule.when)


def _places(clause: Conditions) -> list[_Place]:
    """Where each condition stands: several of one clause on the same attribute in columns of their own."""
    places: list[_Place] = []
    for condition in clause:
        doubt = condition.doubt
        kind = (condition.slot, condition.negated, doubt.matches, doubt.istio)
        places.append((*kind, sum(place[:4] == kind for place in places)))
    return places
