"""Regular expressions from configuration, for the legacy kinds alone: only those that RE2 matches in linear time.

The package google-re2 is the optional extra ``re2``; without it every expression is refused, never matched by a
backtracking engine that one request could stop. Must not know: what is matched.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Final, Self

__all__ = ["Regex"]

_LONGEST: Final = 1024


@dataclass(frozen=True, slots=True)
class Regex:
    """A regular expression in RE2's syntax.

    Attributes:
        text: as written.
    """

    text: str
    _compiled: Any = field(repr=False, compare=False)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Compile an expression.

        Raises:
            ValueError: the extra is not installed, or the expression is too long or none of RE2's.
        """
        if len(text) > _LONGEST:
            raise ValueError(f"a regular expression has at most {_LONGEST} characters")
        try:
            re2: Any = import_module("re2")
        except ImportError:
            raise ValueError(
                "regex needs google-re2: install meshsec[re2], or write exact, prefix or suffix"
            ) from None
        options = re2.Options()
        options.log_errors = False  # it would write to standard error by itself
        try:
            return cls(text, re2.compile(text, options))
        except (re2.error, UnicodeError):
            raise ValueError(f"{text[:80]!a} is no regular expression of RE2") from None

    def matches(self, value: str) -> bool:
        """Whether the whole text matches."""
        return self._compiled.fullmatch(value) is not None

    def __str__(self) -> str:
        return self.text
