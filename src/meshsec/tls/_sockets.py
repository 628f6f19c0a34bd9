"""TLS sockets and objects that pass no byte before their peer has been admitted.

OpenSSL completes a handshake inside the first read or write, where no override of ``do_handshake`` is called; so
every method that moves data begins with the checked handshake. The peer's identity lives on the object, one per
connection, and nowhere else. This file must not know how a peer is judged: it asks the context's gate.
"""

# ruff: noqa: FBT001, FBT002 - the signatures are the ssl module's

from __future__ import annotations

import errno
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, BinaryIO, Final, NoReturn, cast

from ..errors import SvidError
from ._peer import Gate, VerifiedPeer
from ._refusal import PeerRefusedError, as_tls_error, log_refusal

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

__all__ = ["PATIENCE_SECONDS", "GuardedContext", "GuardedObject", "GuardedSocket", "refuse", "verified_peer"]

_UNFINISHED: Final = (ssl.SSLWantReadError, ssl.SSLWantWriteError, ssl.SSLSyscallError)
PATIENCE_SECONDS: Final = 10.0


class GuardedContext(ssl.SSLContext):
    """What guarded objects need of their context; immutable once it is in use.

    Attributes:
        gate: judges the peers.
        unready: why no handshake can succeed; None where one can.
    """

    gate: Gate
    unready: SvidError | None = None


class GuardedObject(ssl.SSLObject):
    """An ``SSLObject`` whose data methods first run the checked handshake."""

    peer: VerifiedPeer | None = None
    refused: str | None = None
    sni: str | None = None

    @property
    def context(self) -> ssl.SSLContext:  # type: ignore[override] # pyright: ignore[reportIncompatibleVariableOverride]
        """The context; it cannot be replaced, because trust would go with it."""
        return super().context

    def do_handshake(self) -> None:
        """Shake hands and judge the peer; nothing on a connection that has done both."""
        if self.peer is None:
            self.peer = _admit(self, super().do_handshake)

    def read(self, len: int = 1024, buffer: bytearray | None = None) -> bytes | int:  # type: ignore[override] # noqa: A002
        self.do_handshake()
        return super().read(len, buffer)

    def write(self, data: ReadableBuffer) -> int:
        self.do_handshake()
        return super().write(data)

    def unwrap(self) -> None:
        self.do_handshake()
        return super().unwrap()

    def whom(self) -> str:
        return "a TLS client" if self.server_side else f"the TLS server {self.server_hostname or '(unnamed)'}"

    def hang_up(self) -> None:
        """Nothing: whoever owns the transport closes it on the error that follows."""


