"""Tokens travel to the services that are listed for them, over verified connections, and nowhere else."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

import aiohttp
import httpx2
import pytest
import requests

from live import TIMEOUT
from meshsec import Mesh, MeshConfig, TokenError, Workload
from meshsec.ca import CertificateAuthority
from meshsec.clients import CallerToken, JwtSvidToken, TokenSource
from meshsec.clients._services import ServicePools
from meshsec.middleware import current_context
from meshsec.resources import Service, parse
from meshsec.testing import TestIssuer
from world import World, serve

Get = Callable[[Mesh, str, dict[str, TokenSource]], list[str | None]]


class Fixed:
    """A token that is always the same."""

    def at_hand(self) -> str | None:
        return None

    def token(self) -> str:
        return "our-token"


def by_httpx2(mesh: Mesh, url: str, tokens: dict[str, TokenSource], **lines: str) -> None:
    from meshsec.clients.httpx2 import MeshTransport

    with httpx2.Client(
        transport=MeshTransport(mesh, tokens=tokens), follow_redirects=True, timeout=TIMEOUT
    ) as client:
        client.get(url, headers=lines)


def by_httpx2_async(mesh: Mesh, url: str, tokens: dict[str, TokenSource], **lines: str) -> None:
    from meshsec.clients.httpx2 import AsyncMeshTransport

    async def get() -> None:
        transport = AsyncMeshTransport(mesh, tokens=tokens)
        async with httpx2.AsyncClient(transport=transport, follow_redirects=True, timeout=TIMEOUT) as client:
            await client.get(url, headers=lines)

    asyncio.run(get())


def by_requests(mesh: Mesh, url: str, tokens: dict[str, TokenSource], **lines: str) -> None:
    from meshsec.clients.requests import MeshAdapter

    with requests.Session() as session:
        session.mount("https://", MeshAdapter(mesh, tokens=tokens))
        session.mount("http://", MeshAdapter(mesh, tokens=tokens))
        session.get(url, headers=lines)


def by_urllib3(mesh: Mesh, url: str, tokens: dict[str, TokenSource], **lines: str) -> None:
    from meshsec.clients.urllib3 import MeshPoolManager

    with MeshPoolManager(mesh, tokens=tokens) as manager:
        manager.request("GET", url, headers=lines)


def by_aiohttp(mesh: Mesh, url: str, tokens: dict[str, TokenSource], **lines: str) -> None:
    from meshsec.clients.aiohttp import MeshConnector

    async def get() -> None:
        connector = MeshConnector(mesh, tokens=tokens)
        async with aiohttp.ClientSession(connector=connector) as session, session.get(url, headers=lines) as response:
            await response.read()

    asyncio.run(get())


CLIENTS = pytest.mark.parametrize(
    "get", [by_httpx2, by_httpx2_async, by_requests, by_urllib3, by_aiohttp], ids=lambda get: get.__name__
)

PLAIN = """
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: old, namespace: prod}}
spec:
  hosts: [old.prod]
  ports: [{{number: 80, name: http}}]
  endpoints: [{{address: 127.0.0.1, ports: {{http: {port}}}, serviceAccount: old}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: old, namespace: prod}}
spec: {{host: old.prod, trafficPolicy: {{tls: {{mode: DISABLE}}}}}}
"""


class Place:
    """reviews and ratings at one server, a plain service, and an impostor."""

    def __init__(self, world: World, honest: Any, plain: Any, impostor: Any) -> None:
        self.honest, self.plain, self.impostor = honest, plain, impostor
        reviews = str(world.id("reviews"))
        services = {
            name: Service(ids=(reviews,), endpoints=(f"127.0.0.1:{server.server_port}",))
            for name, server in (("reviews.prod", honest), ("ratings.prod", honest), ("taken.prod", impostor))
        }
        self.mesh = Mesh(
            workload=Workload(name="web", namespace="prod", service_account="web"),
            resources=parse(PLAIN.format(port=plain.server_port)),
            config=MeshConfig(services=services, allow_no_policy=True),
            identity=world.identity("web"),
        )

    def tokens(self, *hosts: str) -> dict[str, TokenSource]:
        """The fixed token for these services."""
        return {host: Fixed() for host in hosts}


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    """Three real servers."""
    world = World()
    with (
        serve(world.mesh("reviews").server_context()) as honest,
        serve(None) as plain,
        serve(world.mesh("intruder").server_context()) as impostor,
    ):
        yield Place(world, honest, plain, impostor)


@pytest.fixture(autouse=True)
def forget(place: Place) -> None:
    """Nothing of another test."""
    for server in (place.honest, place.plain, place.impostor):
        server.tokens.clear()
        server.location = None


@CLIENTS
def test_the_listed_service_gets_its_token(place: Place, get: Get) -> None:
    """Also where its URL is a plain one that was upgraded."""
    get(place.mesh, "https://reviews.prod/", place.tokens("reviews.prod"))
    get(place.mesh, "http://Reviews.prod/", place.tokens("REVIEWS.prod"))
    assert place.honest.tokens == ["Bearer our-token"] * 2


@CLIENTS
def test_another_service_gets_none(place: Place, get: Get) -> None:
    """The list is all there is."""
    get(place.mesh, "https://ratings.prod/", place.tokens("reviews.prod"))
    assert place.honest.tokens == [None]


@CLIENTS
def test_a_redirect_takes_no_token_along(place: Place, get: Get) -> None:
    """The service that redirects does not choose who gets the token."""
    place.honest.location = "https://ratings.prod/there"
    get(place.mesh, "https://reviews.prod/", place.tokens("reviews.prod"))
    assert place.honest.tokens == ["Bearer our-token", None]


@CLIENTS
def test_a_redirect_to_a_plain_service_takes_none_along(place: Place, get: Get) -> None:
    """Even where that one is listed, too."""
    place.honest.location = "http://old.prod/there"
    get(place.mesh, "https://reviews.prod/", place.tokens("reviews.prod", "old.prod"))
    assert (place.honest.tokens, place.plain.tokens) == (["Bearer our-token"], [None])


@CLIENTS
def test_an_impostor_gets_none(place: Place, get: Get) -> None:
    """Nothing leaves before the server's certificate was verified."""
    with pytest.raises(Exception, match=r"(?i)intruder|certificate|ssl"):
        get(place.mesh, "https://taken.prod/", place.tokens("taken.prod"))
    assert place.impostor.tokens == []


