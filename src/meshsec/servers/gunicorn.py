"""gunicorn: ``from meshsec.servers.gunicorn import *`` in ``gunicorn.conf.py``.

For the sync, gthread and gevent workers, and for the ASGI workers of ``meshsec.servers.gunicorn_asgi`` and
``meshsec.servers.gunicorn_uvicorn``; for gevent, ``gevent.monkey.patch_all()`` comes before that line. Each worker
process loads its own mesh (:func:`meshsec.servers.current_mesh`); the application is wrapped with the same:
``app = current_mesh().wsgi(app)``. With the WSGI workers the peer reaches the middleware as
``environ["gunicorn.socket"]``. This file must not know policies or certificates.
"""

from __future__ import annotations

import logging
import os
import ssl
import sys
from collections.abc import Callable, Sequence
from functools import cache, partial
from types import SimpleNamespace
from typing import Any, Final, Protocol

from ..errors import ConfigError, MeshsecError, SvidError
from ..tls import MeshSSLContext, TlsMaterial, server_context
from ._internals import check_keys
from ._process import current_mesh
from ._worker import CarriesPeers

__all__ = ["certfile", "do_handshake_on_connect", "forwarder_headers", "keyfile", "on_starting", "ssl_context"]

_log: Final = logging.getLogger("meshsec.tls")

# gunicorn speaks TLS only where these name files that exist. It never reads them, because of the hook below; a worker
# that ignores the hook finds no certificate in them and fails.
certfile = keyfile = os.devnull

# The handshake belongs in the worker's thread: there its failure ends one connection, and its slowness delays one.
do_handshake_on_connect = False


_ALPN: Final = {"h1": "http/1.1", "h2": "h2"}  # by the names that gunicorn's http_protocols has for them

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


def ssl_context(conf: _Config, default_ssl_context_factory: Callable[[], ssl.SSLContext]) -> Any:  # noqa: ARG001
    """gunicorn's hook, asked for every connection: always the same context, and never an error.

    An error here makes some workers go on in plaintext; what cannot be served gets a context that refuses everyone.
    """
    try:
        context = _context(conf)
    except RuntimeError as error:
        _log.warning("TLS handshakes are refused until threads can begin: %s", error)
        context = _refusing(str(error))
    if not _is_gevent(conf.worker_class):
        return context
    # gevent's server would shake hands where nobody catches what a refused client raises, and print it.
    return SimpleNamespace(wrap_socket=partial(context.wrap_socket, do_handshake_on_connect=False))


@cache
def _context(conf: _Config) -> ssl.SSLContext:
    """Raises RuntimeError where no thread can begin, which passes."""
    try:
        _check_worker_class(conf.worker_class)
        _check_headers(conf)
        context = current_mesh().server_context(port=_port(conf))
        protocols = [_ALPN[name] for name in getattr(conf, "http_protocols", ())]
        if "h2" in protocols:
            context.set_alpn_protocols(protocols)
        return context
    except RuntimeError:
        raise
    except Exception as error:  # noqa: BLE001 - see above
        _log.exception("every TLS handshake is refused")
        return _refusing(str(error) if isinstance(error, MeshsecError) else "an internal error")


def _refusing(reason: str) -> ssl.SSLContext:
    try:
        return server_context(_Nothing(reason))
    except ConfigError:  # not even that, where something has replaced the ssl module's classes
        return ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)  # without a certificate no handshake succeeds


class _Nothing:
    """A source that never has anything to serve."""

    def __init__(self, reason: str) -> None:
        self._reason = reason

    def current(self) -> TlsMaterial:
        raise SvidError(f"there is nothing to serve: {self._reason}", code="not_served")


def _is_gevent(worker_class: type) -> bool:
    """gevent's own worker or one derived from it; the other of gevent's speaks HTTP in its own way."""
    module = sys.modules.get("gunicorn.workers.ggevent")
    derived = module is not None and issubclass(worker_class, module.GeventWorker)
    return derived and getattr(worker_class, "server_class", None) is None


def _check_worker_class(worker_class: type) -> None:
    if issubclass(worker_class, CarriesPeers):
        worker_class.check_server()
        return
    import gunicorn  # type: ignore[import-untyped]
    from gunicorn.http import wsgi  # type: ignore[import-untyped]
    from gunicorn.workers.gthread import ThreadWorker  # type: ignore[import-untyped]
    from gunicorn.workers.sync import SyncWorker  # type: ignore[import-untyped]

    # What the others show of a connection, and of its peer.
    check_keys(("gunicorn.socket",), wsgi.default_environ, f"gunicorn {gunicorn.__version__}")
    if _is_gevent(worker_class):
        if ssl.SSLContext.__module__ != "gevent.ssl" or not issubclass(MeshSSLContext, ssl.SSLContext):
            early = "gevent.monkey.patch_all() must come first in gunicorn.conf.py"
            raise ConfigError(f"gevent replaces Python's TLS: {early}, before anything of meshsec is imported")
    elif not issubclass(worker_class, SyncWorker | ThreadWorker):
        name = f"{worker_class.__module__}.{worker_class.__qualname__}"
        # uvicorn's worker never asks the hook, and gunicorn's own asgi worker serves plaintext when the hook fails.
        ours = "meshsec.servers.gunicorn_asgi.MeshWorker, meshsec.servers.gunicorn_uvicorn.MeshWorker"
        raise ConfigError(f"worker class {name} is not supported: use one of sync, gthread, gevent, {ours}")


def _check_headers(conf: object) -> None:
    """Since gunicorn 22 a client's headers can say where the path begins; the settings are found by name only."""
    if list(getattr(conf, "forwarder_headers", ())):
        raise ConfigError("forwarder_headers must be empty: a client could choose the path that is routed")
    if getattr(conf, "protocol", "http") != "http":
        raise ConfigError("protocol must be http: in gunicorn's others the client says who it is")
    if getattr(conf, "header_map", "drop") == "dangerous":
        raise ConfigError('header_map = "dangerous" lets two headers share one name')


def _port(conf: _Config) -> int:
    """The one TCP port that is served: the hook is not told which one a connection came to."""
    ports = {address[1] if isinstance(address, tuple) else None for address in conf.address}
    match [*ports]:
        case [int(port)] if port:
            return port
    raise ConfigError("bind to addresses of exactly one TCP port: which one decides PeerAuthentication's mode")
