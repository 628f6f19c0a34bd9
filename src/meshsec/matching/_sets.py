"""Several patterns at once, sorted by form. Must not know: which attribute they are for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Self
from urllib.parse import unquote_to_bytes

from ._pattern import Kind, PathTemplate, StringPattern

__all__ = ["PathSet", "PatternSet", "decode_path", "decode_pattern", "without_end"]


@dataclass(frozen=True, slots=True)
class PatternSet:
    """Several patterns, any of which may match, sorted by form so that one value is looked up, not walked.

    Attributes:
        exact: whole values.
        prefixes: what a value may begin with.
        suffixes: what a value may end with.
        templates: path templates.
        present: whether any value will do, the empty one included.
        nonempty: whether any value of at least one character will do.
    """

    exact: frozenset[str]
    prefixes: tuple[str, ...]
    suffixes: tuple[str, ...]
    templates: tuple[PathTemplate, ...] = ()
    present: bool = False
    nonempty: bool = False

    @classmethod
    def of(cls, patterns: Iterable[StringPattern | PathTemplate]) -> Self:
        """Sort patterns by form. No pattern at all matches nothing."""
        texts: dict[Kind, list[str]] = {kind: [] for kind in Kind}
        templates = []
        for pattern in patterns:
            if isinstance(pattern, PathTemplate):
                templates.append(pattern)
            else:
                texts[pattern.kind].append(pattern.text)
        return cls(
            exact=frozenset(texts[Kind.EXACT]),
            prefixes=tuple(texts[Kind.PREFIX]),
            suffixes=tuple(texts[Kind.SUFFIX]),
            templates=tuple(templates),
            present=bool(texts[Kind.PRESENT]),
            nonempty=bool(texts[Kind.NONEMPTY]),
        )

    def matches(self, value: str, *, strict: bool = False) -> bool:
        """Whether any of the patterns matches a value that is there; ``strict`` as in :class:`PathTemplate`."""
        return (
            value in self.exact
            or self.present
            or (self.nonempty and value != "")
            or value.startswith(self.prefixes)
            or value.endswith(self.suffixes)
            or (bool(self.templates) and any(template.matches(value, strict=strict) for template in self.templates))
        )


@dataclass(frozen=True, slots=True)
class PathSet:
    """Patterns for the path of a request, which can be spelt in many ways: ``/a:b`` is ``/a%3Ab`` to an application.

    Attributes:
        written: the patterns as the policy writes them.
        decoded: the same, percent-decoded.
    """

    written: PatternSet
    decoded: PatternSet

    @classmethod
    def of(cls, patterns: Iterable[StringPattern | PathTemplate]) -> Self:
        """Sort patterns by form, and their percent-decoded twins."""
        patterns = tuple(patterns)
        return cls(PatternSet.of(patterns), PatternSet.of(map(decode_pattern, patterns)))

    def matches(self, path: str) -> bool:
        """Whether any spelling that a router takes for the same path matches: for what must not be escaped from."""
        plain = decode_path(path)
        if self.written.matches(path) or self.decoded.matches(plain):
            return True
        return plain.endswith("/") and (
            self.written.matches(without_end(path)) or self.decoded.matches(without_end(plain))
        )

    def matches_strictly(self, path: str) -> bool:
        """Whether Envoy would match this very spelling: for what must not be slipped into."""
        return self.written.matches(path, strict=True)


def decode_path(text: str) -> str:
    """Percent-decode once. The result is bytes as latin-1 text, so that two results can be compared, never shown."""
    if "%" not in text and text.isascii():
        return text
    return unquote_to_bytes(text.encode("utf-8", "surrogatepass")).decode("latin-1")


def without_end(path: str) -> str:
    """The path without slashes at its end: some routers take them for nothing. The first slash stays."""
    return path[:1] + path[1:].rstrip("/")


def decode_pattern(pattern: StringPattern | PathTemplate) -> StringPattern | PathTemplate:
    """A pattern for percent-decoded paths; the same one where nothing is encoded in it."""
    if isinstance(pattern, StringPattern):
        text = decode_path(pattern.text)
        return pattern if text == pattern.text else replace(pattern, text=text)
    head = tuple(segment if segment is None else decode_path(segment) for segment in pattern.head)
    return PathTemplate(head, pattern.tail if pattern.tail is None else decode_path(pattern.tail))
