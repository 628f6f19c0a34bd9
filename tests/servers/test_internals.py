"""A server whose inside is not what our classes were written for does not start: its requests would have no peer."""

from __future__ import annotations

from typing import Any

import gunicorn.workers.gasgi as gasgi
import hypercorn.asyncio.run as hypercorn_asyncio
import pytest
import uvicorn
from gunicorn.asgi.protocol import ASGIProtocol

from meshsec.errors import ConfigError
from meshsec.servers import gunicorn as server
from meshsec.servers import hypercorn
from meshsec.servers._internals import check_looked_up
from meshsec.servers.gunicorn_asgi import MeshWorker as AsgiWorker
from meshsec.servers.gunicorn_uvicorn import MeshWorker as UvicornWorker


async def serves_otherwise(*_: Any, **__: Any) -> None:
    """A newer release's function, which makes its connections of another class."""


def inside(name: str) -> Any:
    """A function that looks a name up in a function of its own."""
    return eval(f"lambda: (lambda: {name}())")


def test_a_name_is_found_where_it_is_looked_up() -> None:
    """In the function, in the functions inside of it, as a module's name or an attribute; text does not count."""

    class Server:
        def serve(self) -> Any:
            return lambda: self.protocol(1)  # type: ignore[attr-defined]

        def other(self) -> str:
            return "connection"

    check_looked_up(("Protocol",), inside("Protocol"), "x 1")
    check_looked_up(("protocol",), Server, "x 1")
    for names in (("Protocol",), ("connection",), ("protocol", "Protocol")):
        with pytest.raises(ConfigError, match=r"^<config>: x 1 is not known: it does not use") as caught:
            check_looked_up(names, Server, "x 1")
        assert caught.value.code == "server_unknown"


def test_every_server_that_is_installed_is_known() -> None:
    """The very releases that the battery runs on."""
    AsgiWorker.check_server()
    UvicornWorker.check_server()
    hypercorn.MeshConfig().check()


@pytest.mark.parametrize(
    ("target", "name"),
    [
        (gasgi.ASGIWorker, "_serve"),
        (ASGIProtocol, "_handle_http_request"),
        (ASGIProtocol, "_handle_websocket"),
        (ASGIProtocol, "_handle_http2_request"),
        (uvicorn.Config, "load"),
    ],
)
def test_gunicorn_does_not_start_on_an_unknown_server(
    target: type, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its on_starting hook says why."""
    worker = UvicornWorker if target is uvicorn.Config else AsgiWorker
    conf = type("Conf", (), {"worker_class": worker, "address": [("127.0.0.1", 8443)]})
    arbiter: Any = type("Arbiter", (), {"cfg": conf})
    server.on_starting(arbiter)
    monkeypatch.setattr(target, name, serves_otherwise)
    with pytest.raises(RuntimeError, match="is not known"):
        server.on_starting(arbiter)


def test_hypercorn_does_not_start_if_it_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything listens."""
    monkeypatch.setattr(hypercorn_asyncio, "worker_serve", serves_otherwise)
    with pytest.raises(ConfigError, match="is not known"):
        hypercorn.MeshConfig().check()
