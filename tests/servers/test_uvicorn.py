"""What ``meshsec.servers.uvicorn`` hands to uvicorn, and what it refuses to."""

from __future__ import annotations

import pickle
import ssl
from typing import Any, cast

import pytest
import uvicorn
from uvicorn.importer import import_from_string
from uvicorn.protocols.http.h11_impl import H11Protocol

from meshsec import Mesh
from meshsec.errors import ConfigError
from meshsec.middleware import TRANSPORT_KEY, Transport
from meshsec.servers import use_mesh
from meshsec.servers import uvicorn as server


class FakeMesh:
    """Notes the port it is asked for."""

    def __init__(self) -> None:
        self.ports: list[int | None] = []
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)

    def server_context(self, port: int | None = None) -> ssl.SSLContext:
        self.ports.append(port)
        return self.context


@pytest.fixture
def mesh() -> Mesh:
    """A mesh, as far as a server needs one."""
    return cast(Mesh, FakeMesh())


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What uvicorn was started with."""
    calls: list[dict[str, Any]] = []
    monkeypatch.setattr(uvicorn, "run", lambda app, **options: calls.append({"app": app, **options}))
    monkeypatch.delenv("WEB_CONCURRENCY", raising=False)
    return calls


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Nothing."""


@pytest.mark.parametrize("http", ["auto", "h11", "httptools"])
def test_run_serves_with_our_context_and_our_protocol(http: str, mesh: Mesh, started: list[dict[str, Any]]) -> None:
    """Nothing that a proxy may write is believed, and the context knows its port."""
    server.run(app, mesh=mesh, port=8443, http=http, loop="asyncio")
    [options] = started
    assert (options["host"], options["port"], options["loop"]) == ("127.0.0.1", 8443, "asyncio")
    assert (options["proxy_headers"], options["server_header"]) == (False, False)
    assert issubclass(import_from_string(options["http"]), server.TransportInState)
    fake = cast(FakeMesh, mesh)
    factory = options["ssl_context_factory"]
    config = uvicorn.Config(app, http=options["http"], ssl_context_factory=factory, log_config=None)
    config.load()
    assert config.ssl is fake.context
    assert fake.ports == [8443]


def test_run_leaves_the_other_options_to_the_caller(mesh: Mesh, started: list[dict[str, Any]]) -> None:
    """Also those that have another default here."""

    class Own(server.TransportInState, H11Protocol):
        """A protocol of the user's."""

    server.run(app, mesh=mesh, port=1, host="::1", http=Own, server_header=True, workers=1)
    [options] = started
    assert (options["host"], options["http"], options["server_header"]) == ("::1", Own, True)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"http": "zttp"}, "http='zttp' is not supported"),
        ({"http": H11Protocol}, "is not supported"),
        ({"http": None}, "is not supported"),
        ({"http2": True}, "http2"),
        ({"ssl_keyfile": "x", "ssl_certfile": "y"}, "ssl_certfile, ssl_keyfile"),
        ({"ssl_context_factory": lambda *_: None}, "ssl_context_factory"),
        ({"uds": "/run/x.sock"}, "uds: only a TCP port"),
        ({"fd": 3}, "fd: only a TCP port"),
        ({"workers": 2}, "cannot be sent to worker processes"),
        ({"reload": True}, "cannot be sent to worker processes"),
    ],
)
def test_run_refuses_what_it_cannot_honour(
    options: dict[str, Any], reason: str, mesh: Mesh, started: list[dict[str, Any]]
) -> None:
    """Loudly, and before anything listens."""
    with pytest.raises(ConfigError, match=reason):
        server.run(app, mesh=mesh, port=8443, **options)
    assert started == []


def test_run_refuses_workers_from_the_environment(
    mesh: Mesh, started: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """uvicorn would read it by itself."""
    monkeypatch.setenv("WEB_CONCURRENCY", "2")
    with pytest.raises(ConfigError, match="worker processes"):
        server.run(app, mesh=mesh, port=8443)
    server.run("served:asgi", mesh=None, port=8443)
    assert len(started) == 1


def test_run_refuses_a_uvicorn_that_is_too_old(
    mesh: Mesh, started: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would serve plaintext."""

    class OldConfig:
        def __init__(self, app: Any, ssl_certfile: str | None = None) -> None:
            """As before 0.47."""

    monkeypatch.setattr(uvicorn, "Config", OldConfig)
    with pytest.raises(ConfigError, match=r"0\.47"):
        server.run(app, mesh=mesh, port=8443)
    assert started == []


def test_a_factory_without_a_mesh_reaches_worker_processes(mesh: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is pickled, and asks for the mesh of the process it arrives in."""
    monkeypatch.setattr("meshsec.servers._process._process.mesh", None)
    factory = pickle.loads(pickle.dumps(server.context_factory(None, 8443)))
    use_mesh(mesh)
    fake = cast(FakeMesh, mesh)
    config = uvicorn.Config(app, http=server.protocol_class("auto"))
    assert factory(config, None) is fake.context
    assert fake.ports == [8443]


@pytest.mark.parametrize("http", ["auto", "h11", H11Protocol, "uvicorn.protocols.http.h11_impl:H11Protocol"])
def test_a_factory_does_not_serve_a_protocol_that_carries_no_peer(http: Any, mesh: Mesh) -> None:
    """A rule that denies somebody would never find him: uvicorn does not start."""
    config = uvicorn.Config(app, http=http, ssl_context_factory=server.context_factory(mesh, 1), log_config=None)
    with pytest.raises(ConfigError, match="would have no peer"):
        config.load()


class _Base:
    """A protocol of uvicorn's, as far as the mixin sees it."""

    def __init__(self) -> None:
        self.app_state: dict[str, Any] = {"from lifespan": 1, TRANSPORT_KEY: "forged"}
        self.made: list[Any] = []

    def connection_made(self, transport: Any) -> None:
        self.made.append(transport)


class _Protocol(server.TransportInState, _Base):
    """The two together."""


class _Plain:
    """A transport without TLS."""

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"peername": ("10.0.0.7", 50000), "sockname": ("10.0.0.9", 8080)}.get(name, default)


def test_the_mixin_puts_the_transport_into_each_connections_own_state() -> None:
    """The state that the application's lifespan made is shared by all connections and stays as it was."""
    protocol = _Protocol()
    shared, transport = protocol.app_state, cast(Any, _Plain())
    protocol.connection_made(transport)
    assert protocol.made == [transport]
    assert protocol.app_state == {
        "from lifespan": 1,
        TRANSPORT_KEY: Transport(source_ip="10.0.0.7", destination_ip="10.0.0.9", destination_port=8080),
    }
    assert shared[TRANSPORT_KEY] == "forged"
