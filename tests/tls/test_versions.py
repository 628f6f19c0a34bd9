"""TLS 1.2 by switch, where sessions resume whatever one does, and our own SVID's end."""

from __future__ import annotations

import ssl
from typing import Any, Final

import pytest

from meshsec.spiffe import X509Svid
from meshsec.tls import (
    PeerRefusedError,
    StaticMaterial,
    authorize_any,
    client_context,
    server_context,
    verified_peer,
)
from pki import NOW, TestCA
from wire import bundles, careless, material, meet, svid

CA: Final = TestCA("td.example")


def old(chain: Any = None) -> ssl.SSLContext:
    """A client that knows nothing newer than TLS 1.2."""
    context = careless("client", chain or CA.leaf())
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    return context


def converse(server: ssl.SSLContext, client: ssl.SSLContext, session: Any = None) -> tuple[Any, Any]:
    """One connection with a byte each way and a clean end, so that the session may be resumed."""

    def serve(raw: Any) -> Any:
        with server.wrap_socket(raw, server_side=True) as sock:
            sock.sendall(sock.recv(1))
            peer = verified_peer(sock)
            reused = sock.session_reused
            sock.unwrap()
            return str(peer.id) if peer else None, reused

    def call(raw: Any) -> Any:
        with client.wrap_socket(raw, session=session) as sock:
            sock.sendall(b"x")
            sock.recv(1)
            found = sock.session
            sock.unwrap()
            return found

    return meet(serve, call)


def test_tls_1_2_needs_the_switch() -> None:
    """And 1.3 is spoken with everyone who can."""
    served, _ = converse(server_context(material(CA)), old())
    assert isinstance(served.error, ssl.SSLError)
    switched = server_context(material(CA), minimum="1.2")
    assert converse(switched, old())[0].value == ("spiffe://td.example/ns/prod/sa/web", False)
    assert converse(switched, careless("client", CA.leaf()))[0].error is None


@pytest.mark.parametrize(
    ("cipher", "taken"),
    [
        ("ECDHE-ECDSA-AES128-GCM-SHA256", True),
        ("ECDHE-ECDSA-CHACHA20-POLY1305", True),
        ("ECDHE-ECDSA-AES128-SHA256", False),
        ("ECDHE-ECDSA-AES256-CCM", False),
    ],
)
def test_tls_1_2_is_spoken_with_the_ciphers_of_1_3_only(cipher: str, taken: bool) -> None:
    """Forward secrecy and authenticated encryption: not those that Python permits besides."""
    client = old()
    client.set_ciphers(cipher)
    served, _ = converse(server_context(material(CA), minimum="1.2"), client)
    assert (served.error is None) is taken


def test_a_resumed_session_is_verified_anew() -> None:
    """OpenSSL looks at no certificate then; the gate does, with the bundles of that moment."""
    source = material(CA)
    server, client = server_context(source, minimum="1.2"), old()
    _, first = converse(server, client)
    served, _ = converse(server, client, first.value)
    assert served.value == ("spiffe://td.example/ns/prod/sa/web", True)


@pytest.mark.parametrize("minimum", ["1.2", "1.3"])
def test_a_session_does_not_outlive_trust(minimum: Any) -> None:
    """The authority is gone: neither a saved session nor a new handshake helps."""
    source = material(CA)
    server = server_context(source, minimum=minimum)
    client = old() if minimum == "1.2" else careless("client", CA.leaf())
    _, first = converse(server, client)
    source.replace(bundles=bundles(TestCA("td.example")))
    served, _ = converse(server, client, first.value)
    assert isinstance(served.error, ssl.SSLError)


def test_a_session_does_not_outlive_its_certificate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Resumed after the client's certificate has ended, it is refused: the clock is set forward here."""
    server, client = server_context(material(CA), minimum="1.2"), old(CA.leaf(not_after=NOW + 600))
    _, first = converse(server, client)
    monkeypatch.setattr("meshsec.tls._peer.time.time", lambda: NOW + 700)
    served, _ = converse(server, client, first.value)
    assert isinstance(served.error, PeerRefusedError)


def test_our_own_expired_svid_is_not_presented() -> None:
    """Every handshake fails and says why, instead of leaving it to each peer to find out."""
    chain, key = CA.leaf(not_before=NOW - 100, not_after=NOW - 10)
    source = StaticMaterial(X509Svid(chain, key), bundles(CA))
    served, _ = converse(server_context(source), careless("client", CA.leaf()))
    assert isinstance(served.error, PeerRefusedError)
    assert served.error.code == "svid_expired"
    _, called = converse(careless("server", CA.leaf()), client_context(source, authorize=authorize_any()))
    assert getattr(called.error, "code", None) == "svid_expired"


@pytest.mark.parametrize("role", ["server", "client"])
def test_our_own_svid_is_presented_until_it_expires(role: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same context, and nothing came after it: a process that slept, say. The clock is set forward here."""
    source = StaticMaterial(svid(CA, not_after=NOW + 600), bundles(CA))
    contexts = {"server": careless("server", CA.leaf()), "client": careless("client", CA.leaf())}
    ours = server_context(source) if role == "server" else client_context(source, authorize=authorize_any())
    ends = contexts | {role: ours}
    assert {outcome.error for outcome in converse(ends["server"], ends["client"])} == {None}
    monkeypatch.setattr("meshsec.tls._context.time.time", lambda: NOW + 601)
    refused = dict(zip(("server", "client"), converse(ends["server"], ends["client"]), strict=True))[role].error
    assert getattr(refused, "code", None) == "svid_expired"
