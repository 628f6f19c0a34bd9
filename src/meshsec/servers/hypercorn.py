"""hypercorn on asyncio or uvloop: ``meshsec.servers.hypercorn.run(app, mesh=mesh, port=8443)``.

hypercorn hands an application neither the peer's certificate nor the socket, but copies a state into every scope; our
TCP server puts the connection's transport into its own. This file must not know policies or certificates.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from importlib.metadata import version
from ssl import SSLContext
from typing import TYPE_CHECKING, Any, Final, cast

import hypercorn.asyncio.run as hypercorn_asyncio
import hypercorn.run as hypercorn_run
from hypercorn.asyncio import serve as hypercorn_serve
from hypercorn.asyncio.tcp_server import TCPServer
from hypercorn.config import Config
from hypercorn.protocol.http_stream import HTTPStream
from hypercorn.protocol.ws_stream import WSStream

from ..errors import ConfigError
from ..middleware import TRANSPORT_KEY
from ._internals import check_looked_up, check_replaceable, check_scopes
from ._process import current_mesh
from ._transport import transport_of

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from ..mesh import Mesh

__all__ = ["MeshConfig", "run", "serve"]

_LOOPS: Final = ("asyncio", "uvloop")
# What would take TLS out of our hands, or open a listener beside it: QUIC never asks for a client's certificate.
_OURS: Final = ("certfile", "keyfile", "ca_certs", "verify_mode", "verify_flags", "quic_bind", "insecure_bind")
_DEFAULTS: Final[dict[str, Any]] = {"worker_class": "uvloop", "include_server_header": False}


class _TransportInState(TCPServer):
    """One connection; every scope of it gets a copy of its state."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.state = {**self.state, TRANSPORT_KEY: transport_of(self.writer)}


class MeshConfig(Config):
    """hypercorn's configuration with our TLS in it; for ``hypercorn.asyncio.serve`` where :func:`run` does not fit.

    Attributes:
        mesh: None for :func:`meshsec.servers.current_mesh` of the process that serves.
        port: where it listens, for PeerAuthentication's port levels.
    """

    mesh: Mesh | None = None
    port: int | None = None

    @property
    def ssl_enabled(self) -> bool:
        """Always: without it hypercorn would serve plaintext."""
        return True

    def create_ssl_context(self) -> SSLContext:
        """Asked once in each process, before it listens.

        Raises:
            ConfigError: a setting cannot be honoured; then hypercorn does not start.
        """
        self.check()
        # hypercorn offers no place for it; the name is looked up at each connection.
        setattr(hypercorn_asyncio, "TCPServer", _TransportInState)  # noqa: B010 - a module's name, not a type's
        mesh = current_mesh() if self.mesh is None else self.mesh
        context = mesh.server_context(port=self.port)
        context.set_alpn_protocols(self.alpn_protocols)
        return context

    def check(self) -> None:
        """Raises ConfigError for what cannot be served safely."""
        given = [name for name in _OURS if getattr(self, name)]
        if given:
            raise ConfigError(f"{', '.join(given)}: the mesh brings its own TLS, and serves nothing beside it")
        if self.worker_class not in _LOOPS:
            raise ConfigError(f"worker_class {self.worker_class!r} is not supported: use one of {', '.join(_LOOPS)}")
        server = f"hypercorn {version('hypercorn')}"
        check_replaceable("TCPServer", hypercorn_asyncio.worker_serve, server)
        check_looked_up(("state", "writer"), TCPServer.run, server)
        for stream in (HTTPStream, WSStream):
            check_scopes(stream, "state", server)


async def serve(app: ASGIApp, *, mesh: Mesh | None, port: int, host: str = "127.0.0.1", **options: Any) -> None:
    """As :func:`run` with an application, on the running event loop, until it is cancelled or a signal comes."""
    await hypercorn_serve(cast(Any, app), _config(mesh, port, host, options), mode="asgi")


def run(app: ASGIApp | str, *, mesh: Mesh | None, port: int, host: str = "127.0.0.1", **options: Any) -> None:
    """Serve an application over mutual TLS, with HTTP/1.1 and HTTP/2, until the process is told to stop.

    Args:
        app: the application, wrapped by the middleware; where there are workers, an import string.
        mesh: whose identity is presented. For an import string it must be None: then each worker loads its own,
            :func:`meshsec.servers.current_mesh`, because a mesh cannot be sent to another process.
        port: where to listen.
        host: where to listen.
        options: the attributes of hypercorn's ``Config``, except those that would take TLS out of our hands or open a
            listener beside ours, which would ask nobody for a certificate. The loop is uvloop unless ``worker_class``
            says asyncio; ``include_server_header`` is off unless given.

    Raises:
        ConfigError: an option cannot be honoured.
    """
    config = _config(mesh, port, host, options)
    if isinstance(app, str):
        if mesh is not None:
            raise ConfigError("a mesh cannot be sent to worker processes: give mesh=None and set MESHSEC_CONFIG")
        config.application_path = app
        hypercorn_run.run(config)
        return
    if config.workers != 1:
        raise ConfigError("an application cannot be sent to worker processes: give its import string")
    with asyncio.Runner(loop_factory=_loop_factory(config.worker_class)) as runner:
        runner.run(hypercorn_serve(cast(Any, app), config, mode="asgi"))


def _loop_factory(worker_class: str) -> Callable[[], asyncio.AbstractEventLoop]:
    if worker_class == "asyncio":
        return asyncio.new_event_loop
    import uvloop

    return uvloop.new_event_loop


def _config(mesh: Mesh | None, port: int, host: str, options: dict[str, Any]) -> MeshConfig:
    if "bind" in options:
        raise ConfigError("bind: give host and port; which port it is decides PeerAuthentication's mode")
    unknown = sorted(name for name in options if not hasattr(Config, name))
    if unknown:
        raise ConfigError(f"hypercorn has no option {', '.join(unknown)}")
    config = MeshConfig()
    config.mesh, config.port = mesh, port
    config.bind = [f"[{host}]:{port}" if ":" in host else f"{host}:{port}"]
    for name, value in {**_DEFAULTS, **options}.items():
        setattr(config, name, value)
    config.check()
    return config
