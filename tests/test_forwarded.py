"""Identity and address through proxies: believed where the connection proves the proxy, and nowhere else."""

from __future__ import annotations

import asyncio
import base64
import ssl
import time
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from meshsec import Connection, HttpRequest, Mesh, MeshConfig, PeerIdentity, Reason, Workload
from meshsec.errors import ConfigError, SvidError
from meshsec.middleware import TRANSPORT_KEY, Transport
from meshsec.resources import ForwardedIdentity, load_mesh, parse
from meshsec.sources import Identity, StaticIdentity
from meshsec.spiffe import X509Bundle, X509BundleSet
from meshsec.tls import StaticMaterial, verify_presented
from meshsec.tls import _peer as peer_module
from pki import TestCA
from wire import svid
from world import World

HOP = "spiffe://cluster.local/ns/istio-system/sa/ingress"
POLICY = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: web-only, namespace: prod}
spec: {rules: [{from: [{source: {principals: [cluster.local/ns/prod/sa/web]}}]}]}
"""
INGRESS = Connection(source_ip="10.0.0.1", peer=PeerIdentity.of(HOP))


@pytest.fixture(scope="module")
def world() -> World:
    """One trust domain."""
    return World()


def mesh(world: World, policy: str = POLICY, **config: object) -> Mesh:
    """reviews behind a proxy."""
    forwarded = ForwardedIdentity(format="xfcc", ids=(HOP,), addresses=("10.9.0.0/16",), unix_socket=True)
    return Mesh(
        workload=Workload(name="reviews", namespace="prod", service_account="reviews"),
        resources=parse(policy),
        config=MeshConfig(**{"forwarded_identity": forwarded, **config}),  # type: ignore[arg-type]
        identity=world.identity("reviews"),
    )


def leaf(world: World, account: str = "web") -> bytes:
    """The DER of a client's certificate."""
    return world.identity(account).identity.svid.chain[0]


def xfcc(der: bytes) -> tuple[str, str]:
    """The header as Envoy writes it."""
    escaped = quote(ssl.DER_cert_to_PEM_cert(der), safe="")
    return ("X-Forwarded-Client-Cert", f'By={HOP};Hash={sha256(der).hexdigest()};Cert="{escaped}";URI=spiffe://x/y')


def request(*headers: tuple[str, str]) -> HttpRequest:
    """A request with these headers."""
    return HttpRequest("GET", "/", host="reviews", headers=headers)


@pytest.mark.parametrize(
    "connection",
    [INGRESS, Connection(source_ip="10.9.1.2"), Connection(unix=True)],
    ids=["its own SVID", "its address", "unix socket"],
)
def test_a_proven_proxy_is_believed(world: World, connection: Connection) -> None:
    """The certificate's holder is the peer, with all that is known of the certificate."""
    der = leaf(world)
    context = mesh(world).judge(connection, request(xfcc(der)))
    assert context.decision.allowed
    assert context.peer is not None
    assert context.peer.certificate_sha256 == sha256(der).digest()


@pytest.mark.parametrize(
    "connection",
    [
        Connection(),
        Connection(source_ip="10.8.1.2"),
        Connection(source_ip="127.0.0.1"),
        Connection(source_ip="10.0.0.1", peer=PeerIdentity.of("spiffe://cluster.local/ns/prod/sa/other")),
    ],
    ids=["nothing known", "another address", "loopback", "another SVID"],
)
def test_anybody_else_is_not(world: World, connection: Connection) -> None:
    """The header means nothing; not knowing an address is no unix socket."""
    context = mesh(world).judge(connection, request(xfcc(leaf(world))))
    assert not context.decision.allowed
    assert context.peer == connection.peer


def test_without_the_setting_no_header_is_read(world: World) -> None:
    """Off unless configured."""
    assert mesh(world, forwarded_identity=None).judge(INGRESS, request(xfcc(leaf(world)))).peer == INGRESS.peer


