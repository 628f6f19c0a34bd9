"""The pytest plugin: an application's own tests, with the framework's test client and the real policy."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from flask import Flask

from meshsec import Connection, Decision, Mesh, MeshConfig, PeerIdentity, Reason, Workload
from meshsec.frameworks.fastapi import Caller
from meshsec.frameworks.flask import caller
from meshsec.policy import NeedCheck
from meshsec.resources import parse
from meshsec.testing import MeshClient, TestIssuer, TestPeers, assert_allowed, assert_denied

POLICIES = """
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: istio-system}
spec: {mtls: {mode: STRICT}}
---
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: users, namespace: prod}
spec: {jwtRules: [{issuer: https://issuer.example, jwksUri: https://issuer.example/jwks, audiences: [shop]}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: web, namespace: prod}
spec:
  rules:
    - from: [{source: {principals: [cluster.local/ns/prod/sa/web], requestPrincipals: ["*"]}}]
      to: [{operation: {methods: [GET]}}]
"""
WEB, OTHER = (f"spiffe://cluster.local/ns/prod/sa/{name}" for name in ("web", "other"))
ISSUER, PEERS = TestIssuer(), TestPeers()


def mesh() -> Mesh:
    """A mesh whose issuer cannot be reached."""
    return Mesh(workload=Workload(name="shop", namespace="prod"), resources=parse(POLICIES))


def fastapi_app() -> Any:
    """A FastAPI application that says who calls."""
    api = FastAPI()

    @api.get("/me")
    def me(who: Caller) -> str:
        return f"{who.peer and who.peer.id} {who.principal and who.principal.subject}"

    return mesh().asgi(api)


def flask_app() -> Any:
    """The same in Flask."""
    app = Flask("shop")

    @app.get("/me")
    def me() -> dict[str, str]:
        return {"me": f"{caller.peer and caller.peer.id} {caller.principal and caller.principal.subject}"}

    app.wsgi_app = mesh().wsgi(app.wsgi_app)  # type: ignore[method-assign]
    return app


def client(app: Any, peer: PeerIdentity | None = None, token: str | None = None) -> MeshClient:
    """What ``mesh_client`` makes."""
    return MeshClient(app, Connection(peer=peer, tls=peer is not None), [ISSUER], token)


@pytest.mark.parametrize("make", [fastapi_app, flask_app])
def test_the_real_policy_judges(make: Any) -> None:
    """Peer, token and method each decide; each refusal says why."""
    app, web, token = make(), PEERS.peer(WEB), ISSUER.token(sub="alice", aud="shop")
    answer = client(app, web, token).get("/me")
    assert_allowed(answer)
    assert answer.status_code == 200
    assert f"{WEB} alice" in answer.text
    for found, reason in [
        (client(app).get("/me"), Reason.PEER_REQUIRED),
        (client(app, web).get("/me"), Reason.NO_ALLOW_RULE),
        (client(app, PEERS.peer(OTHER), token).get("/me"), Reason.NO_ALLOW_RULE),
        (client(app, web, token).post("/me"), Reason.NO_ALLOW_RULE),
        (client(app, web, TestIssuer().token(aud="shop")).get("/me"), Reason.JWT_SIGNATURE),
        (client(app, web, ISSUER.token(aud="other")).get("/me"), Reason.JWT_AUDIENCE),
        (client(app, web, ISSUER.token(aud="shop", lifetime=-120)).get("/me"), "jwt_expired"),
    ]:
        assert found.status_code == assert_denied(found, reason=reason).status


def test_a_request_may_bring_its_own_token() -> None:
    """The client's token is a default."""
    good, bad = ISSUER.token(aud="shop"), ISSUER.token(aud="other")
    for app in (fastapi_app(), flask_app()):
        found = client(app, PEERS.peer(WEB), good).get("/me", headers={"authorization": f"Bearer {bad}"})
        assert_denied(found, reason="jwt_audience")


def test_asserts_tell_why() -> None:
    """The message of a failed assertion is the decision's own explanation."""
    app = fastapi_app()
    refused = client(app).get("/me")
    with pytest.raises(AssertionError, match="peer_required"):
        assert_allowed(refused)
    with pytest.raises(AssertionError, match="peer_required"):
        assert_denied(refused, reason="jwt_missing")
    allowed = client(app, PEERS.peer(WEB), ISSUER.token(aud="shop")).get("/me")
    with pytest.raises(AssertionError, match="let in"):
        assert_denied(allowed)
    assert isinstance(assert_allowed(allowed), Decision)
    with pytest.raises(TypeError, match="mesh_client"):
        assert_allowed(object())


def test_an_application_must_be_wrapped() -> None:
    """A test of an unprotected application is a mistake."""
    for app in (FastAPI(), Flask("x"), None):
        with pytest.raises(TypeError, match="wrap"):
            client(app)


ASKED = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: ask, namespace: prod}
spec: {action: CUSTOM, provider: {name: opa}, rules: [{}]}
"""


def test_the_programs_own_authorizer_is_asked() -> None:
    """A function that was registered needs no stand-in; a test may put its own answer in its place."""
    config = MeshConfig(extension_providers={"opa": None})
    mesh = Mesh(workload=Workload(name="shop", namespace="prod"), resources=parse(ASKED), config=config)

    @mesh.provider("opa")
    async def opa(question: NeedCheck) -> bool:
        return question.method == "GET"

    api = FastAPI()

    @api.api_route("/", methods=["GET", "POST"])
    def index() -> str:
        return "hello"

    app = mesh.asgi(api)
    assert_allowed(client(app).get("/"))
    assert_denied(client(app).post("/"), reason="check_denied")
    assert_allowed(MeshClient(app, Connection(), providers={"opa": True}).post("/"))


def test_an_issuer_changes_its_key() -> None:
    """Another key of another name."""
    first, second = TestIssuer(), TestIssuer(key_id="second")
    assert [key.kid for issuer in (first, second) for key in issuer.keys.keys] == ["test-1", "second"]


def test_peers_have_certificates() -> None:
    """Each its own, of an authority that is the trust domain's."""
    first, second = PEERS.peer(WEB), PEERS.peer(WEB)
    assert first.id == second.id
    assert first.certificate_sha256 != second.certificate_sha256
    assert first.certificate_sha256 is not None
    assert str(PEERS.peer("spiffe://partner.example/x").id) == "spiffe://partner.example/x"


USERS_TEST = '''
from meshsec import Mesh, Workload
from meshsec.resources import parse
from meshsec.testing import assert_allowed, assert_denied

POLICIES = """{policies}"""

async def hello(scope, receive, send):
    await send({{"type": "http.response.start", "status": 200, "headers": []}})
    await send({{"type": "http.response.body", "body": b"hello"}})

app = Mesh(workload=Workload(name="shop", namespace="prod"), resources=parse(POLICIES)).asgi(hello)

def test_fixtures(mesh_client, mesh_peer, mesh_token, mesh_issuer):
    web = mesh_peer("{web}")
    assert_allowed(mesh_client(app, peer=web, token=mesh_token(aud="shop")).get("/"))
    assert_denied(mesh_client(app, peer=web).get("/"), reason="no_allow_rule")
    assert_denied(mesh_client(app, token=mesh_issuer.token()).get("/"), reason="peer_required")
'''


def test_fixtures_are_there(tmp_path: Path) -> None:
    """In a test run of its own, as a user's would be."""
    file = tmp_path / "test_users_own.py"
    file.write_text(USERS_TEST.format(policies=POLICIES, web=WEB))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "meshsec.testing.plugin", "-p", "no:cacheprovider", file]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout
    assert "1 passed" in run.stdout
