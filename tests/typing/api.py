"""The public API as its users write it, for the type checkers; never run.

mypy --strict and pyright both check this file: a public name that changes its type, or whose result has none, shows
here first.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, assert_type

import fastapi
import flask
import httpx
import httpx2
import requests

import meshsec
import meshsec.servers.uvicorn
from meshsec import (
    AuthContext,
    AuthenticationError,
    ConfigError,
    Connection,
    Decision,
    Edits,
    HttpRequest,
    IssuanceError,
    KeysUnavailableError,
    Mesh,
    MeshConfig,
    MeshsecError,
    Outcome,
    PeerIdentity,
    Reason,
    RequestPrincipal,
    SpiffeId,
    SpiffeIdError,
    SvidError,
    TokenError,
    TrustDomain,
    Workload,
    WorkloadPolicy,
    X509Bundle,
    X509Svid,
)
from meshsec.authn import KeySnapshot, NeedKeys, verify_token
from meshsec.ca import (
    AuthorityFolder,
    CertificateAuthority,
    FolderStore,
    MemoryStore,
    Phase,
    Rotator,
    SvidStore,
    Sweep,
    write_identity,
)
from meshsec.clients import CallerToken, JwtSvidToken, TokenSource
from meshsec.clients.httpx import AsyncMeshTransport as HttpxAsyncTransport
from meshsec.clients.httpx import MeshTransport as HttpxTransport
from meshsec.clients.httpx2 import AsyncMeshTransport, MeshTransport
from meshsec.clients.requests import MeshAdapter
from meshsec.clients.tunnel import Tunnel
from meshsec.clients.urllib3 import MeshPoolManager
from meshsec.decision import DryRun
from meshsec.errors import Problem
from meshsec.frameworks.django import MeshMiddleware as DjangoMiddleware
from meshsec.frameworks.django import MeshUser
from meshsec.frameworks.fastapi import Caller
from meshsec.frameworks.flask import caller
from meshsec.jose import KeySet, verify_jws
from meshsec.matching import IpBlock, StringPattern, parse_path_pattern
from meshsec.middleware.asgi import MeshMiddleware as AsgiMiddleware
from meshsec.middleware.wsgi import MeshMiddleware as WsgiMiddleware
from meshsec.naming import SecureNaming
from meshsec.policy import CheckAnswer, NeedCheck
from meshsec.resources import (
    ExtAuthzHttp,
    JWTRule,
    KeysConfig,
    PathNormalization,
    ProtectedResource,
    Resource,
    Service,
    load,
    load_mesh,
    load_policies,
    parse,
)
from meshsec.sources import CsrIdentity, CsrServer, Identity, Provider, StaticIdentity
from meshsec.spiffe import X509BundleSet, read_bundle, verify_x509_svid
from meshsec.testing import MeshClient, TestIssuer, assert_allowed
from meshsec.tls import StaticMaterial, TlsMaterial, authorize_any, client_context, server_context


def loading(folder: Path) -> Mesh:
    """From a folder, or from values."""
    with Mesh.load(folder, workload="reviews") as mesh:
        assert_type(mesh, Mesh)
        assert_type(mesh.status(), dict[str, Any])
    workload = Workload(name="reviews", namespace="prod", service_account="reviews", labels={"app": "reviews"})
    config = MeshConfig(
        trust_domain="cluster.local",
        services={
            "reviews.prod": Service(ids=("spiffe://cluster.local/ns/prod/sa/reviews",), endpoints=("[::1]:1",))
        },
        path_normalization=PathNormalization.MERGE_SLASHES,
        keys=KeysConfig(refresh=60),
    )
    authority = CertificateAuthority.create(config.trust_domain)
    svid = authority.issue_x509_svid(workload.spiffe_id(config.trust_domain))
    identity = StaticIdentity(Identity(svid, authority.bundle))
    return Mesh(workload=workload, resources=parse("", source="<nothing>"), config=config, identity=identity)


def elsewhere(workload: Workload, folder: Path) -> Mesh:
    """An identity that an authority elsewhere signs."""
    server = CsrServer(
        url="https://ca.mesh:8444", token_file=folder / "token", root_cert=folder / "root.pem", renewal=None
    )
    return Mesh(workload=workload, identity=CsrIdentity(server, workload.spiffe_id("cluster.local")))


def deciding(mesh: Mesh) -> str:
    """One request, by hand."""
    connection = Connection(
        source_ip="10.0.0.7",
        destination_ip="10.0.0.9",
        destination_port=8443,
        peer=PeerIdentity.of("spiffe://cluster.local/ns/prod/sa/web"),
        sni=None,
    )
    request = HttpRequest(
        method="GET", target="/reviews/1", host="reviews.prod", headers=[("x-request-id", "7")], scheme="https"
    )
    decision = mesh.decide(connection, request)
    assert_type(decision, Decision)
    assert_type(decision.outcome, Outcome)
    assert_type(decision.allowed, bool)
    assert_type(decision.status, int)
    assert_type(decision.reason, Reason)
    assert_type(decision.policy, str | None)
    assert_type(decision.rule, int | None)
    assert_type(decision.edits, Edits)
    return decision.explain()


async def deciding_async(mesh: Mesh, connection: Connection, request: HttpRequest) -> Decision:
    """The same without blocking."""
    return await mesh.decide_async(connection, request)


def marks(decision: Decision) -> list[str]:
    """What policies that decide nothing have said."""
    assert_type(decision.audited, tuple[str, ...])
    assert_type(decision.dry_run, tuple[DryRun, ...])
    return [trial.policy or str(trial.reason) for trial in decision.dry_run if not trial.allowed]


def authorizers(folder: Path) -> Mesh:
    """Functions that are asked about requests, at once or in time, and settings for one that is asked over HTTP."""

    def yes(check: NeedCheck) -> bool:
        assert_type(check.headers, tuple[tuple[str, str], ...])
        return check.connection.peer is not None

    mesh = Mesh.load(folder, providers={"yes": yes})

    @mesh.provider("later")
    async def later(check: NeedCheck) -> CheckAnswer:
        return CheckAnswer(allowed=check.method == "GET", status=403, body=b"no", request_headers=(("x-a", "b"),))

    @mesh.provider("both")
    def both(check: NeedCheck) -> CheckAnswer | bool:
        return CheckAnswer(allowed=False, response_headers=(("x-a", "b"),)) if check.rule else True

    assert_type(both(NeedCheck("both", "a/b", 0, "GET", "/", None, (), "http", Connection())), CheckAnswer | bool)
    MeshConfig(extension_providers={"opa": ExtAuthzHttp(service="opa.prod", port=80, timeout=1.0), "yes": None})
    return mesh


def contexts(mesh: Mesh) -> list[ssl.SSLContext]:
    """Every way to say who may answer."""

    def authorize(peer: SpiffeId, server_name: str | None) -> None:
        if peer.namespace != "prod" or server_name is None:
            raise SvidError("not you", code="unwanted")

    reviews = SpiffeId.for_service_account("cluster.local", "prod", "reviews")
    return [
        mesh.server_context(),
        mesh.server_context(port=8443),
        mesh.client_context(),
        mesh.client_context(authorize="spiffe://cluster.local/ns/prod/sa/reviews"),
        mesh.client_context(authorize=reviews),
        mesh.client_context(authorize={reviews}),
        mesh.client_context(authorize=TrustDomain("cluster.local")),
        mesh.client_context(authorize=authorize),
    ]


def asgi(mesh: Mesh) -> None:
    """FastAPI."""
    api = fastapi.FastAPI()

    @api.get("/me")
    def me(caller: Caller) -> str:
        assert_type(caller, AuthContext)
        assert_type(caller.peer, PeerIdentity | None)
        assert_type(caller.principal, RequestPrincipal | None)
        return caller.principal.name if caller.principal else ""

    app = mesh.asgi(api)
    assert_type(app, AsgiMiddleware)
    meshsec.servers.uvicorn.run(app, mesh=mesh, port=8443)


def wsgi(mesh: Mesh) -> None:
    """Flask."""
    app = flask.Flask(__name__)
    wrapped = mesh.wsgi(app.wsgi_app)
    assert_type(wrapped, WsgiMiddleware)

    @app.get("/me")
    def me() -> str:
        assert_type(caller, AuthContext)
        if caller.principal:
            assert_type(caller.principal.claims, Mapping[str, Any])
        return str(caller.peer.id) if caller.peer else ""


def clients(mesh: Mesh) -> None:
    """Every client."""
    httpx2.Client(transport=MeshTransport(mesh)).get("https://reviews.prod/")
    httpx2.AsyncClient(transport=AsyncMeshTransport(mesh))
    httpx.Client(transport=HttpxTransport(mesh)).get("https://reviews.prod/")
    httpx.AsyncClient(transport=HttpxAsyncTransport(mesh))
    requests.Session().mount("https://", MeshAdapter(mesh))
    tokens: dict[str, TokenSource] = {
        "reviews.prod": CallerToken(),
        "ratings.prod": JwtSvidToken(lambda audience: audience, "spiffe://cluster.local/ns/prod/sa/ratings"),
    }
    with MeshPoolManager(mesh, tokens=tokens) as manager, Tunnel(mesh, "reviews.prod", max_age=60) as tunnel:
        manager.request("GET", tunnel.target)


def certificates(folder: Path, chain: list[bytes], now: float) -> SpiffeId:
    """Authority, bundles, verification."""
    authority = CertificateAuthority.create("cluster.local").rotate_root().retire_old_roots()
    authority.save(folder)
    svid = CertificateAuthority.load(folder).issue_x509_svid("spiffe://cluster.local/ns/a/sa/b", ttl=60.0)
    assert_type(svid, X509Svid)
    assert_type(svid.serial, int)
    write_identity(folder, svid, authority.bundle)
    bundle = X509Bundle.from_pem("cluster.local", b"")
    bundles = X509BundleSet([bundle])
    assert_type(bundles.get(TrustDomain("cluster.local")), X509Bundle | None)
    material = StaticMaterial(svid, bundles)
    assert_type(material.current(), TlsMaterial)
    server: ssl.SSLContext = server_context(material)
    client: ssl.SSLContext = client_context(material, authorize=authorize_any())
    server.set_alpn_protocols(["http/1.1"])
    client.set_alpn_protocols(["http/1.1"])
    return verify_x509_svid(chain, bundles, now=now, role="client")


def authority(folder: Path, request: bytes, accounts: list[SpiffeId]) -> Sweep:
    """An authority in a folder, its rotation, and everybody's identities."""
    kept = AuthorityFolder.create(folder, CertificateAuthority.create("cluster.local", key_type="ec-p384"))
    kept.publish_root(key_type="rsa-2048")
    assert_type(kept.authority.state.phase, Phase)
    kept.activate_root(settle=0)
    kept.retire_old_roots(force=True)
    with kept.batch() as batch:
        assert_type(batch.issue_from_csr(request, accounts[0], requester="me"), tuple[bytes, ...])
        assert_type(batch.issue_jwt_svid(accounts[0], ["shop"]), str)
    document = read_bundle("cluster.local", kept.authority.bundle_document())
    assert_type(document.sequence, int | None)
    stores: list[SvidStore] = [FolderStore(folder / "store"), MemoryStore()]
    for store in stores:
        Rotator(kept, store, lambda: accounts, ttl=3600.0).sweep()
    return Rotator(kept.authority, stores[0], lambda: accounts).sweep()


