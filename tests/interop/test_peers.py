"""A real Envoy's listener and ours: who gets in, by how they come, under each mode of PeerAuthentication.

What Envoy lets in and we do not is a row of docs/explanation/differences-from-istio.md, "Certificates".
"""

from __future__ import annotations

import socket
import ssl
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, Final

import pytest

from answering import TlsServer, answering
from interop import sidecar
from meshsec import Mesh, MeshConfig, Workload
from meshsec.attributes import HttpRequest
from meshsec.middleware import Transport
from meshsec.resources import parse
from meshsec.sources import Identity, StaticIdentity
from meshsec.spiffe import X509Bundle, X509Svid
from pki import LIFETIME, TestCA, key_pem, pem

TIMEOUT: Final = 20.0
DOMAIN: Final = "cluster.local"
MODES: Final = ("STRICT", "PERMISSIVE", "DISABLE")
POLICY: Final = """
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {{name: peers, namespace: prod}}
spec: {{mtls: {{mode: {}}}}}
"""
ALPN: Final = ("istio-http/1.1", "istio")
START: Final = time.time()
DATES: Final = {"not_before": START - 600, "not_after": START + LIFETIME}


def ca(trust_domain: str = DOMAIN) -> TestCA:
    """A root of its own."""
    return TestCA(trust_domain, **DATES)


ROOT, STRANGER = ca(), ca()
Pair = tuple[Sequence[bytes], Any]


def leaf(issuer: TestCA = ROOT, **changes: Any) -> Pair:
    """A certificate of a workload of the mesh, but for these changes."""
    return issuer.leaf(**{**DATES, **changes})


@dataclass(frozen=True)
class Caller:
    """How somebody comes, and whether Envoy and we let them in where TLS is terminated."""

    pair: Pair | None
    envoy: bool
    ours: bool


def uri(trust_domain: str, path: str = "/ns/prod/sa/web") -> str:
    """A SPIFFE ID."""
    return f"spiffe://{trust_domain}{path}"


CALLERS: Final[Mapping[str, Caller]] = {
    "a workload of the mesh": Caller(leaf(), True, True),
    "a workload of an alias": Caller(leaf(uris=[uri("old-td")]), True, True),
    "no certificate": Caller(None, False, False),
    "another trust domain under our root": Caller(leaf(uris=[uri("other")]), False, False),
    "our trust domain under another root": Caller(leaf(STRANGER), False, False),
    "another trust domain under its own root": Caller(leaf(ca("other")), False, False),
    "expired": Caller(leaf(not_before=START - 900, not_after=START - 300), False, False),
    "not valid yet": Caller(leaf(not_before=START + LIFETIME / 2), False, False),
    "for servers only": Caller(leaf(eku=("server",)), False, False),
    "without extended key usage": Caller(leaf(eku=None), True, True),
    "without key usage": Caller(leaf(key_usage=None), True, True),
    "a key for certificates only": Caller(leaf(key_usage=("key_cert_sign",)), False, False),
    "without a SPIFFE ID": Caller(leaf(uris=[], dns=["web.prod"]), False, False),
    "another scheme": Caller(leaf(uris=[f"https://{DOMAIN}/ns/prod/sa/web"]), False, False),
    "a trust domain with our name in front": Caller(leaf(uris=[uri(f"{DOMAIN}.evil")]), False, False),
    "two SPIFFE IDs": Caller(leaf(uris=[uri(DOMAIN), uri(DOMAIN, "/ns/prod/sa/api")]), True, False),
    "a CA's certificate": Caller(leaf(ca=True, key_usage=("digital_signature", "key_cert_sign")), True, False),
    "no path in the SPIFFE ID": Caller(leaf(uris=[f"spiffe://{DOMAIN}/"]), True, False),
}


def identity() -> Identity:
    """Ours."""
    chain, key = leaf(uris=[uri(DOMAIN, "/ns/prod/sa/server")])
    svid = X509Svid.from_pem(pem(chain), key_pem(key))
    return Identity(svid, X509Bundle(DOMAIN, [ROOT.certificate]))


