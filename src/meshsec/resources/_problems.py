"""What is wrong with a model, in words that say what to write instead.

Belongs here: turning pydantic's errors into field paths and messages, and suggestions for misspelt names. Must not
know: where in a file a field stands, or what any one field means.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from difflib import get_close_matches
from typing import Any, Final, TypeAlias, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.alias_generators import to_camel
from pydantic_core import ErrorDetails

from ..errors import Problem
from ._scalar import Unquoted

__all__ = ["Complaint", "FieldProblem", "Path", "describe", "field_path", "shown", "suggest"]

Path: TypeAlias = tuple[int | str, ...]
Complaint: TypeAlias = tuple[Path, str]
"""A place below some field, and what is wrong there."""

_ASKED_FOR: Final[Mapping[tuple[int | str, ...], str]] = {
    ("keys", "issuers"): "issuers stands beside keys, not in it",
    ("envoyExtAuthzHttp", "includeRequestBodyInCheck"): "includeRequestBodyInCheck is not supported yet",
}
_KEY: Final = "[key]"
_SHOWN: Final = 80
_UNKNOWN: Final = frozenset({"extra_forbidden", "unexpected_keyword_argument"})


@dataclass(frozen=True, slots=True)
class FieldProblem:
    """One problem and its field.

    Attributes:
        path: keys and indices from the model down.
        message: what is wrong and, where it is known, what would be right.
        at_key: whether the key itself is at fault, not what stands under it.
    """

    path: Path
    message: str
    at_key: bool = False

    def at(self, source: str) -> Problem:
        """The problem of a value that came from no file."""
        return Problem(self.message, source=source, field=field_path(self.path) or None)


def describe(error: ValidationError, model: type) -> Iterator[FieldProblem]:
    """Every problem of a model that could not be built, in pydantic's order."""
    for details in filter(_tells, error.errors(include_url=False)):
        path = tuple(details["loc"])
        if details["type"] == "complaints":
            yield from (FieldProblem(path + below, message) for below, message in _context(details)["complaints"])
        elif details["type"] in _UNKNOWN:
            yield FieldProblem(path, _unknown(path, model), at_key=True)
        else:
            at_key = path[-1:] == (_KEY,) or details["type"] == "invalid_key"
            yield FieldProblem(path[:-1] if path[-1:] == (_KEY,) else path, _message(details), at_key)


def _tells(details: ErrorDetails) -> bool:
    """Not so: a list that only looks empty because its entries are wrong, a default that waits for another field."""
    kind = details["type"]
    return kind != "default_factory_not_called" and not (kind == "too_short" and len(details["input"]))