def frameworks(principal: RequestPrincipal, view: Callable[[Any], Any]) -> bool:
    """What each framework's users hold."""
    assert_type(DjangoMiddleware(view)(object()), Any)
    user = MeshUser(principal)
    assert_type(user.username, str)
    return user.is_authenticated and user.has_perms(["read"])


def test_clients(app: Any, mesh: Mesh) -> None:
    """What a user's tests hold."""
    client = MeshClient(app, Connection(), [TestIssuer(key_id="2")], providers={"opa": False, "own": lambda _: True})
    assert_type(assert_allowed(client.get("/")), Decision)
    assert_type(mesh.providers, Mapping[str, Provider])


def metadata() -> Workload:
    """What OAuth clients are told."""
    resource = ProtectedResource(resource="https://tools.example/mcp", scopes_supported=("read",))
    return Workload(name="tools", protected_resource=resource)


def tokens(token: str, jwks: str, now: float) -> RequestPrincipal:
    """Signatures and claims."""
    keys = KeySet.parse(jwks)
    header, payload = verify_jws(token, keys, ["RS256"])
    assert_type(payload, bytes)
    rule = JWTRule(issuer=str(header["iss"]), audiences=("bookinfo",), jwks=TestIssuer().jwks)
    return verify_token(token, rule, keys, now=now)


