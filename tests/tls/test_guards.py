"""No byte passes before the peer is admitted, whichever method is called first (implicit handshakes)."""

from __future__ import annotations

import errno
import io
import select
import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from types import SimpleNamespace
from typing import Any, Final

import pytest

from meshsec.tls import PeerRefusedError, authorize_any, authorize_id, client_context, server_context, verified_peer
from meshsec.tls import _sockets as sockets
from pki import TestCA
from wire import careless, material, meet, shake_hands, wired

CA: Final = TestCA("td.example")
WEB: Final = material(CA, "/ns/prod/sa/web")
INTRUDER: Final = material(CA, "/ns/prod/sa/intruder")
ONLY_WEB: Final = authorize_id("spiffe://td.example/ns/prod/sa/web")

SECRET: Final = b"secret"

READS: Final[dict[str, Callable[[ssl.SSLSocket], Any]]] = {
    "read": lambda sock: sock.read(6),
    "recv": lambda sock: sock.recv(6),
    "recv_into": lambda sock: sock.recv_into(bytearray(6)),
    "recvfrom": lambda sock: sock.recvfrom(6),
    "recvfrom_into": lambda sock: sock.recvfrom_into(bytearray(6)),
    "makefile read": lambda sock: sock.makefile("rb").read(6),
    "makefile readline": lambda sock: sock.makefile("rb").readline(),
    "do_handshake": lambda sock: sock.do_handshake(),
}


def _written(sock: ssl.SSLSocket) -> None:
    with sock.makefile("wb") as file:
        file.write(SECRET)


WRITES: Final[dict[str, Callable[[ssl.SSLSocket], Any]]] = {
    "write": lambda sock: sock.write(SECRET),
    "send": lambda sock: sock.send(SECRET),
    "sendall": lambda sock: sock.sendall(SECRET),
    "sendfile": lambda sock: sock.sendfile(io.BytesIO(SECRET)),
    "makefile write": _written,
    "unwrap": lambda sock: sock.unwrap(),
}
# The ssl module has these raise on a TLS socket; the handshake must have come first all the same.
NEVER: Final = {"recvfrom", "recvfrom_into"}


# A port that takes plaintext, too, demands no less of those who begin with TLS.
BOTH: Final = pytest.mark.parametrize("plaintext", [None, lambda: True], ids=["TLS only", "or plaintext"])


def _lazily(context: ssl.SSLContext, act: Callable[[ssl.SSLSocket], Any], **options: Any) -> Any:
    def run(raw: socket.socket) -> Any:
        with context.wrap_socket(raw, do_handshake_on_connect=False, **options) as sock:
            return act(sock), verified_peer(sock)

    return run


def _talkative(raw: socket.socket) -> bytes:
    """A client that sends at once and reads the answer, if there is one."""
    with client_context(INTRUDER, authorize=authorize_any()).wrap_socket(raw) as sock:
        sock.sendall(SECRET)
        return sock.recv(6)


@BOTH
@pytest.mark.parametrize("method", [*READS, *WRITES])
def test_a_server_refuses_an_unauthorized_client_in_every_method(method: str, plaintext: Any) -> None:
    """The first call of any method that moves data judges the client."""
    act = {**READS, **WRITES}[method]
    context = server_context(WEB, authorize=ONLY_WEB, plaintext=plaintext)
    served, called = meet(_lazily(context, act, server_side=True), _talkative)
    assert isinstance(served.error, PeerRefusedError)
    assert served.error.code == "peer_not_authorized"
    assert called.value in {None, b""}


@BOTH
@pytest.mark.parametrize("method", sorted({*READS} - NEVER))
def test_a_server_reads_from_an_authorized_client_in_every_method(method: str, plaintext: Any) -> None:
    """The twin: the same call with a welcome client brings its bytes and its name."""
    context = server_context(WEB, plaintext=plaintext)

    def call(raw: socket.socket) -> None:
        with client_context(INTRUDER, authorize=ONLY_WEB).wrap_socket(raw) as sock:
            sock.sendall(SECRET)

    served, called = meet(_lazily(context, READS[method], server_side=True), call)
    assert (served.error, called.error) == (None, None)
    value, peer = served.value
    assert value in {SECRET, 6, None}
    assert str(peer.id) == "spiffe://td.example/ns/prod/sa/intruder"


@pytest.mark.parametrize("method", [*READS, *WRITES])
def test_a_client_refuses_an_impostor_in_every_method(method: str) -> None:
    """The server is judged before a byte of the request leaves."""
    act = {**READS, **WRITES}[method]
    chain_and_key = CA.leaf("/ns/prod/sa/intruder")

    def impostor(raw: socket.socket) -> bytes:
        with careless("server", chain_and_key).wrap_socket(raw, server_side=True) as sock:
            return sock.recv(6)

    context = client_context(WEB, authorize=ONLY_WEB)
    served, called = meet(impostor, _lazily(context, act, server_hostname="reviews.prod"))
    assert isinstance(called.error, PeerRefusedError)
    assert served.value in {None, b""}


