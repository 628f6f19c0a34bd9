"""One port for mutual TLS and plaintext: the first byte decides, and only where the context may take plaintext."""

from __future__ import annotations

import asyncio
import socket
import ssl
from contextlib import closing, suppress
from typing import Any, Final

import pytest
import uvloop

from meshsec.tls import (
    PeerRefusedError,
    StaticMaterial,
    authorize_any,
    client_context,
    is_plaintext,
    server_context,
    verified_peer,
)
from pki import TestCA
from sweeping import sweep
from wire import careless, material, meet, shake_hands, wired

CA: Final = TestCA("td.example")
WEB: Final = "spiffe://td.example/ns/prod/sa/web"
REQUEST: Final = b"GET / HTTP/1.1\r\n\r\n"


def permissive(source: StaticMaterial | None = None) -> ssl.SSLContext:
    """A server's context that takes both."""
    return server_context(source or material(CA), plaintext=lambda: True)


def answer(context: ssl.SSLContext, *, shake: bool = False) -> Any:
    """Serve one connection: say who it is, and what it sent."""

    def serve(raw: socket.socket) -> tuple[str, bytes]:
        sock = context.wrap_socket(raw, server_side=True, do_handshake_on_connect=shake)
        with closing(sock):
            data = sock.recv(100)
            peer = verified_peer(sock)
            name = str(peer.id) if peer else "nobody"
            sock.sendall(name.encode() + (b" in plaintext" if is_plaintext(sock) else b" over TLS"))
            assert (sock.getpeercert() is None) == is_plaintext(sock)
            return name, data

    return serve


def plainly(sock: socket.socket) -> bytes:
    """A client that knows no TLS."""
    sock.sendall(REQUEST)
    return sock.recv(100)


def securely(context: ssl.SSLContext) -> Any:
    """A client that does."""

    def call(raw: socket.socket) -> bytes:
        with context.wrap_socket(raw) as sock:
            sock.sendall(REQUEST)
            return sock.recv(100)

    return call


@pytest.mark.parametrize("shake", [True, False])
def test_one_socket_takes_plaintext_and_mutual_tls(shake: bool) -> None:
    """Each for what it is, on one context."""
    context = permissive()
    served, called = meet(answer(context, shake=shake), plainly)
    assert (served.value, called.value) == (("nobody", REQUEST), b"nobody in plaintext")
    mutual = client_context(material(CA), authorize=authorize_any())
    served, called = meet(answer(context, shake=shake), securely(mutual))
    assert (served.value, called.value) == ((WEB, REQUEST), f"{WEB} over TLS".encode())


@pytest.mark.parametrize("pair", [None, TestCA("td.example").leaf()])
def test_a_client_that_begins_with_tls_must_prove_who_it_is(pair: Any) -> None:
    """TLS without an SVID is not plaintext."""
    served, _ = meet(answer(permissive()), securely(careless("client", pair)))
    assert isinstance(served.error, ssl.SSLError)


@pytest.mark.parametrize("plaintext", [None, lambda: False])
def test_elsewhere_no_plaintext_passes(plaintext: Any) -> None:
    """As ever."""
    served, called = meet(answer(server_context(material(CA), plaintext=plaintext)), plainly)
    assert isinstance(served.error, ssl.SSLError)
    assert b"nobody" not in (called.value or b"")


def test_each_connection_asks_anew() -> None:
    """A policy that turns STRICT counts from the next connection on."""
    allowed = True
    context = server_context(material(CA), plaintext=lambda: allowed)
    assert meet(answer(context), plainly)[1].value == b"nobody in plaintext"
    allowed = False
    assert isinstance(meet(answer(context), plainly)[0].error, ssl.SSLError)


