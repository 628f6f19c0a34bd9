"""Through which proxy an issuer is asked: one that is written down, the environment's where that is allowed, or none.

Only https goes through a proxy, in a tunnel: it sees names and sizes, and can change nothing. This file must not know
what is fetched.
"""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import SplitResult, unquote_to_bytes, urlsplit
from urllib.request import getproxies_environment, proxy_bypass

from ..errors import KeysUnavailableError

__all__ = ["Proxy", "proxy_for"]

_DIRECT: Final = (None, "none")
_OF_ENVIRONMENT: Final = "environment"
_PORTS: Final = {"http": 3128, "https": 443}


@dataclass(frozen=True, slots=True)
class Proxy:
    """An HTTP proxy that opens tunnels (RFC 9110 section 9.3.6).

    Attributes:
        host: its name or address.
        port: its TCP port.
        authorization: what it is shown in ``Proxy-Authorization``; None: nothing.
        tls: whether it is spoken to over TLS; its name is then checked like any server's.
        ca_file: a PEM file with the only authorities that may vouch for it; None: the system's.
    """

    host: str
    port: int
    authorization: str | None = field(default=None, repr=False)
    tls: bool = False
    ca_file: str | None = None


def proxy_for(setting: str | None, url: str, *, ca_file: str | None = None) -> Proxy | None:
    """The proxy for a URL.

    Args:
        setting: ``keys.proxy`` or an issuer's own: a URL, ``environment`` (HTTPS_PROXY and NO_PROXY), ``none``.
        url: what is to be fetched; anything but https is dialled directly.
        ca_file: whom a proxy that speaks TLS must be vouched for by; None: the system's authorities.

    Raises:
        KeysUnavailableError: the environment names a proxy that cannot be used; it is not passed by.
    """
    target = urlsplit(url)
    if setting in _DIRECT or target.scheme != "https":
        return None
    if setting != _OF_ENVIRONMENT:
        return _read(urlsplit(setting or ""), ca_file)
    found = getproxies_environment()
    text = found.get("https") or found.get("all")
    if not text or proxy_bypass(target.netloc):
        return None
    return _read(urlsplit(text if "://" in text else f"http://{text}"), ca_file)


def _read(url: SplitResult, ca_file: str | None) -> Proxy:
    try:
        host, port = url.hostname, url.port or _PORTS.get(url.scheme)
    except ValueError:
        host, port = None, None
    if url.scheme not in _PORTS or not host or port is None:
        raise KeysUnavailableError("the proxy is neither http://host:port nor https://host:port")
    return Proxy(host, port, _credentials(url), url.scheme == "https", ca_file)


def _credentials(url: SplitResult) -> str | None:
    """Basic authentication (RFC 7617); only the environment may hold a password."""
    if url.username is None:
        return None
    pair = unquote_to_bytes(url.username) + b":" + unquote_to_bytes(url.password or "")
    return f"Basic {b64encode(pair).decode('ascii')}"
