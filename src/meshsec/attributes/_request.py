"""From an HTTP request's head as the server handed it over to the facts a policy may rely on.

Hygiene first: what two programs could read differently is refused here, so that nothing later has to ask which of two
hosts, methods or header lines was meant. Must not know: policies, connections.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType
from typing import Final

from .._values import quick
from ..decision import Reason
from ..resources import METHODS, AmbiguousPaths, Compatibility, PathNormalization
from ._facts import HttpRequest
from ._path import Target, read_target
from ._refusal import Refusal

__all__ = ["RequestFacts", "are_clean_lines", "read_line", "read_request"]

# Some WSGI servers take these from a header, which would move the mount under the path that is judged.
_CGI: Final = frozenset({"script-name", "script_name", "path-info", "path_info"})

# Headers that are no lists (RFC 9110 section 5.3): of two lines, some readers take the first and some the last.
_SINGLE: Final = {"authorization": Reason.AUTHORIZATION_REPEATED, "host": Reason.HOST_INVALID}

_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_USUAL_NAMES: Final = 1024  # characters of all names of a request; longer ones are not remembered
_IN_VALUES: Final = bytes({*b"\t", *range(0x20, 0x7F), *range(0x80, 0x100)})
_ABSOLUTE: Final = re.compile(r"https?://([^/?#]*)", re.IGNORECASE)
_HOST: Final = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?")
# Envoy is stricter with the authority of an absolute-form target, and laxer with a Host line.
_AUTHORITY: Final = re.compile(r"(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
_HOST_ISTIO: Final = re.compile(r"[A-Za-z0-9._~:@!$&'()*+,;=%\[\]-]*")

# What stands between commas, but for those in quotes; what is left open stays one piece.
_BETWEEN_COMMAS: Final = re.compile(r'(?:^|,)((?:[^",]|"(?:[^"\\]|\\.)*+"?)*+)', re.DOTALL)
_PARAMETER: Final = re.compile(r"[ \t]*[!#$%&'*+.^_`|~0-9A-Za-z-]+[ \t]*=")

_NO_METHOD: Final = Refusal(Reason.METHOD_INVALID, "the method is unknown, or not in upper case")

_Lines = dict[str, tuple[str, ...]]


@quick
@dataclass(frozen=True, slots=True)
class RequestFacts:
    """A request whose form is in order.

    Attributes:
        method: one of the known methods, upper case.
        target: the normalized target.
        host: lower case, otherwise as sent, port included.
        headers: lower-case name to the values of its lines, trimmed, in order; ``host`` is among them.
        joined_headers: whether a value may hold several lines, joined with commas (WSGI).
        scheme: ``http``, ``https``, ``ws`` or ``wss``.
    """

    method: str
    target: Target
    host: str | None
    headers: Mapping[str, tuple[str, ...]] = field(repr=False)
    joined_headers: bool = False
    scheme: str = "http"

    def with_headers(self, headers: Mapping[str, tuple[str, ...]]) -> RequestFacts:
        """The same with other headers; quicker than ``dataclasses.replace``."""
        return RequestFacts(self.method, self.target, self.host, headers, self.joined_headers, self.scheme)


def read_request(
    request: HttpRequest,
    normalization: PathNormalization,
    ambiguous: AmbiguousPaths,
    *,
    compatibility: Compatibility = "safe",
) -> RequestFacts | Refusal:
    """Check a request's form and normalize its target.

    Args:
        request: the request as the server handed it over.
        normalization: Istio's mode for paths.
        ambiguous: what to do with a path an application could read differently.
        compatibility: ``istio`` takes the hosts and the repeated Host and Authorization lines that Envoy takes.

    Does not see what a server already dropped or merged: with ``joined_headers``, repeated lines.
    """
    if request.method not in METHODS:
        return _NO_METHOD
    lines = _read_lines(request, as_istio=compatibility == "istio")
    if isinstance(lines, Refusal):
        return lines
    authority, rest = _split_absolute(request.target)
    given = None if request.host is None else request.host.strip(" \t")
    host = _HOST_READERS[compatibility](given, lines.get("host", ()), authority)
    if isinstance(host, Refusal):
        return host
    target = read_target(rest, normalization, ambiguous)
    if isinstance(target, Refusal):
        return target
    lines["host"] = (host,)
    return RequestFacts(
        request.method, target, host.lower(), MappingProxyType(lines), request.joined_headers, request.scheme
    )


def read_line(
    known: RequestFacts, request: HttpRequest, normalization: PathNormalization, ambiguous: AmbiguousPaths
) -> RequestFacts | Refusal | None:
    """The facts about another request with the same header lines; the same as :func:`read_request` says.

    Args:
        known: the facts about the first of them. Their headers are handed on.
        request: method, target and scheme of the other; its header lines are not looked at.
        normalization: as there.
        ambiguous: as there.

    Returns:
        None where its target may name another host: then it takes all of the request.
    """
    if request.method not in METHODS:
        return _NO_METHOD
    if not request.target.startswith("/"):
        return None
    target = read_target(request.target, normalization, ambiguous)
    if isinstance(target, Refusal):
        return target
    return RequestFacts(request.method, target, known.host, known.headers, known.joined_headers, request.scheme)


def _read_lines(request: HttpRequest, *, as_istio: bool) -> _Lines | Refusal:
    if not request.headers:
        return {}
    written, values = zip(*request.headers)  # noqa: B905 - pairs; being strict takes half as long again
    usual = len("".join(written)) <= _USUAL_NAMES
    names = _read_names(written) if usual else _read_names.__wrapped__(written)
    if isinstance(names, Refusal):
        return names
    if not _are_clean(values):
        name = next(name for name, value in zip(names.lower, values, strict=True) if not _are_clean([value]))
        return Refusal(Reason.HEADER_INVALID, f"the header {name} holds a control character")
    if names.fault is not None:
        return names.fault
    stripped = [(value.strip(" \t"),) for value in values]
    lines: _Lines = dict(zip(names.lower, stripped))  # noqa: B905 - as above
    if request.joined_headers or names.repeated:
        return _judged_together(request, lines, names, stripped, as_istio=as_istio)
    return lines


def _judged_together(
    request: HttpRequest, lines: _Lines, names: _Names, stripped: Sequence[tuple[str]], *, as_istio: bool
) -> _Lines | Refusal:
    """Lines of one name: in their order; or refused, where some readers take the first and some the last."""
    if request.joined_headers and not _CGI.isdisjoint(lines):
        return Refusal(Reason.HEADER_INVALID, "a header has the name of a variable that says where the path begins")
    if request.joined_headers and not as_istio and _are_two(lines.get("authorization", ())):
        return Refusal(Reason.AUTHORIZATION_REPEATED, "there is more than one authorization line, joined")
    found: dict[str, list[str]] = {name: [] for name in names.repeated}
    for name, (value,) in zip(names.lower, stripped, strict=True):  # once: a request may have thousands
        if name in found:
            found[name].append(value)
    for name, values in found.items():
        if name not in _SINGLE:
            lines[name] = tuple(values)
        elif as_istio:
            lines[name] = (",".join(filter(None, values)),)  # as Envoy does
        else:
            return Refusal(_SINGLE[name], f"there is more than one {name} line")
    return lines


@dataclass(frozen=True, slots=True)
class _Names:
    """What can be said of a request by the names of its headers alone.

    Attributes:
        lower: in lower case, in their order.
        repeated: those of several lines, first those of which there may be one only.
        fault: why the request is refused, whatever its values.
    """

    lower: tuple[str, ...]
    repeated: tuple[str, ...]
    fault: Refusal | None


@lru_cache(1024)
def _read_names(names: tuple[str, ...]) -> _Names | Refusal:
    """Clients send the same names again and again, so most are remembered."""
    if not all(map(_NAME.fullmatch, names)):
        return Refusal(Reason.HEADER_INVALID, "a header name holds a character that names do not have")
    lower = tuple([name.lower() for name in names])
    counts = Counter(lower) if len(set(lower)) < len(lower) else Counter[str]()
    several = {name for name, count in counts.items() if count > 1}
    framed = "transfer-encoding" in lower and "content-length" in lower
    told = "Transfer-Encoding and Content-Length exclude each other"
    repeated = (*(name for name in _SINGLE if name in several), *(several - _SINGLE.keys()))
    return _Names(lower, repeated, Refusal(Reason.HEADER_INVALID, told) if framed else None)


def are_clean_lines(values: Iterable[bytes]) -> bool:
    """Whether header values hold no control character."""
    return not b"".join(values).translate(None, _IN_VALUES)


def _are_clean(values: Iterable[str]) -> bool:
    try:
        return are_clean_lines(["".join(values).encode("latin-1")])
    except UnicodeEncodeError:
        return False


def _are_two(credentials: tuple[str, ...]) -> bool:
    """Whether a joined Authorization line was two: after a comma only parameters go on (RFC 9110 section 11.4).

    A second line that looks like parameters of the first cannot be told.
    """
    if not credentials or "," not in credentials[0]:
        return False
    first, *others = _BETWEEN_COMMAS.findall(credentials[0])
    return not first.strip(" \t") or not all(map(_PARAMETER.match, others))


def _split_absolute(target: str) -> tuple[str | None, str]:
    """The authority of an absolute-form target (RFC 9112 section 3.2.2), and the target in origin form."""
    match = None if target.startswith("/") else _ABSOLUTE.match(target)
    if match is None:
        return None, target
    return match[1], target[match.end() :] or "/"


def _safe_host(given: str | None, lines: Sequence[str], authority: str | None) -> str | Refusal:
    """All who name the host must name the same (RFC 9112 section 3.2.2): the application sees the Host line only."""
    if authority is None and len(lines) == 1 and given in (None, lines[0]):
        return _checked_host(lines[0], _HOST)
    named = [name for name in (authority, *lines, given) if name is not None]
    if any(name.lower() != named[0].lower() for name in named):
        return Refusal(Reason.HOST_INVALID, "the Host line and another name of the host differ")
    return _checked_host(named[0] if named else None, _HOST if authority is None else _AUTHORITY)


def _istio_host(given: str | None, lines: Sequence[str], authority: str | None) -> str | Refusal:
    """The authority of an absolute-form target wins, without its user information; else the Host line."""
    if authority is not None:
        return _checked_host(authority.rpartition("@")[2], _AUTHORITY)
    return _checked_host(lines[0] if lines else given, _HOST_ISTIO)


def _checked_host(host: str | None, form: re.Pattern[str]) -> str | Refusal:
    if host is not None and form.fullmatch(host):
        return host
    if not host:
        return Refusal(Reason.HOST_MISSING, "there is no host")
    return Refusal(Reason.HOST_INVALID, "the host holds a character that hosts do not have, or a malformed port")


_HOST_READERS: Final = {"safe": _safe_host, "istio": _istio_host}
