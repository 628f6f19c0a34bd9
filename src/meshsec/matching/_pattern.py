"""One value of a policy, as a frozen value that says what it is and matches in one linear walk.

Must not know: which attribute a pattern is for.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final, Self

__all__ = ["Glob", "Kind", "PathTemplate", "StringPattern", "is_plain_path", "parse_path_pattern"]

_ONE: Final = "{*}"
_ANY: Final = "{**}"
_LITERAL: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~%!$&'()+,;:@=")
_VISIBLE: Final = frozenset(map(chr, range(0x21, 0x7F))) - {"?", "#"}  # what a path is made of
# The characters that Envoy lets {*} and {**} stand for, and the slash.
_PLAIN_PATH: Final = _LITERAL | frozenset("*/")


class Kind(Enum):
    """The form of a :class:`StringPattern`."""

    EXACT = "exact"
    PREFIX = "prefix"
    SUFFIX = "suffix"
    PRESENT = "present"
    NONEMPTY = "nonempty"


@dataclass(frozen=True, slots=True)
class StringPattern:
    """One value of a policy: exact, ``prefix*``, ``*suffix`` or ``*`` (Istio, "Value matching").

    Attributes:
        kind: the form.
        text: the literal part; empty where the form has none.
    """

    kind: Kind
    text: str

    @classmethod
    def parse(cls, text: str, *, nonempty: bool = False) -> Self:
        """Read a pattern. A leading star is looked at first, and only one star is special: ``*/x*`` ends in ``/x*``.

        Args:
            text: the value as the policy writes it; nothing is trimmed.
            nonempty: whether ``*`` asks for at least one character (paths, claims) or for mere presence (headers,
                methods, hosts).

        Raises:
            ValueError: the text is empty.
        """
        if not text:
            raise ValueError("an empty value matches nothing")
        if text == "*":
            return cls(Kind.NONEMPTY if nonempty else Kind.PRESENT, "")
        if text[0] == "*":
            return cls(Kind.SUFFIX, text[1:])
        if text[-1] == "*":
            return cls(Kind.PREFIX, text[:-1])
        return cls(Kind.EXACT, text)

    def matches(self, value: str) -> bool:
        """Whether a value that is there matches. Case counts; for hosts fold both sides first."""
        kind = self.kind
        if kind is Kind.EXACT:
            return value == self.text
        if kind is Kind.PREFIX:
            return value.startswith(self.text)
        if kind is Kind.SUFFIX:
            return value.endswith(self.text)
        return kind is Kind.PRESENT or bool(value)

    def __str__(self) -> str:
        return _WRITTEN[self.kind].format(self.text)


_WRITTEN: Final = {
    Kind.EXACT: "{}", Kind.PREFIX: "{}*", Kind.SUFFIX: "*{}", Kind.PRESENT: "*", Kind.NONEMPTY: "*",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class PathTemplate:
    """A path with ``{*}`` (one segment, at least one character) or ``{**}`` (any text, slashes too, or nothing).

    Attributes:
        head: the segments before ``{**}``, or all of them; None stands for ``{*}``. The first is always empty: a path
            begins with a slash.
        tail: the literal text after ``{**}``; None where the template has no ``{**}``.
    """

    head: tuple[str | None, ...]
    tail: str | None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a template, such as ``/v1/{*}/items/{**}``.

        Raises:
            ValueError: it does not begin with a slash, or a segment is neither one operator nor a literal of letters,
                digits and ``-._~%!$&'()+,;:@=``, or an operator follows ``{**}``.
        """
        if not text.startswith("/"):
            raise ValueError(f"the path template {text!a} does not begin with /")
        segments = text.split("/")
        for index, segment in enumerate(segments[1:], 1):
            _check_segment(segment, last=index == len(segments) - 1)
        if _ANY not in segments:
            return cls(tuple(map(_head_segment, segments)), None)
        split = segments.index(_ANY)
        after = segments[split + 1 :]
        if _ANY in after or _ONE in after:
            raise ValueError("{**} is not the last operator of the path template")
        return cls(tuple(map(_head_segment, segments[:split])), "".join(f"/{segment}" for segment in after))

    def matches(self, path: str, *, strict: bool = False) -> bool:
        """Whether the whole path (no query) matches. The slash before ``{**}`` counts: ``/a/{**}`` misses ``/a``.

        Args:
            path: the path.
            strict: match as Envoy does, whose operators stand for the characters of RFC 3986 paths only: ``/a/{*}``
                misses ``/a/[x]``. By default they stand for every character, so that none escapes a DENY.
        """
        if strict and not is_plain_path(path):
            return False
        head, tail = self.head, self.tail
        if tail is None:
            parts = path.split("/")
            if len(parts) != len(head):
                return False
        else:
            parts = path.split("/", len(head))
            if len(parts) <= len(head) or not parts[-1].endswith(tail):
                return False
        # With {**} there is one part more than head has: what {**} and the tail took, judged above.
        return all(part == wanted if wanted is not None else part for wanted, part in zip(head, parts, strict=False))

    def __str__(self) -> str:
        text = "/".join(_ONE if segment is None else segment for segment in self.head)
        return text if self.tail is None else f"{text}/{_ANY}{self.tail}"