class _Handler(BaseHTTPRequestHandler):
    """Answers with the status of the decision."""

    def do_GET(self) -> None:
        server: Any = self.server
        lines = tuple(self.headers.items())
        request = HttpRequest("GET", self.path, self.headers["host"], lines, "http")
        decision = server.mesh.decide(server.mesh.connection(Transport.of_socket(self.connection)), request)
        self.send_response(decision.status)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class _Server(TlsServer):
    mesh: Mesh


@contextmanager
def serving(mode: str) -> Iterator[int]:
    """Our own listener under a mode; the port."""
    config = MeshConfig(trust_domain=DOMAIN, trust_domain_aliases=("old-td",))
    workload = Workload(name="web", namespace="prod", service_account="server")
    resources = parse(POLICY.format(mode))
    source = StaticIdentity(identity())
    with Mesh(workload=workload, resources=resources, config=config, identity=source) as mesh:
        server = _Server(("127.0.0.1", 0), _Handler)
        server.mesh = mesh
        server.context = None if mode == "DISABLE" else mesh.server_context(server.server_port)
        with answering(server):
            yield server.server_port


@pytest.fixture(scope="module")
def ports() -> Iterator[Mapping[str, tuple[int, int]]]:
    """For each mode Envoy's port and ours."""
    own = identity()
    with ExitStack() as stack:
        theirs = stack.enter_context(sidecar.accepting(own.svid, ROOT.pem, (DOMAIN, "old-td"), MODES))
        ours = [stack.enter_context(serving(mode)) for mode in MODES]
        yield {mode: pair for mode, *pair in zip(MODES, theirs, ours, strict=True)}  # type: ignore[misc]


def context(pair: Pair | None) -> ssl.SSLContext:
    """A client with this certificate; whom it talks to is not what is tested."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname = False
    made.verify_mode = ssl.CERT_NONE
    made.set_alpn_protocols(ALPN)
    if pair is not None:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "pair.pem")
            file.write_bytes(key_pem(pair[1]) + pem(pair[0]))
            made.load_cert_chain(file)
    return made


def lets_in(port: int, made: ssl.SSLContext | None) -> bool:
    """Whether a request that comes so is answered with 200; a connection that is closed is none."""
    try:
        with closing(socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT)) as sock:
            secured = made.wrap_socket(sock) if made else sock
            with closing(secured):
                secured.sendall(b"GET / HTTP/1.1\r\nHost: web.prod\r\nConnection: close\r\n\r\n")
                return secured.recv(65536).startswith((b"HTTP/1.1 200", b"HTTP/1.0 200"))
    except OSError:
        return False


@pytest.mark.parametrize("mode", ["STRICT", "PERMISSIVE"])
@pytest.mark.parametrize("name", CALLERS)
def test_who_gets_in_over_tls(name: str, mode: str, ports: Mapping[str, tuple[int, int]]) -> None:
    """The same under both modes: where TLS is terminated, a certificate is required and judged."""
    caller = CALLERS[name]
    theirs, ours = ports[mode]
    found = lets_in(theirs, context(caller.pair)), lets_in(ours, context(caller.pair))
    assert found == (caller.envoy, caller.ours)
    assert caller.envoy or not caller.ours


@pytest.mark.parametrize(("mode", "passes"), [("STRICT", False), ("PERMISSIVE", True), ("DISABLE", True)])
def test_plaintext(mode: str, passes: bool, ports: Mapping[str, tuple[int, int]]) -> None:
    """Envoy closes the connection, and so do we."""
    theirs, ours = ports[mode]
    assert (lets_in(theirs, None), lets_in(ours, None)) == (passes, passes)


def test_tls_where_it_is_disabled(ports: Mapping[str, tuple[int, int]]) -> None:
    """Nobody terminates it."""
    theirs, ours = ports["DISABLE"]
    made = context(CALLERS["a workload of the mesh"].pair)
    assert (lets_in(theirs, made), lets_in(ours, made)) == (False, False)
