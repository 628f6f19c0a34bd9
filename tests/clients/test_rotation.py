"""Pooled connections do not outlive the certificate, the naming or the time they were made for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import httpx
import httpx2
import pytest
import requests
from aiohttp.connector import Connection

from live import FULL, TIMEOUT
from meshsec import Mesh, MeshConfig, Workload
from meshsec.clients import aiohttp as of_aiohttp
from meshsec.clients import httpx as of_httpx
from meshsec.clients import httpx2 as of_httpx2
from meshsec.clients import requests as of_requests
from meshsec.clients import urllib3 as of_urllib3
from meshsec.clients._services import ServicePools
from meshsec.resources import Service
from meshsec.sources import Identity
from world import World, serve

URL = "https://reviews.prod/"
Get = Callable[[], Awaitable[object]]
Client = Callable[..., "asynccontextmanager[Get]"]


class Changing:
    """An identity that is issued anew at will."""

    origin = "memory"

    def __init__(self, world: World, account: str = "web") -> None:
        self._world, self._account = world, account
        self.renew()

    def renew(self) -> None:
        """Issue another certificate."""
        self.identity = self._world.identity(self._account).identity

    def read(self, now: float) -> Identity:
        return self.identity


def keep(mesh: Mesh) -> None:
    """What the mesh's thread does every second."""
    if mesh._identity is not None:
        mesh._identity.refresh(time.time())


class Place:
    """One client mesh and a real server."""

    def __init__(self, port: int, world: World) -> None:
        self.source = Changing(world)
        service = Service(ids=(str(world.id("reviews")),), endpoints=(f"127.0.0.1:{port}",))
        self.mesh = Mesh(
            workload=Workload(name="web", namespace="prod", service_account="web"),
            config=MeshConfig(services={"reviews.prod": service}, allow_no_policy=True),
            identity=self.source,
        )

    def renew(self) -> None:
        """As the mesh's thread would, every second."""
        self.source.renew()
        keep(self.mesh)


@asynccontextmanager
async def by_httpx2(mesh: Mesh, **options: float) -> AsyncIterator[Get]:
    with httpx2.Client(transport=of_httpx2.MeshTransport(mesh, **options), timeout=TIMEOUT) as client:
        yield lambda: asyncio.to_thread(client.get, URL)


@asynccontextmanager
async def by_httpx2_async(mesh: Mesh, **options: float) -> AsyncIterator[Get]:
    async with httpx2.AsyncClient(transport=of_httpx2.AsyncMeshTransport(mesh, **options), timeout=TIMEOUT) as client:
        yield lambda: client.get(URL)


@asynccontextmanager
async def by_httpx(mesh: Mesh, **options: float) -> AsyncIterator[Get]:
    with httpx.Client(transport=of_httpx.MeshTransport(mesh, **options), timeout=TIMEOUT) as client:
        yield lambda: asyncio.to_thread(client.get, URL)


@asynccontextmanager
async def by_requests(mesh: Mesh, **options: float) -> AsyncIterator[Get]:
    with requests.Session() as session:
        session.mount("https://", of_requests.MeshAdapter(mesh, **options))
        yield lambda: asyncio.to_thread(session.get, URL)


@asynccontextmanager
async def by_urllib3(mesh: Mesh, **options: float) -> AsyncIterator[Get]:
    with of_urllib3.MeshPoolManager(mesh, **options) as manager:
        yield lambda: asyncio.to_thread(manager.request, "GET", URL, retries=False)


@asynccontextmanager
async def by_aiohttp(mesh: Mesh, **options: float) -> AsyncIterator[Get]:
    async def get(session: aiohttp.ClientSession) -> None:
        async with session.get(URL) as response:
            await response.read()

    async with aiohttp.ClientSession(connector=of_aiohttp.MeshConnector(mesh, **options)) as session:
        yield lambda: get(session)


CLIENTS = pytest.mark.parametrize(
    "client", [by_httpx2, by_httpx2_async, by_httpx, by_requests, by_urllib3, by_aiohttp]
)


@pytest.fixture(scope="module")
def world() -> World:
    """One trust domain."""
    return World()


@pytest.fixture
def server(world: World) -> Iterator[object]:
    """A real server of reviews."""
    with serve(world.mesh("reviews").server_context()) as server:
        yield server


@CLIENTS
def test_a_connection_is_kept_until_our_certificate_changes(client, server, world: World) -> None:  # type: ignore[no-untyped-def]
    """Then the next request goes over a new one, which shows the new certificate."""
    place = Place(server.server_port, world)

    async def run() -> None:
        async with client(place.mesh) as get:
            await get()
            await get()
            place.renew()
            await get()

    asyncio.run(run())
    (first, old), (second, same), (third, new) = server.connections
    assert (first, old) == (second, same)
    assert third != first
    assert new != old


@CLIENTS
def test_a_connection_is_kept_for_a_limited_time(client, server, world: World) -> None:  # type: ignore[no-untyped-def]
    """With no time at all, each request has its own."""
    place = Place(server.server_port, world)

    async def run() -> None:
        async with client(place.mesh, max_age=0) as get:
            await get()
            await get()

    asyncio.run(run())
    assert len({port for port, _ in server.connections}) == 2


