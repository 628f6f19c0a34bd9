"""A legacy file as many people wrote it, through Mesh and both middlewares: only its paths ask for a token."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from meshsec import Mesh
from meshsec.testing import TestIssuer

ISSUER = TestIssuer()

# Quoted throughout, snake_case below the jwt, camelCase above it, no namespace of the issuer's: as people wrote them.
POLICY = """\
apiVersion: "authentication.istio.io/v1alpha1"
kind: "Policy"
metadata:
  name: "jwt-example"
  namespace: "prod"
spec:
  targets:
  - name: bookstore
  origins:
  - jwt:
      issuer: "{issuer}"
      jwksUri: "{jwks_uri}"
      trigger_rules:
      - excluded_paths:
        - exact: /health
        - prefix: /status/
        included_paths:
        - prefix: /
  principalBinding: USE_ORIGIN
"""
SERVICE = """\
apiVersion: v1
kind: Service
metadata: {name: bookstore, namespace: prod}
spec:
  selector: {app: store}
  ports: [{port: 80, targetPort: 8080}]
"""
USERS = """\
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: users, namespace: prod}}
spec:
  rules:
  - to: [{{operation: {{paths: [/health, /status/*]}}}}]
  - from: [{{source: {{requestPrincipals: ["{issuer}/ada"]}}}}]
"""


class _Keys(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = ISSUER.jwks.encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def jwks_uri() -> Iterator[str]:
    """A server with the issuer's keys, on a free port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Keys)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/jwks"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def mesh(tmp_path: Path, jwks_uri: str) -> Iterator[Mesh]:
    """A mesh's folder: the policy, its Service in a ConfigMap, and who may come in."""
    (tmp_path / "mesh.yaml").write_text("workloads: {store-v1: {namespace: prod, labels: {app: store}}}\n")
    (tmp_path / "policy.yaml").write_text(POLICY.format(issuer=ISSUER.issuer, jwks_uri=jwks_uri))
    (tmp_path / "users.yaml").write_text(USERS.format(issuer=ISSUER.issuer))
    block = "".join(f"    {line}\n" for line in SERVICE.splitlines())
    head = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: services}\ndata:\n  services.yaml: |\n"
    (tmp_path / "services.yaml").write_text(head + block)
    with Mesh.load(tmp_path) as mesh:
        yield mesh


def asgi(mesh: Mesh, path: str, token: str | None) -> tuple[int, bytes, Any]:
    """Status, body, and what the application found."""
    seen: list[Any] = []
    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"hello"})

    async def receive() -> Any:
        return {"type": "http.request"}

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"host", b"store.prod"), *([(b"authorization", f"Bearer {token}".encode())] if token else ())]
    scope = {"type": "http", "method": "GET", "scheme": "http", "path": path.partition("?")[0], "root_path": "",
             "raw_path": path.encode(), "query_string": b"", "headers": headers}  # fmt: skip
    asyncio.run(mesh.asgi(app)(scope, receive, send))
    headers_back = dict(sent[0]["headers"])
    assert b"www-authenticate" not in headers_back
    if seen:
        assert dict(seen[0]["headers"]).get(b"authorization") == dict(headers).get(b"authorization")
    return sent[0]["status"], sent[1]["body"], seen[0]["meshsec"] if seen else None


def wsgi(mesh: Mesh, path: str, token: str | None) -> tuple[int, bytes, Any]:
    """The same."""
    seen: list[Any] = []
    sent: list[Any] = []

    def app(environ: Any, start_response: Any) -> Any:
        seen.append(environ)
        start_response("200 OK", [])
        return [b"hello"]

    authorization = {"HTTP_AUTHORIZATION": f"Bearer {token}"} if token else {}
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": path, "SCRIPT_NAME": "", "QUERY_STRING": "", "REQUEST_URI": path,
               "HTTP_HOST": "store.prod", "wsgi.url_scheme": "http", "wsgi.input": BytesIO(),
               "SERVER_PROTOCOL": "HTTP/1.1", **authorization}  # fmt: skip
    body = b"".join(mesh.wsgi(app)(environ, lambda status, headers, *_: sent.append((status, headers))))
    assert "www-authenticate" not in {name.lower() for name, _ in sent[0][1]}
    return int(sent[0][0][:3]), body, seen[0]["meshsec"] if seen else None


ORIGIN_FAILED = (401, b"Origin authentication failed.")


@pytest.mark.parametrize("call", [asgi, wsgi])
def test_only_its_paths_ask_for_a_token(mesh: Mesh, call: Any) -> None:
    """The excluded ones pass with a bad token too, which is not read; the others need one of the right user."""
    for path in ("/health", "/status/200"):
        for token in (None, "x", ISSUER.token(sub="eve")):
            status, body, context = call(mesh, path, token)
            assert (status, body) == (200, b"hello")
            assert context.principal is None
    for path in ("/", "/books", "/health/", "/healthz", "/HEALTH", "/books/../books"):
        assert call(mesh, path, None)[:2] == ORIGIN_FAILED
        assert call(mesh, path, "x")[:2] == ORIGIN_FAILED
        assert call(mesh, path, ISSUER.token(sub="eve"))[:2] == (403, b"RBAC: access denied")
        status, body, context = call(mesh, path, ISSUER.token(sub="ada"))
        assert (status, body) == (200, b"hello")
        assert context.principal.subject == "ada"


@pytest.mark.parametrize("path", ["/status/../books", "/%62ooks", "/health/..", "/./status/x/../../books"])
@pytest.mark.parametrize("call", [asgi, wsgi])
def test_no_spelling_gets_around_it(mesh: Mesh, call: Any, path: str) -> None:
    """The path is judged as the application will see it."""
    assert call(mesh, path, None)[:2] == ORIGIN_FAILED


def test_the_policy_is_listed(mesh: Mesh) -> None:
    """With what else applies."""
    assert mesh.status()["policies"] == ["AuthorizationPolicy prod/users", "Policy prod/jwt-example"]
