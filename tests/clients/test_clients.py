"""Every client dials the mesh's endpoints, presents our SVID, and sends no byte to whom may not answer."""

from __future__ import annotations

import asyncio
import urllib.request
from collections.abc import Iterator
from threading import Thread

import aiohttp
import httpx2
import pytest
import requests
import websockets.sync.server

from callers import CALLERS, Get
from meshsec import Mesh, MeshConfig, Workload
from meshsec.resources import Service, parse
from world import World, serve

CLIENTS = pytest.mark.parametrize("get", CALLERS)


class Place:
    """A world with a reviews server and an impostor, and productpage's view of it."""

    def __init__(self, world: World, honest: int, impostor: int) -> None:
        self.world = world
        self.honest = honest
        self.impostor = impostor

    def productpage(self, *ports: int, account: str = "reviews") -> Mesh:
        """productpage's mesh, with reviews.prod at these ports, answered for by an account."""
        endpoints = tuple(f"127.0.0.1:{port}" for port in ports)
        service = Service(ids=(str(self.world.id(account)),), endpoints=endpoints)
        return self.world.mesh("productpage", {"reviews.prod": service})


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    """Two real TLS servers of one trust domain: reviews, and an intruder that would like to be reviews."""
    world = World()
    with (
        serve(world.mesh("reviews").server_context()) as honest,
        serve(world.mesh("intruder").server_context()) as impostor,
    ):
        yield Place(world, honest.server_port, impostor.server_port)
        assert impostor.requests == []


@CLIENTS
def test_service_is_reached_by_its_mesh_name(place: Place, get: Get) -> None:
    """A name that no DNS knows is dialled at its endpoint; the Host header names the service."""
    assert get(place.productpage(place.honest), "https://reviews.prod/x") == (200, "reviews.prod")


@CLIENTS
def test_impostor_is_refused_before_a_byte_is_sent(place: Place, get: Get) -> None:
    """An endpoint under another account's SVID gets no request."""
    with pytest.raises(Exception, match=r"(?i)intruder|certificate|ssl"):
        get(place.productpage(place.impostor), "https://reviews.prod/x")


@CLIENTS
def test_unknown_service_is_refused(place: Place, get: Get) -> None:
    """A host that the mesh does not name is not called; the error names a near one."""
    with pytest.raises(Exception, match=r"reviews\.prod"):
        get(place.productpage(place.honest), "https://review.prod/x")


@CLIENTS
def test_next_endpoint_is_tried(place: Place, get: Get) -> None:
    """Where the first endpoint is an impostor, the next one answers."""
    assert get(place.productpage(place.impostor, place.honest), "https://reviews.prod/x")[0] == 200


@CLIENTS
def test_plain_http_is_upgraded(place: Place, get: Get) -> None:
    """A plain URL of a mesh service is called over mutual TLS, as a sidecar does."""
    assert get(place.productpage(place.honest), "http://reviews.prod/x") == (200, "reviews.prod")


@CLIENTS
def test_plain_http_does_not_reach_an_impostor(place: Place, get: Get) -> None:
    """Nor is there a way back to plaintext where the handshake fails."""
    with pytest.raises(Exception, match=r"(?i)intruder|certificate|ssl"):
        get(place.productpage(place.impostor), "http://reviews.prod/x")


@CLIENTS
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_plain_http_to_anyone_else_is_refused(place: Place, get: Get, scheme: str) -> None:
    """A host that the mesh does not name is not called in plaintext either."""
    with pytest.raises(Exception, match="names no service"):
        get(place.productpage(place.honest), f"{scheme}://elsewhere.example/x")


ENTRY = """
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: old, namespace: prod}}
spec:
  hosts: [old.prod]
  ports: [{{number: 80, name: http}}, {{number: 443, name: https}}]
  endpoints: [{{address: 127.0.0.1, ports: {{http: {port}, https: {port}}}, serviceAccount: old}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: old, namespace: prod}}
spec: {{host: old.prod, trafficPolicy: {{tls: {{mode: DISABLE}}}}}}
"""


