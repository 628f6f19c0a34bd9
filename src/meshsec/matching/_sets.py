"""Several patterns at once, sorted by form. Must not know: which attribute they are for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Self
from urllib.parse import unquote_to_bytes

from ._pattern import Kind, PathTemplate, StringPattern

__all__ = ["PathSet", "PatternSet", "decode_path", "decode_pattern", "end_twin", "without_end"]


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
    """Patterns for the path of a request, which can be spelt in many ways: ``/a:b`` is ``/a%3Ab`` to an application,
    and to some ``/a`` is ``/a/``.

    Attributes:
        exact: the patterns as the policy writes them.
        written: the same, and the twins of those that end in a slash.
        decoded: all of these, percent-decoded.
    """

    exact: PatternSet
    written: PatternSet
    decoded: PatternSet

    @classmethod
    def of(cls, patterns: Iterable[StringPattern | PathTemplate]) -> Self:
        """Sort patterns by form, and their twins."""
        patterns = tuple(patterns)
        decoded = tuple(map(decode_pattern, patterns))
        return cls(PatternSet.of(patterns), PatternSet.of(_with_twins(patterns)), PatternSet.of(_with_twins(decoded)))

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
        return self.exact.matches(path, strict=True)


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


def end_twin(pattern: StringPattern | PathTemplate) -> StringPattern | PathTemplate | None:
    """What matches ``/a`` where a pattern matches ``/a/`` by its own last slash; None where there is no such path.

    ``/a/*`` and ``/a/{**}`` match ``/a/``, so they have the twin ``/a``. ``*/`` and ``/a/{**}/`` have none: the slash
    at the end is all they ask for, and Istio's documentation promises that the latter misses ``/a/b``.
    """
    if isinstance(pattern, PathTemplate):
        return _template_twin(pattern)
    text = pattern.text.rstrip("/")
    if not text or text == pattern.text:
        return None
    return StringPattern(Kind.SUFFIX if pattern.kind is Kind.SUFFIX else Kind.EXACT, text)


def _template_twin(template: PathTemplate) -> PathTemplate | None:
    head, tail = template.head, template.tail
    if tail:
        text = tail.rstrip("/")
        return PathTemplate(head, text) if text and text != tail else None
    if tail is None and head[-1] != "":
        return None
    kept = head if tail is not None else head[:-1]
    return PathTemplate(kept, None) if len(kept) > 1 else None


def _with_twins(patterns: Iterable[StringPattern | PathTemplate]) -> Iterator[StringPattern | PathTemplate]:
    for pattern in patterns:
        yield pattern
        if twin := end_twin(pattern):
            yield twin