def policies(
    folder: Path, connection: Connection, request: HttpRequest, keys: KeySnapshot
) -> Decision | NeedKeys | NeedCheck:
    """The pure core."""
    file = load_mesh(folder)
    resources: list[Resource] = [*load(folder), *load_policies(file)]
    policy = WorkloadPolicy.compile(resources, file.workloads["reviews"], file.config)
    found = policy.decide(connection, request, keys, now=0.0)
    if isinstance(found, NeedCheck):
        answer = CheckAnswer(allowed=True, provider=found.provider)
        return policy.decide(connection, request, keys, now=0.0, answers=[answer])
    return found


def small_parts(config: MeshConfig) -> list[bool]:
    """Patterns, addresses, naming."""
    naming = SecureNaming(config.services, config)
    assert_type(naming.ids("reviews.prod"), frozenset[SpiffeId])
    return [
        StringPattern.parse("a*").matches("ab"),
        parse_path_pattern("/a/{*}").matches("/a/b"),
        IpBlock.parse("10.0.0.0/8").contains("10.1.2.3"),
    ]


def errors(error: MeshsecError) -> str:
    """The whole tree."""
    match error:
        case ConfigError():
            assert_type(error.problems, tuple[Problem, ...])
        case SvidError() | TokenError() | AuthenticationError():
            assert_type(error.http_status_hint, int)
        case SpiffeIdError() | KeysUnavailableError() | IssuanceError():
            pass
        case _:
            pass
    return error.code
