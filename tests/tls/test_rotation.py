"""New connections follow the source; open ones live on; a bad update never stops a good one."""

from __future__ import annotations

import socket
import ssl
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import pytest

from meshsec.errors import SvidError
from meshsec.spiffe import X509Svid
from meshsec.tls import (
    MeshSSLContext,
    PeerRefusedError,
    StaticMaterial,
    TlsMaterial,
    authorize_any,
    client_context,
    server_context,
    verified_peer,
)
from meshsec.tls import _context as contexts
from pki import NOW, TestCA
from wire import TIMEOUT, bundles, careless, material, meet, shake_hands, svid, wired

CA: Final = TestCA("td.example")


def client(source: StaticMaterial) -> MeshSSLContext:
    """A client that takes any server of a trust domain it knows."""
    return client_context(source, authorize=authorize_any())


def seen(server: ssl.SSLContext, caller: ssl.SSLContext) -> tuple[str, str]:
    """One handshake in memory: the serial numbers that each end saw of the other, as text."""
    ends = wired(server, caller)
    shake_hands(*ends)
    certificates = [end.getpeercert() for end in ends]
    return str(certificates[0]["serialNumber"]), str(certificates[1]["serialNumber"])


def serial(item: X509Svid) -> str:
    """As the ssl module writes it."""
    text = f"{item.serial:X}"
    return text if len(text) % 2 == 0 else "0" + text


def test_a_new_connection_sees_the_new_certificates() -> None:
    """On both sides, from the next handshake on."""
    ours, theirs = material(CA), material(CA)
    server, caller = server_context(ours), client(theirs)
    assert seen(server, caller) == (serial(theirs.current().svid), serial(ours.current().svid))
    for source in (ours, theirs):
        source.replace(svid=svid(CA))
        assert seen(server, caller) == (serial(theirs.current().svid), serial(ours.current().svid))


def test_a_removed_authority_is_refused_and_an_added_one_taken() -> None:
    """Trust shrinks and grows with the bundles, while the own certificate stays."""
    other = TestCA("td.example")
    ours = material(CA)
    server = server_context(ours)
    old, new = client(material(CA, trust=bundles(CA, other))), client(material(other, trust=bundles(CA, other)))
    seen(server, old)
    with pytest.raises(ssl.SSLCertVerificationError):
        seen(server, new)
    ours.replace(bundles=bundles(CA, other))
    seen(server, old)
    seen(server, new)
    ours.replace(bundles=bundles(other))
    seen(server, new)
    with pytest.raises(ssl.SSLCertVerificationError):
        seen(server, old)


def test_an_open_connection_lives_on() -> None:
    """Rotation concerns new connections; whether an old one still holds is asked per request."""
    ours = material(CA)
    server, caller = wired(server_context(ours), client(material(CA)))
    shake_hands(server, caller)
    before = verified_peer(server)
    ours.replace(svid=svid(CA), bundles=bundles(TestCA("td.example")))
    caller.write(b"hello")
    assert server.read(5) == b"hello"
    assert verified_peer(server) is before


@pytest.mark.parametrize("role", ["server", "client"])
def test_a_handshake_that_began_before_a_change_of_trust_is_judged_after_it(role: str) -> None:
    """The newest bundles count, not those of the context that the connection began with."""
    ours = material(CA)
    context = server_context(ours) if role == "server" else client(ours)
    theirs = careless("client" if role == "server" else "server", CA.leaf())
    server, caller = wired(*((context, theirs) if role == "server" else (theirs, context)))
    ours.replace(bundles=bundles(TestCA("td.example")))
    with pytest.raises(PeerRefusedError) as caught:
        shake_hands(server, caller)
    assert caught.value.code == "untrusted_chain"


def test_nothing_is_built_while_nothing_changes() -> None:
    """A context per snapshot, not per connection."""
    built = []
    original = contexts._filled

    def counting(*arguments: Any) -> Any:
        built.append(arguments)
        return original(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contexts, "_filled", counting)
        ours = material(CA)
        server, caller = server_context(ours), client(material(CA))
        for _ in range(3):
            seen(server, caller)
        assert len(built) == 2
        ours.replace(svid=svid(CA))
        server.prepare()
        assert len(built) == 3
        seen(server, caller)
        assert len(built) == 3
        for offered in (["h2"], ["http/1.1"], ["h2"], ["http/1.1"]):  # two clients that share one context
            caller.set_alpn_protocols(offered)
            seen(server, caller)
        assert len(built) == 5


