"""What hypercorn, werkzeug and cheroot take from us, what they are refused, and certificates that others took."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, cast

import pytest
from hypercorn.config import Config
from werkzeug.utils import import_string

from meshsec import Mesh, Workload
from meshsec.attributes import HttpRequest
from meshsec.decision import Outcome, Reason
from meshsec.errors import ConfigError
from meshsec.middleware import TRANSPORT_KEY, Transport
from meshsec.resources import load_mesh, parse
from meshsec.servers import cheroot, hypercorn, use_mesh, werkzeug
from meshsec.tls import asgi_extension, server_context
from pki import TestCA
from wire import careless, material, shake_hands, wired
from world import World

REQUEST: Final = HttpRequest(method="GET", target="/", host="x", headers=(("host", "x"),), scheme="https")


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Nothing."""


@pytest.fixture
def world() -> World:
    """A trust domain."""
    return World()


@pytest.fixture
def mesh(world: World) -> Iterator[Mesh]:
    """A mesh without policies."""
    with world.mesh("reviews") as found:
        yield found


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"quic_bind": "127.0.0.1:1"}, "quic_bind"),
        ({"insecure_bind": "127.0.0.1:1"}, "insecure_bind"),
        ({"certfile": "x", "keyfile": "y"}, "certfile, keyfile"),
        ({"verify_mode": ssl.CERT_NONE, "ca_certs": "x"}, "ca_certs"),
        ({"worker_class": "trio"}, "worker_class 'trio'"),
        ({"workers": 2}, "import string"),
        ({"bind": ["unix:/run/x.sock"]}, "bind: give host and port"),
        ({"no_such_option": 1}, "no_such_option"),
    ],
)
def test_hypercorn_refuses_what_it_cannot_honour(options: dict[str, Any], reason: str, mesh: Mesh) -> None:
    """Before anything listens."""
    with pytest.raises(ConfigError, match=reason):
        hypercorn.run(app, mesh=mesh, port=1, **options)


def test_hypercorn_refuses_to_send_a_mesh_to_its_workers(mesh: Mesh) -> None:
    """They load their own."""
    with pytest.raises(ConfigError, match="mesh=None"):
        hypercorn.run("served:asgi", mesh=mesh, port=1)


def test_hypercorns_own_configuration_cannot_open_a_quic_listener(mesh: Mesh) -> None:
    """Also where somebody serves with our configuration himself."""
    config = hypercorn.MeshConfig()
    config.mesh, config.port = mesh, 1
    assert config.ssl_enabled
    assert not Config().ssl_enabled
    assert isinstance(config.create_ssl_context(), ssl.SSLContext)
    config.quic_bind = ["127.0.0.1:1"]
    with pytest.raises(ConfigError, match="quic_bind"):
        config.create_ssl_context()


@pytest.mark.parametrize("option", ["threaded", "processes", "ssl_context"])
def test_werkzeug_refuses_what_would_take_tls_out_of_our_hands(option: str, mesh: Mesh) -> None:
    """Loudly."""
    with pytest.raises(ConfigError, match=option):
        werkzeug.bind(cast(Any, app), mesh=mesh, port=1, **{option: 1})


