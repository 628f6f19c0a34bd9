"""Two ends of a real connection over the loopback, each in its own thread, and contexts that lie."""

from __future__ import annotations

import socket
import ssl
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from meshsec.spiffe import X509Bundle, X509BundleSet, X509Svid
from meshsec.tls import StaticMaterial
from pki import Key, TestCA, key_pem, pem

__all__ = ["Outcome", "bundles", "careless", "material", "meet", "shake_hands", "svid", "wired"]

TIMEOUT: Final = 20.0


@dataclass(frozen=True)
class Outcome:
    """How one end fared: a value or an error."""

    value: Any = None
    error: Exception | None = None


def svid(ca: TestCA, path: str = "/ns/prod/sa/web", **options: Any) -> X509Svid:
    """A good SVID."""
    chain, key = ca.leaf(path, **options)
    return X509Svid(chain, key)


def bundles(*cas: TestCA) -> X509BundleSet:
    """One bundle for each trust domain, of all its CAs."""
    domains = dict.fromkeys(ca.trust_domain for ca in cas)
    return X509BundleSet(
        X509Bundle(domain, [ca.certificate for ca in cas if ca.trust_domain == domain]) for domain in domains
    )


def material(ca: TestCA, path: str = "/ns/prod/sa/web", trust: X509BundleSet | None = None) -> StaticMaterial:
    """A workload that has an SVID and trusts its own CA, or what it is told to trust."""
    return StaticMaterial(svid(ca, path), bundles(ca) if trust is None else trust)


def careless(role: str, pair: tuple[Sequence[bytes], Key] | None = None) -> ssl.SSLContext:
    """A context of the ssl module for a "client" or "server" that presents anything and checks nothing."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if role == "server" else ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if pair:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "pair.pem")
            file.write_bytes(key_pem(pair[1]) + pem(pair[0]))
            context.load_cert_chain(file)
    return context


def _attempt(sock: socket.socket, act: Callable[[socket.socket], Any]) -> Outcome:
    with sock:
        sock.settimeout(TIMEOUT)
        try:
            return Outcome(value=act(sock))
        except Exception as error:  # noqa: BLE001 - whatever it is, the test looks at it
            return Outcome(error=error)


def meet(serve: Callable[[socket.socket], Any], call: Callable[[socket.socket], Any]) -> tuple[Outcome, Outcome]:
    """Run both ends on a fresh TCP connection, each with its raw socket: the server's fate, and the client's."""
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as pool:
        client = socket.create_connection(listener.getsockname(), timeout=TIMEOUT)
        accepted, _ = listener.accept()
        served = pool.submit(_attempt, accepted, serve)
        called = _attempt(client, call)
        return served.result(), called


def shake_hands(server: ssl.SSLObject, client: ssl.SSLObject) -> None:
    """Drive two objects over memory until both are done, or one raises."""
    for _ in range(10):
        done = True
        for side in (client, server):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                done = False
        if done:
            return
    raise RuntimeError("the handshake does not end")


def wired(
    server: ssl.SSLContext, client: ssl.SSLContext, server_hostname: str | None = None
) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """Two objects whose memories are connected."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    return (
        server.wrap_bio(to_server, to_client, server_side=True),
        client.wrap_bio(to_client, to_server, server_hostname=server_hostname),
    )
