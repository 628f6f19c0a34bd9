"""From the raw request target to the path that is judged and that the application receives.

Must not know: policies, methods, hosts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

from .._values import quick
from ..decision import Reason
from ..resources import AmbiguousPaths, PathNormalization
from ._ambiguity import safe_readings
from ._normalize import normalize
from ._refusal import Refusal

__all__ = ["Target", "plain_path", "read_target"]

_VISIBLE: Final = re.compile(r"[!-~]+")
_CONTROL: Final = re.compile("[\x00-\x1f\x7f]")
# A path that no mode changes and no application misreads: no escape, no empty segment, none that begins with a dot.
# With or without a query, but without a fragment: most requests have such a target.
_PLAIN: Final = re.compile(
    r"(?=/)((?:/[A-Za-z0-9_~!$&'()*+,;=:@-][A-Za-z0-9._~!$&'()*+,;=:@-]*)*/?)(?:\?([!\"$-~]*))?"
)


@quick
@dataclass(frozen=True, slots=True)
class Target:
    """A request target, normalized.

    Attributes:
        path: the path, as it is judged and as the application receives it.
        readings: every path that must be judged, ``path`` first; usually the only one.
        query: the text after the first ``?``, untouched; None where there is no ``?``.
        raw: path and query together: the target the application must see.
    """

    path: str
    readings: tuple[str, ...]
    query: str | None = field(repr=False)
    raw: str = field(repr=False)


def read_target(target: str, normalization: PathNormalization, ambiguous: AmbiguousPaths) -> Target | Refusal:
    """Read a request target in origin form (RFC 9112 section 3.2.1).

    Args:
        target: the raw target, bytes as latin-1 text. A fragment is cut off, as Istio's proxy does.
        normalization: Istio's mode.
        ambiguous: ``refuse`` answers 400 to a path an application could read differently, ``judge`` lists every
            reading, ``istio`` has Istio's own reading only.

    Returns:
        The target. But in ``istio``, a path with ``//`` is also read merged, and one that is percent-encoded twice is
        also read decoded once; neither is refused for that.

    Does not read absolute-form targets or ``*``: see :func:`meshsec.attributes.read_request`.
    """
    plain = _PLAIN.fullmatch(target)
    if plain is not None:
        return Target(plain[1], (plain[1],), plain[2], target)
    fault = _fault(target)
    if fault is not None:
        return fault
    path, mark, query = target.partition("#")[0].partition("?")
    if not path.startswith("/"):
        return Refusal(Reason.TARGET_MALFORMED, "the request target does not begin with a slash")
    readings = _readings(path, normalization, ambiguous)
    if isinstance(readings, Refusal):
        return readings
    return Target(readings[0], readings, query if mark else None, readings[0] + mark + query)


def plain_path(target: str) -> str | None:
    """The path of a target that is nothing else, and which :func:`read_target` leaves as it is; None of any other."""
    plain = _PLAIN.fullmatch(target)
    return None if plain is None or plain[2] is not None else plain[1]


def _readings(path: str, normalization: PathNormalization, ambiguous: AmbiguousPaths) -> tuple[str, ...] | Refusal:
    """The normalized path first, then every other one that must be judged."""
    normal = normalize(path, normalization)
    if normal is None:
        return Refusal(Reason.TARGET_CONTROL_CHARACTER, "the path holds an encoded NUL")
    if ambiguous == "istio":
        return (normal,)
    if normalize(normal, normalization) != normal:
        return Refusal(Reason.TARGET_AMBIGUOUS, "normalizing the path twice gives another path")
    return safe_readings(path, normal, judge=ambiguous == "judge")


def _fault(target: str) -> Refusal | None:
    """Only visible ASCII makes a target; Envoy's HTTP/1 codec refuses the rest too."""
    if _VISIBLE.fullmatch(target):
        return None
    if _CONTROL.search(target):
        return Refusal(Reason.TARGET_CONTROL_CHARACTER, "the request target holds a control character")
    return Refusal(Reason.TARGET_MALFORMED, "the request target is empty or holds a space or a byte above 0x7e")
