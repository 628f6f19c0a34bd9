"""What a person reads in the log, and what a library gets to catch."""

from __future__ import annotations

import logging
import pickle
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Final

import pytest

from meshsec.errors import SvidError
from meshsec.spiffe import SpiffeId
from meshsec.tls import PeerRefusedError, StaticMaterial, authorize_any, authorize_id, client_context, server_context
from pki import NOW, TestCA
from wire import TIMEOUT, careless, material, meet, shake_hands, wired

CA: Final = TestCA("td.example")
STRANGER: Final = TestCA("td.example")
OURS: Final = material(CA)
WEB: Final = "spiffe://td.example/ns/prod/sa/web"


def _tls_1_2() -> ssl.SSLContext:
    context = careless("client", CA.leaf())
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    return context


def _knocks(context: ssl.SSLContext) -> Callable[[socket.socket], Any]:
    def call(raw: socket.socket) -> None:
        with context.wrap_socket(raw) as sock:
            sock.recv(1)

    return call


CALLS: Final[dict[str, tuple[Callable[[socket.socket], Any], str]]] = {
    "no certificate": (_knocks(careless("client")), "it presented no certificate"),
    "plain HTTP": (lambda raw: (raw.sendall(b"GET / HTTP/1.1\r\n\r\n"), raw.recv(1)), "plain HTTP on the TLS port"),
    "noise": (lambda raw: (raw.sendall(b"\x00" * 64), raw.recv(1)), "it does not speak TLS"),
    "TLS 1.2": (_knocks(_tls_1_2()), "it does not speak TLS 1.3"),
    "stranger": (
        _knocks(careless("client", STRANGER.leaf())),
        "certificate verify failed: ",
    ),
    "expired": (
        _knocks(careless("client", CA.leaf(not_after=NOW - 60))),
        "certificate verify failed: certificate has expired",
    ),
    "unknown trust domain": (
        _knocks(careless("client", CA.leaf(uris=["spiffe://nobody.example/x"]))),
        "no bundle for the trust domain of spiffe://nobody.example/x",
    ),
}


@pytest.mark.parametrize("case", CALLS)
def test_a_server_says_once_whom_it_refused_and_why(case: str, caplog: pytest.LogCaptureFixture) -> None:
    """One line at INFO with the address, however often the connection is used afterwards."""
    call, reason = CALLS[case]

    def serve(raw: socket.socket) -> None:
        with server_context(material(CA)).wrap_socket(raw, server_side=True, do_handshake_on_connect=False) as sock:
            for _ in range(3):
                with pytest.raises(ssl.SSLError):
                    sock.recv(1)

    with caplog.at_level(logging.INFO, "meshsec.tls"):
        served, _ = meet(serve, call)
    assert served.error is None
    [record] = caplog.records
    assert (record.name, record.levelname) == ("meshsec.tls", "INFO")
    assert record.getMessage().startswith(f"refused a TLS client from 127.0.0.1: {reason}")
    assert "BEGIN" not in record.getMessage()


def test_a_client_says_whom_it_refused(caplog: pytest.LogCaptureFixture) -> None:
    """By the name it was looking for."""

    def call(raw: socket.socket) -> None:
        context = client_context(material(CA), authorize=authorize_id("spiffe://td.example/reviews"))
        context.wrap_socket(raw, server_hostname="reviews.prod")

    with caplog.at_level(logging.INFO, "meshsec.tls"):
        meet(lambda raw: careless("server", CA.leaf()).wrap_socket(raw, server_side=True).close(), call)
    assert caplog.messages == [
        f"refused the TLS server reviews.prod at 127.0.0.1: the peer is {WEB}, expected is spiffe://td.example/reviews"
    ]


def test_a_peer_that_hangs_up_is_not_worth_a_line(caplog: pytest.LogCaptureFixture) -> None:
    """Health checks and port scans do that all day."""

    def serve(raw: socket.socket) -> None:
        server_context(material(CA)).wrap_socket(raw, server_side=True)

    with caplog.at_level(logging.INFO, "meshsec.tls"):
        served, _ = meet(serve, lambda raw: None)
    assert isinstance(served.error, OSError)
    assert caplog.records == []


