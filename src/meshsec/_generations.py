"""A bounded memory of what was needed lately, for whatever may be found again by a key.

Two generations: when the young one is full, the old one is forgotten, and what is asked for is young again. What
comes once leaves a mark and no more, so that it pushes nothing out. Safe to share between threads: at worst something
is forgotten early. Must not know: what is remembered.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

__all__ = ["Generations"]

_Key = TypeVar("_Key", bound=Hashable)
_Value = TypeVar("_Value")

_MARKS: Final = 4  # for each entry of one generation


@dataclass(slots=True, eq=False)
class Generations(Generic[_Key, _Value]):
    """What was kept, by key.

    Attributes:
        most: entries of each generation.
        young: to look in first, and directly where it must be quick.
        old: what was not asked for since the young one began.
        marks: of what came once.
    """

    most: int
    young: dict[_Key, _Value] = field(default_factory=dict, repr=False)
    old: dict[_Key, _Value] = field(default_factory=dict, repr=False)
    marks: set[int] = field(default_factory=set, repr=False)

    def find(self, key: _Key) -> _Value | None:
        """What was kept under a key."""
        value = self.young.get(key)
        if value is None:
            value = self.old.get(key)
            if value is not None:
                self.keep(key, value)
        return value

    def keep(self, key: _Key, value: _Value) -> None:
        """Keep something, in place of what was there."""
        if len(self.young) >= self.most:
            self.old, self.young = self.young, {}
        self.young[key] = value

    def is_new(self, key: _Key) -> bool:
        """Whether it is asked about a key for the first time, as far as is remembered."""
        mark = hash(key)
        if mark in self.marks:
            return False
        if len(self.marks) >= _MARKS * self.most:
            self.marks = set()
        self.marks.add(mark)
        return True
