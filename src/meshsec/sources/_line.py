"""One connection and the requests on it: to allowed addresses, bounded in time and size.

TLS is always verified, and the environment has no say here. This file must not know what is asked.
"""

from __future__ import annotations

import math
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from functools import cache
from http.client import HTTPException
from ipaddress import IPv6Address, ip_address, ip_network
from threading import Timer
from types import MappingProxyType
from typing import Any, Final

from urllib3 import HTTPHeaderDict
from urllib3.connection import HTTPConnection, HTTPSConnection, ProxyConfig
from urllib3.exceptions import HTTPError, LocationParseError
from urllib3.util import Url, parse_url

from ..errors import KeysUnavailableError
from ._proxy import Proxy

__all__ = [
    "MAX_BYTES",
    "UNREACHABLE",
    "USER_AGENT",
    "Asking",
    "FetchResult",
    "Line",
    "Target",
    "exchange",
    "open_line",
    "read_url",
]

USER_AGENT: Final = "meshsec"
UNREACHABLE: Final = "unreachable"
"""The code of the error where there was no connection, so that nothing was asked."""

MAX_BYTES: Final = 1 << 20
MAX_URL: Final = 2048

_PORTS: Final = {"http": 80, "https": 443}
_CHUNK: Final = 1 << 14
# Where clouds hand out credentials to whoever asks from inside, besides link-local addresses: Alibaba, Azure, Oracle
# Classic; then Amazon (machines, EKS pods), Google, Oracle, Scaleway, Akamai and Alibaba by IPv6.
_METADATA: Final = frozenset(
    map(
        ip_address,
        (
            "100.100.100.200", "168.63.129.16", "192.0.0.192",
            "fd00:ec2::254", "fd00:ec2::23", "fd20:ce::254", "fd00:c1::a9fe:a9fe", "fd00:42::42",
            "fd00:a9fe:a9fe::1", "fd00:100::100:200",
        ),
    )
)  # fmt: skip
_NAT64: Final = ip_network("64:ff9b::/96")