@pytest.mark.parametrize("method", sorted({*WRITES} - {"unwrap"}))
def test_a_client_writes_to_the_right_server_in_every_method(method: str) -> None:
    """The twin: the same call to the server that was meant arrives."""

    def serve(raw: socket.socket) -> bytes:
        with server_context(WEB).wrap_socket(raw, server_side=True) as sock:
            return sock.recv(6)

    context = client_context(INTRUDER, authorize=ONLY_WEB)
    served, called = meet(serve, _lazily(context, WRITES[method]))
    assert (served.value, called.error) == (SECRET, None)


@BOTH
@pytest.mark.parametrize("method", ["read", "write", "unwrap", "do_handshake"])
@pytest.mark.parametrize("role", ["server", "client"])
def test_an_object_refuses_in_every_method(role: str, method: str, plaintext: Any) -> None:
    """Objects over memory, as event loops use them, are guarded alike; and once refused they stay so."""
    contexts = {
        "server": server_context(WEB, authorize=ONLY_WEB, plaintext=plaintext),
        "client": client_context(WEB, authorize=ONLY_WEB),
    }
    ours = contexts[role]
    theirs = careless("client" if role == "server" else "server", CA.leaf("/ns/prod/sa/intruder"))
    server, client = wired(*((ours, theirs) if role == "server" else (theirs, ours)))
    us, them = (server, client) if role == "server" else (client, server)
    act = {"read": lambda: us.read(6), "write": lambda: us.write(SECRET)}.get(method, getattr(us, method))
    with pytest.raises(PeerRefusedError):
        _go_on(lambda: (them.do_handshake(), them.write(SECRET)), act)
    assert verified_peer(us) is None
    with pytest.raises(PeerRefusedError):
        us.read(6)


def _go_on(*steps: Callable[[], object]) -> None:
    for _ in range(6):
        for step in steps:
            with suppress(ssl.SSLWantReadError):
                step()


def test_objects_that_are_welcome_talk() -> None:
    """The twin: the same objects with welcome peers exchange bytes and know each other."""
    server, client = wired(server_context(WEB), client_context(INTRUDER, authorize=ONLY_WEB), "reviews.prod")
    shake_hands(server, client)
    client.write(SECRET)
    assert server.read(6) == SECRET
    peer = verified_peer(server)
    assert peer is not None
    assert (peer.id.path, peer.sni, peer.role) == ("/ns/prod/sa/intruder", "reviews.prod", "client")


def test_a_refused_socket_stays_refused() -> None:
    """A caller that swallows the error gets it again, from every method, and no plaintext leaves."""

    def serve(raw: socket.socket) -> list[str]:
        seen = []
        with server_context(WEB, authorize=ONLY_WEB).wrap_socket(
            raw, server_side=True, do_handshake_on_connect=False
        ) as sock:
            for number in range(2):
                for act in (*READS.values(), *WRITES.values()):
                    with pytest.raises(OSError) as caught:
                        act(sock)
                    seen.append(type(caught.value).__name__)
                if number == 0:
                    with suppress(OSError):
                        sock.shutdown(socket.SHUT_RDWR)  # then the ssl module has forgotten that it ever was TLS
            assert verified_peer(sock) is None
        return seen

    served, called = meet(serve, _talkative)
    assert set(served.value) == {"PeerRefusedError"}
    assert called.value in {None, b""}


@pytest.mark.parametrize("method", sorted(WRITES))
def test_plaintext_never_leaves_a_socket_that_was_shut_down(method: str) -> None:
    """The ssl module would go on in plaintext after shutdown(); here writing is over, and draining still works."""

    def serve(raw: socket.socket) -> int | None:
        with server_context(WEB).wrap_socket(raw, server_side=True) as sock:
            sock.recv(6)
            sock.shutdown(socket.SHUT_RD)
            with pytest.raises(BrokenPipeError) as caught:
                WRITES[method](sock)
            sock.recv(100)
            return caught.value.errno

    def call(raw: socket.socket) -> bytes:
        with client_context(INTRUDER, authorize=ONLY_WEB).wrap_socket(raw, suppress_ragged_eofs=True) as sock:
            sock.sendall(SECRET)
            return sock.recv(6)

    served, called = meet(serve, call)
    assert (served.value, called.value) == (errno.EPIPE, b"")


def test_a_refusal_ends_the_connection_at_once() -> None:
    """Even where the server holds on to its socket; the descriptor stays the server's to close."""
    hung_up = threading.Event()

    def serve(raw: socket.socket) -> bool:
        with server_context(WEB, authorize=ONLY_WEB).wrap_socket(
            raw, server_side=True, do_handshake_on_connect=False
        ) as sock:
            with pytest.raises(PeerRefusedError):
                sock.recv(6)
            return hung_up.wait(20) and sock.fileno() >= 0

    def call(raw: socket.socket) -> bytes:
        try:
            return _talkative(raw)
        finally:
            hung_up.set()

    served, called = meet(serve, call)
    assert served.value is True
    assert called.value in {None, b""}


