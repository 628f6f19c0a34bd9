"""nginx, HAProxy and Envoy in front: the application knows who calls, whatever a client writes into its headers.

nginx and HAProxy are Debian's; where they cannot be had, their tests say so and prove nothing.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import ssl
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import pytest
import websockets.sync.client

from interop import fronts
from live import free_port
from meshsec import Mesh, MeshConfig, Workload
from meshsec.resources import ForwardedIdentity
from wire import careless
from world import World

WEB, ADMIN = "web", "admin"
Lines = list[tuple[str, str]]
Calls = Callable[..., dict[str, Any]]

WORLD: Final = World()
STRANGER: Final = World()
PROXY: Final = WORLD.identity("proxy").identity.svid


def escaped(der: bytes) -> str:
    """PEM, percent-encoded."""
    return quote(ssl.DER_cert_to_PEM_cert(der), safe="")


def leaf(account: str) -> bytes:
    """A certificate, which is no secret: whoever was called by its holder has seen it."""
    return WORLD.identity(account).identity.svid.chain[0]


def element(der: bytes) -> str:
    """An element as Envoy writes it."""
    return f'By=spiffe://a/b;Hash={sha256(der).hexdigest()};Cert="{escaped(der)}"'


ADMINS: Final = leaf(ADMIN)
WRITTEN: Final[dict[str, tuple[str, str]]] = {
    "nginx": ("X-SSL-Client-Cert", escaped(ADMINS)),
    "haproxy": ("X-SSL-Client-DER", base64.b64encode(ADMINS).decode()),
    "client-cert": ("Client-Cert", f":{base64.b64encode(ADMINS).decode()}:"),
    "xfcc": ("X-Forwarded-Client-Cert", element(ADMINS)),
}


def forgeries(notation: str) -> dict[str, Lines]:
    """What an attacker may write to be taken for admin."""
    name, value = WRITTEN[notation]
    twin = name.replace("-", "_")
    return {
        "the header": [(name, value)],
        "in lower case": [(name.lower(), value)],
        "twice": [(name, value), (name, value)],
        "an underscore twin": [(twin, value)],
        "half a twin": [(name.replace("-", "_", 1), value)],
        "both": [(name, value), (twin, value)],
        "appended": [(name, f"{value},{value}")],
        "a URI alone": [(name, f"URI={WORLD.id(ADMIN)}")],
        "empty and more": [(name, ""), (name, value)],
        "oversized": [(name, value + "A" * 90_000)],
        "every notation": [line for line in WRITTEN.values() for _ in range(2)],
    }


def shown(account: str | None) -> ssl.SSLContext:
    """A client that shows an account's certificate, or none, and does not care who answers."""
    svid = WORLD.identity(account).identity.svid if account else None
    return careless("client", (svid.chain, svid.private_key) if svid else None)


def ask(port: int, context: ssl.SSLContext, lines: Lines) -> tuple[int, str | None]:
    """The status, and who the application says that we are; 0 for a connection that ended without an answer."""
    connection = http.client.HTTPSConnection("127.0.0.1", port, context=context, timeout=30)
    try:
        connection.putrequest("GET", "/", skip_host=True)
        for name, value in [("Host", "reviews"), *lines]:
            connection.putheader(name, value)
        connection.endheaders()
        response = connection.getresponse()
        body = response.read()
        return response.status, json.loads(body)["peer"] if response.status == 200 else None
    except (OSError, http.client.HTTPException):
        return 0, None
    finally:
        connection.close()


def reviews(notation: Any) -> Mesh:
    """The application's mesh: what comes over its unix socket comes from the proxy."""
    return Mesh(
        workload=Workload(name="reviews", namespace="prod", service_account="reviews"),
        config=MeshConfig(
            forwarded_identity=ForwardedIdentity(format=notation, unix_socket=True), allow_no_policy=True
        ),
        identity=WORLD.identity("reviews"),
    )


@contextlib.contextmanager
def envoy_in_front(front: fronts.Front, upstream: Path, mode: str = "SANITIZE_SET") -> Iterator[int]:
    """Envoy with one of its five modes."""
    port = free_port()
    details = {"forward_client_cert_details": mode, "set_current_client_cert_details": {"cert": True, "uri": True}}
    route = {"match": {"prefix": ""}, "route": {"cluster": "app"}}
    manager = {**details, "upgrade_configs": [{"upgrade_type": "websocket"}]}
    tls = {"transport_socket": fronts.mutual_tls(front, "Downstream")}
    listener = fronts.http_listener(port, manager, route, tls)
    with fronts.envoy(front, [listener], [fronts.cluster({"pipe": {"path": str(upstream)}})]):
        yield port


