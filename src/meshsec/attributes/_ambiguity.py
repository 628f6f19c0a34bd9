"""A normalized path that an application could read differently: refused, or judged in every reading.

An application decodes the path once, some twice; a router may merge slashes, resolve dots, take a backslash for a
slash, drop bytes that are no UTF-8, or let its ``$`` match before a line end. Must not know: policies.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final
from urllib.parse import unquote_to_bytes

from ..decision import Reason
from ._normalize import DOTS, SLASHES, resolve_dots, strip_dot_parameters, without_parameters
from ._refusal import Refusal

__all__ = ["safe_readings"]

# C0, DEL, C1 and the two Unicode line ends: what the "$" of a router or the reader of a log may take for an end.
_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_MALFORMED: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_SEPARATOR: Final = re.compile(r"[/\\]")
# A path that is still encoded after this many decodings is no path that anyone means.
_DECODINGS: Final = 2


def safe_readings(raw: str, path: str, *, judge: bool) -> tuple[str, ...] | Refusal:
    """Every path that must be judged, ``path`` first.

    Args:
        raw: the path as the client wrote it.
        path: the same, normalized: what the application receives.
        judge: whether an ambiguous path is judged in all its readings; else it is refused.
    """
    decodings = _decodings(path)
    if len(decodings) > _DECODINGS + 1:
        return Refusal(Reason.TARGET_AMBIGUOUS, "the path is percent-encoded more than twice")
    if any(_CONTROL.search(decoding.decode("utf-8", "replace")) for decoding in decodings):
        return Refusal(Reason.TARGET_CONTROL_CHARACTER, "the path holds an encoded control character")
    ambiguity = _ambiguity(path, decodings)
    if judge and ambiguity is not None:
        return tuple(dict.fromkeys((path, *_views(decodings))))
    if not judge and ambiguity is None:
        ambiguity = _dotted_parameters(raw)
    return ambiguity or tuple(dict.fromkeys(_plain_views(path, decodings)))


def _decodings(path: str) -> list[bytes]:
    """The path, and what it becomes by decoding again and again: at most one more than is allowed."""
    found = [path.encode("ascii")]
    while len(found) <= _DECODINGS + 1:
        further = unquote_to_bytes(found[-1])
        if further == found[-1]:
            break
        found.append(further)
    return found


def _dotted_parameters(raw: str) -> Refusal | None:
    """A dot segment with parameters, which Envoy resolves and others do not: refused even where it is gone by now."""
    if any(_is_dots(segment) for segment in _segments(unquote_to_bytes(raw)) if ";" in segment):
        return Refusal(Reason.TARGET_AMBIGUOUS, "the path holds a dot segment with parameters")
    return None


def _ambiguity(path: str, decodings: Sequence[bytes]) -> Refusal | None:
    if _MALFORMED.search(path):
        return Refusal(Reason.TARGET_MALFORMED, "the path holds a percent sign that begins no escape")
    for decoding in decodings:
        if fault := _misreading(decoding, path.count("/")):
            return Refusal(Reason.TARGET_AMBIGUOUS, fault)
    return None


def _misreading(decoding: bytes, slashes: int) -> str | None:
    """What an application could take for structure that the policy does not see."""
    try:
        decoding.decode("utf-8")
    except UnicodeDecodeError:
        return "the path is not valid UTF-8 when decoded"
    if b"\\" in decoding:
        return "the path holds a backslash"
    if decoding.count(b"/") != slashes:
        return "the path holds an encoded slash"
    if any(map(_is_dots, _segments(decoding))):
        return "the path holds a dot segment"
    return None


def _segments(decoding: bytes) -> list[str]:
    return _SEPARATOR.split(decoding.decode("latin-1"))


def _is_dots(segment: str) -> bool:
    return without_parameters(segment) in DOTS


def _plain_views(path: str, decodings: Sequence[bytes]) -> Iterator[str]:
    """Routers merge slashes, and some applications decode twice: not worth a refusal, but judged both ways."""
    for text in (path, *(decoding.decode("utf-8", "replace") for decoding in decodings[1:-1])):
        yield text
        yield SLASHES.sub("/", text)


def _views(decodings: Sequence[bytes]) -> Iterator[str]:
    """Every way an application could read the path, many of them twice."""
    for decoding in decodings:
        for errors in ("replace", "ignore"):
            text = decoding.decode("utf-8", errors)
            for path in (text, text.replace("\\", "/")):
                yield from _routed(path)
                yield from _routed(SLASHES.sub("/", path))


def _routed(path: str) -> Iterator[str]:
    for resolved in (path, resolve_dots(path), resolve_dots(strip_dot_parameters(path))):
        yield resolved
        yield SLASHES.sub("/", resolved)
