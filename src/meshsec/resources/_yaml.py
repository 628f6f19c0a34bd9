"""The strict YAML reader: text → plain data that remembers where everything stood.

Belongs here: everything in which YAML is more generous than a policy may be (aliases that explode, duplicate keys,
tags, merge keys, keys that are no text) and the limits. JSON is read by the same reader. Must not know: what a
document means.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import yaml

from ..errors import Problem
from ._problems import Path
from ._scalar import Unquoted, read_plain

__all__ = ["MAX_BYTES", "Place", "PlacedList", "PlacedMapping", "Value", "place_of", "read_yaml"]

MAX_BYTES: Final = 16 * 1024 * 1024
MAX_NODES: Final = 1_000_000
MAX_DEPTH: Final = 100

Place: TypeAlias = tuple[int, int]
"""Line and column, both counted from 1."""
Value: TypeAlias = Any

# Line breaks in YAML 1.1, characters in YAML 1.2: a comment could end at one, or not.
_BREAKS: Final = frozenset("\x85\u2028\u2029")

_LOADER: Final[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class PlacedMapping(dict[Any, Value]):
    """A mapping, with the places of itself, its keys and what stands under them."""

    __slots__ = ("keys_at", "place", "values_at")

    def __init__(self, place: Place) -> None:
        super().__init__()
        self.place = place
        self.keys_at: dict[Any, Place] = {}
        self.values_at: dict[Any, Place] = {}


class PlacedList(list[Value]):
    """A list, with the places of itself and its entries."""

    __slots__ = ("items_at", "place")

    def __init__(self, place: Place) -> None:
        super().__init__()
        self.place = place
        self.items_at: list[Place] = []


def place_of(root: PlacedMapping, path: Path, *, at_key: bool = False) -> Place:
    """Where a path leads; where it leads nowhere (a field is missing), the innermost place that is there."""
    here: Value = root
    place = root.place
    last = len(path) - 1
    for index, step in enumerate(path):
        if isinstance(here, PlacedMapping) and step in here:
            place = (here.keys_at if at_key and index == last else here.values_at)[step]
            here = here[step]
        elif isinstance(here, PlacedList) and isinstance(step, int) and step < len(here):
            place, here = here.items_at[step], here[step]
        else:
            break
    return place


def read_yaml(text: str, source: str, problems: list[Problem]) -> list[tuple[Value, Place]]:
    """Read every document of a text.

    Args:
        text: YAML or JSON.
        source: the file's name, for the problems.
        problems: gets what is wrong; after a syntax error nothing more is read.

    Returns:
        The documents that could be read, with their places. Empty ones are left out.
    """
    reader = _Reader(source, problems)
    try:
        size = len(text.encode("utf-8"))
    except UnicodeEncodeError:
        reader.complain("the text holds half a surrogate pair, which is no character", None)
        return []
    if size > MAX_BYTES:
        reader.complain(f"{size} bytes are more than the {MAX_BYTES} allowed", None)
        return []
    for character in _BREAKS.intersection(text) if not text.isascii() else ():
        message = f"U+{ord(character):04X} ends a line for some YAML readers only: write an escape in double quotes"
        reader.complain(message, _find(text, ord(character)))
    documents: list[tuple[Value, Place]] = []
    try:
        documents.extend(reader.documents(yaml.parse(text, Loader=_LOADER)))
    except _GiveUp:
        pass
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        reader.complain(
            f"not YAML: {error.problem or error.context}", (mark.line + 1, mark.column + 1) if mark else None
        )
    except yaml.reader.ReaderError as error:
        reader.complain(f"not YAML: the character {error.character:#x} is not allowed", _find(text, error.character))
    except yaml.YAMLError as error:
        reader.complain(f"not YAML: {type(error).__name__}", None)
    return documents


def _find(text: str, character: int) -> Place:
    before = text.partition(chr(character))[0]
    return before.count("\n") + 1, len(before) - before.rfind("\n")


class _GiveUp(Exception):  # noqa: N818 - a way out, never seen outside
    """A limit was passed; the problem is written down already."""


@dataclass(slots=True)
class _Anchor:
    """What ``&name`` stands before; ``size`` is None while it is still being read."""

    value: Value = None
    size: int | None = None


@dataclass(slots=True)
class _Reader:
    """Builds plain data from the parser's events, which cost little however the text is meant."""

    source: str
    problems: list[Problem]
    nodes: int = 0
    anchors: dict[str, _Anchor] = field(default_factory=dict)

    def complain(self, message: str, place: Place | None) -> None:
        line, column = place or (None, None)
        self.problems.append(Problem(message, source=self.source, line=line, column=column))

    def documents(self, events: Iterator[Any]) -> Iterator[tuple[Value, Place]]:
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                self.anchors.clear()
                first = next(events)
                value = self.value(first, events, 0)
                if not _is_nothing(value):
                    yield value, _place(first)

    def value(self, event: Any, events: Iterator[Any], depth: int) -> Value:
        """The value that begins with an event, and ends when its own last event was taken."""
        if depth > MAX_DEPTH:
            self.complain(f"nested more than {MAX_DEPTH} deep", _place(event))
            raise _GiveUp
        if isinstance(event, yaml.AliasEvent):
            return self.alias(event)
        self.count(1, event)
        if event.tag is not None:
            self.complain(f"tags such as {event.tag[:80]} are not allowed: write plain YAML", _place(event))
        read = _READ[type(event)]
        if event.anchor is None:
            return read(self, event, events, depth)
        anchor = self.anchors[event.anchor] = _Anchor()
        before = self.nodes
        anchor.value = read(self, event, events, depth)
        anchor.size = self.nodes - before + 1
        return anchor.value

    def count(self, nodes: int, event: Any) -> None:
        """An alias costs what it stands for, so that a few lines cannot stand for billions."""
        self.nodes += nodes
        if self.nodes > MAX_NODES:
            self.complain(f"more than {MAX_NODES} values, aliases counted in full", _place(event))
            raise _GiveUp

    def alias(self, event: Any) -> Value:
        anchor = self.anchors.get(event.anchor)
        if anchor is None or anchor.size is None:
            what = "is not defined above" if anchor is None else "stands inside what it stands for"
            self.complain(f"the alias *{event.anchor} {what}", _place(event))
            raise _GiveUp
        self.count(anchor.size, event)
        return anchor.value

    def scalar(self, event: Any, _events: Iterator[Any], _depth: int) -> Value:
        if not event.value.isascii() and any("\ud800" <= character <= "\udfff" for character in event.value):
            self.complain("half a surrogate pair is no character: write the character itself", _place(event))
        return read_plain(event.value) if event.implicit[0] else event.value

    def sequence(self, event: Any, events: Iterator[Any], depth: int) -> PlacedList:
        found = PlacedList(_place(event))
        for item in events:
            if isinstance(item, yaml.SequenceEndEvent):
                break
            found.append(self.value(item, events, depth + 1))
            found.items_at.append(_place(item))
        return found

    def mapping(self, event: Any, events: Iterator[Any], depth: int) -> PlacedMapping:
        found = PlacedMapping(_place(event))
        seen: dict[str, Place] = {}
        for item in events:
            if isinstance(item, yaml.MappingEndEvent):
                break
            key = self.key(self.value(item, events, depth + 1), _place(item), seen)
            entry = next(events)
            value = self.value(entry, events, depth + 1)
            if key is not None:
                found[key] = value
                found.keys_at[key], found.values_at[key] = _place(item), _place(entry)
        return found

    def key(self, key: Value, place: Place, seen: dict[str, Place]) -> str | int | None:
        """The key, or None after a complaint. Whole numbers stay: ports are keys."""
        if isinstance(key, Unquoted) and key.reads_as == "a merge key":
            self.complain("merge keys (<<) are not allowed: write the fields out", place)
            return None
        if isinstance(key, bool) or not isinstance(key, str | int):
            self.complain("a key is text: write it in quotes", place)
            return None
        if str(key) in seen:
            line, _ = seen[str(key)]
            self.complain(f"the key {str(key)[:80]!a} stands in line {line} already", place)
            return None
        seen[str(key)] = place
        return key


_READ: Final[Mapping[type, Callable[[_Reader, Any, Iterator[Any], int], Value]]] = {
    yaml.ScalarEvent: _Reader.scalar,
    yaml.SequenceStartEvent: _Reader.sequence,
    yaml.MappingStartEvent: _Reader.mapping,
}


def _place(event: Any) -> Place:
    mark = event.start_mark
    return mark.line + 1, mark.column + 1


def _is_nothing(value: Value) -> bool:
    return isinstance(value, Unquoted) and value.reads_as == "nothing"
