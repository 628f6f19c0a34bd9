"""One connection of an asyncio server, with what other people's code may want to know of its TLS."""

from __future__ import annotations

from asyncio import BaseTransport, StreamWriter

from ..middleware import Transport
from ..tls import asgi_extension

__all__ = ["transport_of"]


def transport_of(connection: BaseTransport | StreamWriter) -> Transport:
    """Built once, when the connection is made; the handshake is done by then."""
    return Transport.of_asyncio(connection, asgi_extension(connection.get_extra_info("ssl_object")))