class _Nothing:
    """A source that has nothing yet."""

    def current(self) -> TlsMaterial:
        raise SvidError("the agent has not answered yet", code="no_svid")


@pytest.mark.parametrize(
    ("source", "message"),
    [(_Nothing(), "the agent has not answered yet"), (StaticMaterial(), "this workload has no SVID yet")],
)
def test_without_an_identity_handshakes_fail_and_construction_does_not(source: Any, message: str) -> None:
    """A pod may start before its certificate. Wrapping never raises: some servers answer that in plaintext."""
    for server, caller in (
        (server_context(source), client(material(CA))),
        (server_context(material(CA)), client(source)),
    ):
        ends = wired(server, caller)
        with pytest.raises(PeerRefusedError, match=message):
            shake_hands(*ends)


@pytest.mark.parametrize("early", [True, False])
def test_without_an_identity_a_socket_is_refused_too(early: bool) -> None:
    """Whether the handshake is asked for at once or comes with the first read."""
    server = server_context(StaticMaterial())

    def serve(raw: socket.socket) -> bytes:
        with server.wrap_socket(raw, server_side=True, do_handshake_on_connect=early) as sock:
            return sock.recv(1)

    served, called = meet(serve, lambda raw: raw.recv(100))
    assert isinstance(served.error, PeerRefusedError)
    assert called.value == b""


def test_an_identity_that_arrives_later_serves() -> None:
    """The twin: the same context works once its source has something; and stops when it is withdrawn."""
    ours = StaticMaterial()
    server, caller = server_context(ours), client(material(CA))
    ours.replace(svid=svid(CA), bundles=bundles(CA))
    seen(server, caller)
    ours.replace(svid=None)
    with pytest.raises(PeerRefusedError):
        seen(server, caller)


def test_a_pair_that_does_not_match_cannot_be_published() -> None:
    """No such SVID exists, so what was published before still serves."""
    ours = material(CA)
    server, caller = server_context(ours), client(material(CA))
    before = seen(server, caller)
    with pytest.raises(SvidError) as caught:
        ours.replace(svid=X509Svid(CA.leaf()[0], CA.leaf()[1]))
    assert caught.value.code == "key_mismatch"
    assert seen(server, caller)[1] == before[1]


def test_an_svid_that_openssl_refuses_leaves_the_last_one_serving(caplog: pytest.LogCaptureFixture) -> None:
    """And says so once, not once for each connection."""
    ours, theirs = material(CA), material(CA)
    server, caller = server_context(ours), client(theirs)
    before = seen(server, caller)
    ours.replace(svid=svid(CA, key="rsa1024"))
    for _ in range(3):
        assert seen(server, caller) == before
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "small" in caplog.text


def test_the_last_good_context_does_not_keep_trust_that_was_withdrawn() -> None:
    """Although it still has the old authorities in it."""
    ours = material(CA)
    server, caller = server_context(ours), client(material(CA))
    seen(server, caller)
    ours.replace(svid=svid(CA, key="rsa1024"), bundles=bundles(TestCA("td.example")))
    with pytest.raises(PeerRefusedError):
        seen(server, caller)


def test_the_last_good_context_ends_with_its_certificate(monkeypatch: pytest.MonkeyPatch) -> None:
    """What came after it is unusable, and it is shown no longer than it is valid; the clock is set forward here."""
    ours = StaticMaterial(svid(CA, not_after=NOW + 600), bundles(CA))
    server, caller = server_context(ours), client(material(CA))
    seen(server, caller)
    ours.replace(svid=svid(CA, key="rsa1024"))
    seen(server, caller)
    monkeypatch.setattr("meshsec.tls._context.time.time", lambda: NOW + 700)
    with pytest.raises(PeerRefusedError) as caught:
        seen(server, caller)
    assert caught.value.code == "svid_unusable"


