"""base64url and JSON, read so that there is one reading only.

Two programs that read the same token must see the same claims: no padding, no white space, no junk and no spare bits
in base64url; no repeated name, no NaN and no lone surrogate in JSON. This file must not know what the bytes mean.
"""

from __future__ import annotations

import json
import math
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from typing import Any, Final, Never

__all__ = ["decode_base64url", "encode_base64url", "read_json_object", "write_json"]

MAX_JSON_DEPTH: Final = 32

_ALPHABET: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
# The last character of a group of 2 (or 3) carries 4 (or 2) bits too many; only these leave them zero.
_LAST: Final = {2: frozenset(b"AQgw"), 3: frozenset(b"AEIMQUYcgkosw048")}
_PADDING: Final = {0: b"", 2: b"==", 3: b"="}
# An unterminated string matches to the end, so that the scan stays linear.
_STRING_OR_BRACKET: Final = re.compile(r'"(?:[^"\\]|\\.)*+"?|[\[\]{}]', re.DOTALL)

_ALWAYS_FINITE: Final = 300  # digits
_STEPS: Final = {"[": 1, "{": 1, "]": -1, "}": -1}


def decode_base64url(text: bytes) -> bytes:
    """Decode base64url without padding (RFC 7515 section 2), canonical form only. Raises ValueError."""
    rest = len(text) % 4
    if rest == 1 or text.translate(None, _ALPHABET):
        raise ValueError("not base64url")
    if rest and text[-1] not in _LAST[rest]:
        raise ValueError("not canonical base64url")
    return urlsafe_b64decode(text + _PADDING[rest])


def encode_base64url(data: bytes) -> bytes:
    """Encode without padding."""
    return urlsafe_b64encode(data).rstrip(b"=")


def read_json_object(data: bytes) -> dict[str, Any]:
    """Read one JSON object of UTF-8 text, at most 32 levels deep.

    Raises:
        ValueError: not such an object, or one with a repeated name, NaN, an infinity, a number too large for a
            double, or half a surrogate pair. The message says which and repeats nothing of the data.
    """
    try:
        text = data.decode("utf-8")
        if text.count("[") + text.count("{") > MAX_JSON_DEPTH:
            _check_depth(text)
        value = _DECODER.decode(text)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except (UnicodeError, json.JSONDecodeError):
        raise ValueError("not JSON in UTF-8") from None
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")  # noqa: TRY004 - a parser's refusal, not a caller's mistake
    return value


def write_json(value: Mapping[str, Any]) -> bytes:
    """The compact form."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()


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
        raise ValueError("a name is repeated in a JSON object")
    return found


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


_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=_object, parse_int=_integer, parse_float=_finite, parse_constant=_refuse_constant
)
