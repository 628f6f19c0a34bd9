"""Many patterns at once: each has a bit mask, and one look gives the masks of all that match, ORed together.

What a prefix matches is a range of the sorted texts, what an exact value matches is a very small one, and what a CIDR
block matches is a range of numbers. Such ranges lie inside or outside one another, they never overlap, so between two
of their ends the answer is always the same: it is computed when the index is made, and looking up is one bisection. A
suffix is a prefix of the text read backwards. Templates are looked up by their literal segments. So the time for one
value grows with the logarithm of the number of patterns (and, for templates, with the number of their shapes).

Must not know: what a bit stands for.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address
from operator import itemgetter
from typing import Any, Final, TypeVar

from ._ip import IpAddress, IpBlock
from ._pattern import Kind, PathTemplate, StringPattern, is_plain_path
from ._sets import decode_pattern, end_twin, without_end

__all__ = ["Find", "index_blocks", "index_paths", "index_texts"]

_Key = TypeVar("_Key", str, int)
_Pair = tuple[StringPattern | PathTemplate, int]

_Shape = tuple[int, bool, Callable[[Sequence[str]], Any], tuple[int, ...], Mapping[Any, Callable[[str], int]]]
"""Templates of one shape: how many segments stand before ``{**}``, or in all; whether there is ``{**}``; what takes
the literal segments out of a path's (the first, before the first slash, always is one); the places of ``{*}``, where
some text must stand; and, by the literal segments, from what is left of the path to the masks of the templates whose
text after ``{**}`` it ends in."""

Find = Callable[[Any], int]
"""From a value to the masks of all patterns that match it, ORed together."""

_BITS: Final = {4: 32, 6: 128}


def index_texts(pairs: Iterable[_Pair], *, strict: bool = False) -> Callable[[str], int]:
    """Patterns for text that is there; ``strict`` as in :meth:`PathTemplate.matches`."""
    forward: list[tuple[str, str | None, int]] = []
    backward: list[tuple[str, str | None, int]] = []
    templates: list[tuple[PathTemplate, int]] = []
    for pattern, mask in pairs:
        if isinstance(pattern, PathTemplate):
            templates.append((pattern, mask))
        elif pattern.kind is Kind.SUFFIX:
            backward.append((pattern.text[::-1], _after(pattern.text[::-1]), mask))
        else:
            forward.append((*_RANGES[pattern.kind](pattern.text), mask))
    starts: list[str]
    starts, masks = _index_ranges(forward)
    if not backward and not templates:
        return lambda value: masks[bisect_right(starts, value)]
    ends, end_masks = _index_ranges(backward)
    find_templates = _index_templates(templates) if templates else None

    def find(value: str) -> int:
        found = masks[bisect_right(starts, value)]
        if ends:
            found |= end_masks[bisect_right(ends, value[::-1])]
        # Whether the path is a plain one is asked last: it takes the longest, and hardly ever matters.
        if find_templates and (matching := find_templates(value)) and (not strict or is_plain_path(value)):
            found |= matching
        return found

    return find


def index_paths(pairs: Iterable[_Pair], *, every_reading: bool) -> Callable[[tuple[str, str]], int]:
    """Patterns for a path and its percent-decoding: as in :class:`PathSet`, all that a router takes for the same path
    counts, or only the very spelling, strictly."""
    pairs = list(pairs)
    if not every_reading:
        strictly = index_texts(pairs, strict=True)
        return lambda value: strictly(value[0])
    plain_pairs = [(decode_pattern(pattern), mask) for pattern, mask in pairs]
    written = index_texts(_with_twins(pairs))
    decoded = written if plain_pairs == pairs else index_texts(_with_twins(plain_pairs))

    def find(value: tuple[str, str]) -> int:
        path, plain = value
        found = written(path) if decoded is written and path == plain else written(path) | decoded(plain)
        if plain.endswith("/"):
            found |= written(without_end(path)) | decoded(without_end(plain))
        return found

    return find


def _with_twins(pairs: Iterable[_Pair]) -> Iterator[_Pair]:
    for pattern, mask in pairs:
        yield pattern, mask
        if twin := end_twin(pattern):
            yield twin, mask


def index_blocks(pairs: Iterable[tuple[IpBlock, int]]) -> Callable[[IpAddress], int]:
    """Address blocks. IPv4 and IPv6 never meet."""
    ranges: dict[int, list[tuple[int, int | None, int]]] = {version: [] for version in _BITS}
    for block, mask in pairs:
        size = (1 << _BITS[block.version]) - block.mask
        ranges[block.version].append((block.network, block.network + size, mask))
    kinds: Mapping[type[IpAddress], int] = {IPv4Address: 4, IPv6Address: 6}
    indexes: dict[type[IpAddress], tuple[list[int], list[int]]] = {
        kind: _index_ranges(ranges[version]) for kind, version in kinds.items()
    }

    def find(address: IpAddress) -> int:
        networks, masks = indexes[type(address)]
        return masks[bisect_right(networks, int(address))]

    return find


def _after(prefix: str) -> str | None:
    """The first text, in sorted order, after all that begin with ``prefix``; None: there is none."""
    head = prefix.rstrip(chr(0x10FFFF))
    return head[:-1] + chr(ord(head[-1]) + 1) if head else None


# From where to where the texts that a pattern matches stand in sorted order; "\0" is the first that is not empty.
_RANGES: Final[dict[Kind, Callable[[str], tuple[str, str | None]]]] = {
    Kind.EXACT: lambda text: (text, text + "\0"),
    Kind.PREFIX: lambda text: (text, _after(text)),
    Kind.PRESENT: lambda _: ("", None),
    Kind.NONEMPTY: lambda _: ("\0", None),
}


def _index_ranges(ranges: Iterable[tuple[_Key, _Key | None, int]]) -> tuple[list[_Key], list[int]]:
    """Ranges that lie inside or outside one another: first key, first key after it (None: no end), mask.

    Returns:
        The keys at which the answer changes, in order; and the answers, that before the first key first.
    """
    merged: dict[tuple[_Key, _Key | None], int] = {}
    for start, end, mask in ranges:
        merged[start, end] = merged.get((start, end), 0) | mask
    answers: dict[_Key, int] = {}  # from this key on, until the next
    around: list[tuple[_Key | None, int]] = [(None, 0)]  # the ranges that are open, and the answer inside each

    def close_before(key: _Key | None) -> None:
        while (end := around[-1][0]) is not None and (key is None or end <= key):
            around.pop()
            answers[end] = around[-1][1]

    for (start, end), mask in _outer_first(merged):
        close_before(start)
        around.append((end, around[-1][1] | mask))
        answers[start] = around[-1][1]
    close_before(None)
    starts: list[_Key] = sorted(answers)
    return starts, [0, *map(answers.__getitem__, starts)]


def _outer_first(merged: Mapping[tuple[_Key, _Key | None], int]) -> list[tuple[tuple[_Key, _Key | None], int]]:
    """By start; of two that start together the longer one first."""
    by_end = sorted(merged.items(), key=lambda item: (item[0][1] is None, item[0][1]), reverse=True)
    return sorted(by_end, key=lambda item: item[0][0])


def _index_templates(templates: Iterable[tuple[PathTemplate, int]]) -> Callable[[str], int]:
    shapes = _shapes(templates)

    def find(path: str) -> int:
        segments = path.split("/")
        count, found = len(segments), 0
        for size, open_ended, literals_of, filled, tails in shapes:
            if count > size if open_ended else count == size:
                find_tail = tails.get(literals_of(segments))
                if find_tail and all(segments[place] for place in filled):
                    found |= find_tail("/".join(segments[size:]))
        return found

    return find


def _shapes(templates: Iterable[tuple[PathTemplate, int]]) -> list[_Shape]:
    """Templates with operators at the same places are told apart by their literal segments, in a dict."""
    kinds: dict[tuple[int, tuple[int, ...], bool], dict[Any, list[_Pair]]] = {}
    for template, mask in templates:
        literals = tuple(place for place, segment in enumerate(template.head) if segment is not None)
        table = kinds.setdefault((len(template.head), literals, template.tail is not None), {})
        tail = StringPattern(Kind.SUFFIX, template.tail or "")
        table.setdefault(itemgetter(*literals)(template.head), []).append((tail, mask))
    return [
        (
            size,
            open_ended,
            itemgetter(*literals),
            tuple(place for place in range(size) if place not in literals),
            {key: index_texts(tails) for key, tails in table.items()},
        )
        for (size, literals, open_ended), table in kinds.items()
    ]