@CLIENTS
def test_plain_http_stays_plain_where_a_rule_says_so(place: Place, get: Get) -> None:
    """TLS mode DISABLE; the twins, without the rule or with https, speak TLS, which the plain server cannot read."""
    with serve(None) as plain:
        text = ENTRY.format(port=plain.server_port)
        workload = Workload(name="productpage", namespace="prod", service_account="productpage")
        for resources, scheme in ((parse(text), "http"), (parse(text)[:1], "http"), (parse(text), "https")):
            mesh = Mesh(
                workload=workload,
                resources=resources,
                config=MeshConfig(allow_no_policy=True),
                identity=place.world.identity("productpage"),
            )
            if len(resources) == 2 and scheme == "http":
                assert get(mesh, "http://old.prod/x") == (200, "old.prod")
            else:
                with pytest.raises(Exception, match=r"(?i)ssl|wrong version|connect|disconnected"):
                    get(mesh, f"{scheme}://old.prod/x")
        assert plain.requests == ["/x"]


@CLIENTS
def test_istio_is_offered_in_alpn(place: Place, get: Get) -> None:
    """First, or a PERMISSIVE sidecar would take our TLS for the application's."""
    context = place.world.mesh("reviews").server_context()
    context.set_alpn_protocols(["istio", "h2", "http/1.1"])
    with serve(context) as server:
        get(place.productpage(server.server_port), "https://reviews.prod/x")
    assert server.hellos == [("reviews.prod", "istio")]


NAMED = """
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: reviews, namespace: prod}}
spec:
  hosts: [reviews.prod]
  ports: [{{number: 443, name: https}}, {{number: 8443, name: other}}]
  endpoints: [{{address: 127.0.0.1, ports: {{https: {port}, other: {port}}}, serviceAccount: reviews}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: reviews, namespace: prod}}
spec:
  host: reviews.prod
  trafficPolicy:
    tls: {{mode: ISTIO_MUTUAL, sni: sent.example}}
    portLevelSettings:
    - port: {{number: 8443}}
      tls: {{mode: ISTIO_MUTUAL, subjectAltNames: ["spiffe://cluster.local/ns/prod/sa/ratings"]}}
"""


@CLIENTS
def test_a_rules_server_name_is_sent_and_its_ports_are_kept_apart(place: Place, get: Get) -> None:
    """Who answers is judged by the service and the port that were asked for, whatever name is sent."""
    context = place.world.mesh("reviews").server_context()
    with serve(context) as server:
        mesh = Mesh(
            workload=Workload(name="productpage", namespace="prod", service_account="productpage"),
            resources=parse(NAMED.format(port=server.server_port)),
            config=MeshConfig(allow_no_policy=True),
            identity=place.world.identity("productpage"),
        )
        assert get(mesh, "https://reviews.prod/x")[0] == 200
        assert server.hellos == [("sent.example", None)]
        with pytest.raises(Exception, match=r"(?i)ratings|certificate|ssl"):
            get(mesh, "https://reviews.prod:8443/x")


def test_requests_cannot_turn_the_check_off(place: Place) -> None:
    """verify=False is an error, not a wish."""
    from meshsec.clients.requests import MeshAdapter

    with requests.Session() as session:
        session.mount("https://", MeshAdapter(place.productpage(place.honest)))
        with pytest.raises(ValueError, match="verify=False"):
            session.get("https://reviews.prod/", verify=False)


def test_aiohttp_cannot_turn_the_check_off(place: Place) -> None:
    """ssl=False is an error, not a wish."""
    from meshsec.clients.aiohttp import MeshConnector

    async def get() -> None:
        async with aiohttp.ClientSession(connector=MeshConnector(place.productpage(place.honest))) as session:
            await session.get("https://reviews.prod/", ssl=False)

    with pytest.raises(ValueError, match="always checked"):
        asyncio.run(get())