def test_plaintext_is_never_read_from_a_socket_that_was_never_admitted() -> None:
    """What a client sends before any handshake is not data, not even after shutdown()."""

    def serve(raw: socket.socket) -> bytes:
        with server_context(WEB).wrap_socket(raw, server_side=True, do_handshake_on_connect=False) as sock:
            sock.shutdown(socket.SHUT_WR)
            return sock.recv(6)

    served, _ = meet(serve, lambda raw: raw.sendall(SECRET))
    assert isinstance(served.error, OSError)
    assert served.value is None


def test_plaintext_sent_before_the_connection_died_is_not_data() -> None:
    """A client that writes and resets before the server wraps is refused (CVE-2023-40217)."""

    def serve(raw: socket.socket) -> bytes:
        raw.recv(1, socket.MSG_PEEK)
        raw.shutdown(socket.SHUT_RDWR)
        with server_context(WEB).wrap_socket(raw, server_side=True, do_handshake_on_connect=False) as sock:
            return sock.recv(6)

    served, _ = meet(serve, lambda raw: raw.sendall(SECRET))
    assert isinstance(served.error, OSError)


def test_sendto_is_never_possible() -> None:
    """Not before the handshake either."""

    def serve(raw: socket.socket) -> None:
        with server_context(WEB).wrap_socket(raw, server_side=True, do_handshake_on_connect=False) as sock:
            sock.sendto(SECRET, ("127.0.0.1", 9))

    served, _ = meet(serve, lambda raw: None)
    assert isinstance(served.error, ValueError)


def test_the_context_of_a_connection_cannot_be_replaced() -> None:
    """Trust would go with it."""
    server, client = wired(server_context(WEB), client_context(WEB, authorize=ONLY_WEB))
    for tls_object in (server, client):
        with pytest.raises(AttributeError):
            tls_object.context = careless("server")


def test_a_client_that_stops_in_the_handshake_is_sent_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """A blocking server without a timeout does not wait for ever; a thread pool would run dry."""
    monkeypatch.setattr(sockets, "PATIENCE_SECONDS", 0.05)

    def serve(raw: socket.socket) -> None:
        raw.settimeout(None)
        server_context(WEB).wrap_socket(raw, server_side=True)

    served, called = meet(serve, lambda raw: raw.recv(1))
    assert isinstance(served.error, PeerRefusedError)
    assert served.error.code == "handshake_timeout"
    assert called.value == b""


def test_a_server_that_waits_for_ever_does_so_after_the_handshake() -> None:
    """Only the handshake has to come in time."""

    def serve(raw: socket.socket) -> float | None:
        raw.settimeout(None)
        with server_context(WEB).wrap_socket(raw, server_side=True) as sock:
            return sock.gettimeout()

    served, _ = meet(serve, _talkative)
    assert (served.value, served.error) == (None, None)


def test_a_timeout_of_the_callers_own_is_kept() -> None:
    """A socket with a timeout times out as ever, and may go on afterwards."""

    go = threading.Event()

    def serve(raw: socket.socket) -> bytes:
        with server_context(WEB).wrap_socket(raw, server_side=True, do_handshake_on_connect=False) as sock:
            sock.settimeout(0.02)
            with pytest.raises(TimeoutError):
                sock.do_handshake()
            assert sock.gettimeout() == 0.02
            sock.settimeout(20)
            go.set()
            return sock.recv(6)

    def call(raw: socket.socket) -> None:
        go.wait(20)
        with client_context(WEB, authorize=ONLY_WEB).wrap_socket(raw) as sock:
            sock.sendall(SECRET)

    served, called = meet(serve, call)
    assert (served.value, called.error) == (SECRET, None)


def test_a_non_blocking_socket_is_judged_too() -> None:
    """The handshake of a non-blocking socket goes on from call to call, inside recv."""

    def serve(raw: socket.socket) -> bytes:
        with server_context(WEB, authorize=ONLY_WEB).wrap_socket(
            raw, server_side=True, do_handshake_on_connect=False
        ) as sock:
            sock.setblocking(False)
            while True:
                try:
                    return sock.recv(6)
                except ssl.SSLWantReadError:
                    select.select([sock], [], [], 20)

    served, _ = meet(serve, _talkative)
    assert isinstance(served.error, PeerRefusedError)


def test_what_is_not_ours_has_no_peer() -> None:
    """However well another context may have verified, only our own verdict counts."""
    server, client = wired(careless("server", CA.leaf()), careless("client"))
    shake_hands(server, client)
    claiming = SimpleNamespace(peer="spiffe://td.example/ns/prod/sa/web", refused=None)
    assert [verified_peer(item) for item in (server, client, None, claiming)] == [None] * 4
