"""attributes: paths that an application could read differently are refused, or judged in every reading."""

from __future__ import annotations

from typing import Final

import pytest

from meshsec.attributes import Refusal, Target, read_target
from meshsec.decision import Reason
from meshsec.resources import PathNormalization

NONE, BASE, MERGE, DECODE = PathNormalization
AMBIGUOUS, CONTROL, MALFORMED = Reason.TARGET_AMBIGUOUS, Reason.TARGET_CONTROL_CHARACTER, Reason.TARGET_MALFORMED

# Target and mode, the reason of ``refuse``, and readings that ``judge`` must not miss.
READ_DIFFERENTLY: Final = [
    ("/private%2Fx", BASE, AMBIGUOUS, {"/private%2Fx", "/private/x"}),
    ("/private%2fx", MERGE, AMBIGUOUS, {"/private%2fx", "/private/x"}),
    ("/private%5Cx", BASE, AMBIGUOUS, {"/private%5Cx", "/private\\x", "/private/x"}),
    ("/a/%2E%2E%2Fx", BASE, AMBIGUOUS, {"/a/..%2Fx", "/a/../x", "/x"}),
    ("/a%2f%2e%2e%2fx", BASE, AMBIGUOUS, {"/a/../x", "/x"}),
    ("/a\\x", NONE, AMBIGUOUS, {"/a\\x", "/a/x"}),
    ("/a/../x", NONE, AMBIGUOUS, {"/a/../x", "/x"}),
    ("/a/%2e%2e/x", NONE, AMBIGUOUS, {"/a/%2e%2e/x", "/x"}),
    ("/a/..;p/x", NONE, AMBIGUOUS, {"/a/..;p/x", "/x"}),
    ("/a/..%3Bp/x", BASE, AMBIGUOUS, {"/a/..%3Bp/x", "/x"}),
    ("/a/..;p/x", BASE, AMBIGUOUS, {"/x"}),
    ("/private%252fx", BASE, AMBIGUOUS, {"/private%252fx", "/private%2fx", "/private/x"}),
    ("/private%252fx", DECODE, AMBIGUOUS, {"/private%252fx", "/private/x"}),
    ("/a/%252e%252e/x", BASE, AMBIGUOUS, {"/x"}),
    ("/a/%25%32%65%252e/x", BASE, AMBIGUOUS, {"/x"}),
    ("/%c0%ae%c0%ae/x", BASE, AMBIGUOUS, {"/%c0%ae%c0%ae/x", "/x"}),
    ("/adm%ffin", BASE, AMBIGUOUS, {"/adm%ffin", "/admin"}),
    ("/adm%c3in", BASE, AMBIGUOUS, {"/admin"}),
    ("/%ed%a0%80", BASE, AMBIGUOUS, {"/%ed%a0%80"}),
    ("/100%", BASE, MALFORMED, {"/100%"}),
    ("/%zz", BASE, MALFORMED, {"/%zz"}),
    ("/%2", NONE, MALFORMED, {"/%2"}),
    ("//..%2fx", BASE, AMBIGUOUS, {"//../x", "/x"}),
]

# Encoded characters that are refused by ``judge`` too.
CONTROLS: Final = [
    "%0a", "%0A", "%00", "%01", "%09", "%0d", "%1f", "%7f", "%7F", "%c2%80", "%c2%85", "%c2%9f", "%e2%80%a8",
    "%E2%80%A9", "%250a", "%2500", "%25e2%2580%25a8", "%ff%0a", "%ff%c2%85",
]  # fmt: skip

# What looks odd but is read alike by everyone.
HARMLESS: Final = [
    ("/caf%C3%A9", BASE), ("/a%20b", BASE), ("/a%3Ab", BASE), ("/a;v=1/b", BASE), ("/a;../b", BASE), ("/a/...", BASE),
    ("/100%25", BASE), ("/%E2%82%AC", BASE), ("/a%3Fb", BASE), ("/a%23b", BASE),
    ("/..a/b..", BASE), ("/[x]", BASE), ("/~u", NONE), ("/%7Eu", NONE), ("/%c2%a0", BASE), ("/private%2Fx", DECODE),
    ("/a%5Cx", DECODE),
    ("/a/../x", BASE), ("/a\\x", BASE), ("/%61/x", BASE), ("/%2e/x", BASE), ("/.well-known/x", BASE), ("/a|b", NONE),
]  # fmt: skip


