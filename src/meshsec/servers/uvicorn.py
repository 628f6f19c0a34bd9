"""uvicorn: ``meshsec.servers.uvicorn.run(app, mesh=mesh, port=8443)``.

uvicorn hands an application neither the peer's certificate nor the socket, so its protocol classes get one more
method: they put the connection's transport into ``scope["state"]``. Never a contextvar, which under uvloop
names another client. This file must not know policies or certificates.
"""

from __future__ import annotations

import inspect
import os
import ssl
from asyncio import BaseTransport
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final

import uvicorn
from uvicorn.importer import import_from_string

from ..errors import ConfigError
from ..middleware import TRANSPORT_KEY
from ._process import current_mesh
from ._transport import transport_of

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from ..mesh import Mesh

__all__ = ["TransportInState", "context_factory", "protocol_class", "run"]

# By the value of uvicorn's own option; as import strings, which reach worker processes too.
_PROTOCOLS: Final = {
    "h11": "meshsec.servers._uvicorn_h11:MeshProtocol",
    "httptools": "meshsec.servers._uvicorn_httptools:MeshProtocol",
}
_DEFAULTS: Final = {"proxy_headers": False, "server_header": False}


class TransportInState:
    """To be mixed into a protocol class of uvicorn's: every request of a connection carries its transport.

    It arrives in ``scope["state"]``, for HTTP and WebSocket alike, because uvicorn copies the protocol's state there.
    """

    app_state: dict[str, Any]

    def connection_made(self, transport: BaseTransport) -> None:
        """Called once the handshake is done and the peer admitted."""
        self.app_state = {**self.app_state, TRANSPORT_KEY: transport_of(transport)}
        super().connection_made(transport)  # type: ignore[misc] # the protocol that this is mixed into


@dataclass(frozen=True, slots=True)
class _ContextFactory:
    """Sent to worker processes by name and arguments, and called in each of them."""

    mesh: Mesh | None
    port: int

    def __call__(self, config: uvicorn.Config, _default: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
        _check_protocol(config.http)
        mesh = current_mesh() if self.mesh is None else self.mesh
        return mesh.server_context(port=self.port)


def context_factory(
    mesh: Mesh | None, port: int
) -> Callable[[uvicorn.Config, Callable[[], ssl.SSLContext]], ssl.SSLContext]:
    """For uvicorn's ``ssl_context_factory``, where :func:`run` does not fit.

    The peer reaches the middleware only if the ``http`` protocol class mixes in :class:`TransportInState`
    (:func:`protocol_class` names one); without it uvicorn does not start, by the ConfigError that is raised then.

    Args:
        mesh: None for :func:`meshsec.servers.current_mesh` of the process that serves.
        port: where the server listens, for PeerAuthentication's port levels.
    """
    return _ContextFactory(mesh, port)


def run(app: ASGIApp | str, *, mesh: Mesh | None, port: int, host: str = "127.0.0.1", **options: Any) -> None:
    """Serve an application over mutual TLS until the process is told to stop.

    Args:
        app: the application, wrapped by the middleware; an import string where there are workers.
        mesh: whose identity is presented. With ``workers`` or ``reload`` it must be None: then each worker loads its
            own, :func:`meshsec.servers.current_mesh`, because a mesh cannot be sent to another process.
        port: where to listen.
        host: where to listen.
        options: uvicorn's own, except those that would take TLS or the protocol out of our hands. ``proxy_headers``
            and ``server_header`` are off unless given.

    Raises:
        ConfigError: an option cannot be honoured, or this uvicorn cannot take our context.
    """
    protocol = protocol_class(options.pop("http", "auto"))
    _check(options, mesh)
    factory = context_factory(mesh, port)
    uvicorn.run(app, host=host, port=port, http=protocol, ssl_context_factory=factory, **{**_DEFAULTS, **options})


def protocol_class(wanted: object) -> Any:
    """For uvicorn's ``http``: the class, or its import string, that carries our transport. Raises ConfigError."""
    if wanted == "auto":
        wanted = "httptools" if find_spec("httptools") else "h11"
    if isinstance(wanted, str) and wanted in _PROTOCOLS:
        return _PROTOCOLS[wanted]
    if isinstance(wanted, type) and issubclass(wanted, TransportInState):
        return wanted
    known = ", ".join(("auto", *_PROTOCOLS))
    raise ConfigError(f"http={wanted!r} is not supported: use one of {known}, or a class with TransportInState in it")


def _check_protocol(http: Any) -> None:
    found = import_from_string(http) if isinstance(http, str) and ":" in http else http
    if not (isinstance(found, type) and issubclass(found, TransportInState)):
        raise ConfigError(f"http={http!r}: its requests would have no peer; give it protocol_class(...)")


def _check(options: dict[str, Any], mesh: Mesh | None) -> None:
    if "ssl_context_factory" not in inspect.signature(uvicorn.Config).parameters:
        raise ConfigError(f"uvicorn {uvicorn.__version__} cannot take an SSL context: 0.47 or newer is needed")
    ours = sorted(name for name in options if name.startswith("ssl_") or name == "http2")
    if ours:
        raise ConfigError(f"{', '.join(ours)}: the mesh brings its own TLS, for HTTP/1.1")
    elsewhere = sorted(options.keys() & {"uds", "fd"})
    if elsewhere:
        # No address of the peer, and no port that PeerAuthentication could speak of.
        raise ConfigError(f"{', '.join(elsewhere)}: only a TCP port shows what policies are judged by")
    workers = int(options.get("workers") or os.environ.get("WEB_CONCURRENCY") or 1)
    if mesh is not None and (workers > 1 or options.get("reload")):
        raise ConfigError("a mesh cannot be sent to worker processes: give mesh=None and set MESHSEC_CONFIG")
