"""Clients that take an SSLContext and need nothing else: they reach a service, and nobody in its place."""

from __future__ import annotations

import asyncio
import urllib.request
from collections.abc import Callable, Iterator

import pytest
import urllib3
import websockets.asyncio.client
import websockets.sync.client

from meshsec import Mesh
from meshsec.resources import Service
from meshsec.tls import MeshSSLContext
from world import World, serve, serve_websockets

Call = Callable[[MeshSSLContext, int], str]


def by_urllib(context: MeshSSLContext, port: int) -> str:
    with urllib.request.urlopen(f"https://localhost:{port}/", context=context) as response:
        return str(response.read().decode())


def by_urllib3(context: MeshSSLContext, port: int) -> str:
    pool = urllib3.HTTPSConnectionPool(
        "127.0.0.1", port, ssl_context=context, server_hostname="localhost", assert_hostname=False, retries=False
    )
    with pool:
        return pool.request("GET", "/", headers={"Host": "localhost"}).data.decode()


def by_streams(context: MeshSSLContext, port: int) -> str:
    async def call() -> str:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="localhost")
        writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        return answer.decode()

    return asyncio.run(call())


def by_websockets(context: MeshSSLContext, port: int) -> str:
    with websockets.sync.client.connect(f"wss://localhost:{port}/", ssl=context) as connection:
        return str(connection.recv())


def by_websockets_async(context: MeshSSLContext, port: int) -> str:
    async def call() -> str:
        async with websockets.asyncio.client.connect(
            "wss://localhost/", ssl=context, host="127.0.0.1", port=port
        ) as it:
            return str(await it.recv())

    return asyncio.run(call())


HTTP = [by_urllib, by_urllib3, by_streams]
SOCKETS = [by_websockets, by_websockets_async]


@pytest.fixture(scope="module")
def world() -> World:
    """One trust domain."""
    return World()


@pytest.fixture(params=[*HTTP, *SOCKETS], ids=lambda call: call.__name__)
def call(request: pytest.FixtureRequest) -> Call:
    """One client's way to ask localhost."""
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def port(call: Call, world: World) -> Iterator[int]:
    """A server of reviews that speaks what the client speaks."""
    context = world.mesh("reviews").server_context()
    if call not in SOCKETS:
        with serve(context) as server:
            yield server.server_port
        return
    with serve_websockets(context, "localhost") as port:
        yield port


def caller(world: World, account: str, host: str = "localhost") -> Mesh:
    """A mesh in which an account answers for a host."""
    return world.mesh("web", {host: Service(ids=(str(world.id(account)),))})


def test_the_named_server_is_reached(call: Call, port: int, world: World) -> None:
    """Its certificate holds no DNS name: the mesh's naming decides."""
    assert "localhost" in call(caller(world, "reviews").client_context(), port)


def test_another_account_is_refused(call: Call, port: int, world: World) -> None:
    """A verified peer that is not named for the host gets no byte."""
    with pytest.raises(OSError, match="answered for localhost"):
        raise_cause(call, caller(world, "ratings").client_context(), port)


def test_an_unknown_host_is_refused(call: Call, port: int, world: World) -> None:
    """And the nearest known one is told."""
    with pytest.raises(OSError, match="near it are: localhosts"):
        raise_cause(call, caller(world, "reviews", "localhosts").client_context(), port)


def raise_cause(call: Call, context: MeshSSLContext, port: int) -> None:
    """Some clients wrap the error of the handshake in their own."""
    try:
        call(context, port)
    except urllib3.exceptions.HTTPError as error:
        raise OSError(str(error)) from error