Proxy = Callable[[fronts.Front, Path], AbstractContextManager[int]]
KINDS: Final[dict[str, tuple[str, str, Proxy]]] = {
    "nginx": ("nginx", "nginx", fronts.nginx),
    "haproxy": ("haproxy", "haproxy", fronts.haproxy),
    "haproxy, RFC 9440": ("haproxy", "client-cert", partial(fronts.haproxy, notation="client-cert")),
    "envoy": ("envoy", "xfcc", envoy_in_front),
}


@dataclass(frozen=True)
class Place:
    """A proxy before the application."""

    program: str
    notation: str
    port: int


@pytest.fixture(scope="module", params=KINDS)
def proxied(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place | None]:
    """A proxy that runs; None where it cannot be had, which is printed."""
    program, notation, proxy = KINDS[request.param]
    there = find_spec("envoy") if program == "envoy" else fronts.program(program)
    if there is None:
        yield None
        return
    folder = tmp_path_factory.mktemp(program)
    socket_path = folder / "app.sock"
    front = fronts.Front(folder, PROXY, WORLD.authority)
    with fronts.application(reviews(notation), uds=str(socket_path)), proxy(front, socket_path) as port:
        yield Place(program, notation, port)


def test_the_certificates_holder_is_the_peer(proxied: Place | None) -> None:
    """With a certificate its holder, without one nobody."""
    if proxied:
        assert ask(proxied.port, shown(WEB), []) == (200, str(WORLD.id(WEB)))
        assert ask(proxied.port, shown(None), []) == (200, None)


@pytest.mark.parametrize("kind", forgeries("nginx"))
@pytest.mark.parametrize("account", [WEB, None])
def test_no_header_makes_anyone_admin(proxied: tuple[int, str] | None, kind: str, account: str | None) -> None:
    """The client is who its certificate says; twins, which nginx alone drops, are refused by us."""
    if proxied:
        twins = "_" in " ".join(name for name, _ in forgeries(proxied.notation)[kind])
        found = ask(proxied.port, shown(account), forgeries(proxied.notation)[kind])
        refused = twins and proxied.program != "nginx"
        assert found == ((401, None) if refused else (200, str(WORLD.id(account)) if account else None))


def test_another_authoritys_certificate_makes_nobody(proxied: Place | None) -> None:
    """The proxy refuses it, or we do."""
    if proxied:
        svid = STRANGER.identity(WEB).identity.svid
        assert ask(proxied.port, careless("client", (svid.chain, svid.private_key)), []) in ((0, None), (400, None))


def test_websockets_are_under_the_same_rules(proxied: Place | None) -> None:
    """The peer is told; a forged header changes nothing."""
    if proxied:
        for lines in ([], forgeries(proxied.notation)["the header"]):
            with websockets.sync.client.connect(
                f"wss://127.0.0.1:{proxied.port}/", ssl=shown(WEB), additional_headers=lines, proxy=None
            ) as it:
                assert json.loads(it.recv())["peer"] == str(WORLD.id(WEB))


# ---------------------------------------------------------------- Envoy's five modes

FORGED: Final = [("X-Forwarded-Client-Cert", element(ADMINS))]
WEBS: Final = str(WORLD.id(WEB))
# By mode: with a certificate, and the same with a forged header, and that without a certificate.
MODES: Final[dict[str, tuple[tuple[int, str | None], ...]]] = {
    "SANITIZE": ((200, None), (200, None), (200, None)),
    "SANITIZE_SET": ((200, WEBS), (200, WEBS), (200, None)),
    "APPEND_FORWARD": ((200, WEBS), (401, None), (200, None)),
    # These hand on what the client wrote: no reader can tell, so no format is to be configured behind them.
    "FORWARD_ONLY": ((200, None), (200, str(WORLD.id(ADMIN))), (200, None)),
    "ALWAYS_FORWARD_ONLY": ((200, None), (200, str(WORLD.id(ADMIN))), (200, str(WORLD.id(ADMIN)))),
}


@pytest.mark.parametrize("mode", MODES if find_spec("envoy") else [])
def test_envoys_modes(mode: str, tmp_path: Path) -> None:
    """What each of them makes of an honest header and of a forged one."""
    socket_path = tmp_path / "app.sock"
    front = fronts.Front(tmp_path, PROXY, WORLD.authority)
    with fronts.application(reviews("xfcc"), uds=str(socket_path)), envoy_in_front(front, socket_path, mode) as port:
        found = (ask(port, shown(WEB), []), ask(port, shown(WEB), FORGED), ask(port, shown(None), FORGED))
    assert found == MODES[mode]