def is_plain_path(path: str) -> bool:
    """Whether a path holds nothing but characters that Envoy's operators stand for, and slashes."""
    return _PLAIN_PATH.issuperset(path)


def _head_segment(segment: str) -> str | None:
    return None if segment == _ONE else segment


def _check_segment(segment: str, *, last: bool) -> None:
    """A trailing slash leaves an empty last segment, which is fine; an empty segment elsewhere is not."""
    if segment in (_ONE, _ANY) or (last and not segment):
        return
    if not segment:
        raise ValueError("a path template holds an empty segment")
    if not _LITERAL.issuperset(segment):
        raise ValueError(f"the segment {segment!a} of a path template is neither {{*}}, {{**}} nor a plain literal")


def parse_path_pattern(text: str) -> StringPattern | PathTemplate:
    """Read one value of ``paths``: a template where it holds ``{*}`` or ``{**}``, else one of the star forms.

    Raises:
        ValueError: empty; a malformed template; a lone brace; or a pattern no path can match, because a path begins
            with a slash, is visible ASCII and holds neither ``?`` nor ``#``.
    """
    if _ONE in text or _ANY in text:
        return PathTemplate.parse(text)
    if "{" in text or "}" in text:
        raise ValueError(f"{text!a} holds a brace outside {{*}} and {{**}}")
    if not _VISIBLE.issuperset(text):
        raise ValueError(f"{text[:80]!a} can match no path: it is judged percent-encoded, without query and fragment")
    pattern = StringPattern.parse(text, nonempty=True)
    if pattern.kind in (Kind.EXACT, Kind.PREFIX) and not pattern.text.startswith("/"):
        raise ValueError(f"{text!a} can match no path: a path begins with /")
    return pattern


@dataclass(frozen=True, slots=True)
class Glob:
    """Text in which every ``*`` stands for any characters or none.

    Attributes:
        parts: the literal text around the stars; one part where there is no star.
    """

    parts: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a glob; any text is one."""
        return cls(tuple(text.split("*")))

    def matches(self, value: str) -> bool:
        """Whether the whole value matches. The ends are anchored; each middle part is taken where it comes first."""
        first, *middle = self.parts
        if not middle:
            return value == first
        last = middle.pop()
        at, end = len(first), len(value) - len(last)
        if at > end or not value.startswith(first) or not value.endswith(last):
            return False
        for part in middle:
            at = value.find(part, at, end)
            if at < 0:
                return False
            at += len(part)
        return True

    def __str__(self) -> str:
        return "*".join(self.parts)
