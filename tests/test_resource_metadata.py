"""Protected-resource metadata (RFC 9728): who is told what, where, and that nobody else is let in by it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from mcp.client.auth.utils import (
    build_protected_resource_metadata_discovery_urls,
    extract_resource_metadata_from_www_auth,
)
from mcp.shared.auth import ProtectedResourceMetadata
from starlette.testclient import TestClient
from werkzeug.test import Client as WsgiClient

from meshsec import ConfigError, Connection, HttpRequest, Mesh, MeshConfig, Outcome, PeerIdentity, Reason, Workload
from meshsec.frameworks.fastapi import Caller, User
from meshsec.resources import IssuerConfig, ProtectedResource, load_mesh, parse
from meshsec.testing import TestIssuer

ISSUER = TestIssuer()
RESOURCE = "https://tools.example/mcp"
WELL_KNOWN = "/.well-known/oauth-protected-resource/mcp"
POLICIES = """
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {{name: users, namespace: prod}}
spec: {{jwtRules: [{{issuer: "{issuer}", jwks: '{jwks}', audiences: [a], presence: REQUIRED, {more}}}]}}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: nobody, namespace: prod}}
spec: {{}}
"""


def mesh(
    resource: str | None = RESOURCE,
    *,
    issuer: str = ISSUER.issuer,
    more: str = "",
    config: MeshConfig | None = None,
    peer: str = "",
    **told: Any,
) -> Mesh:
    """A workload whose policies let nobody in."""
    protected = None if resource is None else ProtectedResource(resource=resource, **told)
    workload = Workload(name="tools", namespace="prod", protected_resource=protected)
    resources = parse(POLICIES.format(issuer=issuer, jwks=ISSUER.jwks, more=more) + peer)
    return Mesh(workload=workload, resources=resources, config=config)


async def never(scope: Any, receive: Any, send: Any) -> None:
    """The application, which no request here may reach."""
    raise AssertionError(scope["path"])


def never_wsgi(environ: Any, start_response: Any) -> Any:
    """The same for WSGI."""
    raise AssertionError(environ["PATH_INFO"])


def document(made: Mesh, path: str = WELL_KNOWN) -> dict[str, Any]:
    """What a client is told."""
    response = TestClient(made.asgi(never)).get(path)
    assert response.status_code == 200, response.text
    found = response.json()
    assert isinstance(found, dict)
    return found


def test_a_client_is_told_whose_tokens_are_taken() -> None:
    """Without a token, though policies let nobody in; as JSON that an MCP client reads."""
    response = TestClient(mesh().asgi(never)).get(WELL_KNOWN)
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert response.headers["access-control-allow-origin"] == "*"
    assert response.json() == {
        "resource": RESOURCE,
        "authorization_servers": [ISSUER.issuer],
        "bearer_methods_supported": ["header", "query"],
    }
    read = ProtectedResourceMetadata.model_validate_json(response.content)
    assert str(read.resource) == RESOURCE


def test_all_that_is_said_is_told() -> None:
    """Scopes, names, and servers that are listed instead."""
    found = document(
        mesh(
            more="fromHeaders: [{name: x-token}]",
            authorization_servers=("https://a.example", "https://b.example"),
            scopes_supported=("read", "write"),
            resource_name="Tools",
            resource_documentation="https://tools.example/docs",
        )
    )
    assert found == {
        "resource": RESOURCE,
        "authorization_servers": ["https://a.example", "https://b.example"],
        "scopes_supported": ["read", "write"],
        "resource_name": "Tools",
        "resource_documentation": "https://tools.example/docs",
    }


@pytest.mark.parametrize(
    ("resource", "path"),
    [
        ("https://tools.example", "/.well-known/oauth-protected-resource"),
        ("https://tools.example/", "/.well-known/oauth-protected-resource"),
        ("https://tools.example/mcp", "/.well-known/oauth-protected-resource/mcp"),
        ("https://tools.example/a/b/", "/.well-known/oauth-protected-resource/a/b/"),
        ("http://localhost:8000/mcp", "/.well-known/oauth-protected-resource/mcp"),
    ],
)
def test_it_is_where_clients_look(resource: str, path: str) -> None:
    """RFC 9728 section 3.1, as an MCP client works it out; and it names the resource that led there (section 3.3)."""
    [first, *_] = build_protected_resource_metadata_discovery_urls(None, resource)
    assert first.removeprefix(resource.partition("/")[0] + "//").partition("/")[2] == path[1:]
    assert document(mesh(resource), path)["resource"] == resource


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ({}, "Jwt is missing"),
        ({"authorization": "Bearer a.b.c"}, "Jwt header is an invalid Base64url encoded"),
        ({"authorization": f"Bearer {ISSUER.token(aud='a', lifetime=-100)}"}, "Jwt is expired"),
    ],
)
def test_every_challenge_says_where(headers: dict[str, str], said: str) -> None:
    """As an MCP client reads it (RFC 9728 section 5.1), over ASGI and WSGI."""
    for response in (
        TestClient(mesh().asgi(never)).get("/mcp", headers=headers),
        WsgiClient(mesh().wsgi(never_wsgi)).get("/mcp", headers=headers),
    ):
        assert (response.status_code, response.text) == (401, said)
        read = httpx2.Response(401, headers={"www-authenticate": response.headers["www-authenticate"]})
        assert extract_resource_metadata_from_www_auth(read) == f"https://tools.example{WELL_KNOWN}"
    plain = TestClient(mesh(None).asgi(never)).get("/mcp", headers=headers)
    assert "resource_metadata" not in plain.headers["www-authenticate"]


ORIGIN = f"{{issuer: \"{ISSUER.issuer}\", jwks: '{ISSUER.jwks}'}}"
LEGACY = f"""
apiVersion: authentication.istio.io/v1alpha1
kind: Policy
metadata: {{name: default, namespace: prod}}
spec: {{peers: [{{mtls: {{mode: PERMISSIVE}}}}], origins: [{{jwt: {ORIGIN}}}]}}
"""


@pytest.mark.parametrize(
    ("policies", "token", "error"),
    [
        (LEGACY, None, ""),
        (LEGACY, "a.b.c", ', error="invalid_token"'),
        (LEGACY.replace("PERMISSIVE", "STRICT"), None, None),
    ],
)
def test_the_legacy_kinds_say_where_too(policies: str, token: str | None, error: str | None) -> None:
    """Their 401 has no challenge otherwise; and none for a peer that was refused, as no token would help it."""
    headers = [("authorization", f"Bearer {token}")] if token else []
    request = HttpRequest("GET", "/mcp", "tools.example", headers)
    for resource, place in (
        (None, None),
        (ProtectedResource(resource=RESOURCE, authorization_servers=["https://idp.example"]), WELL_KNOWN),
    ):
        workload = Workload(name="tools", namespace="prod", protected_resource=resource)
        decision = Mesh(workload=workload, resources=parse(policies)).decide(Connection(), request)
        assert decision.status == 401
        challenge = dict(decision.edits.response_headers).get("www-authenticate")
        realm = f'Bearer realm="http://tools.example/mcp"{error}, resource_metadata="https://tools.example{place}"'
        assert challenge == (None if place is None or error is None else realm)


@pytest.mark.parametrize(
    ("resource", "challenge"),
    [(None, "Bearer"), (RESOURCE, f'Bearer resource_metadata="https://tools.example{WELL_KNOWN}"')],
)
def test_fastapis_user_says_where(resource: str | None, challenge: str) -> None:
    """Where the policies let somebody in without a token, and the application asks for one; time after time."""
    api = FastAPI()

    @api.get("/me")
    def me(caller: Caller, user: User) -> str | None:
        assert user.subject == "test-user"
        return caller.metadata_url

    protected = None if resource is None else ProtectedResource(resource=resource)
    policies = POLICIES.format(issuer=ISSUER.issuer, jwks=ISSUER.jwks, more="").replace("presence: REQUIRED,", "")
    [users, _] = parse(policies)
    workload = Workload(name="tools", namespace="prod", protected_resource=protected)
    client = TestClient(Mesh(workload=workload, resources=[users]).asgi(api))
    for _ in range(4):
        missing = client.get("/me")
        assert (missing.status_code, missing.headers["www-authenticate"]) == (401, challenge)
        known = client.get("/me", headers={"authorization": f"Bearer {ISSUER.token(aud='a')}"})
        assert (known.status_code, known.json()) == (200, resource and f"https://tools.example{WELL_KNOWN}")


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
def test_whoever_asks_is_answered(method: str) -> None:
    """Also with a bad token, a gRPC content type, or before a browser's request; WSGI as ASGI."""
    headers = {
        "authorization": "Bearer nonsense",
        "content-type": "application/grpc",
        "origin": "https://inspector.example",
        "access-control-request-method": "GET",
        "accept": "text/html",
    }
    for client in (TestClient(mesh().asgi(never)), WsgiClient(mesh().wsgi(never_wsgi))):
        for target in (WELL_KNOWN, f"{WELL_KNOWN}?x=1", f"/a/..{WELL_KNOWN}"):
            response = (
                client.open(target, method=method, headers=headers)
                if isinstance(client, WsgiClient)
                else (client.request(method, target, headers=headers))
            )
            assert response.status_code == 200
            body = response.text
            assert (body == "") if method == "HEAD" else (json.loads(body)["resource"] == RESOURCE)


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("POST", WELL_KNOWN),
        ("DELETE", WELL_KNOWN),
        ("GET", f"{WELL_KNOWN}/"),
        ("GET", f"{WELL_KNOWN}x"),
        ("GET", WELL_KNOWN.upper()),
        ("GET", "/.well-known/oauth-protected-resource"),
        ("GET", f"{WELL_KNOWN}/../../admin"),
        ("GET", "/.well-known/oauth-protected-resource%2fmcp"),
        ("GET", f"{WELL_KNOWN};x"),
    ],
)
def test_nothing_else_is_let_through(method: str, target: str) -> None:
    """Neither to the document nor past the policy."""
    for made in (mesh(), mesh(config=MeshConfig(ambiguous_paths="judge"))):
        response = TestClient(made.asgi(never)).request(method, target)
        assert response.status_code in (400, 401)
        assert RESOURCE not in response.text