def test_a_first_svid_that_openssl_refuses_refuses_everyone() -> None:
    """There is no last good one, and no unauthenticated one."""
    with pytest.raises(PeerRefusedError, match="small"):
        seen(server_context(StaticMaterial(svid(CA, key="rsa1024"), bundles(CA))), client(material(CA)))


def test_alpn_is_carried_into_every_new_context() -> None:
    """Libraries set it on what they hold, once or before each connection."""
    ours, theirs = material(CA), material(CA)
    server, caller = server_context(ours), client(theirs)
    for offered, agreed in ((["h2", "http/1.1"], "h2"), (["http/1.1"], "http/1.1"), (["x"], None)):
        server.set_alpn_protocols(["h2", "http/1.1"])
        caller.set_alpn_protocols(offered)
        for _ in range(2):
            ends = wired(server, caller)
            shake_hands(*ends)
            assert ends[0].selected_alpn_protocol() == agreed
            ours.replace(svid=svid(CA))
            theirs.replace(svid=svid(CA))
    with pytest.raises(ssl.SSLError):
        server.set_alpn_protocols([""])


def test_a_listening_socket_that_was_wrapped_follows_too() -> None:
    """Its accept() goes through the outer context; the first certificate is never pinned."""
    ours, theirs = material(CA), material(CA)
    server, caller = server_context(ours), client(theirs)
    with server.wrap_socket(socket.create_server(("127.0.0.1", 0)), server_side=True) as listener:
        listener.settimeout(TIMEOUT)
        for _ in range(3):
            with ThreadPoolExecutor(1) as pool:
                called = pool.submit(_greeted, caller, listener.getsockname())
                accepted, _ = listener.accept()
                with accepted:
                    accepted.settimeout(TIMEOUT)
                    assert accepted.recv(5) == b"hello"
                    assert verified_peer(accepted) is not None
                assert called.result() == serial(ours.current().svid)
            ours.replace(svid=svid(CA))


def test_a_listening_socket_that_was_wrapped_refuses_too() -> None:
    """The twin: a client that trust was withdrawn from is not accepted."""
    ours = material(CA)
    server, caller = server_context(ours), client(material(CA))
    with server.wrap_socket(socket.create_server(("127.0.0.1", 0)), server_side=True) as listener:
        listener.settimeout(TIMEOUT)
        ours.replace(bundles=bundles(TestCA("td.example")))
        with ThreadPoolExecutor(1) as pool:
            pool.submit(_greeted, caller, listener.getsockname())
            with pytest.raises(ssl.SSLCertVerificationError):
                listener.accept()


def _greeted(caller: ssl.SSLContext, address: Any) -> str:
    with caller.wrap_socket(socket.create_connection(address, timeout=TIMEOUT)) as sock:
        sock.sendall(b"hello")
        return str(sock.getpeercert()["serialNumber"])


def test_a_client_socket_may_be_wrapped_before_it_connects() -> None:
    """As some libraries do; it presents the certificate of the moment it was wrapped, and is guarded all the same."""
    server = server_context(material(CA))

    def serve(listener: socket.socket) -> bytes:
        accepted, _ = listener.accept()
        with accepted, server.wrap_socket(accepted, server_side=True) as sock:
            return sock.recv(5)

    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as pool:
        served = pool.submit(serve, listener)
        with client(material(CA)).wrap_socket(socket.socket()) as sock:
            with pytest.raises(OSError):
                sock.recv(1)
            sock.settimeout(TIMEOUT)
            sock.connect(listener.getsockname())
            sock.sendall(b"hello")
            assert verified_peer(sock) is not None
        assert served.result(TIMEOUT) == b"hello"


def test_the_generation_rises_with_the_bundles_only() -> None:
    """It is what later requests compare."""
    source = material(CA)
    first = source.current()
    assert source.current() is first
    source.replace(svid=svid(CA))
    assert (source.current().generation, source.current() is first) == (first.generation, False)
    source.replace(bundles=bundles(CA))
    assert source.current().generation == first.generation
    source.replace(bundles=bundles(CA, TestCA("td.example")))
    assert source.current().generation == first.generation + 1
