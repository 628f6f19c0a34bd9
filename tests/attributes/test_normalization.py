"""attributes: request targets become paths exactly as Envoy 1.39 makes them.

``envoy_paths.json`` was measured on a real Envoy (with Istio's settings for each mode): target, then the forwarded
target under NONE, BASE, MERGE_SLASHES and DECODE_AND_MERGE_SLASHES; null where it answers 400.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshsec.attributes import Refusal, Target, plain_path, read_target
from meshsec.decision import Reason
from meshsec.resources import AmbiguousPaths, PathNormalization
from sweeping import sweep

NONE, BASE, MERGE, DECODE = PathNormalization
MEASURED: Final = json.loads((Path(__file__).parent / "envoy_paths.json").read_text())

PIECES: Final = st.sampled_from([
    "/", "//", "a", "b", ".", "..", ";", "..;", "%", "%2e", "%2E", "%2f", "%5C", "\\", "%25", "%252f", "%00", "%0a",
    "%41", "%66", "%c3%a9", "%ff", "%e2%80%a8", "|", "[", "?", "#", "%3b", "4", "F",
])  # fmt: skip
TARGETS: Final = st.lists(PIECES, max_size=10).map(lambda pieces: "/" + "".join(pieces))


@pytest.mark.parametrize(("column", "mode"), list(enumerate(PathNormalization, 1)))
def test_measured_targets(column: int, mode: PathNormalization) -> None:
    """Byte for byte what Envoy forwards, and 400 exactly where Envoy answers 400."""
    wrong = []
    for row in MEASURED:
        result = read_target(row[0], mode, "istio")
        if (result.raw if isinstance(result, Target) else None) != row[column]:
            wrong.append((row[0], result, row[column]))
    assert wrong == []
    assert len(MEASURED) > 600


@pytest.mark.parametrize("ambiguous", ["refuse", "judge"])
def test_safe_modes_only_ever_refuse_more(ambiguous: AmbiguousPaths) -> None:
    """Where a path is not refused it is forwarded as Envoy forwards it."""
    for row in MEASURED:
        for mode, forwarded in zip(PathNormalization, row[1:], strict=True):
            result = read_target(row[0], mode, ambiguous)
            assert isinstance(result, Refusal) or result.raw == forwarded, row[0]


@pytest.mark.parametrize(
    ("target", "path", "query", "raw"),
    [
        ("/a", "/a", None, "/a"),
        ("/a?", "/a", "", "/a?"),
        ("/a?b?c=/../%2e", "/a", "b?c=/../%2e", "/a?b?c=/../%2e"),
        ("/a#b?c", "/a", None, "/a"),
        ("/a?q#f", "/a", "q", "/a?q"),
        ("/x/../a?q=//", "/a", "q=//", "/a?q=//"),
    ],
)
@pytest.mark.parametrize("ambiguous", ["refuse", "judge", "istio"])
def test_query_and_fragment(target: str, path: str, query: str | None, raw: str, ambiguous: AmbiguousPaths) -> None:
    """The query is untouched, the fragment is cut, and neither is in the path."""
    assert read_target(target, BASE, ambiguous) == Target(path, (path,), query, raw)


@pytest.mark.parametrize("target", ["", "*", "a", "?", "#", "a/b", "http://h/x", "//"[:0]])
@pytest.mark.parametrize("ambiguous", ["refuse", "judge", "istio"])
def test_what_is_no_path(target: str, ambiguous: AmbiguousPaths) -> None:
    """Only origin form is read here."""
    result = read_target(target, BASE, ambiguous)
    assert isinstance(result, Refusal)
    assert result.reason is Reason.TARGET_MALFORMED


@pytest.mark.parametrize("place", ["/{}", "/a{}b", "/a?{}", "/a#{}"])
@pytest.mark.parametrize("ambiguous", ["refuse", "judge", "istio"])
def test_raw_bytes(place: str, ambiguous: AmbiguousPaths) -> None:
    """Of all 256 bytes only visible ASCII may stand in a target; Envoy's codec refuses the same."""
    for byte in range(256):
        result = read_target(place.format(chr(byte)), NONE, ambiguous)
        if byte < 0x20 or byte == 0x7F:
            assert isinstance(result, Refusal)
            assert result.reason is Reason.TARGET_CONTROL_CHARACTER
        elif byte == 0x20 or byte > 0x7E:
            assert isinstance(result, Refusal)
            assert result.reason is Reason.TARGET_MALFORMED
        elif ambiguous == "istio":
            assert isinstance(result, Target)


@given(target=TARGETS, mode=st.sampled_from(PathNormalization), ambiguous=st.sampled_from(["refuse", "judge"]))
@settings(max_examples=600)
def test_normalizing_is_idempotent(target: str, mode: PathNormalization, ambiguous: AmbiguousPaths) -> None:
    """What the application receives would be normalized to itself: no second reader sees another path."""
    once = read_target(target, mode, ambiguous)
    if isinstance(once, Target):
        again = read_target(once.raw, mode, ambiguous)
        assert isinstance(again, Target)
        assert (again.path, set(again.readings)) == (once.path, set(once.readings))


@given(target=st.text(max_size=20), mode=st.sampled_from(PathNormalization))
@settings(max_examples=300)
def test_any_text(target: str, mode: PathNormalization) -> None:
    """A target or a refusal, never an exception; and ``path`` is always the first reading."""
    for ambiguous in ("refuse", "judge", "istio"):
        result = read_target(target, mode, ambiguous)
        assert isinstance(result, Refusal) or result.readings[0] == result.path


def assert_plain_is_read_as_it_stands(target: str) -> bool:
    """Whether a target is plain; it is only if every mode leaves it as it is."""
    path = plain_path(target)
    for mode in PathNormalization if path is not None else ():
        for ambiguous in ("refuse", "judge", "istio"):
            assert read_target(target, mode, ambiguous) == Target(target, (target,), None, target)
    assert path in (None, target)
    return path is not None


@given(target=TARGETS | st.text(max_size=20) | st.from_regex("(/[a-zA-Z0-9._~:@!$&'()*+,;=%?#-]*)*"))
@settings(max_examples=600)
def test_a_plain_path_is_read_as_it_stands(target: str) -> None:
    """In every mode; what is anything else is not called plain."""
    assert_plain_is_read_as_it_stands(target)


@sweep("byte")
def test_a_plain_path_holds_no_odd_byte(byte: int) -> None:
    """Letters, digits and what else stands for itself, between, at the beginning and at the end of segments."""
    usual = chr(byte) in "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_~!$&'()*+,;=:@-"
    assert assert_plain_is_read_as_it_stands(f"/a{chr(byte)}b/c") is (usual or chr(byte) in "./")
    assert assert_plain_is_read_as_it_stands(f"/a/{chr(byte)}") is usual
    assert assert_plain_is_read_as_it_stands(f"/a{chr(byte)}") is (usual or chr(byte) in "./")
    assert assert_plain_is_read_as_it_stands(chr(byte)) is (chr(byte) == "/")


@pytest.mark.parametrize(
    "shape",
    ["/" * 65536, "/." * 32768, "%25" * 20000, "/..;" * 16384, "/%2e%2e" * 9000, "/" + "%" * 65535, "a" * 65536],
)
@pytest.mark.parametrize("mode", list(PathNormalization))
def test_long_targets(shape: str, mode: PathNormalization) -> None:
    """64 KiB of anything is read in linear time (a quadratic reader would time out here)."""
    for ambiguous in ("refuse", "judge", "istio"):
        read_target("/" + shape, mode, ambiguous)