@CLIENTS
def test_traffic_does_not_notice_rotations(client, world: World) -> None:  # type: ignore[no-untyped-def]
    """Both ends get new certificates while several call without a pause: nothing fails, and each change is seen."""
    renewals, callers, between = (60, 8, 40) if FULL else (8, 4, 6)
    theirs = Changing(world, "reviews")
    reviews = Mesh(
        workload=Workload(name="reviews", namespace="prod", service_account="reviews"),
        config=MeshConfig(allow_no_policy=True),
        identity=theirs,
    )

    async def run(port: int) -> list[str]:
        place, failures, done, left = Place(port, world), list[str](), asyncio.Event(), 0

        async def call(get: Get) -> None:
            nonlocal left
            while not done.is_set():
                try:
                    await get()
                except Exception as error:  # noqa: BLE001 - whatever it is, it counts
                    failures.append(repr(error))
                left -= 1
                if left <= 0:
                    turn.set()

        turn = asyncio.Event()
        async with client(place.mesh) as get, asyncio.TaskGroup() as group:
            for _ in range(callers):
                group.create_task(call(get))
            for _ in range(renewals):
                left = between
                turn.clear()
                await turn.wait()
                place.renew()
                theirs.renew()
                keep(reviews)
            done.set()
        return failures

    with serve(reviews.server_context()) as server:
        assert asyncio.run(run(server.server_port)) == []
    shown = {certificate for _, certificate in server.connections}
    assert len(shown) >= renewals
    assert len(server.connections) >= renewals * between


def test_a_response_under_way_is_not_cut_off(server, world: World) -> None:  # type: ignore[no-untyped-def]
    """The old pool ends when its last response does."""
    place = Place(server.server_port, world)
    transport = of_httpx2.MeshTransport(place.mesh)
    with httpx2.Client(transport=transport) as client, client.stream("GET", URL) as response:
        place.renew()
        client.get(URL)
        assert transport._pools.take_closable() == []
        assert response.read() == b"reviews.prod"


def test_what_aiohttp_retires_ends(server, world: World) -> None:  # type: ignore[no-untyped-def]
    """An idle connection at once; one in use, and one that is being made, after their response."""
    place = Place(server.server_port, world)

    async def run() -> None:
        loop = asyncio.get_running_loop()
        async with of_aiohttp.MeshConnector(place.mesh, keepalive_timeout=None) as connector:

            async def connect() -> Connection:
                request = aiohttp.ClientRequest("GET", aiohttp.client.URL(URL), loop=loop)
                return await connector.connect(request, [], aiohttp.ClientTimeout())

            idle, used = await connect(), await connect()
            kept: Any = idle.protocol
            busy: Any = used.protocol
            idle.release()
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(connector, "_get", nothing_idle)
                coming = asyncio.create_task(connect())
                await asyncio.sleep(0)
                place.renew()
                new = await connect()
            assert (kept.is_connected(), busy.is_connected()) == (False, True)
            late = await coming
            protocols: list[Any] = [one.protocol for one in (used, late, new)]
            for connection in (used, late, new):
                connection.release()
            assert [one.is_connected() for one in protocols] == [False, False, True]

    asyncio.run(run())


async def nothing_idle(*_: object) -> None:
    """Every request needs another connection."""


class Clock:
    """Seconds that pass when they are told to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_pools_are_retired_by_age_material_and_naming(world: World) -> None:
    """Each change alone is enough; without one the pool stays."""
    place, clock = Place(1, world), Clock()
    pools = ServicePools(place.mesh, lambda *_: object(), max_age=10, clock=clock)

    def current() -> object:
        lease = pools.lease(pools.route("https", "reviews.prod", None))
        pools.release(lease)
        return lease.pool

    first = current()
    clock.now = 9.0
    assert current() is first
    clock.now = 10.0
    second = current()
    assert second is not first
    place.renew()
    third = current()
    assert third is not second
    service = Service(ids=(str(world.id("reviews")), str(world.id("other"))))
    naming = type(place.mesh.naming)({"reviews.prod": service}, place.mesh.config)
    object.__setattr__(place.mesh._policies.current, "naming", naming)
    assert current() is not third
    assert pools.take_closable() == [first, second, third]


def test_a_pool_in_use_is_closed_by_its_last_user(world: World) -> None:
    """Not before."""
    place, clock = Place(1, world), Clock()
    pools = ServicePools(place.mesh, lambda *_: object(), max_age=10, clock=clock)
    route = pools.route("https", "reviews.prod", None)
    first, again = pools.lease(route), pools.lease(route)
    clock.now = 10.0
    assert pools.lease(route) is not first
    pools.release(first)
    assert pools.take_closable() == []
    pools.release(again)
    assert pools.take_closable() == [first.pool]


def test_every_pool_that_is_open_is_closed_at_the_end(world: World) -> None:
    """Those that were replaced under a request that still runs, too; once each."""
    place, clock = Place(1, world), Clock()
    pools = ServicePools(place.mesh, lambda *_: object(), max_age=10, clock=clock)
    route = pools.route("https", "reviews.prod", None)
    first = pools.lease(route)
    clock.now = 10.0
    second = pools.lease(route)
    assert {*pools.take_all()} == {first.pool, second.pool}
    pools.release(first)
    pools.release(second)
    assert pools.take_closable() == pools.take_all() == []