def field_path(path: Iterable[int | str]) -> str:
    """``spec.rules[0].from``; a key that is no plain word stands in brackets: ``labels["a.b/c"]``."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        elif part.isidentifier():
            text += f".{part}" if text else part
        else:
            text += f'["{shown(part)}"]'
    return text


def shown(text: str) -> str:
    """As it is, where it is short and nothing that a terminal would obey."""
    return text[:_SHOWN] if text.isprintable() else ascii(text[:_SHOWN])[1:-1]


def suggest(word: str, known: Iterable[str]) -> str:
    """``: did you mean …?`` where a known word is near, whatever its case; else the known words, if they are few."""
    words = {name.lower(): shown(name) for name in known}
    near = get_close_matches(word.lower(), words, n=1, cutoff=0.6)
    if near:
        return f": did you mean {words[near[0]]}?"
    return f"; known here: {', '.join(sorted(words.values()))}" if 0 < len(words) <= 12 else ""


# ------------------------------------------------------------------ unknown fields


def _unknown(path: Path, model: type) -> str:
    name = str(path[-1])
    if path[-2:] in _ASKED_FOR:
        return _ASKED_FOR[path[-2:]]
    known = _fields(_model_at(model, path[:-1]))
    if name in known or to_camel(name) in known:
        return f"{name} is given twice, in two spellings"
    return f"unknown field {name[:_SHOWN]!a}{suggest(name, known)}"


def _fields(model: type | None) -> dict[str, Any]:
    """Name as files write it → annotation, of a model or a dataclass."""
    if model is None:
        return {}
    if is_dataclass(model):
        return {to_camel(item.name): item.type for item in fields(model)}
    models: Mapping[str, Any] = model.model_fields if issubclass(model, BaseModel) else {}
    return {to_camel(name.rstrip("_")): info.annotation for name, info in models.items()}


def _model_at(model: type, path: Path) -> type | None:
    """The model that a path leads to; keys and indices of collections are stepped over."""
    found: type | None = model
    steps = iter(path)
    for step in steps:
        annotation = _fields(found).get(to_camel(str(step).rstrip("_")))
        found, collections = _inner(annotation)
        for _ in range(collections):
            next(steps, None)
    return found


def _inner(annotation: Any) -> tuple[type | None, int]:
    """The first model inside an annotation, and how many collections it stands in."""
    if isinstance(annotation, type) and (issubclass(annotation, BaseModel) or is_dataclass(annotation)):
        return annotation, 0
    origin = get_origin(annotation)
    depth = 1 if isinstance(origin, type) and issubclass(origin, tuple | Mapping) else 0
    for argument in get_args(annotation):
        found, below = _inner(argument)
        if found is not None:
            return found, below + depth
    return None, depth


# ------------------------------------------------------------------ everything else


def _message(details: ErrorDetails) -> str:
    given = details.get("input")
    if isinstance(given, Unquoted) and given.reads_as == "nothing":
        return "nothing stands here: leave the field out, or fill it in"
    write = _MESSAGES.get(details["type"])
    return write(details) if write else details["msg"]


def _context(details: ErrorDetails) -> dict[str, Any]:
    return details.get("ctx", {})


def _needs(what: str) -> Callable[[ErrorDetails], str]:
    return lambda details: f"{what} belongs here, not {_kind(details['input'])}"


def _number(what: str) -> Callable[[ErrorDetails], str]:
    def write(details: ErrorDetails) -> str:
        given = details["input"]
        if isinstance(given, Unquoted) and given.reads_as == "a number":
            return f"{what} in plain decimal digits belongs here, not {given.text[:40]}"
        return _needs(what)(details)

    return write


def _text(details: ErrorDetails) -> str:
    given = details["input"]
    hint = ": write it in quotes" if isinstance(given, bool | int | float | Unquoted) else ""
    return f"text belongs here, not {_kind(given)}{hint}"


def _kind(given: object) -> str:
    """What was given, without repeating text: it may be a secret."""
    if isinstance(given, Unquoted):
        return f"{given.text[:40]}, which YAML reads as {given.reads_as}"
    if isinstance(given, bool):
        return f"the truth value {str(given).lower()}"
    if isinstance(given, int | float):
        return f"the number {given!r}"
    return next((name for kind, name in _KINDS if isinstance(given, kind)), f"a {type(given).__name__}")


_KINDS: Final[tuple[tuple[type, str], ...]] = (
    (str, "text"),
    (Mapping, "a mapping"),
    (list, "a list"),
    (type(None), "nothing"),
)


def _choice(details: ErrorDetails) -> str:
    given, expected = details["input"], _context(details)["expected"]
    names = [part.strip("'") for part in expected.replace(" or ", ", ").split(", ")]
    if not isinstance(given, str):
        return f"one of {', '.join(names)} belongs here, not {_kind(given)}"
    return f"{given[:40]!a} is not one of {', '.join(names)}{_near(given, names)}"


def _near(given: str, names: list[str]) -> str:
    hint = suggest(given, names)
    return hint if hint.startswith(":") else ""


_MESSAGES: Final[Mapping[str, Callable[[ErrorDetails], str]]] = {
    "missing": lambda _: "this field is required",
    "invalid_key": lambda details: f"a field's name is text, not {_kind(details['loc'][-1])}",
    "string_type": _text,
    "string_too_short": lambda _: "an empty text: fill it in, or leave the field out",
    "tuple_type": _needs("a list"),
    "too_short": lambda _: "an empty list: leave the field out, or name at least one",
    "too_long": lambda details: f"too long: at most {_context(details)['max_length']} entries",
    "string_too_long": lambda details: f"too long: at most {_context(details)['max_length']} characters",
    "mapping_type": _needs("a mapping"),
    "dict_type": _needs("a mapping"),
    "model_type": _needs("a mapping"),
    "dataclass_type": _needs("a mapping"),
    "enum": _choice,
    "literal_error": _choice,
    "bool_type": _needs("true or false, without quotes,"),
    "int_type": _number("a whole number"),
    "float_type": _number("a number"),
    "greater_than": lambda details: f"a number greater than {_context(details)['gt']:g} belongs here",
    "greater_than_equal": lambda details: f"a number of at least {_context(details)['ge']} belongs here",
    "less_than_equal": lambda details: f"a number of at most {_context(details)['le']} belongs here",
    "finite_number": lambda _: "a finite number belongs here",
    "value_error": lambda details: str(_context(details)["error"]),
}
