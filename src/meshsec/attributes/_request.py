"""From an HTTP request's head as the server handed it over to the facts a policy may rely on.

Hygiene first: what two programs could read differently is refused here, so that nothing later has to ask which of two
hosts, methods or header lines was meant. Must not know: policies, connections.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from ..decision import Reason
from ..resources import AmbiguousPaths, Compatibility, PathNormalization
from ._facts import HttpRequest
from ._path import Target, read_target
from ._refusal import Refusal

__all__ = ["RequestFacts", "read_request"]

# What Envoy's HTTP/1 codec takes; every other method is 400 there too. Methods are case-sensitive.
_METHODS: Final = frozenset({
    "ACL", "BIND", "CHECKOUT", "COPY", "DELETE", "GET", "HEAD", "LINK", "LOCK", "MERGE", "MKACTIVITY", "MKCALENDAR",
    "MKCOL", "MOVE", "NOTIFY", "OPTIONS", "PATCH", "POST", "PROPFIND", "PROPPATCH", "PURGE", "PUT", "REBIND",
    "REPORT", "SEARCH", "SOURCE", "SUBSCRIBE", "TRACE", "UNBIND", "UNLINK", "UNLOCK", "UNSUBSCRIBE",
})  # fmt: skip

# Headers that are no lists (RFC 9110 section 5.3): of two lines, some readers take the first and some the last.
_SINGLE: Final = {"authorization": Reason.AUTHORIZATION_REPEATED, "host": Reason.HOST_INVALID}

_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE: Final = re.compile("[\t\x20-\x7e\x80-\xff]*")
_ABSOLUTE: Final = re.compile(r"https?://([^/?#]*)", re.IGNORECASE)
_HOST: Final = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?")
# Envoy is stricter with the authority of an absolute-form target, and laxer with a Host line.
_AUTHORITY: Final = re.compile(r"(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
_HOST_ISTIO: Final = re.compile(r"[A-Za-z0-9._~:@!$&'()*+,;=%\[\]-]*")
_ASTERISK: Final = Target(path="*", readings=("*",), query=None, raw="*")

_Lines = dict[str, tuple[str, ...]]


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
    headers: Mapping[str, tuple[str, ...]]
    joined_headers: bool = False
    scheme: str = "http"


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
    if request.method not in _METHODS:
        return Refusal(Reason.METHOD_INVALID, "the method is unknown, or not in upper case")
    lines = _read_lines(request.headers)
    if isinstance(lines, Refusal):
        return lines
    for name, reason in _SINGLE.items():
        if len(lines.get(name, ())) > 1:
            if compatibility != "istio":
                return Refusal(reason, f"there is more than one {name} line")
            lines[name] = (",".join(lines[name]),)  # as Envoy does
    authority, rest = _split_absolute(request.target)
    given = None if request.host is None else request.host.strip(" \t")
    host = _HOST_READERS[compatibility](given, lines.get("host", ()), authority)
    if isinstance(host, Refusal):
        return host
    target = _ASTERISK if rest == "*" and request.method == "OPTIONS" else read_target(rest, normalization, ambiguous)
    if isinstance(target, Refusal):
        return target
    headers = MappingProxyType({**lines, "host": (host,)})
    return RequestFacts(request.method, target, host.lower(), headers, request.joined_headers, request.scheme)


def _read_lines(headers: Sequence[tuple[str, str]]) -> _Lines | Refusal:
    lines: dict[str, list[str]] = {}
    for name, value in headers:
        if not _NAME.fullmatch(name):
            return Refusal(Reason.HEADER_INVALID, "a header name holds a character that names do not have")
        if not _VALUE.fullmatch(value):
            return Refusal(Reason.HEADER_INVALID, f"the header {name.lower()} holds a control character")
        lines.setdefault(name.lower(), []).append(value.strip(" \t"))
    if "transfer-encoding" in lines and "content-length" in lines:
        return Refusal(Reason.HEADER_INVALID, "Transfer-Encoding and Content-Length exclude each other")
    return {name: tuple(values) for name, values in lines.items()}


def _split_absolute(target: str) -> tuple[str | None, str]:
    """The authority of an absolute-form target (RFC 9112 section 3.2.2), and the target in origin form."""
    match = _ABSOLUTE.match(target)
    if match is None:
        return None, target
    return match[1], target[match.end() :] or "/"


def _safe_host(given: str | None, lines: Sequence[str], authority: str | None) -> str | Refusal:
    """All who name the host must name the same (RFC 9112 section 3.2.2): the application sees the Host line only."""
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
