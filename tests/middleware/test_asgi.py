"""The ASGI middleware over real policies: what the application sees, and what the client gets."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from typing import Any

import pytest

from meshsec import Mesh, MeshConfig, Workload
from meshsec.attributes import AuthContext
from meshsec.middleware import TRANSPORT_KEY, Transport
from meshsec.resources import parse
from meshsec.testing import TestIssuer

ISSUER = TestIssuer()
POLICIES = f"""
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {{name: users, namespace: prod, annotations: {{meshsec.dev/exclude-paths: /health}}}}
spec:
  jwtRules:
  - issuer: {ISSUER.issuer}
    jwks: '{ISSUER.jwks}'
    outputClaimToHeaders: [{{header: x-user, claim: sub}}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: no-admin, namespace: prod}}
spec:
  action: DENY
  rules: [{{to: [{{operation: {{paths: ["/admin*"]}}}}]}}]
"""


@pytest.fixture(scope="module")
def mesh() -> Mesh:
    """A mesh of one workload, without an identity."""
    return Mesh(workload=Workload(name="web", namespace="prod"), resources=parse(POLICIES), config=MeshConfig())


class Recorder:
    """An application that notes each scope it is called with, and answers 200."""

    def __init__(self) -> None:
        self.scopes: list[MutableMapping[str, Any]] = []

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        self.scopes.append(scope)
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"hello"})
        elif scope["type"] == "websocket":
            await send({"type": "websocket.accept"})


def call(mesh: Mesh, app: Recorder, **changes: Any) -> list[dict[str, Any]]:
    """Send one request through the middleware and return what was sent back."""
    sent: list[dict[str, Any]] = []
    path = changes.get("path", "/")
    scope: dict[str, Any] = {
        "type": "http",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"web.prod")],
        **changes,
    }

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(mesh.asgi(app)(scope, receive, send))
    return sent


def bearer(**claims: Any) -> list[tuple[bytes, bytes]]:
    """The headers of a request with a good token."""
    return [(b"host", b"web.prod"), (b"authorization", b"Bearer " + ISSUER.token(**claims).encode())]


def test_allowed_request_reaches_the_app_with_its_context(mesh: Mesh) -> None:
    """A good token lets the request in, and scope["meshsec"] says who calls."""
    app = Recorder()
    sent = call(mesh, app, path="/x", headers=bearer(sub="ada"))
    assert sent[0]["status"] == 200
    context = app.scopes[0]["meshsec"]
    assert isinstance(context, AuthContext)
    assert context.principal is not None
    assert context.principal.name == f"{ISSUER.issuer}/ada"


def test_missing_token_is_401_with_a_challenge(mesh: Mesh) -> None:
    """Where the rule triggers, no token is 401, and the application is not called."""
    app = Recorder()
    sent = call(mesh, app, path="/x", query_string=b"access_key=secret")
    headers = dict(sent[0]["headers"])
    assert (sent[0]["status"], sent[1]["body"]) == (401, b"Jwt is missing")
    assert headers[b"www-authenticate"] == b'Bearer realm="http://web.prod/x"'
    assert app.scopes == []


def test_bad_token_is_401_without_an_echo_of_the_query(mesh: Mesh) -> None:
    """The challenge names the error and never repeats the query, which may hold a token."""
    sent = call(mesh, Recorder(), path="/x", query_string=b"access_token=secret")
    challenge = dict(sent[0]["headers"])[b"www-authenticate"]
    assert sent[0]["status"] == 401
    assert challenge.endswith(b'error="invalid_token"')
    assert b"secret" not in challenge


def test_denied_request_is_403_in_istios_words(mesh: Mesh) -> None:
    """A DENY rule answers as Istio's proxy does."""
    sent = call(mesh, Recorder(), path="/admin", headers=bearer())
    assert (sent[0]["status"], sent[1]["body"]) == (403, b"RBAC: access denied")


def test_head_gets_headers_and_no_body(mesh: Mesh) -> None:
    """HEAD keeps the length of the text and sends none of it."""
    sent = call(mesh, Recorder(), path="/admin", method="HEAD", headers=bearer())
    assert dict(sent[0]["headers"])[b"content-length"] == b"19"
    assert sent[1]["body"] == b""


def test_grpc_is_refused_in_its_own_form(mesh: Mesh) -> None:
    """gRPC gets status 200 and a grpc-status header."""
    headers = [*bearer(), (b"content-type", b"application/grpc")]
    sent = call(mesh, Recorder(), path="/admin", method="POST", headers=headers)
    answer = dict(sent[0]["headers"])
    assert (sent[0]["status"], answer[b"grpc-status"]) == (200, b"7")


@pytest.mark.parametrize("path", ["/health", "/health?x=1"])
def test_excluded_path_needs_no_token(mesh: Mesh, path: str) -> None:
    """An excluded path is open, whatever its query."""
    bare, _, query = path.partition("?")
    assert call(mesh, Recorder(), path=bare, query_string=query.encode())[0]["status"] == 200


