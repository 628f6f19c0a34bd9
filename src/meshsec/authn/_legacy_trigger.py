"""Trigger rules of a legacy Policy: on which paths an origin is asked for its token.

This file must not know tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

from ..matching import PathSet, Regex, StringPattern, decode_path
from ..resources import Compatibility, Jwt, StringMatch, TriggerRule

__all__ = ["LegacyTrigger"]


@dataclass(frozen=True, slots=True)
class _Paths:
    """Some paths of a rule."""

    patterns: PathSet
    expressions: tuple[Regex, ...]

    @classmethod
    def of(cls, matches: Iterable[StringMatch]) -> Self:
        found = [match.pattern for match in matches]
        return cls(
            PathSet.of(item for item in found if isinstance(item, StringPattern)),
            tuple(item for item in found if isinstance(item, Regex)),
        )

    def match(self, path: str) -> bool:
        """Whether any is written like this path."""
        return self.patterns.matches_strictly(path) or any(item.matches(path) for item in self.expressions)

    def may_match(self, path: str) -> bool:
        """Whether any stands for this path, however it is percent-encoded."""
        if self.match(path) or self.patterns.matches(path):
            return True
        return bool(self.expressions) and any(item.matches(decode_path(path)) for item in self.expressions)


@dataclass(frozen=True, slots=True)
class _PathRule:
    included: _Paths | None
    excluded: _Paths
    exactly: bool

    @classmethod
    def of(cls, rule: TriggerRule, compatibility: Compatibility) -> Self:
        included = _Paths.of(rule.included_paths) if rule.included_paths else None
        return cls(included, _Paths.of(rule.excluded_paths), exactly=compatibility == "istio")

    def holds(self, path: str) -> bool:
        """In doubt it does: then a token is asked for."""
        if self.excluded.match(path):
            return False
        if self.included is None:
            return True
        return self.included.match(path) if self.exactly else self.included.may_match(path)


@dataclass(frozen=True, slots=True)
class LegacyTrigger:
    """The trigger rules of one origin.

    Attributes:
        rules: any of which triggers; none: every path does.
    """

    rules: tuple[_PathRule, ...]

    @classmethod
    def of(cls, jwt: Jwt, compatibility: Compatibility) -> Self:
        """Compile them."""
        return cls(tuple(_PathRule.of(rule, compatibility) for rule in jwt.trigger_rules))

    def fires(self, readings: Sequence[str]) -> bool:
        """Whether for any reading of the path."""
        return not self.rules or any(rule.holds(path) for path in readings for rule in self.rules)
