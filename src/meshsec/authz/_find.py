"""As :mod:`._match`, for the conditions of many rules at once: from a value to the bit mask of those it meets.

Each function takes the patterns of several conditions, each with a mask, and answers for a value what the predicates
of ``_match``, asked one by one, would: the masks of those that hold, ORed together. None is not among the values, see
:func:`absent`. Must not know: keys, rules, or what a bit stands for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final

from ..matching import Find, Kind, StringPattern, index_blocks, index_paths, index_texts
from . import _match
from ._match import Doubt, Test
from ._read import HeaderValue, joined

__all__ = ["Find", "Parts", "absent", "finder", "set_bits"]

Parts = Sequence[tuple[Sequence[Any], int]]
"""The patterns of a condition, and its mask."""

Finder = Callable[[Parts, Doubt], Find]
"""Compiles conditions on one attribute."""

_REMEMBERED: Final = 1024


_Compiler = Callable[[Any, Doubt], Test]
"""A function of ``_match``."""


def finder(test: _Compiler) -> Finder:
    """What stands for a function of ``_match``."""
    return _FINDERS[test]


def absent(test: _Compiler, parts: Parts, doubt: Doubt) -> int:
    """The masks for None, which says *not known* of addresses and ports and *not there* of everything else."""
    return _all(parts) if doubt.matches and test in _UNKNOWABLE else 0


def set_bits(mask: int) -> Iterator[int]:
    """The places of the bits, the highest first."""
    while mask:
        place = mask.bit_length() - 1
        yield place
        mask ^= 1 << place


def _pairs(parts: Parts) -> list[tuple[Any, int]]:
    return [(pattern, mask) for patterns, mask in parts for pattern in patterns]


def _all(parts: Parts) -> int:
    found = 0
    for _, mask in parts:
        found |= mask
    return found


def _text(parts: Parts, _doubt: Doubt) -> Find:
    return index_texts(_pairs(parts))


def _any_text(parts: Parts, _doubt: Doubt) -> Find:
    return _over_each(index_texts(_pairs(parts)))


def _over_each(find: Callable[[str], int]) -> Callable[[Sequence[str]], int]:
    def find_any(values: Sequence[str]) -> int:
        found = 0
        for value in values:
            found |= find(value)
        return found

    return find_any


def _header(parts: Parts, doubt: Doubt) -> Find:
    pairs = [(_match.on_the_wire(pattern), mask) for pattern, mask in _pairs(parts)]
    find_line = _over_each(index_texts(pairs))
    find_joined = _possible(pairs) if doubt.matches else _certain(pairs)

    def find(value: HeaderValue) -> int:
        lines, pieces = value
        if not pieces:
            return find_line(lines)
        return find_joined(pieces) | (find_line(lines) if doubt.matches else 0)

    return find


def _possible(pairs: Sequence[tuple[StringPattern, int]]) -> Callable[[str], int]:
    """What some line may have matched before it was joined. A pattern without comma speaks of one piece."""
    written = [(StringPattern(pattern.kind, joined(pattern.text)), mask) for pattern, mask in pairs]
    find_piece = _over_each(index_texts(pair for pair in written if "," not in pair[0].text))
    needles = [
        (_match.NEEDLES[pattern.kind].format(pattern.text), mask) for pattern, mask in written if "," in pattern.text
    ]

    def find(pieces: str) -> int:
        found = find_piece(pieces.split(","))
        for needle, mask in needles:
            if needle in f",{pieces},":
                found |= mask
        return found

    return find


def _certain(pairs: Sequence[tuple[StringPattern, int]]) -> Callable[[str], int]:
    """What every way of joining lines matches: the whole and each piece, by whichever pattern of the condition."""
    find_one = index_texts(
        (pattern, mask) for pattern, mask in pairs if pattern.kind is not Kind.EXACT and "," not in pattern.text
    )

    def find(pieces: str) -> int:
        found = find_one(pieces)
        for piece in pieces.split(","):
            found &= find_one(piece)
        return found

    return find


def _host(parts: Parts, doubt: Doubt) -> Find:
    find_one = index_texts(_pairs(parts))
    find_any = _over_each(find_one)
    unknown, every_reading = _all(parts) if doubt.matches else 0, doubt.every_reading

    def find(value: tuple[str, ...]) -> int:
        if len(value) > 1:
            return find_any(value) if every_reading else find_one(value[0])
        return find_one(value[0]) if value else unknown

    return find


def _path(parts: Parts, doubt: Doubt) -> Find:
    return index_paths(_pairs(parts), every_reading=doubt.every_reading)


def _port(parts: Parts, _doubt: Doubt) -> Find:
    masks: dict[int, int] = {}
    for port, mask in _pairs(parts):
        masks[port] = masks.get(port, 0) | mask
    return lambda value: masks.get(value, 0)


def _address(parts: Parts, _doubt: Doubt) -> Find:
    return index_blocks(_pairs(parts))


def _addresses(parts: Parts, doubt: Doubt) -> Find:
    find_one, every = index_blocks(_pairs(parts)), _all(parts)

    def find(value: Sequence[Any]) -> int:
        if len(value) == 1:
            return find_one(value[0])
        found = 0 if doubt.matches else every
        for address in value:
            found = found | find_one(address) if doubt.matches else found & find_one(address)
        return found

    return find


def _request_principal(parts: Parts, _doubt: Doubt) -> Find:
    """Issuers are few: each has an index of its subjects, and those are asked whose issuer matches."""
    pairs = _pairs(parts)
    by_issuer: dict[StringPattern, list[tuple[StringPattern, int]]] = {}
    for pattern, mask in pairs:
        by_issuer.setdefault(pattern.issuer, []).append((pattern.subject, mask))
    find_issuers = index_texts((issuer, 1 << place) for place, issuer in enumerate(by_issuer))
    find_subjects = [index_texts(subjects) for subjects in by_issuer.values()]
    find_whole = index_texts((pattern.whole, mask) for pattern, mask in pairs)

    def find(value: tuple[str, str] | str) -> int:
        if isinstance(value, str):
            return find_whole(value)
        found = 0
        for place in set_bits(find_issuers(value[0])):
            found |= find_subjects[place](value[1])
        return found

    return find


def _each(test: _Compiler, parts: Parts, doubt: Doubt) -> Find:
    """One by one, but equal conditions only once."""
    masks: dict[Sequence[Any], int] = {}
    for patterns, mask in parts:
        masks[patterns] = masks.get(patterns, 0) | mask
    tests = [(test(patterns, doubt), mask) for patterns, mask in masks.items()]

    def find(value: Any) -> int:
        found = 0
        for holds, mask in tests:
            if holds(value):
                found |= mask
        return found

    return find


def _remembered(test: _Compiler) -> Finder:
    """For names in certificates, which are few and which no caller can make up."""
    return lambda parts, doubt: lru_cache(_REMEMBERED)(_each(test, parts, doubt))


_UNKNOWABLE: Final = frozenset({_match.port, _match.address, _match.addresses})

_FINDERS: Final[Mapping[_Compiler, Finder]] = MappingProxyType(
    {
        _match.text: _text,
        _match.any_text: _any_text,
        _match.header: _header,
        _match.host: _host,
        _match.path: _path,
        _match.port: _port,
        _match.address: _address,
        _match.addresses: _addresses,
        _match.request_principal: _request_principal,
        _match.namespace: _remembered(_match.namespace),
        _match.service_account: _remembered(_match.service_account),
    }
)
