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
    "is_base64url",
    "read_frozen_object",
    "read_json_object",
    "write_json",
]

MAX_JSON_DEPTH: Final = 32

_ALPHABET: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_."
_WHITE_SPACE: Final = b" \t\n\v\f\r"
# The last character of a group of 2 (or 3) carries 4 (or 2) bits too many; only these leave them zero.
_LAST: Final = {1: frozenset[int](), 2: frozenset(b"AQgw"), 3: frozenset(b"AEIMQUYcgkosw048")}
_PADDING: Final = {0: b"", 1: b"", 2: b"==", 3: b"="}
# What the standard alphabet has and this one has not becomes a character that neither has.
_STANDARD: Final = bytes.maketrans(b"-_+/=", b"+/!!!")
# An unterminated string matches to the end, so that the scan stays linear.
_STRING_OR_BRACKET: Final = re.compile(r'"(?:[^"\\]|\\.)*+"?|[\[\]{}]', re.DOTALL)

_ALWAYS_FINITE: Final = 300  # digits
_DIGIT: Final = re.compile("[0-9]")
_STEPS: Final = {"[": 1, "{": 1, "]": -1, "}": -1}


def is_base64url(text: bytes) -> bool:
    """Whether there are only characters of its alphabet, and dots between them."""
    return not text.translate(None, _ALPHABET)


def decode_base64url(text: bytes, *, lenient: bool = False, known: bool = False) -> bytes:
    """Decode base64url without padding (RFC 7515 section 2), canonical form only. Raises ValueError.

    Args:
        text: ASCII.
        lenient: whether white space, whole padding and spare bits are overlooked, as Envoy does.
        known: whether :func:`is_base64url` has said so, and no character need be looked at again.
    """
    text = _overlooked(text) if lenient else text
    rest = len(text) % 4
    if rest and text[-1] not in _LAST[rest] and not lenient:
        raise ValueError("not canonical base64url")
    try:
        return a2b_base64(text.translate(_STANDARD) + _PADDING[rest], strict_mode=not known)
    except ValueError:
        raise ValueError("not base64url") from None


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
    value: dict[str, Any] = _read(data, _object, dict)
    return value


def read_frozen_object(data: bytes) -> MappingProxyType[str, Any]:
    """As :func:`read_json_object`, read-only all the way down: mapping proxies for objects, tuples for arrays."""
    value: MappingProxyType[str, Any] = _read(data, _frozen, MappingProxyType)
    return value


def write_json(value: Mapping[str, Any]) -> bytes:
    """The compact form."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()


def _read(data: bytes, make: _MakeObject, kind: type) -> Any:
    try:
        text = data.decode("utf-8")
        if text.count("[") + text.count("{") > MAX_JSON_DEPTH:
            _check_depth(text)
        long_numbers = len(text) >= _ALWAYS_FINITE and _may_hold_long_number(text)
        value = _decode(text, _DECODERS[make, long_numbers])
        if "\\" in text and "\\u" in text:
            json.dumps(value, ensure_ascii=False, default=dict).encode("utf-8")
    except (UnicodeError, json.JSONDecodeError):
        raise ValueError("not JSON in UTF-8") from None
    if not isinstance(value, kind):
        raise ValueError("not a JSON object")  # noqa: TRY004 - a parser's refusal, not a caller's mistake
    return value


def _decode(text: str, decoder: json.JSONDecoder) -> Any:
    """As ``decoder.decode``, which looks for white space around the value with a regular expression, twice."""
    if text[:1] == "{":
        value, end = decoder.raw_decode(text)
        if end == len(text):
            return value
    return decoder.decode(text)


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


def _frozen(pairs: list[tuple[str, Any]]) -> Mapping[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _repeated()
    for name, value in pairs:
        if type(value) is list:
            found[name] = _tuple(value)
    return MappingProxyType(found)


def _tuple(values: list[Any]) -> tuple[Any, ...]:
    return tuple([_tuple(value) if type(value) is list else value for value in values])


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


_MakeObject = Callable[[list[tuple[str, Any]]], Any]


def _decoder(make: _MakeObject, parse_int: Callable[[str], int]) -> json.JSONDecoder:
    return json.JSONDecoder(
        object_pairs_hook=make, parse_int=parse_int, parse_float=_finite, parse_constant=_refuse_constant
    )


# Integers are read in C where no number can be too large.
_DECODERS: Final[Mapping[tuple[_MakeObject, bool], json.JSONDecoder]] = {
    (make, long_numbers): _decoder(make, _integer if long_numbers else int)
    for make in (_object, _frozen)
    for long_numbers in (False, True)
}
