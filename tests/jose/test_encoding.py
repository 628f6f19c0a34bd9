"""base64url and JSON: one reading only."""

from __future__ import annotations

import contextlib
import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshsec.jose import read_json_object
from meshsec.jose._encoding import MAX_JSON_DEPTH, decode_base64url, encode_base64url
from sweeping import sweep

ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


@given(st.binary(max_size=64))
def test_what_is_encoded_decodes_to_itself(data: bytes) -> None:
    """Both directions agree with each other and with the standard library."""
    text = encode_base64url(data)
    assert text == urlsafe_b64encode(data).rstrip(b"=")
    assert decode_base64url(text) == data


@given(st.binary(max_size=12))
def test_any_bytes_decode_to_what_encodes_to_them(text: bytes) -> None:
    """Every accepted text is the canonical one of its value: no two texts mean the same."""
    try:
        data = decode_base64url(text)
    except ValueError:
        return
    assert encode_base64url(data) == text


@sweep("character")
def test_only_the_alphabet_is_taken(character: int) -> None:
    """A sweep over every byte: white space, padding, the other base64 alphabet and all else are refused."""
    text = b"AAA" + bytes([character])
    if character in ALPHABET:
        assert decode_base64url(text) == urlsafe_b64decode(text)
    else:
        with pytest.raises(ValueError, match="base64url"):
            decode_base64url(text)


@pytest.mark.parametrize(
    ("good", "bad"),
    [(b"AA", b"AB"), (b"AAA", b"AAB"), (b"AAAA", b"AAAAA"), (b"AA", b"AA=="), (b"AAA", b"AAA="), (b"AA", b"A\nA")],
)
def test_there_is_one_spelling(good: bytes, bad: bytes) -> None:
    """Spare bits are zero, padding is absent, a group of one does not exist."""
    decode_base64url(good)
    with pytest.raises(ValueError, match="base64url"):
        decode_base64url(bad)


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        ('{"a": 1, "b": 2}', '{"a": 1, "a": 2}'),
        ('{"sub": 1, "sug": 2}', '{"sub": 1, "s\\u0075b": 2}'),
        ('{"a": {"b": 1}}', '{"a": {"b": 1, "b": 1}}'),
        ('{"a": 1}', '{"a": NaN}'),
        ('{"a": 1}', '{"a": Infinity}'),
        ('{"a": 1}', '{"a": -Infinity}'),
        ('{"a": 1e308}', '{"a": 1e309}'),
        ('{"a": "\\ud83d\\ude00"}', '{"a": "\\ud83d"}'),
        ('{"a": "x"}', '{"a": "x\n"}'),
        ('{"a": 1}', '{"a": 1} x'),
        ('{"a": 1}', '{"a": 1}{"a": 1}'),
        ('{"a": 1}', '{"a": 1,}'),
        ('{"a": 1}', "{'a': 1}"),
        ('{"a": 1}', '\ufeff{"a": 1}'),
        ('{"a": 1}', '[{"a": 1}]'),
        ('{"a": 1}', '"a"'),
        ('{"a": 1}', "null"),
        ('{"a": 1}', ""),
        ('{"a": ' + "1" * 309 + "}", '{"a": ' + "2" * 309 + "}"),
        ('{"a": -' + "1" * 309 + "}", '{"a": -' + "1" * 310 + "}"),
        ('{"a": 1}', '{"a": ' + "1" * 100_000 + "}"),
    ],
)
def test_json_has_one_reading(good: str, bad: str) -> None:
    """What two parsers could read differently is refused, its neighbour is not."""
    assert read_json_object(good.encode()) == json.loads(good)
    with pytest.raises(ValueError, match=r"\w"):
        read_json_object(bad.encode())


@pytest.mark.parametrize(
    "bad", [b"\xff{}", b'{"a": "\xc0\xaf"}', b'{"a": "\xed\xa0\x80"}', '{"a": 1}'.encode("utf-16")]
)
def test_json_is_utf_8(bad: bytes) -> None:
    """Overlong forms, surrogates and other encodings are refused."""
    with pytest.raises(ValueError, match="UTF-8"):
        read_json_object(bad)


def nested(depth: int) -> bytes:
    """An object of that depth."""
    return b'{"a":' * depth + b"1" + b"}" * depth


def test_depth_is_bounded() -> None:
    """32 levels pass, 33 do not, and no number of them exhausts the stack."""
    assert read_json_object(nested(MAX_JSON_DEPTH))
    for depth in (MAX_JSON_DEPTH + 1, 2_000, 200_000):
        with pytest.raises(ValueError, match="nested"):
            read_json_object(nested(depth))
    with pytest.raises(ValueError, match="nested"):
        read_json_object(b'{"a":' + b"[" * 200_000)


def test_depth_is_not_length() -> None:
    """Many brackets side by side, or in strings, are no depth."""
    assert read_json_object(b'{"a": [' + b"[]," * 500 + b"[]]}")
    assert read_json_object(b'{"a": "' + b'[{\\"' * 500 + b'"}')


def test_a_string_without_end_is_scanned_once() -> None:
    """The scan for depth stays linear on escaped quotes."""
    with pytest.raises(ValueError, match="JSON"):
        read_json_object(b"[]" * 40 + b'\\"' * 500_000)


@settings(max_examples=200)
@given(st.binary(max_size=40))
def test_any_bytes_are_an_object_or_a_value_error(data: bytes) -> None:
    """Nothing else comes out."""
    with contextlib.suppress(ValueError):
        assert isinstance(read_json_object(data), dict)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.text(), JSON, max_size=4))
def test_every_json_object_is_read(value: dict[str, Any]) -> None:
    """What the standard library writes is read back as it was."""
    assert read_json_object(json.dumps(value).encode()) == value