def test_flask_run_finds_a_context_by_name(mesh: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    """``flask run --cert meshsec.servers.werkzeug.context``."""
    monkeypatch.setattr("meshsec.servers._process._process.mesh", None)
    use_mesh(mesh)
    assert isinstance(import_string("meshsec.servers.werkzeug.context"), ssl.SSLContext)
    assert import_string("meshsec.servers.werkzeug.no_context", silent=True) is None


def test_cheroot_drops_header_names_with_underscores(mesh: Mesh) -> None:
    """In an environ they could not be told from those with dashes."""
    server = cheroot.bind(cast(Any, app), mesh=mesh, port=0)
    reader = server.ConnectionClass.RequestHandlerClass.header_reader
    assert isinstance(server.ssl_adapter, cheroot.MeshAdapter)
    assert [reader._allow_header(name) for name in (b"X-A", b"X_A", b"X-B_C")] == [True, False, False]


def test_the_tls_extension_says_what_asgi_says() -> None:
    """Of a finished handshake: the chain as PEM, leaf first, and numbers of RFC 8446."""
    ca = TestCA("td.example")
    chain, key = ca.leaf()
    server, client = wired(server_context(material(ca)), careless("client", (chain, key)))
    assert asgi_extension(server) is None
    shake_hands(server, client)
    found = asgi_extension(server) or {}
    assert [ssl.PEM_cert_to_DER_cert(pem) for pem in found["client_cert_chain"]] == list(chain)
    assert (found["tls_version"], found["client_cert_error"], found["server_cert"]) == (0x0304, None, None)
    assert found["cipher_suite"] in (0x1301, 0x1302, 0x1303)
    assert isinstance(found["client_cert_name"], str)
    assert asgi_extension(client) is None
    assert asgi_extension(object()) is None


def test_what_is_said_of_one_connection_is_its_own() -> None:
    """An application may change what it was given: the next connection of the same client is told the truth."""
    ca = TestCA("td.example")
    pair = ca.leaf()
    ends = [wired(server_context(material(ca)), careless("client", pair)) for _ in range(2)]
    for server, client in ends:
        shake_hands(server, client)
    first, second = (asgi_extension(server) or {} for server, _ in ends)
    assert first == second
    first["client_cert_chain"].clear()
    first["tls_version"] = 0
    third = asgi_extension(ends[0][0])
    assert third == second


def judge(mesh: Mesh, pem: list[str]) -> tuple[str | None, Reason]:
    """A request whose certificate another's TLS took: who calls, and what becomes of it."""
    connection = mesh.connection(Transport.of_certificates(pem))
    decision = mesh.decide(connection, REQUEST)
    return (str(connection.peer.id) if connection.peer else None), decision.reason


def test_a_certificate_from_elsewhere_is_judged_by_our_bundles(world: World, mesh: Mesh) -> None:
    """An SVID of the mesh names its holder; anyone else's, or none, is TLS without a peer."""
    svid = world.authority.issue_x509_svid(world.id("web"))
    mine = [ssl.DER_cert_to_PEM_cert(der) for der in svid.chain]
    foreign = ssl.DER_cert_to_PEM_cert(TestCA("cluster.local").leaf("/ns/prod/sa/web")[0][0])
    who, reason = judge(mesh, mine)
    assert (who, reason) != (None, Reason.PEER_REQUIRED)
    assert who == str(world.id("web"))
    for pem in ([foreign], [], ["no certificate"], [mine[0][:-80]]):
        assert judge(mesh, pem) == (None, Reason.PEER_REQUIRED)


@pytest.mark.parametrize(
    ("extension", "believed"),
    [
        ({"client_cert_chain": "mine", "client_cert_error": None}, True),
        ({"client_cert_chain": "mine", "client_cert_error": "not verified"}, False),
        ({"client_cert_chain": []}, False),
        ({}, False),
    ],
)
def test_the_middleware_reads_a_servers_own_extension(
    extension: dict[str, Any], believed: bool, world: World, mesh: Mesh
) -> None:
    """If no transport of ours is there; an error in it means that nothing was verified."""
    from meshsec.middleware.asgi import _of_extension

    svid = world.authority.issue_x509_svid(world.id("web"))
    if extension.get("client_cert_chain") == "mine":
        extension = {**extension, "client_cert_chain": [ssl.DER_cert_to_PEM_cert(der) for der in svid.chain]}
    transport = _of_extension({"extensions": {"tls": extension}})
    assert transport is not None
    connection = mesh.connection(transport)
    assert (connection.peer is not None, connection.tls) == (believed, True)
    assert _of_extension({"extensions": {}}) is None
    assert _of_extension({}) is None


HIDDEN: Final = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: addresses, namespace: prod}}
spec: {{action: {action}, rules: [{rule}]}}
"""


@pytest.mark.parametrize("action", ["ALLOW", "DENY"])
@pytest.mark.parametrize(
    "rule",
    [
        "{from: [{source: {ipBlocks: [10.0.0.0/8]}}]}",
        "{from: [{source: {notIpBlocks: [10.0.0.0/8]}}]}",
        "{from: [{source: {remoteIpBlocks: [10.0.0.0/8]}}]}",
        "{to: [{operation: {ports: ['8443']}}]}",
        "{to: [{operation: {notPorts: ['8443']}}]}",
        "{when: [{key: destination.ip, values: [10.0.0.0/8]}]}",
    ],
)
def test_what_a_server_hides_refuses(action: str, rule: str) -> None:
    """A server of which nothing is known (granian, or any without our part) shows no addresses and no ports."""
    policy = parse(HIDDEN.format(action=action, rule=rule))
    with Mesh(workload=Workload(name="reviews", namespace="prod"), resources=policy) as mesh:
        assert mesh.decide(mesh.connection(None), REQUEST).outcome is Outcome.DENY


@pytest.mark.parametrize(("verify", "believed"), [("SUCCESS", True), ("NONE", False), (None, True)])
def test_the_middleware_reads_mod_ssls_variable(verify: str | None, believed: bool, world: World, mesh: Mesh) -> None:
    """``SSL_CLIENT_CERT``, which no header can be called; a transport of ours comes first."""
    from meshsec.middleware.wsgi import _transport

    svid = world.authority.issue_x509_svid(world.id("web"))
    environ = {"SSL_CLIENT_CERT": ssl.DER_cert_to_PEM_cert(svid.chain[0])}
    if verify is not None:
        environ["SSL_CLIENT_VERIFY"] = verify
    connection = mesh.connection(_transport(environ))
    assert (connection.peer is not None, connection.tls) == (believed, True)
    ours = Transport(source_ip="10.0.0.7")
    assert _transport({**environ, TRANSPORT_KEY: ours}) is ours


@pytest.mark.parametrize(
    ("text", "version"),
    [("{}", "1.3"), ("{minProtocolVersion: TLSV1_2}", "1.2"), ("{minProtocolVersion: TLS_AUTO}", "1.3")],
)
def test_the_lowest_tls_version_is_istios_setting(text: str, version: str, tmp_path: Path) -> None:
    """What Istio leaves to itself is the newest here."""
    (tmp_path / "mesh.yaml").write_text(f"meshConfig: {{meshMTLS: {text}}}\n")
    assert load_mesh(tmp_path).config.min_tls_version == version