def test_app_sees_the_path_that_was_judged(mesh: Mesh) -> None:
    """Path, raw path and query are all of the normalized target."""
    app = Recorder()
    call(mesh, app, path="/a/../b c", raw_path=b"/a/..%2e/../%62%20c".replace(b"..%2e/", b""), query_string=b"q=%20",
         headers=bearer())  # fmt: skip
    scope = app.scopes[0]
    assert (scope["path"], scope["raw_path"], scope["query_string"]) == ("/b c", b"/b%20c", b"q=%20")


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"/admin", 403),
        (b"//admin", 403),
        (b"/%61dmin", 403),
        (b"/x/../admin", 403),
        (b"/admin%0a", 400),
        (b"/x", 200),
    ],
)
def test_no_spelling_of_a_denied_path_passes(mesh: Mesh, raw: bytes, status: int) -> None:
    """Every spelling of /admin is refused; a plain other path is not."""
    from urllib.parse import unquote

    app = Recorder()
    sent = call(mesh, app, path=unquote(raw.decode()), raw_path=raw, headers=bearer())
    assert sent[0]["status"] == status
    assert len(app.scopes) == (status == 200)


def test_rewritten_path_is_judged_as_rewritten(mesh: Mesh) -> None:
    """Where an outer layer changed the path, the raw one is no longer what is routed."""
    assert call(mesh, Recorder(), path="/admin", raw_path=b"/x", headers=bearer())[0]["status"] == 403


def test_output_headers_of_the_client_are_stripped(mesh: Mesh) -> None:
    """A forged output header never reaches the application; the claim's value does."""
    app = Recorder()
    call(mesh, app, path="/x", headers=[*bearer(sub="ada"), (b"x-user", b"root")])
    call(mesh, app, path="/health", headers=[(b"host", b"web.prod"), (b"X-User", b"root")])
    seen = [[value for name, value in scope["headers"] if name.lower() == b"x-user"] for scope in app.scopes]
    assert seen == [[b"ada"], []]


def test_verified_token_is_removed_before_the_app(mesh: Mesh) -> None:
    """Without forwardOriginalToken the application never sees the token."""
    app = Recorder()
    call(mesh, app, path="/x", headers=bearer())
    assert b"authorization" not in dict(app.scopes[0]["headers"])


@pytest.mark.parametrize("padding", [1, 2000], ids=["usual", "longer than is remembered"])
def test_lines_that_go_are_found_for_every_order_and_spelling(mesh: Mesh, padding: int) -> None:
    """What is remembered of header names is of these names, as they are written, and of what is removed."""
    host, token = bearer(sub="ada")
    title, other, forged = (b"Authorization", token[1]), (b"x" * padding, b"1"), (b"X-User", b"root")
    orders = [[host, token, other], [host, other, token], [host, title, other], [host, title, other, forged]]
    for lines in orders * 3:
        app = Recorder()
        call(mesh, app, path="/x", headers=lines)
        call(mesh, app, path="/health", headers=lines)  # where no token is read, it stays
        kept = [line for line in lines if line is not forged]
        without = [line for line in kept if line not in (token, title)]
        assert [scope["headers"] for scope in app.scopes] == [[*without, (b"x-user", b"ada")], kept]


def test_websocket_is_judged_before_it_is_accepted(mesh: Mesh) -> None:
    """A WebSocket without a token is closed, with our own answer where the server can send one."""
    app = Recorder()
    assert call(mesh, app, type="websocket", path="/x")[0]["type"] == "websocket.close"
    extended = call(mesh, app, type="websocket", path="/x", extensions={"websocket.http.response": {}})
    assert extended[0]["status"] == 401
    assert app.scopes == []
    assert call(mesh, app, type="websocket", path="/x", headers=bearer())[0]["type"] == "websocket.accept"


def test_lifespan_passes_and_the_unknown_does_not(mesh: Mesh) -> None:
    """Only lifespan goes through unjudged."""
    app = Recorder()
    call(mesh, app, type="lifespan")
    assert app.scopes[0]["type"] == "lifespan"
    with pytest.raises(RuntimeError, match="scope type"):
        call(mesh, app, type="quic")
    assert len(app.scopes) == 1


def test_transport_is_hidden_from_the_app(mesh: Mesh) -> None:
    """The application cannot mistake our evidence for an identity."""
    app = Recorder()
    state = {TRANSPORT_KEY: Transport(source_ip="10.0.0.1"), "theirs": 1}
    call(mesh, app, path="/health", state=state)
    assert app.scopes[0]["state"] == {"theirs": 1}


def test_mounted_app_cannot_be_left(mesh: Mesh) -> None:
    """A path that dot segments lead out of its mount is refused; one inside passes."""
    inside = {"root_path": "/api", "path": "/api/x", "headers": bearer()}
    assert call(mesh, Recorder(), **inside)[0]["status"] == 200
    outside = {**inside, "path": "/api/../x", "raw_path": b"/api/../x"}
    assert call(mesh, Recorder(), **outside)[0]["status"] == 400


def test_app_does_not_see_a_raw_path_that_was_not_judged(mesh: Mesh) -> None:
    """Where an outer layer rewrote the path, the old raw one goes."""
    app = Recorder()
    call(mesh, app, path="/y", raw_path=b"/admin", headers=bearer())
    assert (app.scopes[0]["path"], app.scopes[0]["raw_path"]) == ("/y", b"/y")
