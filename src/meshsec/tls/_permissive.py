"""One port for mutual TLS and for plaintext: the first byte of a connection decides (PeerAuthentication PERMISSIVE).

A TLS client begins with a handshake record, no HTTP client can. What begins otherwise is passed on as it is: the same
objects, so that every server takes both. This file must not know when a port may do so: a context is told.
"""

# ruff: noqa: A002, FBT001, FBT002 - the signatures are the ssl module's

from __future__ import annotations

import socket
import ssl
from typing import TYPE_CHECKING, Any, Final

from ..errors import SvidError
from ._sockets import PATIENCE_SECONDS, GuardedObject, GuardedSocket, refuse

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

__all__ = ["PermissiveObject", "PermissiveSocket", "is_plaintext"]

_HANDSHAKE_RECORD: Final = 0x16  # RFC 8446 section 5.1


class PermissiveObject(GuardedObject):
    """A guarded object that passes plaintext through, if plaintext is what comes first.

    Attributes:
        plaintext: None until the first byte is here.
    """

    plaintext: bool | None = None
    _incoming: ssl.MemoryBIO
    _outgoing: ssl.MemoryBIO

    def between(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO) -> None:
        """Say which two buffers it stands between; the ssl module keeps them to itself."""
        self._incoming, self._outgoing = incoming, outgoing

    def do_handshake(self) -> None:
        """Wait for the first byte; then TLS as ever, or nothing."""
        if self.plaintext is None:
            self._look()
        if not self.plaintext:
            super().do_handshake()

    def _look(self) -> None:
        if not self._incoming.pending and not self._incoming.eof:
            raise ssl.SSLWantReadError(ssl.SSL_ERROR_WANT_READ, "the first byte is not here yet")
        data = self._incoming.read()
        self.plaintext = bool(data) and data[0] != _HANDSHAKE_RECORD
        if data:
            self._incoming.write(data)  # the buffer is empty, so the order is kept

    def read(self, len: int = 1024, buffer: bytearray | None = None) -> bytes | int:  # type: ignore[override]
        self.do_handshake()
        if not self.plaintext:
            return super().read(len, buffer)
        data = self._incoming.read(len if buffer is None else min(len, memoryview(buffer).nbytes))
        if not data and not self._incoming.eof:
            raise ssl.SSLWantReadError(ssl.SSL_ERROR_WANT_READ, "there is nothing to read yet")
        if buffer is None:
            return data
        count = memoryview(data).nbytes
        buffer[:count] = data
        return count

    def write(self, data: ReadableBuffer) -> int:
        self.do_handshake()
        return self._outgoing.write(data) if self.plaintext else super().write(data)

    def unwrap(self) -> None:
        if not self.plaintext:
            super().unwrap()

    def pending(self) -> int:
        return self._incoming.pending if self.plaintext else super().pending()

    def getpeercert(self, binary_form: bool = False) -> Any:  # overloaded in the ssl module
        """As in the ssl module; None on plaintext."""
        return None if self.plaintext else super().getpeercert(binary_form)


class PermissiveSocket(GuardedSocket):
    """A guarded socket that is a plain one, if plaintext is what comes first.

    Attributes:
        plaintext: None until the first byte is here.
    """

    plaintext: bool | None = None

    def do_handshake(self, block: bool = False) -> None:
        """Wait for the first byte; then TLS as ever, or nothing."""
        if self.plaintext is None and self._sslobj is not None:
            self.plaintext = self._begins_plain()
            if self.plaintext:
                self._sslobj = None  # from here on the ssl module's methods are a plain socket's
        if not self.plaintext:
            super().do_handshake(block)

    def _begins_plain(self) -> bool:
        timeout = self.gettimeout()
        if timeout is None:
            # A client that says nothing would hold a server's thread for ever.
            self.settimeout(PATIENCE_SECONDS)
        try:
            first = socket.socket.recv(self, 1, socket.MSG_PEEK)
        except BlockingIOError:
            raise ssl.SSLWantReadError(ssl.SSL_ERROR_WANT_READ, "the first byte is not here yet") from None
        except TimeoutError:
            if timeout is not None:
                raise
            refuse(self, SvidError("it said nothing", code="handshake_timeout"))
        finally:
            self.settimeout(timeout)
        return first not in (b"", bytes([_HANDSHAKE_RECORD]))

    def _before_reading(self) -> None:
        if not self.plaintext:
            super()._before_reading()

    def _before_writing(self) -> None:
        if not self.plaintext:
            super()._before_writing()

    def unwrap(self) -> socket.socket:
        return self if self.plaintext else super().unwrap()

    def getpeercert(self, binary_form: bool = False) -> Any:  # overloaded in the ssl module
        """As in the ssl module; None on plaintext."""
        return None if self.plaintext else super().getpeercert(binary_form)


def is_plaintext(tls_object: object) -> bool:
    """Whether this connection came to a TLS port and turned out to be plaintext."""
    return isinstance(tls_object, PermissiveObject | PermissiveSocket) and bool(tls_object.plaintext)
