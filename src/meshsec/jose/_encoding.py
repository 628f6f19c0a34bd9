"""base64url and JSON, read so that there is one reading only.

Two programs that read the same token must see the same claims: no padding, no white space, no junk and no spare bits
in base64url; no repeated name, no NaN and no lone surrogate in JSON. This file must not know what the bytes mean.
"""

from __future__ import annotations

import json
import math
import re
from base64 import urlsafe_b64encode
from binascii import a2b_base64
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final, Never

__all__ = [
    "decode_base64url",
    "encode_base64url",
    "read_frozen_object",
    "read_json_object",
    "write_json",
]

MAX_JSON_DEPTH: Final = 32

_WHITE_SPACE: Final = b" \t\n\v\f\r"
# The last character of a group of 2 (or 3) carries 4 (or 2) bits too many; only these leave them zero.
_LAST: Final = {2: frozenset(b"AQgw"), 3: frozenset(b"AEIMQUYcgkosw048")}
# What the standard alphabet has and this one has not becomes a character that neither has.
_STANDARD: Final = bytes.maketrans(b"-_+/=", b"+/!!!")
# An unterminated string matches to the end, so that the scan stays linear.
_STRING_OR_BRACKET: Final = re.compile(r'"(?:[^"\\]|\\.)*+"?|[\[\]{}]', re.DOTALL)

_ALWAYS_FINITE: Final = 300  # digits
_DIGIT: Final = re.compile("[0-9]")
_CHANGEABLE: Final = frozenset({dict, list})
_STEPS: Final = {"[": 1, "{": 1, "]": -1, "}": -1}


def decode_base64url(text: bytes, *, lenient: bool = False) -> bytes:
    """Decode base64url without padding (RFC 7515 section 2), canonical form only. Raises ValueError.

    Args:
        text: ASCII.
        lenient: whether white space, whole padding and spare bits are overlooked, as Envoy does.
    """
    text = _overlooked(text) if lenient else text
    size = len(text)
    rest = size % 4
    try:
        # Not in its strict mode, which is slower: it skips what it does not know, and then there is too little.
        data = a2b_base64(text.translate(_STANDARD) + b"==")
    except ValueError:
        raise ValueError("not base64url") from None
    if rest == 1 or len(data) != size * 3 // 4:
        raise ValueError("not base64url")
    if rest and text[-1] not in _LAST[rest] and not lenient:
        raise ValueError("not canonical base64url")
    return data


def _overlooked(text: bytes) -> bytes:
    text = text.translate(None, _WHITE_SPACE)
    return text[:-2] + text[-2:].rstrip(b"=") if len(text) % 4 == 0 else text


def encode_base64url(data: bytes) -> bytes:
    """Encode without padding."""
    return urlsafe_b64encode(data).rstrip(b"=")


def read_json_object(data: bytes) -> dict[str, Any]:
    """Read one JSON object of UTF-8 text, at most 32 levels deep.

    Raises:
        ValueError: not such an object, or one with a repeated name, NaN, an infinity, a number too large for a
            double, or half a surrogate pair. The message says which and repeats nothing of the data.
    """
    return _read(data, _AS_IT_IS)


def read_frozen_object(data: bytes) -> MappingProxyType[str, Any]:
    """As :func:`read_json_object`, read-only all the way down: mapping proxies for objects, tuples for arrays."""
    return MappingProxyType(_read(data, _READ_ONLY))


def write_json(value: Mapping[str, Any]) -> bytes:
    """The compact form."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()


def _read(data: bytes, decoders: _Decoders) -> dict[str, Any]:
    try:
        text = data.decode()
        if text.count("[") + text.count("{") > MAX_JSON_DEPTH:
            _check_depth(text)
        decoder = decoders[len(text) >= _ALWAYS_FINITE and _may_hold_long_number(text)]
        # Not its `decode`, which looks for white space around the value with a regular expression, twice.
        value, end = decoder.raw_decode(text) if text[:1] == "{" else (None, -1)
        if end != len(text):
            value = decoder.decode(text)
        if "\\" in text and "\\u" in text:
            json.dumps(value, ensure_ascii=False, default=dict).encode("utf-8")
    except (UnicodeError, json.JSONDecodeError):
        raise ValueError("not JSON in UTF-8") from None
    if type(value) is not dict:
        raise ValueError("not a JSON object")
    return value


def _check_depth(text: str) -> None:
    """Before the parser sees it: the parser is recursive."""
    depth = 0
    for found in _STRING_OR_BRACKET.finditer(text):
        depth += _STEPS.get(found[0], 0)
        if depth > MAX_JSON_DEPTH:
            raise ValueError(f"nested deeper than {MAX_JSON_DEPTH} levels")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _repeated()
    return found


def _repeated() -> ValueError:
    return ValueError("a name is repeated in a JSON object")


def _frozen(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _repeated()
    for name, value in pairs:
        if type(value) in _CHANGEABLE:
            found[name] = _read_only(value)
    return found


def _read_only(value: Any) -> Any:
    if type(value) is dict:
        return MappingProxyType(value)
    if _CHANGEABLE.isdisjoint(map(type, value)):
        return tuple(value)
    return tuple([_read_only(item) if type(item) in _CHANGEABLE else item for item in value])


def _may_hold_long_number(text: str) -> bool:
    """Whether there may be more than 300 digits in a row: every 300th character is looked at."""
    return _DIGIT.search(text[_ALWAYS_FINITE - 1 :: _ALWAYS_FINITE]) is not None


def _integer(text: str) -> int:
    """Exact, but no larger than what a parser that makes doubles of all numbers could hold."""
    if len(text) > _ALWAYS_FINITE:
        _finite(text)
    return int(text)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("a number is too large")
    return number


def _refuse_constant(_: str) -> Never:
    raise ValueError("NaN and infinities are not JSON")


def _decoders(make: Callable[[list[tuple[str, Any]]], dict[str, Any]]) -> _Decoders:
    """The first reads integers in C, for where none can be too large."""
    settings: dict[str, Any] = {"parse_float": _finite, "parse_constant": _refuse_constant}
    return tuple(json.JSONDecoder(object_pairs_hook=make, parse_int=kind, **settings) for kind in (int, _integer))


_Decoders = tuple[json.JSONDecoder, ...]
_AS_IT_IS: Final = _decoders(_object)
_READ_ONLY: Final = _decoders(_frozen)