@dataclass(frozen=True, slots=True)
class FetchResult:
    """An answer, whatever its status.

    Attributes:
        status: the HTTP status.
        body: at most as many bytes as were allowed.
        headers: names in lower case; repeated lines joined with commas.
        lines: the same as (lower-case name, value), each line by itself.
    """

    status: int
    body: bytes = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    lines: tuple[tuple[str, str], ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """What to send, where it is more than a GET.

    Attributes:
        method: of the request.
        target: sent as it is, in place of the URL's own; ASCII without spaces.
        headers: the lines to send, in place of the usual ones; with Host, it stands for the URL's.
        context: for https, in place of the system's authorities: a context that checks by itself who answers.
        server_hostname: whom that context is to expect.
        ca_file: for https, a PEM file in place of the system's authorities; the host's name is checked as ever.
        ca_data: the same as the file's text; both together count.
        proxy: for https, opens the tunnel; the address guard is for its address, and for a target that is one.
        body: of the request.
        cut: whether a body that is too large is cut, where it would be an error.
        connect_within: seconds for the connection itself, where it may not take all the time there is.
        proof: what the context checks by, of which a connection that was kept must not be older.
    """

    method: str = "GET"
    target: str | None = None
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    context: ssl.SSLContext | None = None
    server_hostname: str | None = None
    ca_file: str | None = None
    ca_data: str | None = None
    proxy: Proxy | None = None
    body: bytes | None = field(default=None, repr=False)
    cut: bool = False
    connect_within: float | None = None
    proof: object = field(default=None, repr=False)


def open_line(target: Target, asking: Asking) -> Line:
    """A connection that :meth:`Line.ask` opens; whoever has it calls :meth:`Line.finish` in the end."""
    return _LINES[target.scheme](target, asking)


def exchange(
    line: Line, target: Target, asking: Asking, *, timeout: float, max_bytes: int = MAX_BYTES
) -> FetchResult:
    """One request on a connection, new or used; as :func:`fetch`. Raises KeysUnavailableError."""
    deadline = time.monotonic() + timeout
    cut_off = Timer(timeout, line.cut_off)
    cut_off.daemon = True
    cut_off.start()
    try:
        line.begin(deadline)
        return line.ask(asking, target.path, max_bytes)
    except (OSError, HTTPError, HTTPException, ValueError) as error:
        reason = "timed out" if time.monotonic() >= deadline else f"{type(error).__name__}: {error}"
        code = None if line.reached else UNREACHABLE
        raise KeysUnavailableError(f"fetching {target} failed: {reason[:200]}", code=code) from error
    finally:
        cut_off.cancel()
        cut_off.join()


@dataclass(frozen=True, slots=True)
class Target:
    """Where a URL leads."""

    scheme: str
    host: str
    port: int
    path: str

    def __str__(self) -> str:
        """For messages: a query may hold what is nobody's business."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.path.partition('?')[0]}"


def read_url(url: str) -> Target:
    """Read a URL. Raises KeysUnavailableError for one that is never fetched."""
    try:
        parts = parse_url(url) if len(url) <= MAX_URL else Url()
    except LocationParseError:
        parts = Url()
    scheme, host = parts.scheme or "", parts.host or ""
    if scheme not in _PORTS or not host or parts.auth is not None:
        raise KeysUnavailableError("only http and https URLs without user and password are fetched")
    return Target(scheme, host.strip("[]"), parts.port or _PORTS[scheme], parts.request_uri)


class Line(HTTPConnection):
    """A connection to an allowed address that another thread can cut off, in its TLS handshake too.

    Attributes:
        reached: whether it was ever open, its TLS handshake done.
        whole: whether the last answer was read to its end.
    """

    def __init__(self, target: Target, asking: Asking, **options: Any) -> None:
        super().__init__(target.host, target.port, **options)
        self.reached = False
        self.whole = False
        self._deadline = math.inf
        self._connect_within = asking.connect_within or math.inf
        self._line: socket.socket | None = None
        self._never = False  # whether the target, behind a proxy, is an address that is never fetched from

    def begin(self, deadline: float) -> None:
        """From now on everything must be done by then, by ``time.monotonic``."""
        self._deadline = deadline
        if self.sock is not None:
            self.sock.settimeout(self.check_time())

    def connect(self) -> None:
        """As ever, and note it."""
        super().connect()
        self.reached = True

    def check_time(self) -> float:
        """The seconds left. Raises TimeoutError when there are none."""
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left

    def cut_off(self) -> None:
        """End every wait for the other side; for another thread to call."""
        if self._line is not None:
            with suppress(OSError):
                self._line.shutdown(socket.SHUT_RDWR)

    def ask(self, asking: Asking, path: str, max_bytes: int) -> FetchResult:
        """One request. Raises ValueError for a body that is too large."""
        headers = HTTPHeaderDict(asking.headers)
        target = path if asking.target is None else asking.target
        self.whole = False
        self.request(asking.method, target, asking.body, headers=headers, preload_content=False, decode_content=False)
        body = bytearray()
        with closing(self.getresponse()) as response:
            for chunk in response.stream(_CHUNK, decode_content=False):
                body += chunk
                if len(body) > max_bytes:
                    if asking.cut:
                        break
                    raise ValueError(f"the body has more than {max_bytes} bytes")
            else:
                self.whole = True
        # A body without a length ends where the connection does; cut off by us, it is no complete answer.
        self.check_time()
        joined = {name.lower(): value for name, value in response.headers.itermerged()}
        lines = tuple((name.lower(), value) for name, value in response.headers.iteritems())
        return FetchResult(response.status, bytes(body[:max_bytes]), MappingProxyType(joined), lines)

    def finish(self) -> None:
        """Close everything; ``close`` alone is also called for us, while a body without a length is still to come."""
        self.close()
        if self._line is not None:
            self._line.close()

    def _new_conn(self) -> socket.socket:
        self._line = self._connect()
        self.check_time()
        # TLS will take over the handle it gets: ours is another one on the same connection.
        return self._line.dup()

    def _connect(self) -> socket.socket:
        """The addresses are judged and then dialled, the very same: a name cannot change its mind in between."""
        error: OSError = PermissionError("link-local and metadata addresses are never fetched from")
        for family, kind, protocol, _, address in socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM):
            if self._never or _is_forbidden(str(address[0])):
                continue
            sock = socket.socket(family, kind, protocol)
            try:
                sock.settimeout(min(self.check_time(), self._connect_within))
                sock.connect(address)
                sock.settimeout(self.check_time())
            except OSError as failure:
                sock.close()
                error = failure
            else:
                return sock
        raise error


class _TlsLine(Line, HTTPSConnection):
    """The same over TLS, verified with the system's authorities, or as whoever asks has it verified."""

    def __init__(self, target: Target, asking: Asking) -> None:
        # A context of ours checks in the handshake; a SPIFFE certificate has no DNS name that could be matched here.
        own = {"server_hostname": asking.server_hostname, "assert_hostname": False}
        options: dict[str, Any] = own if asking.context else {}
        context = asking.context or _ssl_context(asking.ca_file, asking.ca_data)
        near = replace(target, host=asking.proxy.host, port=asking.proxy.port) if asking.proxy else target
        config = _proxy_config(asking.proxy) if asking.proxy and asking.proxy.tls else None
        super().__init__(near, asking, ssl_context=context, proxy_config=config, **options)
        if asking.proxy:
            # A name is resolved by the proxy: what answers there must still prove to be it, before it is sent a byte.
            self._never = _is_address(target.host) and _is_forbidden(target.host)
            shown = {"proxy-authorization": asking.proxy.authorization} if asking.proxy.authorization else {}
            scheme = "https" if asking.proxy.tls else "http"
            self.set_tunnel(target.host, target.port, {"user-agent": USER_AGENT, **shown}, scheme=scheme)


_LINES: Final[Mapping[str, Callable[[Target, Asking], Line]]] = {"http": Line, "https": _TlsLine}


def _ssl_context(ca_file: str | None, ca_data: str | None) -> ssl.SSLContext:
    """A file is read anew each time: it may have been replaced. Raises KeysUnavailableError."""
    if not ca_file and not ca_data:
        return _system_context()
    try:
        return ssl.create_default_context(cafile=ca_file, cadata=ca_data)
    except OSError as error:
        place = ca_file or "the authorities given"
        raise KeysUnavailableError(f"no authorities can be read from {place}: {type(error).__name__}") from None


def _proxy_config(proxy: Proxy) -> ProxyConfig:
    """TLS to the proxy, around that to the target; its authorities are not the target's."""
    context = _ssl_context(proxy.ca_file, None)
    return ProxyConfig(context, use_forwarding_for_https=False, assert_hostname=None, assert_fingerprint=None)


@cache
def _system_context() -> ssl.SSLContext:
    return ssl.create_default_context()


def _is_address(host: str) -> bool:
    try:
        ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


def _is_forbidden(address: str) -> bool:
    """Also where an IPv4 address hides in an IPv6 one."""
    found = ip_address(address.partition("%")[0])
    if isinstance(found, IPv6Address) and (found.ipv4_mapped or found in _NAT64):
        found = ip_address(int(found) & 0xFFFF_FFFF)
    return found.is_link_local or found in _METADATA
