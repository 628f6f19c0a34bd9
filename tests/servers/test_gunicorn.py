"""What gunicorn takes from ``meshsec.servers.gunicorn``: settings and two hooks."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from typing import Any, cast

import pytest
from gunicorn.config import KNOWN_SETTINGS, Config
from gunicorn.workers.base import Worker
from gunicorn.workers.gasgi import ASGIWorker
from gunicorn.workers.gthread import ThreadWorker
from gunicorn.workers.sync import SyncWorker
from uvicorn_worker import UvicornWorker

from meshsec import Mesh
from meshsec.errors import ConfigError
from meshsec.servers import current_mesh, use_mesh
from meshsec.servers import gunicorn as server
from meshsec.servers.gunicorn_asgi import MeshWorker as AsgiWorker
from meshsec.servers.gunicorn_uvicorn import MeshWorker as UvicornMeshWorker
from meshsec.tls import PeerRefusedError
from pki import TestCA
from wire import careless, shake_hands, wired


class Conf:
    """gunicorn's configuration, as far as the hooks look at it."""

    def __init__(
        self,
        worker_class: Any = SyncWorker,
        address: Any = (("127.0.0.1", 8443),),
        forwarder_headers: Any = (),
        header_map: str = "drop",
        protocol: str = "http",
        http_protocols: Any = ("h1",),
    ) -> None:
        self.worker_class = worker_class
        self.address = list(address)
        self.forwarder_headers = list(forwarder_headers)
        self.header_map = header_map
        self.protocol = protocol
        self.http_protocols = list(http_protocols)


class Arbiter:
    """gunicorn's master, likewise."""

    def __init__(self, *arguments: Any) -> None:
        self.cfg = Conf(*arguments)


class FakeMesh:
    """Notes the ports it is asked for."""

    def __init__(self) -> None:
        self.ports: list[int | None] = []

    def server_context(self, port: int | None = None) -> ssl.SSLContext:
        self.ports.append(port)
        return ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)


@pytest.fixture
def mesh(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeMesh]:
    """The mesh of this process, for one test."""
    monkeypatch.setattr("meshsec.servers._process._process.mesh", None)
    fake = FakeMesh()
    yield fake
    server._context.cache_clear()


class OwnWorker(ThreadWorker):
    """A worker class derived from a supported one."""


class OtherWorker(Worker):
    """A worker class that may do anything."""


SUPPORTED: list[tuple[Any, ...]] = [
    (SyncWorker,),
    (ThreadWorker,),
    (OwnWorker,),
    (AsgiWorker,),
    (UvicornMeshWorker,),
    (SyncWorker, [("127.0.0.1", 8443), ("::1", 8443)]),
]
UNSUPPORTED: list[tuple[Any, ...]] = [
    (OtherWorker,),
    (Worker,),
    (ASGIWorker,),
    (UvicornWorker,),
    (SyncWorker, []),
    (SyncWorker, [("127.0.0.1", 0)]),
    (SyncWorker, ["/run/x.sock"]),
    (SyncWorker, [5]),
    (SyncWorker, [("127.0.0.1", 8443), ("127.0.0.1", 8444)]),
    (SyncWorker, [("127.0.0.1", 8443), "/run/x.sock"]),
    (SyncWorker, [("127.0.0.1", 8443)], ["SCRIPT_NAME", "PATH_INFO"]),
    (SyncWorker, [("127.0.0.1", 8443)], [], "dangerous"),
    (SyncWorker, [("127.0.0.1", 8443)], [], "drop", "uwsgi"),
]


def test_the_settings_are_gunicorns_own() -> None:
    """Each exported name is a setting, takes effect, and switches TLS on."""
    known = {setting.name for setting in KNOWN_SETTINGS}
    assert set(server.__all__) <= known
    config = Config()
    for name in server.__all__:
        config.set(name, getattr(server, name))
    assert config.is_ssl
    assert config.ssl_context is server.ssl_context


@pytest.mark.parametrize("arguments", SUPPORTED)
def test_what_is_supported_starts_and_gets_one_context(arguments: Any, mesh: FakeMesh) -> None:
    """However many connections ask, the mesh is asked once, for the port it serves."""
    server.on_starting(Arbiter(*arguments))
    use_mesh(cast(Mesh, mesh))
    conf = Conf(*arguments)
    contexts = {id(server.ssl_context(conf, _never)) for _ in range(3)}
    assert len(contexts) == 1
    assert mesh.ports == [8443]


@pytest.mark.parametrize("arguments", UNSUPPORTED)
def test_what_is_not_supported_does_not_start(arguments: Any) -> None:
    """gunicorn prints a RuntimeError and exits."""
    with pytest.raises(RuntimeError, match=r"^meshsec: "):
        server.on_starting(Arbiter(*arguments))


@pytest.mark.parametrize("arguments", UNSUPPORTED)
def test_what_is_not_supported_is_refused_at_every_handshake(arguments: Any, mesh: FakeMesh) -> None:
    """Also where the user's own on_starting replaced ours: the hook never raises and never serves."""
    use_mesh(cast(Mesh, mesh))
    context = server.ssl_context(Conf(*arguments), _never)
    with pytest.raises(PeerRefusedError, match="there is nothing to serve"):
        shake_hands(*wired(context, careless("client", TestCA("td.example").leaf())))
    assert mesh.ports == []


@pytest.mark.parametrize("error", [ConfigError("there is no such folder"), KeyError("private"), OSError(5, "x")])
def test_a_mesh_that_cannot_be_loaded_refuses_every_handshake(
    error: Exception, mesh: FakeMesh, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The reason stands in the log; an error of the hook would make some workers serve plaintext."""

    def load() -> Mesh:
        raise error

    monkeypatch.setattr(Mesh, "load", load)
    context = server.ssl_context(Conf(), _never)
    with pytest.raises(PeerRefusedError) as caught:
        shake_hands(*wired(context, careless("client", TestCA("td.example").leaf())))
    assert "private" not in str(caught.value)
    assert "every TLS handshake is refused" in caplog.text


def test_a_worker_without_threads_refuses_until_it_has_some(mesh: FakeMesh, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither an error of the hook, nor a refusal that stays."""

    def refused(port: int | None = None) -> ssl.SSLContext:
        raise RuntimeError("can't start new thread")

    use_mesh(cast(Mesh, mesh))
    conf = Conf()
    with monkeypatch.context() as patch:
        patch.setattr(mesh, "server_context", refused)
        context = server.ssl_context(conf, _never)
        with pytest.raises(PeerRefusedError, match="new thread"):
            shake_hands(*wired(context, careless("client", TestCA("td.example").leaf())))
    assert server.ssl_context(conf, _never) is server.ssl_context(conf, _never)
    assert mesh.ports == [8443]


def test_a_process_has_one_mesh(mesh: FakeMesh, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loaded at the first call only; or the one that the application brought along."""
    loaded = []

    def load() -> Any:
        loaded.append(FakeMesh())
        return loaded[-1]

    monkeypatch.setattr(Mesh, "load", load)
    assert current_mesh() is current_mesh()
    assert len(loaded) == 1
    brought = cast(Mesh, mesh)
    assert use_mesh(brought) is brought
    assert current_mesh() is brought


def _never() -> ssl.SSLContext:
    raise AssertionError("gunicorn's own context is never wanted")