class GuardedSocket(ssl.SSLSocket):
    """An ``SSLSocket`` whose data methods first run the checked handshake, and which never moves plaintext.

    A listening one only accepts; its context is the outer one, so that every accepted connection gets the newest.
    """

    peer: VerifiedPeer | None = None
    refused: str | None = None
    sni: str | None = None
    _sslobj: object | None

    @property
    def context(self) -> ssl.SSLContext:  # type: ignore[override] # pyright: ignore[reportIncompatibleVariableOverride]
        """The context; it cannot be replaced, because trust would go with it."""
        return super().context

    def do_handshake(self, block: bool = False) -> None:
        """Shake hands and judge the peer; nothing on a connection that has done both."""
        if self.peer is None:
            self.peer = _admit(self, lambda: self._shake_hands(block))

    def _shake_hands(self, block: bool) -> None:
        if not (self.server_side and self.gettimeout() is None):
            super().do_handshake(**({"block": True} if block else {}))  # gevent's does not know it
            return
        # A client that stops half-way would hold a server's thread for ever.
        self.settimeout(PATIENCE_SECONDS)
        try:
            super().do_handshake()
        except TimeoutError:
            raise SvidError("it did not finish the handshake in time", code="handshake_timeout") from None
        finally:
            self.settimeout(None)

    def _before_reading(self) -> None:
        # Without TLS a read is either the ssl module's own check while it makes this object, or the draining of a
        # connection that was admitted and has been shut down.
        if self._sslobj is not None or self.refused is not None:
            self.do_handshake()
        elif self.peer is None and "_connected" in vars(self):
            raise OSError(errno.ENOTCONN, "there is no TLS connection to read from")

    def _before_writing(self) -> None:
        if self._sslobj is None and self.refused is None:
            raise BrokenPipeError(errno.EPIPE, "there is no TLS connection to write to")
        self.do_handshake()

    def read(self, len: int = 1024, buffer: bytearray | None = None) -> bytes | int:  # type: ignore[override] # noqa: A002
        self._before_reading()
        return super().read(len, buffer)

    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
        self._before_reading()
        return super().recv(buflen, flags)

    def recv_into(self, buffer: WriteableBuffer, nbytes: int | None = None, flags: int = 0) -> int:
        self._before_reading()
        return super().recv_into(buffer, nbytes, flags)

    def recvfrom(self, buflen: int = 1024, flags: int = 0) -> tuple[bytes, object]:
        self._before_reading()
        return super().recvfrom(buflen, flags)

    def recvfrom_into(self, buffer: WriteableBuffer, nbytes: int | None = None, flags: int = 0) -> tuple[int, object]:
        self._before_reading()
        return super().recvfrom_into(buffer, nbytes, flags)

    def write(self, data: ReadableBuffer) -> int:
        self._before_writing()
        return super().write(data)

    def send(self, data: ReadableBuffer, flags: int = 0, **gevents: Any) -> int:
        self._before_writing()
        return super().send(data, flags, **gevents)

    def sendall(self, data: ReadableBuffer, flags: int = 0) -> None:
        self._before_writing()
        return super().sendall(data, flags)

    def sendto(self, data: ReadableBuffer, flags_or_addr: object, addr: object = None) -> int:  # noqa: ARG002
        """Refused, as on every TLS socket; never plaintext."""
        raise ValueError("sendto is not possible on a TLS connection")

    def sendfile(self, file: BinaryIO, offset: int = 0, count: int | None = None) -> int:  # type: ignore[override]
        self._before_writing()
        return super().sendfile(file, offset, count)

    def unwrap(self) -> socket.socket:
        self._before_writing()
        return super().unwrap()

    def whom(self) -> str:
        try:
            address = self.getpeername()
        except OSError:
            address = None
        host = str(address[0]) if isinstance(address, tuple) else "an unknown address"
        if self.server_side:
            return f"a TLS client from {host}"
        return f"the TLS server {self.server_hostname or '(unnamed)'} at {host}"

    def hang_up(self) -> None:
        """End the connection on the wire. The descriptor stays its owner's to close: servers still count on it."""
        with suppress(OSError):  # the peer may have been faster
            socket.socket.shutdown(self, socket.SHUT_RDWR)


def _admit(tls_object: GuardedObject | GuardedSocket, shake_hands: Callable[[], None]) -> VerifiedPeer:
    """Run the handshake and judge the peer."""
    if tls_object.refused is not None:
        raise PeerRefusedError(tls_object.refused)
    context = cast(GuardedContext, tls_object.context)
    try:
        if context.unready is not None:
            raise SvidError(str(context.unready), code=context.unready.code)
        shake_hands()
    except _UNFINISHED:
        raise  # the next call goes on
    except (SvidError, ssl.SSLError, ConnectionError) as error:
        refuse(tls_object, error)
    name = tls_object.sni if tls_object.server_side else tls_object.server_hostname
    try:
        return context.gate.admit(tls_object, name)
    except Exception as error:  # noqa: BLE001 - certificates and authorizers raise anything; all of it refuses
        refuse(tls_object, error)


def refuse(tls_object: GuardedObject | GuardedSocket, error: Exception) -> NoReturn:
    """End the connection for good, say why in the log, and raise what every TLS library understands."""
    refusal = as_tls_error(error)
    log_refusal(tls_object.whom(), error)
    tls_object.refused = str(refusal)
    tls_object.hang_up()
    if refusal is error:
        raise refusal
    raise refusal from error


def verified_peer(tls_object: object) -> VerifiedPeer | None:
    """The peer of one of our own TLS sockets or objects.

    Args:
        tls_object: anything; what did not come out of our contexts has no peer, whatever it verified itself.

    Returns:
        The peer, or None before its handshake, after a refusal, and for everything that is not ours.
    """
    return tls_object.peer if isinstance(tls_object, GuardedObject | GuardedSocket) else None
