"""One gRPC call without TLS: a connection of its own, one request, and the messages that come back.

Written on h2 and a plain socket, not on grpcio: that one's threads do not survive a fork, and the servers that this
library lives in fork. What is needed of gRPC is little: unary or server-streaming, no compression. Imported only
where it is used, for h2 is an extra. This file must not know the messages.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Final
from urllib.parse import unquote

from h2 import events
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.exceptions import H2Error

from ._workload_api_wire import CallError, Code

__all__ = ["Address", "Call"]

MAX_MESSAGE: Final = 4 << 20  # gRPC's own default
_PREFIX: Final = 5  # a byte that says whether the message is compressed, and four with its length
_CHUNK: Final = 1 << 16

Address = str | tuple[str, int]
"""The path of a unix socket, or an IP address and a port."""


class Call:
    """A call under way. One thread iterates over :meth:`messages`; :meth:`cut_off` is for any.

    Args:
        address: where the server listens.
        method: ``/Service/Method``.
        request: the request's one message.
        patience: seconds for everything.
        streaming: whether only the first message has to come in that time, and others whenever they like.

    Raises:
        CallError: the server cannot be reached.
    """

    def __init__(self, address: Address, method: str, request: bytes, *, patience: float, streaming: bool) -> None:
        self._http = H2Connection(H2Configuration(header_encoding="utf-8"))
        self._request = (method, request)
        self._deadline = time.monotonic() + patience
        self._buffer = bytearray()
        self._hurried = True
        self._streaming = streaming
        self._outcome: CallError | None = None
        try:
            self._sock = _connect(address, patience)
        except OSError as error:
            raise CallError(Code.UNAVAILABLE, error.strerror or type(error).__name__) from None

    def messages(self) -> Iterator[bytes]:
        """Every message, until the server ends the call well.

        Raises:
            CallError: with the server's code, or UNAVAILABLE where the connection breaks.
        """
        try:
            self._send(*self._request)
            while self._outcome is None:
                self._receive()
                yield from self._whole_messages()
        except TimeoutError:
            raise CallError(Code.DEADLINE_EXCEEDED, "no answer in time") from None
        except (OSError, ValueError, H2Error) as error:
            raise CallError(Code.UNAVAILABLE, f"the connection broke: {type(error).__name__}") from None
        finally:
            self._sock.close()
        if self._outcome.code is not Code.OK:
            raise self._outcome
        if self._buffer:
            raise CallError(Code.INTERNAL, "a message is cut off")

    def cut_off(self) -> None:
        """End it from outside."""
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def forget(self) -> None:
        """Close our handle and nothing else: after a fork the connection is the parent's."""
        self._sock.close()

    def _send(self, method: str, request: bytes) -> None:
        headers = (
            (":method", "POST"),
            (":scheme", "http"),
            (":path", method),
            (":authority", "localhost"),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            ("user-agent", "meshsec"),
            # Whoever can only have us send a request somewhere cannot have us send this (Endpoint, section 3).
            ("workload.spiffe.io", "true"),
        )
        self._http.initiate_connection()
        self._http.send_headers(1, headers)
        self._http.send_data(1, b"\0" + len(request).to_bytes(4, "big") + request, end_stream=True)
        self._sock.sendall(self._http.data_to_send())

    def _receive(self) -> None:
        # Not zero, which would mean not to wait at all.
        self._sock.settimeout(max(self._deadline - time.monotonic(), 0.001) if self._hurried else None)
        data = self._sock.recv(_CHUNK)
        if not data:
            self._end(Code.UNAVAILABLE, "the connection was closed")
            return
        for event in self._http.receive_data(data):
            self._note(event)
        self._sock.sendall(self._http.data_to_send())

    def _note(self, event: events.Event) -> None:
        match event:
            case events.ResponseReceived():
                self._check_response(_as_text(event.headers))
            case events.DataReceived():
                self._buffer += event.data
                self._http.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            case events.TrailersReceived():
                self._check_status(_as_text(event.headers))
            case events.StreamEnded():
                self._end(Code.UNKNOWN, "the call ended without a status")
            case events.StreamReset() | events.ConnectionTerminated():
                self._end(Code.UNAVAILABLE, "the server broke the call off")

    def _check_response(self, headers: Mapping[str, str]) -> None:
        if headers.get(":status") != "200" or not headers.get("content-type", "").startswith("application/grpc"):
            self._end(Code.UNKNOWN, f"not gRPC: HTTP status {headers.get(':status', '')[:3]}")
        elif "grpc-status" in headers:
            self._check_status(headers)

    def _check_status(self, headers: Mapping[str, str]) -> None:
        number = headers.get("grpc-status", "")
        code = Code(int(number)) if number.isascii() and number.isdecimal() and len(number) < 3 else Code.UNKNOWN
        self._end(code, f"{unquote(headers.get('grpc-message', ''))[:200]!a}")

    def _end(self, code: Code, message: str) -> None:
        """The first word counts: after a status, the stream only ends."""
        if self._outcome is None:
            self._outcome = CallError(code, message)

    def _whole_messages(self) -> Iterator[bytes]:
        while len(self._buffer) >= _PREFIX:
            compressed, length = self._buffer[0], int.from_bytes(self._buffer[1:_PREFIX], "big")
            if compressed or length > MAX_MESSAGE:
                raise CallError(Code.INTERNAL, "a message is compressed or too large")
            if len(self._buffer) < _PREFIX + length:
                return
            message = bytes(self._buffer[_PREFIX : _PREFIX + length])
            del self._buffer[: _PREFIX + length]
            self._hurried = not self._streaming
            yield message


def _as_text(headers: Iterable[tuple[str | bytes, str | bytes]]) -> Mapping[str, str]:
    return {str(name): str(value) for name, value in headers}


def _connect(address: Address, patience: float) -> socket.socket:
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.settimeout(patience)
        sock.connect(address)
        if family is not socket.AF_UNIX:
            # A stream may be silent for hours; the kernel finds out whether anybody is still there.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    except OSError:
        sock.close()
        raise
    return sock