def _alert(raw: socket.socket) -> None:
    raw.sendall(b"\x15\x03\x03\x00\x02\x02\x30")  # fatal, unknown_ca (RFC 8446 section 6)
    raw.recv(4096)


def _reset(raw: socket.socket) -> None:
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    raw.close()


def _client_hello() -> bytes:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with suppress(ssl.SSLWantReadError):
        careless("client").wrap_bio(incoming, outgoing).do_handshake()
    return outgoing.read()


ENDS: Final[dict[str, Callable[[socket.socket], Any]]] = {
    "alert": _alert,
    "end of the stream": lambda raw: raw.shutdown(socket.SHUT_WR),
    "reset": _reset,
    "broken pipe": lambda raw: raw.recv(4096),
}


@pytest.mark.parametrize("role", ["server", "client"])
@pytest.mark.parametrize("end", ENDS)
def test_a_handshake_that_the_other_side_ends_is_always_a_tls_error(end: str, role: str) -> None:
    """An alert, an end, a reset or a broken pipe: it is chance which of them a refused peer gets to see."""
    wrapped = threading.Event()

    def ours(raw: socket.socket) -> None:
        context = server_context(OURS) if role == "server" else client_context(OURS, authorize=authorize_any())
        sock = context.wrap_socket(raw, server_side=role == "server", do_handshake_on_connect=False)
        if end == "broken pipe":
            socket.socket.shutdown(sock, socket.SHUT_WR)
        wrapped.set()
        with sock:
            for act in (sock.do_handshake, partial(sock.recv, 1), partial(sock.sendall, b"x")):
                with pytest.raises(ssl.SSLError):
                    act()

    def theirs(raw: socket.socket) -> None:
        wrapped.wait(TIMEOUT)
        if role == "client":
            raw.recv(4096)
        elif end == "broken pipe":
            raw.sendall(_client_hello())
        ENDS[end](raw)

    served, called = meet(*((ours, theirs) if role == "server" else (theirs, ours)))
    outcome = served if role == "server" else called
    assert outcome.error is None


def test_a_fault_of_our_own_is_an_error_with_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    """The peer and the library only hear that it could not be judged."""

    def authorize(_peer: SpiffeId, _name: str | None) -> None:
        raise KeyError("private detail")

    server, client = wired(server_context(material(CA), authorize=authorize), careless("client", CA.leaf()))
    with pytest.raises(PeerRefusedError) as caught:
        shake_hands(server, client)
    assert "private detail" not in str(caught.value)
    [record] = caplog.records
    assert record.levelname == "ERROR"
    assert record.exc_info is not None


def test_an_object_in_memory_has_no_address_to_name(caplog: pytest.LogCaptureFixture) -> None:
    """Event loops keep the socket to themselves."""
    server, client = wired(server_context(StaticMaterial()), careless("client", CA.leaf()))
    with caplog.at_level(logging.INFO, "meshsec.tls"), pytest.raises(PeerRefusedError):
        shake_hands(server, client)
    assert caplog.messages == ["refused a TLS client: this workload has no SVID yet"]


def test_the_error_is_what_tls_libraries_expect() -> None:
    """An SSLError with all its attributes, text as its text, and a code of ours; it survives pickling."""
    error = PeerRefusedError("no such peer", "peer_not_authorized")
    assert isinstance(error, ssl.SSLCertVerificationError | ssl.CertificateError)
    assert isinstance(error, OSError)
    for item in (error, pickle.loads(pickle.dumps(error))):
        assert (str(item), item.errno, item.strerror) == ("no such peer", ssl.SSL_ERROR_SSL, "no such peer")
        assert (item.reason, item.library) == ("PEER_NOT_AUTHORIZED", "meshsec")
        assert (item.verify_code, item.verify_message, item.code) == (1, "no such peer", "peer_not_authorized")


def test_a_refusal_keeps_its_cause() -> None:
    """For programs that want to know more than the code."""
    context = server_context(material(CA), authorize=authorize_id("spiffe://td.example/other"))
    server, client = wired(context, careless("client", CA.leaf()))
    with pytest.raises(PeerRefusedError) as caught:
        shake_hands(server, client)
    assert isinstance(caught.value.__cause__, SvidError)
    assert caught.value.__cause__.code == caught.value.code == "peer_not_authorized"