def test_off_by_default() -> None:
    """Where nobody asked for it the path is one like any other."""
    assert TestClient(mesh(None).asgi(never)).get(WELL_KNOWN).status_code == 401


STRICT = """---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: istio-system}
spec: {mtls: {mode: STRICT}}
"""


def test_mutual_tls_comes_first() -> None:
    """Whoever may not connect is told nothing."""
    made = mesh(peer=STRICT)
    request = HttpRequest("GET", WELL_KNOWN, "tools.example")
    assert made.decide(Connection(), request).reason is Reason.PEER_REQUIRED
    web = PeerIdentity.of("spiffe://cluster.local/ns/prod/sa/web")
    decision = made.decide(Connection(peer=web, tls=True), request)
    assert (decision.outcome, decision.reason, decision.allowed) == (Outcome.ANSWER, Reason.RESOURCE_METADATA, False)
    socket = made.decide(Connection(peer=web, tls=True), HttpRequest("GET", WELL_KNOWN, "a", scheme="wss"))
    assert socket.reason is Reason.JWT_MISSING


TEMPLATE = "https://login.example/{tenantid}/v2.0"


@pytest.mark.parametrize(
    ("issuer", "own", "servers"),
    [
        (
            TEMPLATE,
            IssuerConfig(tenants=("a", "b")),
            ["https://login.example/a/v2.0", "https://login.example/b/v2.0"],
        ),
        ("accounts.example", None, None),
        ("spiffe://cluster.local", IssuerConfig(jwt_svid=True), None),
    ],
)
def test_servers_are_those_that_can_be_asked(
    issuer: str, own: IssuerConfig | None, servers: list[str] | None
) -> None:
    """Each tenant of a template; no trust domain, and no issuer that is no URL: then they must be listed."""
    config = MeshConfig(issuers={issuer: own} if own else {})
    if servers is None:
        with pytest.raises(ConfigError, match="no RequestAuthentication names an issuer") as caught:
            mesh(issuer=issuer, config=config)
        assert caught.value.code == "no_authorization_server"
        found = document(mesh(issuer=issuer, config=config, authorization_servers=("https://idp.example",)))
        assert found["authorization_servers"] == ["https://idp.example"]
    else:
        assert document(mesh(issuer=issuer, config=config))["authorization_servers"] == servers


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "{resource: tools}",
        "{resource: ftp://tools.example}",
        "{resource: 'https://tools.example/mcp?x=1'}",
        "{resource: 'https://tools.example/mcp#x'}",
        "{resource: 'https://tools.example/a//b'}",
        "{resource: 'https://tools.example/../b'}",
        "{resource: 'https://tools.example/a%2fb'}",
        "{resource: 'https://user@tools.example/'}",
        "{resource: 'https://tools.example/\"'}",
        "{resource: https://tools.example, scopesSupported: ['a b']}",
        "{resource: https://tools.example, scopesSupported: ['']}",
        "{resource: https://tools.example, authorizationServers: [idp]}",
        "{resource: https://tools.example, more: 1}",
    ],
)
def test_mesh_yaml_says_it_in_one_way(tmp_path: Path, text: str) -> None:
    """A URL without query, whose path has one spelling."""
    good = "{resource: https://tools.example/a/b-c_d~e.f, scopesSupported: [a], resourceName: 'Our tools'}"
    (tmp_path / "mesh.yaml").write_text(f"workloads: {{tools: {{protectedResource: {good}}}}}")
    assert load_mesh(tmp_path).workload("tools").protected_resource is not None
    (tmp_path / "mesh.yaml").write_text(f"workloads: {{tools: {{protectedResource: {text}}}}}")
    with pytest.raises(ConfigError, match=r"mesh\.yaml:1:"):
        load_mesh(tmp_path)
