"""What a server's own objects say about one connection, gathered once when it is made.

The files in :mod:`meshsec.servers` build it; the middleware only passes it on. Nothing here comes from a header.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ssl import PEM_cert_to_DER_cert
from typing import Any, Protocol, Self

__all__ = ["TRANSPORT_KEY", "Transport"]

TRANSPORT_KEY = "meshsec.transport"
"""Where ``scope["state"]`` carries the :class:`Transport`."""


class _AsyncioTransport(Protocol):
    def get_extra_info(self, name: str, default: Any = None) -> Any: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Transport:
    """One connection, as its server's transport or socket knows it.

    Attributes:
        tls: the SSLSocket or SSLObject; None on plaintext.
        source_ip: the directly connected peer; None where there is no address (a unix socket).
        destination_ip: our own address.
        destination_port: our own port.
        unix: whether it is a unix socket.
        chain: the peer's certificates, DER, leaf first, where the server's own TLS took them: not yet believed.
        extension: what ``scope["extensions"]["tls"]`` shall hold (the ASGI TLS extension).
        found: what a mesh found out about it, to find it out once.
        last: what came of its last request, for the next one that is the same.
    """

    tls: object | None = None
    source_ip: str | None = None
    destination_ip: str | None = None
    destination_port: int | None = None
    unix: bool = False
    chain: tuple[bytes, ...] = ()
    extension: Mapping[str, object] | None = None
    found: object = field(default=None, init=False, repr=False, compare=False)
    last: object = field(default=None, init=False, repr=False, compare=False)

    def note(self, found: object) -> None:
        """Keep what was found out in place of what was."""
        object.__setattr__(self, "found", found)

    def note_last(self, last: object) -> None:
        """Keep what came of a request in place of what came of the one before."""
        object.__setattr__(self, "last", last)

    @classmethod
    def of_asyncio(cls, transport: _AsyncioTransport, extension: Mapping[str, object] | None = None) -> Self:
        """From an asyncio (or uvloop) transport."""
        return cls._of(
            transport.get_extra_info("ssl_object"),
            transport.get_extra_info("peername"),
            transport.get_extra_info("sockname"),
            extension,
        )

    @classmethod
    def of_socket(cls, sock: socket.socket) -> Self:
        """From a connected, blocking socket; an SSLSocket is its own TLS object."""
        return cls._of(sock if hasattr(sock, "getpeercert") else None, sock.getpeername(), sock.getsockname())

    @classmethod
    def of_certificates(cls, pem: Iterable[str]) -> Self:
        """From the certificates that a server's own TLS took, PEM, leaf first; what is not PEM proves nothing."""
        texts = tuple(pem)
        try:
            chain = tuple(map(PEM_cert_to_DER_cert, texts))
        except (TypeError, ValueError):
            chain = ()
        return cls(tls=texts, chain=chain)

    @classmethod
    def _of(cls, tls: object | None, peer: Any, own: Any, extension: Mapping[str, object] | None = None) -> Self:
        # Only IPv4 and IPv6 addresses are tuples; a unix socket's is text.
        source = _address(peer[0]) if isinstance(peer, tuple) else None
        address, port = (_address(own[0]), own[1]) if isinstance(own, tuple) else (None, None)
        # An unconnected TCP socket has no address either: only our own end tells the two apart.
        unix = source is None and isinstance(own, str | bytes)
        return cls(
            tls=tls,
            source_ip=source,
            destination_ip=address,
            destination_port=port,
            unix=unix,
            extension=extension,
        )


def _address(text: str) -> str:
    """On a socket for both families an IPv4 peer appears mapped into IPv6; policies mean the IPv4 one."""
    return text.removeprefix("::ffff:") if "." in text else text
