"""How the value of an attribute meets the patterns of a policy: one predicate for each way of meeting.

Each function compiles patterns into a predicate on the value that :mod:`._read` gives. Must not know: keys, rules.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

from ..matching import Glob, IpAddress, IpBlock, Kind, PathSet, PathTemplate, PatternSet, StringPattern
from ._patterns import RequestPrincipalPattern, ServiceAccount
from ._read import HeaderValue, Names, joined

__all__ = ["NEEDLES", "Doubt", "Test"]

Test = Callable[[Any], bool]
"""A predicate on the value of one attribute."""


@dataclass(frozen=True, slots=True)
class Doubt:
    """How to decide what could be seen either way, so that doubt refuses.

    Attributes:
        matches: whether what could match does: in a DENY, and under a negation in an ALLOW.
        istio: whether only Envoy's reading of paths, hosts and names counts. A fact that is not known, and a header
            that a server may have joined, stay a doubt.
    """

    matches: bool
    istio: bool = False

    @property
    def every_reading(self) -> bool:
        """Whether another reading than Envoy's may match, too."""
        return self.matches and not self.istio


def text(patterns: Sequence[StringPattern], _doubt: Doubt) -> Test:
    """One text, which may be absent."""
    matches = PatternSet.of(patterns).matches

    def test(value: str | None) -> bool:
        return value is not None and matches(value)

    return test


def any_text(patterns: Sequence[StringPattern], _doubt: Doubt) -> Test:
    """Any of several texts."""
    matches = PatternSet.of(patterns).matches

    def test(value: tuple[str, ...]) -> bool:
        return any(map(matches, value))

    return test


def header(patterns: Sequence[StringPattern], doubt: Doubt) -> Test:
    """Any line. A line that may be several is judged by every way it may have been joined from them."""
    patterns = tuple(map(on_the_wire, patterns))
    matches = PatternSet.of(patterns).matches
    possible = tuple(NEEDLES[pattern.kind].format(joined(pattern.text)) for pattern in patterns)
    # Where the first line ends is not known, but how it begins is, up to the first comma; so with the last.
    certain = PatternSet.of(
        pattern for pattern in patterns if pattern.kind is not Kind.EXACT and "," not in pattern.text
    ).matches

    def test(value: HeaderValue) -> bool:
        lines, pieces = value
        if not pieces:
            return any(map(matches, lines))
        if doubt.matches:
            return any(map(matches, lines)) or any(needle in f",{pieces}," for needle in possible)
        return certain(pieces) and all(map(certain, pieces.split(",")))

    return test


def on_the_wire(pattern: StringPattern) -> StringPattern:
    """Text of a request is bytes as latin-1; those of a policy's text are UTF-8, as Envoy compares it."""
    if pattern.text.isascii():
        return pattern
    return StringPattern(pattern.kind, pattern.text.encode("utf-8", "surrogatepass").decode("latin-1"))


# What text between commas must hold for some line of it to match.
NEEDLES: Final = {Kind.EXACT: ",{},", Kind.PREFIX: ",{}", Kind.SUFFIX: "{},", Kind.PRESENT: ","}


def host(patterns: Sequence[StringPattern], doubt: Doubt) -> Test:
    """The host as it was sent; where every reading counts, also without port and without the dot at the end."""
    matches = PatternSet.of(patterns).matches

    def test(value: tuple[str, ...]) -> bool:
        if not value:
            return doubt.matches
        return any(map(matches, value)) if doubt.every_reading else matches(value[0])

    return test


def path(patterns: Sequence[StringPattern | PathTemplate], doubt: Doubt) -> Test:
    """This very spelling; where every reading counts, any that a router takes for the same."""
    paths = PathSet.of(patterns)
    matches = paths.matches if doubt.every_reading else paths.matches_strictly

    def test(value: tuple[str, str]) -> bool:
        return matches(value[0])

    return test


def port(patterns: Sequence[int], doubt: Doubt) -> Test:
    """A number, which may not be known."""
    numbers = frozenset(patterns)

    def test(value: int | None) -> bool:
        return doubt.matches if value is None else value in numbers

    return test


def address(patterns: Sequence[IpBlock], doubt: Doubt) -> Test:
    """An address, which may not be known."""

    def test(value: IpAddress | None) -> bool:
        return doubt.matches if value is None else any(block.contains(value) for block in patterns)

    return test


def addresses(patterns: Sequence[IpBlock], doubt: Doubt) -> Test:
    """Several addresses, any of which may be the client's: where doubt matches, any of them, else all."""

    def test(value: tuple[IpAddress, ...] | None) -> bool:
        if value is None:
            return doubt.matches
        found = [any(block.contains(one) for block in patterns) for one in value]
        return any(found) if doubt.matches else all(found)

    return test


def request_principal(patterns: Sequence[RequestPrincipalPattern], _doubt: Doubt) -> Test:
    """Issuer and subject, or the one text that a legacy Policy binds."""

    def test(value: tuple[str, str] | str | None) -> bool:
        if isinstance(value, str):
            return any(pattern.whole.matches(value) for pattern in patterns)
        return value is not None and any(pattern.matches(*value) for pattern in patterns)

    return test


def namespace(patterns: Sequence[Glob], doubt: Doubt) -> Test:
    """The namespace in the peer's SPIFFE ID.

    Envoy's expression lets a star reach beyond the namespace: ``*a`` also matches ``/ns/x/sa/`` of everyone. Where
    doubt refuses to match, the pattern must match the namespace itself.
    """
    anywhere = tuple(Glob.parse(f"*/ns/{pattern}/*") for pattern in patterns)
    search = doubt.matches or doubt.istio

    def test(value: Names | None) -> bool:
        if value is None:
            return False
        name, spiffe_id = value
        if search:
            return any(pattern.matches(spiffe_id) for pattern in anywhere)
        return name is not None and any(pattern.matches(name) for pattern in patterns)

    return test


def service_account(patterns: Sequence[ServiceAccount], doubt: Doubt) -> Test:
    """The service account in the peer's SPIFFE ID. One of another form than Istio's is searched as Envoy would."""
    accounts = frozenset(map(str, patterns))
    search = doubt.matches or doubt.istio

    def test(value: Names | None) -> bool:
        if value is None:
            return False
        name, path = value
        if name is None and search:
            return any(_names_account(path.split("/"), pattern) for pattern in patterns)
        return name in accounts

    return test


def _names_account(segments: Sequence[str], account: ServiceAccount) -> bool:
    """Whether ``ns/<namespace>`` stands in the path, and ``sa/<name>`` somewhere after it."""
    pairs = list(pairwise(segments))
    first = next((at for at, pair in enumerate(pairs) if pair == ("ns", account.namespace)), len(pairs))
    return ("sa", account.name) in pairs[first + 2 :]
