"""werkzeug's development server: ``meshsec.servers.werkzeug.run(app, mesh=mesh, port=8443)``, or
``flask run --cert meshsec.servers.werkzeug.context``.

The peer reaches the middleware as ``environ["werkzeug.socket"]``. For development: werkzeug says so itself. This file
must not know policies or certificates.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any

from werkzeug.serving import BaseWSGIServer, make_server

from ..errors import ConfigError
from ._process import current_mesh

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

    from ..mesh import Mesh

__all__ = ["bind", "run"]


def __getattr__(name: str) -> ssl.SSLContext:
    """``context``, for ``flask run --cert``: of this process's mesh, made when it is asked for.

    The port is not known here, so that the strictest of PeerAuthentication's modes holds, and plaintext never passes.
    """
    if name == "context":
        return current_mesh().server_context()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def bind(
    app: WSGIApplication, *, mesh: Mesh | None, port: int, host: str = "127.0.0.1", **options: Any
) -> BaseWSGIServer:
    """A server that listens; ``serve_forever()`` serves, each connection in a thread of its own.

    Args:
        app: the application, wrapped by the middleware.
        mesh: whose identity is presented; None for :func:`meshsec.servers.current_mesh`.
        port: where to listen.
        host: where to listen.
        options: of ``werkzeug.serving.make_server``, except ``threaded``, ``processes`` and ``ssl_context``.

    Raises:
        ConfigError: an option cannot be honoured.
    """
    ours = sorted(options.keys() & {"threaded", "processes", "ssl_context"})
    if ours:
        raise ConfigError(f"{', '.join(ours)}: the mesh brings its own TLS, one thread for each connection")
    mesh = current_mesh() if mesh is None else mesh
    server = make_server(host, port, app, threaded=True, ssl_context=mesh.server_context(port=port), **options)
    # The handshake belongs in the connection's thread: here a client that stalls would stop everyone.
    server.socket.do_handshake_on_connect = False  # type: ignore[attr-defined]
    return server


def run(app: WSGIApplication, *, mesh: Mesh | None, port: int, host: str = "127.0.0.1", **options: Any) -> None:
    """Serve until the process is told to stop; the arguments are those of :func:`bind`."""
    server = bind(app, mesh=mesh, port=port, host=host, **options)
    server.log_startup()
    server.serve_forever()
