"""Istio's path normalization (MeshConfig ``pathNormalization``), as Envoy 1.39 does it, to the byte.

The one normalizer. Must not know: what a path that stays ambiguous means for a request.
"""

from __future__ import annotations

import re
from typing import Final

from ..resources import PathNormalization

__all__ = ["DOTS", "SLASHES", "normalize", "resolve_dots", "strip_dot_parameters", "without_parameters"]

DOTS: Final = (".", "..")
SLASHES: Final = re.compile(r"//+")

_MERGING: Final = frozenset({PathNormalization.MERGE_SLASHES, PathNormalization.DECODE_AND_MERGE_SLASHES})
_PERCENT: Final = re.compile(r"%(?:[0-9A-Fa-f]{2})?")
_STRAY: Final = "\0"  # stands for a percent sign that begins no escape, while the others are decoded
_STRAY_COMPLETED: Final = re.compile(f"{_STRAY}(?=[0-9A-Fa-f]{{2}})")
_UNRESERVED: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_ENCODED: Final = str.maketrans({"\\": "/"} | {char: f"%{ord(char):02X}" for char in '"<>^`{|}'})


def normalize(path: str, normalization: PathNormalization) -> str | None:
    """Normalize the path part of a request target: visible ASCII that begins with a slash.

    Returns:
        The normalized path; None where Envoy refuses it, for an encoded NUL.

    Idempotent but for one class that Envoy has too: a dot segment with parameters whose dots are encoded, or that
    follows a backslash, is found only on the second pass. ``read_target`` refuses those unless told ``istio``.
    """
    if normalization is PathNormalization.NONE:
        return path
    if normalization is PathNormalization.DECODE_AND_MERGE_SLASHES:
        path = path.replace("%2F", "/").replace("%2f", "/").replace("%5C", "\\").replace("%5c", "\\")
    path = strip_dot_parameters(path)
    if "%00" in path:
        return None
    path = resolve_dots(_unescape(path.translate(_ENCODED)))
    return _merge(path) if normalization in _MERGING else path


def strip_dot_parameters(path: str) -> str:
    """``/a/..;x/b`` becomes ``/a/../b``, as servers that know path parameters read it."""
    if "/." not in path or ";" not in path:
        return path
    return "/".join(without_parameters(segment) for segment in path.split("/"))


def without_parameters(segment: str) -> str:
    """A dot segment without its path parameters; any other segment as it is."""
    name = segment.partition(";")[0]
    return name if name in DOTS else segment


def _unescape(path: str) -> str:
    """Decode unreserved characters. A stray ``%`` that decoding completes to an escape becomes ``%25``."""
    if "%" not in path:
        return path
    decoded = _PERCENT.sub(_unescape_one, path)
    return _STRAY_COMPLETED.sub("%25", decoded).replace(_STRAY, "%")


def _unescape_one(match: re.Match[str]) -> str:
    escape = match[0]
    if len(escape) == 1:
        return _STRAY
    char = chr(int(escape[1:], 16))
    return char if char in _UNRESERVED else escape


def resolve_dots(path: str) -> str:
    """Remove dot segments (RFC 3986 section 5.2.4); one at the end leaves its slash."""
    if "/." not in path:
        return path
    segments = path.split("/")[1:]
    kept: list[str] = []
    for segment in segments:
        if segment == "..":
            del kept[-1:]
        elif segment != ".":
            kept.append(segment)
    if segments[-1] in DOTS:
        kept.append("")
    return "/" + "/".join(kept)


def _merge(path: str) -> str:
    """Runs of slashes become one, but nothing-but-slashes becomes two: Envoy keeps the first and the last."""
    merged = SLASHES.sub("/", path)
    return "//" if merged == "/" and path != "/" else merged
