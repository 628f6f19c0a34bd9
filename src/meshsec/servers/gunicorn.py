"""gunicorn: ``from meshsec.servers.gunicorn import *`` in ``gunicorn.conf.py``.

For the sync and gthread workers, and for the ASGI workers of ``meshsec.servers.gunicorn_asgi`` and
``meshsec.servers.gunicorn_uvicorn``. Each worker process loads its own mesh (:func:`meshsec.servers.current_mesh`);
the application is wrapped with the same: ``app = current_mesh().wsgi(app)``. With the WSGI workers the peer reaches
the middleware as ``environ["gunicorn.socket"]``. This file must not know policies or certificates.
"""

from __future__ import annotations

import logging
import os
import ssl
from collections.abc import Callable, Sequence
from functools import cache
from typing import Final, Protocol

from ..errors import ConfigError, MeshsecError, SvidError
from ..tls import TlsMaterial, server_context
from ._process import current_mesh
from ._worker import CarriesPeers

__all__ = ["certfile", "do_handshake_on_connect", "forwarder_headers", "keyfile", "on_starting", "ssl_context"]

_log: Final = logging.getLogger("meshsec.tls")

# gunicorn speaks TLS only where these name files that exist. It never reads them, because of the hook below; a worker
# that ignores the hook finds no certificate in them and fails.
certfile = keyfile = os.devnull

# The handshake belongs in the worker's thread: there its failure ends one connection, and its slowness delays one.
do_handshake_on_connect = False


# By default gunicorn takes SCRIPT_NAME and PATH_INFO from the headers of whoever connects from this machine: the path
# that is routed would not be the one that was asked for.
forwarder_headers = ""


class _Config(Protocol):
    def __hash__(self) -> int: ...

    @property
    def address(self) -> Sequence[object]: ...

    @property
    def worker_class(self) -> type: ...


class _Arbiter(Protocol):
    @property
    def cfg(self) -> _Config: ...


def on_starting(server: _Arbiter) -> None:
    """Refuse to start what could not be served safely. Call it from your own hook if you replace it.

    Raises:
        RuntimeError: the worker class or the bind address is not supported; gunicorn prints it and exits.
    """
    try:
        _check_worker_class(server.cfg.worker_class)
        _check_headers(server.cfg)
        _port(server.cfg)
    except ConfigError as error:
        raise RuntimeError(f"meshsec: {error}") from error


def ssl_context(conf: _Config, default_ssl_context_factory: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:  # noqa: ARG001
    """gunicorn's hook, asked for every connection: always the same context, and never an error.

    An error here makes some workers go on in plaintext; what cannot be served gets a context that refuses everyone.
    """
    return _context(conf)


@cache
def _context(conf: _Config) -> ssl.SSLContext:
    try:
        _check_worker_class(conf.worker_class)
        _check_headers(conf)
        return current_mesh().server_context(port=_port(conf))
    except Exception as error:  # noqa: BLE001 - see above
        _log.exception("every TLS handshake is refused")
        reason = str(error) if isinstance(error, MeshsecError) else "an internal error"
        return server_context(_Nothing(reason))


class _Nothing:
    """A source that never has anything to serve."""

    def __init__(self, reason: str) -> None:
        self._reason = reason

    def current(self) -> TlsMaterial:
        raise SvidError(f"there is nothing to serve: {self._reason}", code="not_served")


def _check_worker_class(worker_class: type) -> None:
    from gunicorn.workers.gthread import ThreadWorker  # type: ignore[import-untyped]
    from gunicorn.workers.sync import SyncWorker  # type: ignore[import-untyped]

    if not issubclass(worker_class, SyncWorker | ThreadWorker | CarriesPeers):
        name = f"{worker_class.__module__}.{worker_class.__qualname__}"
        # uvicorn's worker never asks the hook, and gunicorn's own asgi worker serves plaintext when the hook fails.
        known = "sync, gthread, meshsec.servers.gunicorn_asgi.MeshWorker, meshsec.servers.gunicorn_uvicorn.MeshWorker"
        raise ConfigError(f"worker class {name} is not supported: use one of {known}")


def _check_headers(conf: object) -> None:
    """Since gunicorn 22 a client's headers can say where the path begins; the settings are found by name only."""
    if list(getattr(conf, "forwarder_headers", ())):
        raise ConfigError("forwarder_headers must be empty: a client could choose the path that is routed")
    if getattr(conf, "header_map", "drop") == "dangerous":
        raise ConfigError('header_map = "dangerous" lets two headers share one name')


def _port(conf: _Config) -> int:
    """The one TCP port that is served: the hook is not told which one a connection came to."""
    ports = {address[1] if isinstance(address, tuple) else None for address in conf.address}
    match [*ports]:
        case [int(port)] if port:
            return port
    raise ConfigError("bind to addresses of exactly one TCP port: which one decides PeerAuthentication's mode")
