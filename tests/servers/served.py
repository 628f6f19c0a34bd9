"""What the server tests serve: applications that say who is connected, and how many requests reached them.

Started as a process of its own: ``python served.py uvicorn PORT '{"http": "h11"}'``, or ``gunicorn served:wsgi``. The
mesh comes from the environment. The plain applications look at the transport themselves, the judged ones are behind
the middleware.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import sys
from collections.abc import Iterable
from typing import Any

from meshsec.middleware import TRANSPORT_KEY, Transport
from meshsec.servers import current_mesh
from meshsec.tls import verified_peer

__all__ = ["asgi", "flask_app", "judged_asgi", "judged_wsgi", "main", "plain", "wsgi"]

logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(name)s %(message)s")
_calls = itertools.count(1)


def _who(transport: Transport | None) -> dict[str, Any]:
    """The peer as our own TLS object knows it, and the facts about the connection."""
    peer = verified_peer(transport.tls) if transport else None
    return {
        "peer": str(peer.id) if peer else None,
        "source": transport.source_ip if transport else None,
        "port": transport.destination_port if transport else None,
        "extension": bool(transport and transport.extension),
    }


def _judged(context: Any, scheme: str, headers: int, extensions: Any = ()) -> dict[str, Any]:
    """What the middleware hands on."""
    peer = str(context.peer.id) if context.peer else None
    return {"peer": peer, "scheme": scheme, "headers": headers, "extension": "tls" in extensions}


def _answer(facts: dict[str, Any], length: int) -> bytes:
    return json.dumps({**facts, "length": length, "calls": next(_calls), "process": os.getpid()}).encode()


async def asgi(scope: Any, receive: Any, send: Any) -> None:
    """HTTP answers once its body has been read, a WebSocket answers each message, lifespan passes."""
    if scope["type"] == "lifespan":
        await _lifespan(receive, send)
        return
    if "meshsec" in scope:
        facts = _judged(scope["meshsec"], scope["scheme"], len(scope["headers"]), scope.get("extensions") or ())
    else:
        facts = _who(scope["state"].get(TRANSPORT_KEY))
    if scope["type"] == "websocket":
        await _websocket(facts, receive, send)
        return
    length, more = 0, True
    while more:
        message = await receive()
        length += len(message.get("body", b""))
        more = message.get("more_body", False)
    body = _answer(facts, length)
    headers = [(b"content-length", str(len(body)).encode()), (b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _lifespan(receive: Any, send: Any) -> None:
    for event in ("startup", "shutdown"):
        await receive()
        await send({"type": f"lifespan.{event}.complete"})


async def _websocket(facts: dict[str, Any], receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": _answer(facts, len(message["text"])).decode()})


def wsgi(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """The same over WSGI."""
    size = int(environ.get("CONTENT_LENGTH") or 0)
    length = len(environ["wsgi.input"].read(size))
    if "meshsec" in environ:
        headers = sum(key.startswith("HTTP_") for key in environ)
        facts = _judged(environ["meshsec"], environ["wsgi.url_scheme"], headers)
        facts["routed"] = [environ.get("SCRIPT_NAME", ""), environ["PATH_INFO"]]
    else:
        sock = environ.get("gunicorn.socket") or environ.get("werkzeug.socket")
        facts = _who(Transport.of_socket(sock) if sock else environ[TRANSPORT_KEY])
    body = _answer(facts, length)
    start_response("200 OK", [("Content-Length", str(len(body))), ("Content-Type", "application/json")])
    return [body]


async def judged_asgi(scope: Any, receive: Any, send: Any) -> None:
    """The ASGI application behind the middleware."""
    await current_mesh().asgi(asgi)(scope, receive, send)


async def plain(scope: Any, receive: Any, send: Any) -> None:
    """For servers without anything of ours."""
    if scope["type"] == "lifespan":
        await _lifespan(receive, send)
    else:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})


def judged_wsgi(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """The WSGI application behind the middleware."""
    return current_mesh().wsgi(wsgi)(environ, start_response)


def flask_app() -> Any:
    """The same for ``flask --app served:flask_app run``."""
    from flask import Flask

    app = Flask(__name__)
    app.wsgi_app = judged_wsgi  # type: ignore[method-assign]
    return app


def main(kind: str, port: str, options: str, app: str = "") -> None:
    """Serve on the mesh of the environment or, with workers, on one in each of them."""
    from importlib import import_module

    server: Any = import_module(f"meshsec.servers.{kind}")
    given = json.loads(options)
    workers = "workers" in given
    mesh = None if workers else current_mesh()
    name = f"{app}{'asgi' if kind in ('uvicorn', 'hypercorn') else 'wsgi'}"
    if kind == "cheroot":  # it never says that it listens
        bound = server.bind(globals()[name], mesh=mesh, port=int(port))
        bound.prepare()
        logging.getLogger("served").info("listening at %s", port)
        bound.serve()
    if kind == "uvicorn":
        given = {"log_level": "info", **given}
    server.run(f"served:{name}" if workers else globals()[name], mesh=mesh, port=int(port), **given)


if __name__ == "__main__":
    main(*sys.argv[1:])
