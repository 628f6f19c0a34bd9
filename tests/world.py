"""A small mesh in memory for tests: one authority, meshes of its service accounts, and real servers on free ports."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler

import websockets.sync.server

from answering import TlsServer, answering
from meshsec import Mesh, MeshConfig, SpiffeId, Workload
from meshsec.ca import CertificateAuthority
from meshsec.resources import Service
from meshsec.sources import Identity, StaticIdentity

__all__ = ["World", "serve", "serve_websockets"]


class World:
    """One trust domain."""

    def __init__(self, trust_domain: str = "cluster.local") -> None:
        self.trust_domain = trust_domain
        self.authority = CertificateAuthority.create(trust_domain)

    def id(self, account: str) -> SpiffeId:
        """The SPIFFE ID of a service account in namespace prod."""
        return SpiffeId.for_service_account(self.trust_domain, "prod", account)

    def identity(self, account: str) -> StaticIdentity:
        """A fresh SVID of a service account, with the authority's bundle."""
        return StaticIdentity(Identity(self.authority.issue_x509_svid(self.id(account)), self.authority.bundle))

    def mesh(self, account: str, services: Mapping[str, Service] | None = None) -> Mesh:
        """A mesh without policies for a service account."""
        return Mesh(
            workload=Workload(name=account, namespace="prod", service_account=account),
            config=MeshConfig(trust_domain=self.trust_domain, services=services or {}, allow_no_policy=True),
            identity=self.identity(account),
        )


class _Echo(BaseHTTPRequestHandler):
    """Answers with the Host header it was sent, and counts the requests."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = self.headers.get("host", "").encode()
        self.server.requests.append(self.path)  # type: ignore[attr-defined]
        peer = self.connection.getpeercert(True) if isinstance(self.connection, ssl.SSLSocket) else b""
        self.server.connections.append((self.client_address[1], peer))  # type: ignore[attr-defined]
        if isinstance(self.connection, ssl.SSLSocket):
            hello = getattr(self.connection, "sni", None), self.connection.selected_alpn_protocol()
            self.server.hellos.append(hello)  # type: ignore[attr-defined]
        self.server.tokens.append(self.headers.get("authorization"))  # type: ignore[attr-defined]
        location, self.server.location = self.server.location, None  # type: ignore[attr-defined]
        self.send_response(302 if location else 200)
        if location:
            self.send_header("location", location)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class _Server(TlsServer):
    """Notes who asked for what."""

    def __init__(self, context: ssl.SSLContext | None) -> None:
        super().__init__(("127.0.0.1", 0), _Echo)
        self.context = context
        self.url = f"https://localhost:{self.server_port}"
        self.requests: list[str] = []
        self.connections: list[tuple[int, bytes | None]] = []
        self.tokens: list[str | None] = []
        self.hellos: list[tuple[str | None, str | None]] = []
        self.location: str | None = None


@contextmanager
def serve(context: ssl.SSLContext | None) -> Iterator[_Server]:
    """A real server on a free port of the loopback, plaintext without a context.

    Its ``requests`` are the paths that reached it, its ``connections`` each request's client port and certificate,
    its ``tokens`` what each said in Authorization, its ``hellos`` the TLS server name and the ALPN protocol of each;
    the next request is redirected to ``location``, if there is one.
    """
    with answering(_Server(context)) as server:
        yield server


@contextmanager
def serve_websockets(context: ssl.SSLContext, greeting: str) -> Iterator[int]:
    """The port of a real server that greets each WebSocket."""
    with websockets.sync.server.serve(lambda it: it.send(greeting), "127.0.0.1", 0, ssl=context) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.socket.getsockname()[1]
        server.shutdown()
        thread.join()
