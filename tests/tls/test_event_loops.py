"""Servers and clients on asyncio and uvloop, which hold TLS objects over memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

import pytest
import uvloop

from meshsec.tls import PeerRefusedError, authorize_id, client_context, server_context, verified_peer
from pki import TestCA
from wire import careless, material

CA: Final = TestCA("td.example")
WEB: Final = "spiffe://td.example/ns/prod/sa/web"
LOOPS: Final[dict[str, Callable[[], asyncio.AbstractEventLoop]]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}


class Echo(asyncio.Protocol):
    """Answers with the name of its peer; counts the connections that were made."""

    made: list[str]

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.peer = verified_peer(transport.get_extra_info("ssl_object"))
        self.made.append(str(self.peer.id) if self.peer else "nobody")

    def data_received(self, data: bytes) -> None:
        self.transport.write(data + self.made[-1].encode())


async def exchange(server: Any, client: Any, count: int = 1) -> tuple[list[str], list[Any]]:
    """Serve and call over TCP; returns the peers that were let in, and each caller's answer or error."""
    made: list[str] = []
    factory = type("Echoing", (Echo,), {"made": made})
    serving = await asyncio.get_running_loop().create_server(factory, "127.0.0.1", 0, ssl=server)

    async def call() -> bytes:
        port = serving.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client, server_hostname="x")
        try:
            writer.write(b"hi ")
            return await reader.read(100)
        finally:
            writer.transport.abort()

    async with serving, asyncio.timeout(20):
        answers = await asyncio.gather(*(call() for _ in range(count)), return_exceptions=True)
    return made, answers


def run(loop: str, *arguments: Any) -> tuple[list[str], list[Any]]:
    """One exchange on a fresh event loop."""
    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        return runner.run(exchange(*arguments))


@pytest.mark.parametrize("loop", LOOPS)
def test_peers_that_are_welcome_talk(loop: str) -> None:
    """Several connections at once, each of which knows its peer before the first byte."""
    source = material(CA)
    made, answers = run(loop, server_context(source), client_context(source, authorize=authorize_id(WEB)), 5)
    assert made == [WEB] * 5
    assert answers == [b"hi " + WEB.encode()] * 5


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("who", ["intruder", "stranger", "nobody"])
def test_a_server_never_hands_over_a_connection_it_refused(loop: str, who: str) -> None:
    """connection_made is not called, and the client gets no answer."""
    pairs = {"intruder": CA.leaf("/intruder"), "stranger": TestCA("td.example").leaf(), "nobody": None}
    context = server_context(material(CA), authorize=authorize_id(WEB))
    made, [answer] = run(loop, context, careless("client", pairs[who]))
    assert made == []
    assert answer == b"" or isinstance(answer, OSError)


@pytest.mark.parametrize("loop", LOOPS)
def test_a_client_sends_nothing_to_an_impostor(loop: str) -> None:
    """The connection is never made on its side; the error says why."""
    context = client_context(material(CA), authorize=authorize_id(WEB))
    made, [answer] = run(loop, careless("server", CA.leaf("/intruder")), context)
    assert isinstance(answer, PeerRefusedError)
    assert made in ([], ["nobody"])