def test_without_a_certificate_nobody_calls(world: World) -> None:
    """The proxy hands on a request; it is not who calls."""
    own = POLICY.replace("prod/sa/web", "istio-system/sa/ingress")
    assert not mesh(world, own).judge(INGRESS, request()).decision.allowed
    assert mesh(world, own, forwarded_identity=None).judge(INGRESS, request()).decision.allowed


def test_another_account_is_denied(world: World) -> None:
    """The policy sees the certificate's identity, not the one in URI."""
    decision = mesh(world).judge(INGRESS, request(xfcc(leaf(world, "other")))).decision
    assert decision.reason is Reason.NO_ALLOW_RULE


def test_a_certificate_of_another_authority_is_refused(world: World) -> None:
    """Our bundles judge it, whatever the proxy did."""
    decision = mesh(world).judge(INGRESS, request(xfcc(leaf(World())))).decision
    assert decision.reason is Reason.PEER_DISTRUSTED


def test_what_no_proxy_writes_is_refused(world: World) -> None:
    """Repeats, twins with an underscore, several elements: 401, not merely nobody."""
    name, value = xfcc(leaf(world))
    wrong = [
        [(name, value), (name, value)],
        [(name, value), ("x_forwarded_client_cert", value)],
        [("x-forwarded_client-cert", value)],
        [(name, f"{value},{value}")],
        [(name, "URI=spiffe://cluster.local/ns/prod/sa/web")],
    ]
    for headers in wrong:
        decision = mesh(world).judge(INGRESS, request(*headers)).decision
        assert (decision.reason, decision.status) == (Reason.FORWARDED_INVALID, 401)


@pytest.mark.parametrize(
    ("notation", "header", "value"),
    [
        ("client-cert", "client-cert", lambda der: f":{base64.b64encode(der).decode()}:"),
        ("nginx", "x-ssl-client-cert", lambda der: quote(ssl.DER_cert_to_PEM_cert(der), safe="")),
        ("haproxy", "x-ssl-client-der", lambda der: base64.b64encode(der).decode()),
        ("haproxy", "x-mine", lambda der: base64.b64encode(der).decode()),
        ("alb", "x-amzn-mtls-clientcert-leaf", lambda der: quote(ssl.DER_cert_to_PEM_cert(der), safe="+=/")),
    ],
)
def test_the_other_notations(world: World, notation, header, value) -> None:  # type: ignore[no-untyped-def]
    """Each in its own header, or in the one that is configured."""
    named = header if header == "x-mine" else ""
    config = ForwardedIdentity(format=notation, header=named, unix_socket=True)
    headers = (header.title(), value(leaf(world)))
    assert mesh(world, forwarded_identity=config).judge(Connection(unix=True), request(headers)).decision.allowed


def sequence(der: bytes) -> str:
    """A byte sequence of RFC 8941."""
    return f":{base64.b64encode(der).decode()}:"


def test_rfc_9440_hands_on_intermediates() -> None:
    """A leaf under an intermediate holds together with Client-Cert-Chain only, and by no forged one."""
    root = TestCA("cluster.local")
    below = root.intermediate()
    (leaf_der, *between), _ = below.leaf("/ns/prod/sa/web")
    place = Mesh(
        workload=Workload(name="reviews", namespace="prod"),
        resources=parse(POLICY),
        config=MeshConfig(forwarded_identity=ForwardedIdentity(format="client-cert", unix_socket=True)),
        identity=StaticIdentity(
            Identity(svid(root, "/ns/prod/sa/default"), X509Bundle("cluster.local", [root.certificate]))
        ),
    )
    stranger = TestCA("cluster.local").intermediate()
    told = ("Client-Cert", sequence(leaf_der))
    chains = [
        [("Client-Cert-Chain", ", ".join(map(sequence, between)))],
        [],
        [("Client-Cert-Chain", sequence(stranger.der))],
        [("Client-Cert-Chain", sequence(between[0])), ("client_cert_chain", sequence(between[0]))],
        [("Client-Cert-Chain", "no list")],
    ]
    outcomes = [place.judge(Connection(unix=True), request(told, *chain)).decision.reason for chain in chains]
    bad, wrong = Reason.PEER_DISTRUSTED, Reason.FORWARDED_INVALID
    assert outcomes == [Reason.ALLOW_RULE, bad, bad, wrong, wrong]


