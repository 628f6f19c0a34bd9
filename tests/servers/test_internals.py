"""A server whose inside is not what our classes were written for does not start: its requests would have no peer."""

from __future__ import annotations

import importlib
from typing import Any

import gunicorn.workers.gasgi as gasgi
import hypercorn.asyncio.run as hypercorn_asyncio
import pytest
import uvicorn
from gunicorn.asgi.protocol import ASGIProtocol
from gunicorn.http import wsgi
from gunicorn.workers.gthread import ThreadWorker
from gunicorn.workers.sync import SyncWorker
from hypercorn.asyncio.tcp_server import TCPServer
from hypercorn.protocol.http_stream import HTTPStream
from hypercorn.protocol.ws_stream import WSStream

from meshsec.errors import ConfigError
from meshsec.servers import gunicorn as server
from meshsec.servers import hypercorn
from meshsec.servers._internals import check_keys, check_looked_up, check_replaceable, check_scopes
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


def test_a_name_is_replaceable_where_only_its_module_is_asked() -> None:
    """Not where it is another module's, or remembered: ours would stand there and nobody would look."""
    check_replaceable("Protocol", inside("Protocol"), "x 1")
    for text in ("protocols.Protocol", "Protocol if Protocol else protocols.Protocol", "Other"):
        with pytest.raises(ConfigError, match=r"it does not look Protocol up in its module where") as caught:
            check_replaceable("Protocol", inside(text), "x 1")
        assert caught.value.code == "server_unknown"


class Connection:
    """Builds two scopes, as servers do."""

    state: Any

    def http(self) -> dict[str, Any]:
        """Its keys stand in the code one by one or all together; both are found."""
        return {"type": "http", "asgi": {"version": "3.0"}, "state": self.state.copy()}

    def websocket(self) -> dict[str, Any]:
        """With the state put in later."""
        scope: dict[str, Any] = {"type": "websocket", "asgi": {"version": "3.0"}}
        scope["state"] = self.state
        return scope

    def address(self) -> str:
        """What builds no scope needs no state."""
        return "127.0.0.1"


class Stateless(Connection):
    """A newer release, whose scopes carry none."""

    def http(self) -> dict[str, Any]:
        """The attribute has another name."""
        return {"type": "http", "asgi": {"version": "3.0"}, "state": self.shared}  # type: ignore[attr-defined]


def test_scopes_carry_the_connections_state() -> None:
    """All of them, and in the methods that are known."""
    check_scopes(Connection, "state", "x 1")
    check_scopes(Connection, "state", "x 1", builders=("http", "websocket"))
    with pytest.raises(ConfigError, match="it puts no state into the scopes of http where"):
        check_scopes(Stateless, "state", "x 1")
    with pytest.raises(ConfigError, match="it puts no state into the scopes of ConfigError where"):
        check_scopes(ConfigError, "state", "x 1")  # which builds none at all
    for builders, wrong in ((("http",), "websocket"), (("http", "websocket", "http2"), "http2")):
        with pytest.raises(ConfigError, match=f"it builds its scopes in other methods: {wrong} where"):
            check_scopes(Connection, "state", "x 1", builders=builders)


def test_keys_are_found_where_they_are_written() -> None:
    """In the function itself."""
    check_keys(("type", "state"), Connection.http, "x 1")
    with pytest.raises(ConfigError, match="it does not say peer where"):
        check_keys(("type", "peer"), Connection.http, "x 1")


def test_every_server_that_is_installed_is_known() -> None:
    """The very releases that the battery runs on."""
    AsgiWorker.check_server()
    UvicornWorker.check_server()
    hypercorn.MeshConfig().check()


@pytest.mark.parametrize(
    ("worker", "target", "name"),
    [
        (AsgiWorker, gasgi.ASGIWorker, "_serve"),
        (AsgiWorker, ASGIProtocol, "_handle_http_request"),
        (AsgiWorker, ASGIProtocol, "_handle_websocket"),
        (AsgiWorker, ASGIProtocol, "_handle_http2_request"),
        (AsgiWorker, ASGIProtocol, "_build_http_scope"),
        (AsgiWorker, ASGIProtocol, "_build_websocket_scope"),
        (AsgiWorker, ASGIProtocol, "_build_http2_scope"),
        (UvicornWorker, uvicorn.Config, "load"),
        (SyncWorker, wsgi, "default_environ"),
        (ThreadWorker, wsgi, "default_environ"),
    ],
)
def test_gunicorn_does_not_start_on_an_unknown_server(
    worker: type, target: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its on_starting hook says why."""
    conf = type("Conf", (), {"worker_class": worker, "address": [("127.0.0.1", 8443)]})
    arbiter: Any = type("Arbiter", (), {"cfg": conf})
    server.on_starting(arbiter)
    monkeypatch.setattr(target, name, serves_otherwise)
    with pytest.raises(RuntimeError, match="is not known"):
        server.on_starting(arbiter)


def test_gunicorn_does_not_start_if_a_scope_is_built_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of another kind of request, say, which would come without its connection."""
    monkeypatch.setattr(ASGIProtocol, "_build_http3_scope", Connection.http, raising=False)
    with pytest.raises(ConfigError, match="it builds its scopes in other methods: http where"):
        AsgiWorker.check_server()


@pytest.mark.parametrize(
    ("target", "name"),
    [
        (hypercorn_asyncio, "worker_serve"),
        (TCPServer, "run"),
        (HTTPStream, "handle"),
        (WSStream, "handle"),
    ],
)
def test_hypercorn_does_not_start_if_it_is_unknown(target: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything listens."""
    hypercorn.MeshConfig().check()
    monkeypatch.setattr(target, name, serves_otherwise)
    with pytest.raises(ConfigError, match="is not known"):
        hypercorn.MeshConfig().check()


@pytest.mark.parametrize("name", ["_uvicorn_h11", "_uvicorn_httptools"])
def test_uvicorns_protocols_are_checked_when_they_are_loaded(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the import string that uvicorn is given, before it listens."""
    loaded = importlib.import_module(f"meshsec.servers.{name}")
    protocol = loaded.MeshProtocol.__mro__[2]
    for method in ("handle_events", "on_message_begin"):
        monkeypatch.setattr(protocol, method, serves_otherwise, raising=False)
    with pytest.raises(ConfigError, match=f"it puts no state into the scopes of {protocol.__name__} where"):
        importlib.reload(loaded)