@pytest.mark.parametrize(("target", "mode", "reason", "views"), READ_DIFFERENTLY)
def test_refused_or_judged(target: str, mode: PathNormalization, reason: Reason, views: set[str]) -> None:
    """``refuse`` says why, ``judge`` sees what an application may see, ``istio`` sees what Istio sees."""
    refused = read_target(target, mode, "refuse")
    judged = read_target(target, mode, "judge")
    istio = read_target(target, mode, "istio")
    assert isinstance(refused, Refusal)
    assert refused.reason is reason
    assert isinstance(judged, Target)
    assert views <= set(judged.readings)
    assert isinstance(istio, Target)
    assert istio.readings == (istio.path,) == judged.readings[:1]


@pytest.mark.parametrize("target", ["/%2e%2e;/x", "/a/%2e;p/x", "/a\\..;/x", "/a%5c..;/x"])
def test_no_fixed_point(target: str) -> None:
    """Envoy's second reading of its own result differs: refused unless Istio's reading is asked for."""
    for ambiguous in ("refuse", "judge"):
        refused = read_target(target, DECODE, ambiguous)
        assert isinstance(refused, Refusal)
        assert refused.reason is AMBIGUOUS
    assert isinstance(read_target(target, DECODE, "istio"), Target)


@pytest.mark.parametrize("depth", [3, 4, 1000])
def test_encoded_again_and_again(depth: int) -> None:
    """Nobody means a path that is still encoded after two decodings."""
    target = "/%" + "25" * depth + "41"
    for ambiguous in ("refuse", "judge"):
        refused = read_target(target, BASE, ambiguous)
        assert isinstance(refused, Refusal)
        assert refused.reason is AMBIGUOUS
    assert isinstance(read_target(target, BASE, "istio"), Target)


@pytest.mark.parametrize("encoded", CONTROLS)
@pytest.mark.parametrize("mode", list(PathNormalization))
def test_encoded_control_characters(encoded: str, mode: PathNormalization) -> None:
    """A router's ``$`` matches before a line end: refused wherever it stands, by ``judge`` too."""
    for target in (f"/private{encoded}", f"/{encoded}private", f"/a{encoded}/b?q"):
        for ambiguous in ("refuse", "judge"):
            refused = read_target(target, mode, ambiguous)
            assert isinstance(refused, Refusal)
            assert refused.reason is CONTROL


def test_istio_refuses_an_encoded_nul_only() -> None:
    """As Envoy does, and not under NONE."""
    assert isinstance(read_target("/a%00", BASE, "istio"), Refusal)
    assert isinstance(read_target("/a%00", NONE, "istio"), Target)
    assert isinstance(read_target("/a%0a", BASE, "istio"), Target)


@pytest.mark.parametrize(("target", "mode"), HARMLESS)
def test_harmless(target: str, mode: PathNormalization) -> None:
    """One reading, the same in every setting."""
    readings = {read_target(target, mode, ambiguous) for ambiguous in ("refuse", "judge", "istio")}
    assert len(readings) == 1
    result = readings.pop()
    assert isinstance(result, Target)
    assert len(result.readings) == 1


@pytest.mark.parametrize(
    ("target", "mode", "readings"),
    [
        ("//a", BASE, ("//a", "/a")),
        ("//a", NONE, ("//a", "/a")),
        ("/a///b//", BASE, ("/a///b//", "/a/b/")),
        ("/%61//b", BASE, ("/a//b", "/a/b")),
        ("//a", MERGE, ("/a",)),
        ("//a", DECODE, ("/a",)),
        ("//", MERGE, ("//", "/")),
        ("/a\\\\b", BASE, ("/a//b", "/a/b")),
        ("/a%2562", BASE, ("/a%2562", "/a%62")),
        ("/a%2525b", BASE, ("/a%2525b", "/a%25b")),
        ("//a%2562", BASE, ("//a%2562", "/a%2562", "//a%62", "/a%62")),
    ],
)
def test_several_readings(target: str, mode: PathNormalization, readings: tuple[str, ...]) -> None:
    """Double slashes are judged as they are and merged (Envoy leaves two of nothing but slashes), what is encoded
    twice is judged decoded once, too; neither is refused.
    """
    for ambiguous in ("refuse", "judge"):
        result = read_target(target, mode, ambiguous)
        assert isinstance(result, Target)
        assert result.readings == readings
    istio = read_target(target, mode, "istio")
    assert isinstance(istio, Target)
    assert istio.readings == readings[:1]