def test_aiohttp_upgrades_websockets(place: Place) -> None:
    """ws:// becomes wss:// to the service's endpoint."""
    from meshsec.clients.aiohttp import MeshConnector

    async def talk(mesh: Mesh) -> str:
        session = aiohttp.ClientSession(connector=MeshConnector(mesh))
        async with session, session.ws_connect("ws://reviews.prod/") as it:
            return str(await it.receive_str())

    context = place.world.mesh("reviews").server_context()
    with websockets.sync.server.serve(lambda it: it.send("hello"), "127.0.0.1", 0, ssl=context) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            assert asyncio.run(talk(place.productpage(server.socket.getsockname()[1]))) == "hello"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("url", ["https://reviews.prod/x", "http://reviews.prod/x"])
def test_aiohttps_middleware_may_send_a_request_again(place: Place, url: str) -> None:
    """The request stays as it was asked, whatever was dialled."""
    from meshsec.clients.aiohttp import MeshConnector

    async def twice(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
        asked = request.url
        await (await handler(request)).read()
        assert request.url == asked
        return await handler(request)

    async def get(mesh: Mesh) -> tuple[int, str]:
        async with (
            aiohttp.ClientSession(connector=MeshConnector(mesh), middlewares=[twice]) as session,
            session.get(url) as response,
        ):
            return response.status, await response.text()

    with serve(place.world.mesh("reviews").server_context()) as server:
        assert asyncio.run(get(place.productpage(server.server_port))) == (200, "reviews.prod")
    assert server.requests == ["/x", "/x"]


def test_aiohttps_own_options_take_no_context(place: Place) -> None:
    """Who answers is checked by the mesh."""
    from meshsec.clients.aiohttp import MeshConnector

    async def make() -> None:
        MeshConnector(place.productpage(place.honest), ssl=False)

    with pytest.raises(TypeError, match="ssl"):
        asyncio.run(make())


@CLIENTS
def test_a_service_may_have_an_address_for_a_name(place: Place, get: Get) -> None:
    """It is dialled at its endpoint all the same, and its name is the one that is checked."""
    reviews = Service(ids=(str(place.world.id("reviews")),), endpoints=(f"127.0.0.1:{place.honest}",))
    mesh = place.world.mesh("productpage", {"192.0.2.7": reviews})
    assert get(mesh, "https://192.0.2.7/x") == (200, "192.0.2.7")


def test_services_with_one_endpoint_do_not_share_connections(place: Place) -> None:
    """A connection that was checked for one service never carries another's request."""
    from meshsec.clients.httpx2 import MeshTransport

    endpoint = (f"127.0.0.1:{place.honest}",)
    mesh = place.world.mesh(
        "productpage",
        {
            "reviews.prod": Service(ids=(str(place.world.id("reviews")),), endpoints=endpoint),
            "ratings.prod": Service(ids=(str(place.world.id("ratings")),), endpoints=endpoint),
        },
    )
    with httpx2.Client(transport=MeshTransport(mesh)) as client:
        assert client.get("https://reviews.prod/").status_code == 200
        with pytest.raises(httpx2.ConnectError):
            client.get("https://ratings.prod/")


@pytest.mark.parametrize("who", ["id", "set", "trust domain", "function"])
def test_context_takes_an_explicit_authorizer(place: Place, who: str) -> None:
    """client_context(authorize=…) takes an ID, a set, a trust domain or a function; urllib works with it."""
    reviews = place.world.id("reviews")
    forms = {
        "id": str(reviews),
        "set": {reviews},
        "trust domain": reviews.trust_domain,
        "function": lambda peer, host: None,
    }
    context = place.productpage(place.honest).client_context(forms[who])
    with urllib.request.urlopen(f"https://127.0.0.1:{place.honest}/", context=context) as response:
        assert response.status == 200


def test_explicit_authorizer_refuses_another_id(place: Place) -> None:
    """The twin: another account's ID is not enough."""
    context = place.productpage(place.honest).client_context(str(place.world.id("ratings")))
    with pytest.raises(OSError, match="ratings"):
        urllib.request.urlopen(f"https://127.0.0.1:{place.honest}/", context=context)