@pytest.fixture
def verified(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The moments at which a chain was really verified."""
    moments: list[float] = []
    verify = peer_module.verify_x509_svid

    def counted(*arguments: Any, now: float, **options: Any) -> Any:
        moments.append(now)
        return verify(*arguments, now=now, **options)

    monkeypatch.setattr(peer_module, "verify_x509_svid", counted)
    return moments


def test_a_chain_that_held_is_remembered_for_a_minute(world: World, verified: list[float]) -> None:
    """With the bundles that it held against, and not beyond its own end."""
    identity = world.identity("web").identity
    material = StaticMaterial(bundles=X509BundleSet([world.authority.bundle]))
    now = 60.0 * (time.time() // 60)
    chain = tuple(identity.svid.chain)
    for moment in (now, now + 1, now + 59, now + 60, now + 61):
        assert verify_presented(chain, material, now=moment).id == identity.svid.id
    assert verified == [now, now + 60]
    end = peer_module._not_after(chain[0])
    with pytest.raises(SvidError):
        verify_presented(chain, material, now=60.0 * (end // 60 + 1))
    material.replace(bundles=X509BundleSet([World().authority.bundle]))
    with pytest.raises(SvidError):
        verify_presented(chain, material, now=now)


def test_an_end_within_the_minute_is_seen(world: World, verified: list[float]) -> None:
    """The certificate's last second is the last in which it is remembered."""
    now = 60.0 * (time.time() // 60)
    chain = tuple(world.authority.issue_x509_svid(world.id("web"), ttl=600).chain)
    material = StaticMaterial(bundles=X509BundleSet([world.authority.bundle]))
    end = peer_module._not_after(chain[0])
    assert verify_presented(chain, material, now=end).not_after == end
    with pytest.raises(SvidError):
        verify_presented(chain, material, now=end + 0.5)
    assert now < end


def test_what_did_not_hold_leaves_no_trace(world: World, verified: list[float]) -> None:
    """It is verified, and refused, each time."""
    chain = tuple(World().identity("web").identity.svid.chain)
    material = StaticMaterial(bundles=X509BundleSet([world.authority.bundle]))
    for _ in range(3):
        with pytest.raises(SvidError):
            verify_presented(chain, material, now=time.time())
    assert len(verified) == 3


def test_websockets_are_under_the_same_rules(world: World) -> None:
    """The header of a proven proxy names the peer; a twin beside it refuses the handshake."""
    guarded = mesh(world).asgi(accepting)
    name, value = xfcc(leaf(world))
    line = (name.lower().encode(), value.encode())
    twin = (b"x_forwarded_client_cert", value.encode())

    def first(*headers: tuple[bytes, bytes], source: str = "10.9.1.2") -> str:
        scope = {
            "type": "websocket",
            "path": "/",
            "raw_path": b"/",
            "query_string": b"",
            "scheme": "ws",
            "headers": [(b"host", b"reviews"), *headers],
            "state": {TRANSPORT_KEY: Transport(source_ip=source)},
        }
        sent: list[Any] = []

        async def receive() -> Any:
            return {"type": "websocket.connect"}

        async def send(message: Any) -> None:
            sent.append(message)

        asyncio.run(guarded(scope, receive, send))
        return str(sent[0]["type"])

    assert first(line) == "websocket.accept"
    refused = [first(line, twin), first(line, line), first(), first(line, source="10.8.1.2")]
    assert refused == ["websocket.close"] * 4


async def accepting(scope: Any, receive: Any, send: Any) -> None:
    """An application that takes every socket."""
    await send({"type": "websocket.accept"})


REMOTE = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: near-only, namespace: prod}
spec: {rules: [{from: [{source: {remoteIpBlocks: [192.0.2.1]}}]}]}
"""


@pytest.mark.parametrize(
    ("proxies", "lines", "allowed"),
    [
        (0, ["192.0.2.1"], False),
        (1, ["192.0.2.1"], True),
        (1, ["1.1.1.1, 192.0.2.1"], True),
        (1, ["1.1.1.1", "192.0.2.1"], True),
        (1, ["192.0.2.1, 1.1.1.1"], False),
        (2, ["192.0.2.1, 1.1.1.1"], True),
        (2, ["192.0.2.1"], False),
        (1, ["192.0.2.1:80"], False),
        (1, ["192.0.2.1,"], False),
        (1, [], False),
    ],
)
def test_remote_ip_is_what_the_outermost_trusted_proxy_saw(
    world: World, proxies: int, lines: list[str], allowed: bool
) -> None:
    """So many from the right; anything else is the direct peer."""
    headers = [("x-forwarded-for", line) for line in lines]
    found = mesh(world, REMOTE, num_trusted_proxies=proxies, forwarded_identity=None)
    assert found.judge(Connection(source_ip="10.0.0.1"), request(*headers)).decision.allowed is allowed


@pytest.mark.parametrize(("source", "allowed"), [("10.0.0.1", True), ("203.0.113.9", False)])
def test_only_a_proven_proxy_says_who_the_client_is(world: World, source: str, allowed: bool) -> None:
    """Where the configuration can tell a proxy from anybody else, nobody else is believed."""
    proof = ForwardedIdentity(format="xfcc", addresses=("10.0.0.1/32",))
    found = mesh(world, REMOTE, num_trusted_proxies=1, forwarded_identity=proof)
    asked = request(("x-forwarded-for", "192.0.2.1"))
    assert found.judge(Connection(source_ip=source), asked).decision.allowed is allowed


def test_a_transport_tells_unix_sockets_from_unknown_ones(tmp_path: Path) -> None:
    """Only our own end tells: a client's end of either kind may have no name."""
    import socket

    ours, theirs = socket.socketpair(socket.AF_UNIX)
    with ours, theirs:
        assert Transport.of_socket(ours).unix
    assert not Transport().unix
    assert tmp_path.exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{format: xfcc}", "say what proves"),
        ("{format: xfcc, unixSocket: false, ids: []}", "say what proves"),
        ("{format: XFCC, unixSocket: true}", "format"),
        ("{unixSocket: true}", "format"),
        ("{format: nginx, header: X-A, unixSocket: true}", "no header's name"),
        ("{format: nginx, header: x_a, unixSocket: true}", "no header's name"),
        ("{format: nginx, addresses: [10.0.0.0/33]}", "addresses"),
        ("{format: nginx, ids: ['spiffe://a']}", "names a trust domain"),
    ],
)
def test_a_setting_that_proves_nothing_is_refused(tmp_path: Path, text: str, message: str) -> None:
    """A format without a proof, a name that some servers read as another, an address that is none."""
    (tmp_path / "mesh.yaml").write_text(f"forwardedIdentity: {text}\n")
    with pytest.raises(ConfigError, match=message):
        load_mesh(tmp_path)


def test_the_settings_are_read(tmp_path: Path) -> None:
    """The twins of those above."""
    (tmp_path / "mesh.yaml").write_text(
        "forwardedIdentity: {format: nginx, header: x-a, addresses: [10.0.0.0/8], unixSocket: true}\n"
        "meshConfig: {defaultConfig: {gatewayTopology: {numTrustedProxies: 2}}}\n"
    )
    config = load_mesh(tmp_path).config
    forwarded = ForwardedIdentity(format="nginx", header="x-a", addresses=("10.0.0.0/8",), unix_socket=True)
    assert config.forwarded_identity == forwarded
    assert config.num_trusted_proxies == 2