def test_a_client_that_says_nothing_is_sent_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server's thread that would wait for ever is free again; a patience of the caller's own comes before ours."""
    monkeypatch.setattr("meshsec.tls._permissive.PATIENCE_SECONDS", 0.05)
    for own, expected in ((None, PeerRefusedError), (0.01, TimeoutError)):

        def serve(raw: socket.socket, own: float | None = own) -> bytes:
            raw.settimeout(own)
            with permissive().wrap_socket(raw, server_side=True, do_handshake_on_connect=False) as sock:
                try:
                    return sock.recv(1)
                finally:
                    assert sock.gettimeout() == own

        served, _ = meet(serve, lambda sock: sock.recv(1))
        assert type(served.error) is expected


def test_a_connection_whose_tls_was_given_up_is_no_plaintext() -> None:
    """What was sent over it is not looked at any more."""

    def serve(raw: socket.socket) -> bool | None:
        with permissive().wrap_socket(raw, server_side=True, do_handshake_on_connect=False) as sock:
            sock.shutdown(socket.SHUT_WR)
            with suppress(Exception):
                sock.do_handshake()
            return is_plaintext(sock)

    assert meet(serve, plainly)[0].value is False


def test_nothing_is_served_without_an_identity() -> None:
    """Not in plaintext either: a workload that is not ready is not ready."""
    served, _ = meet(answer(permissive(StaticMaterial())), plainly)
    assert isinstance(served.error, ssl.SSLError)


@sweep("first")
def test_every_first_byte_is_either_tls_or_plaintext(first: int) -> None:
    """Only a handshake record begins TLS; nothing is lost of what was looked at."""
    server, _ = wired(permissive(), careless("client"))
    incoming = vars(server)["_incoming"]
    with pytest.raises(ssl.SSLWantReadError):
        server.read(10)
    assert not is_plaintext(server)
    incoming.write(bytes([first]) + b"rest")
    if first == 0x16:
        with pytest.raises(ssl.SSLError):
            server.read(10)
        assert not is_plaintext(server)
        return
    buffer = bytearray(3)
    assert (server.read(10, buffer), bytes(buffer)) == (3, bytes([first]) + b"re")
    assert (server.pending(), server.read(10)) == (2, b"st")
    with pytest.raises(ssl.SSLWantReadError):
        server.read(10)
    assert server.write(b"answer") == 6
    assert vars(server)["_outgoing"].read() == b"answer"
    incoming.write_eof()
    assert server.read(10) == b""


def test_a_connection_that_ends_before_its_first_byte_is_neither() -> None:
    """It fails at once, as an error of TLS: nobody waits for more, and nothing passes for plaintext."""
    server, _ = wired(permissive(), careless("client"))
    vars(server)["_incoming"].write_eof()
    with pytest.raises(ssl.SSLError) as caught:
        server.read(10)
    assert not isinstance(caught.value, ssl.SSLWantReadError)
    assert server.plaintext is False
    served, _ = meet(answer(permissive()), lambda _: None)
    assert isinstance(served.error, ssl.SSLError)


def test_whoever_speaks_first_waits_for_the_first_byte() -> None:
    """What is written before it is known whether to encrypt it goes nowhere."""
    server, _ = wired(permissive(), careless("client"))
    with pytest.raises(ssl.SSLWantReadError):
        server.write(b"hello")
    assert vars(server)["_outgoing"].read() == b""
    vars(server)["_incoming"].write(b"G")
    assert server.write(b"hello") == 5
    assert vars(server)["_outgoing"].read() == b"hello"


def test_a_tls_object_says_that_its_connection_ends() -> None:
    """Else whoever cuts it off could end a message, too; plaintext has no such word."""
    server, client = wired(permissive(), client_context(material(CA), authorize=authorize_any()))
    shake_hands(server, client)
    with pytest.raises(ssl.SSLWantReadError):
        server.unwrap()
    assert client.read(1) == b""  # and no wish for more
    plain, _ = wired(permissive(), careless("client"))
    vars(plain)["_incoming"].write(b"G")
    plain.do_handshake()
    plain.unwrap()
    assert vars(plain)["_outgoing"].read() == b""


class _Echo(asyncio.Protocol):
    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.plain = is_plaintext(transport.get_extra_info("ssl_object"))

    def data_received(self, data: bytes) -> None:
        self.transport.write(data + (b" in plaintext" if self.plain else b" over TLS"))
        self.transport.close()


async def _both() -> list[bytes]:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(_Echo, "127.0.0.1", 0, ssl=permissive())
    port = server.sockets[0].getsockname()[1]
    answers = []
    async with server, asyncio.timeout(20):
        for context in (None, client_context(material(CA), authorize=authorize_any())):
            name = None if context is None else "x"
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=name)
            writer.write(b"x" * 100_000 if context is None else b"hi")
            answers.append((await reader.read())[-20:])
            writer.close()
    return answers


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_one_port_of_an_event_loop_takes_both(loop: Any) -> None:
    """asyncio and uvloop hold TLS objects over memory; they notice nothing."""
    with asyncio.Runner(loop_factory=loop) as runner:
        plain, secure = runner.run(_both())
    assert plain.endswith(b" in plaintext")
    assert secure == b"hi over TLS"