@CLIENTS
def test_a_header_of_the_caller_comes_first(place: Place, get: Any) -> None:
    """Whoever sets Authorization means it."""
    get(place.mesh, "https://reviews.prod/", place.tokens("reviews.prod"), Authorization="Basic eDp5")
    assert place.honest.tokens == ["Basic eDp5"]


# ---------------------------------------------------------------- where tokens come from

POLICY = """
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: users, namespace: prod}
spec: {jwtRules: [{issuer: https://issuer.example, jwks: JWKS}]}
"""


def signed() -> tuple[str, str]:
    """A user's token, and a policy that takes it."""
    issuer = TestIssuer()
    return issuer.token(sub="ada"), POLICY.replace("JWKS", json.dumps(issuer.jwks))


def test_the_application_has_the_callers_token_at_hand() -> None:
    """Inside of the request under ASGI and WSGI, and not a moment longer."""
    token, policy = signed()
    mesh = Mesh(workload=Workload(name="web", namespace="prod"), resources=parse(policy))
    seen: list[str | None] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(CallerToken().token())
        seen.append(await asyncio.create_task(asyncio.to_thread(CallerToken().at_hand)))

    def wsgi(environ: Any, start_response: Any) -> list[bytes]:
        seen.append(CallerToken().token())
        return []

    scope = {
        "type": "http",
        "method": "GET",
        "path": "/",
        "raw_path": b"/",
        "query_string": b"",
        "scheme": "http",
        "headers": [(b"host", b"web"), (b"authorization", f"Bearer {token}".encode())],
    }
    asyncio.run(mesh.asgi(app)(scope, None, None))  # type: ignore[arg-type]
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/", "HTTP_HOST": "web", "HTTP_AUTHORIZATION": f"Bearer {token}"}
    mesh.wsgi(wsgi)(environ, lambda *_: None)  # type: ignore[arg-type]
    assert seen == [token] * 3
    assert "HTTP_AUTHORIZATION" not in environ
    assert current_context() is None
    assert CallerToken().token() is None


def test_without_a_token_of_the_caller_none_travels(place: Place) -> None:
    """A request without a user is passed on without one."""
    by_httpx2(place.mesh, "https://reviews.prod/", {"reviews.prod": CallerToken()})
    assert place.honest.tokens == [None]


class Clock:
    """Seconds that pass when they are told to."""

    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def test_a_jwt_svid_is_fetched_anew_at_half_of_its_life() -> None:
    """For its audience, from an authority; in between it is at hand."""
    import time

    authority, clock, audiences = CertificateAuthority.create("cluster.local"), Clock(), []
    clock.now = time.time()

    def fetch(audience: str) -> str:
        audiences.append(audience)
        return authority.issue_jwt_svid("spiffe://cluster.local/ns/prod/sa/web", audience=[audience])

    source = JwtSvidToken(fetch, "spiffe://cluster.local/ns/prod/sa/reviews", clock=clock)
    assert source.at_hand() is None
    first = source.token()
    assert (source.token(), source.at_hand()) == (first, first)
    clock.now += 60 * 60
    assert source.at_hand() is None
    with pytest.raises(TokenError, match="expired"):
        source.token()
    assert audiences == ["spiffe://cluster.local/ns/prod/sa/reviews"] * 2
    assert first not in repr(source)


@pytest.mark.parametrize("text", ["", "no token", "a.b.c", "eyJhbGciOiJFUzI1NiJ9.e30.AA"])
def test_what_is_no_jwt_svid_is_not_sent(text: str) -> None:
    """It has the form of a token, and a time at which it expires."""
    with pytest.raises(TokenError):
        JwtSvidToken(lambda _: text, "x").token()


def test_nothing_goes_to_a_plain_service(place: Place) -> None:
    """Whatever is listed."""
    pools = ServicePools(place.mesh, lambda *_: None, tokens=place.tokens("old.prod", "reviews.prod"))
    assert pools.token(pools.route("http", "old.prod", None)) is None
    assert pools.token(pools.route("http", "reviews.prod", None)) == "our-token"
