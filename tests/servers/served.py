"""What the server tests serve: applications that say who is connected, and how many requests reached them.

Started as a process of its own: ``python served.py PORT '{"http": "h11"}'`` for uvicorn, ``gunicorn served:wsgi``.
The mesh comes from the environment.
"""

from __future__ import annotations

import itertools
import json
import logging
import sys
from collections.abc import Iterable
from typing import Any

from meshsec.middleware import TRANSPORT_KEY, Transport
from meshsec.tls import verified_peer

__all__ = ["asgi", "main", "wsgi"]

logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(name)s %(message)s")
_calls = itertools.count(1)


def answer(transport: Transport | None, length: int) -> bytes:
    """The peer as our own TLS object knows it, and the facts about the connection."""
    peer = verified_peer(transport.tls) if transport else None
    return json.dumps(
        {
            "peer": str(peer.id) if peer else None,
            "source": transport.source_ip if transport else None,
            "port": transport.destination_port if transport else None,
            "length": length,
            "calls": next(_calls),
        }
    ).encode()


async def asgi(scope: Any, receive: Any, send: Any) -> None:
    """HTTP answers once its body has been read, a WebSocket answers each message, lifespan passes."""
    if scope["type"] == "lifespan":
        await _lifespan(receive, send)
        return
    transport = scope["state"].get(TRANSPORT_KEY)
    if scope["type"] == "websocket":
        await _websocket(transport, receive, send)
        return
    length, more = 0, True
    while more:
        message = await receive()
        length += len(message.get("body", b""))
        more = message.get("more_body", False)
    body = answer(transport, length)
    headers = [(b"content-length", str(len(body)).encode()), (b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _lifespan(receive: Any, send: Any) -> None:
    for event in ("startup", "shutdown"):
        await receive()
        await send({"type": f"lifespan.{event}.complete"})


async def _websocket(transport: Transport | None, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": answer(transport, len(message["text"])).decode()})


def wsgi(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """The same over WSGI."""
    length = len(environ["wsgi.input"].read())
    body = answer(Transport.of_socket(environ["gunicorn.socket"]), length)
    start_response("200 OK", [("Content-Length", str(len(body))), ("Content-Type", "application/json")])
    return [body]


def main(port: str, options: str) -> None:
    """Serve with uvicorn, on the mesh of the environment or, with workers, on one in each of them."""
    from meshsec import Mesh
    from meshsec.servers.uvicorn import run

    given = json.loads(options)
    mesh = None if given.get("workers") else Mesh.load()
    run("served:asgi", mesh=mesh, port=int(port), log_level="info", **given)


if __name__ == "__main__":
    main(*sys.argv[1:])
