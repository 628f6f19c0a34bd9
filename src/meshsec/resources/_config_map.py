"""Resources inside a ConfigMap: which of its values are some, and where a line of such a value stands in the file.

A ConfigMap in a folder is what Kubernetes would mount as a folder of files. Must not know: kinds, or what is done
with what is found.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from ..errors import Problem
from ._problems import suggest
from ._yaml import Place, PlacedMapping, read_yaml

__all__ = ["Embedded", "config_map_flaws", "embedded_texts"]

# Whatever names these means to be a policy: its problems are told, even if it is not YAML.
_GROUPS: Final = ("security.istio.io", "authentication.istio.io")
_FIELDS: Final = frozenset({"apiVersion", "binaryData", "data", "immutable", "kind", "metadata"})


@dataclass(frozen=True, slots=True)
class Embedded:
    """A value that holds resources.

    Attributes:
        text: the value.
        key_at: where its key stands.
        value_at: where the value begins: the line of the ``|`` of a block.
    """

    text: str
    key_at: Place
    value_at: Place

    def place(self, inside: Place, file: Sequence[str]) -> Place:
        """Where a place in the value stands in the file: exactly in a ``|`` block, else where its key stands."""
        line, column = inside
        lines = self.text.split("\n")
        outside = self.value_at[0] + line
        if line > len(lines) or outside > len(file):
            return self.key_at
        written = file[outside - 1].removesuffix("\r")
        indent = len(written) - len(lines[line - 1])
        as_it_is = written == " " * indent + lines[line - 1]
        return (outside, column + indent) if as_it_is else self.key_at


def embedded_texts(config_map: PlacedMapping) -> list[Embedded]:
    """The values under ``data`` that hold resources; what is neither YAML nor about policies is another program's."""
    data = config_map.get("data")
    if not isinstance(data, PlacedMapping):
        return []
    return [
        Embedded(text, data.keys_at[key], data.values_at[key])
        for key, text in data.items()
        if isinstance(text, str) and _holds_resources(text)
    ]


def config_map_flaws(config_map: PlacedMapping) -> Iterator[tuple[str, Place]]:
    """What Kubernetes would not take either, and what would be overlooked here: a policy where none is looked for."""
    for key in config_map.keys() - _FIELDS:
        yield f"unknown field {key!a} of a ConfigMap{suggest(str(key), _FIELDS)}", config_map.keys_at[key]
    data = config_map.get("data")
    if isinstance(data, PlacedMapping):
        wrong = (key for key, value in data.items() if _is_object(value))
        yield from (("a ConfigMap holds texts: write | before this resource", data.values_at[key]) for key in wrong)
    elif isinstance(data, str) and _holds_resources(data):
        yield "a ConfigMap's data is a mapping of names to texts", config_map.values_at["data"]


def _holds_resources(text: str) -> bool:
    if any(group in text for group in _GROUPS):
        return True
    if "apiVersion" not in text:
        return False
    problems: list[Problem] = []
    documents = read_yaml(text, "", problems)
    return bool(documents) and not problems and all(_is_object(value) for value, _ in documents)


def _is_object(value: object) -> bool:
    """Whether it has the form of a Kubernetes object."""
    return isinstance(value, PlacedMapping) and all(isinstance(value.get(key), str) for key in ("apiVersion", "kind"))
