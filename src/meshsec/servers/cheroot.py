"""cheroot (CherryPy's server): ``meshsec.servers.cheroot.run(app, mesh=mesh, port=8443)``.

cheroot merges what its TLS adapter says of a connection into every environ; ours puts the transport there. This file
must not know policies or certificates.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any, Final

from cheroot import errors
from cheroot.makefile import StreamReader, StreamWriter
from cheroot.server import HeaderReader, HTTPConnection, HTTPRequest
from cheroot.ssl import Adapter
from cheroot.wsgi import Server

from ..middleware import TRANSPORT_KEY, Transport
from ._process import current_mesh

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

    from ..mesh import Mesh

__all__ = ["MeshAdapter", "bind", "run"]

_SINGLE: Final = frozenset({b"Host", b"Authorization", b"Content-Length"})


class MeshAdapter(Adapter):
    """For a server's ``ssl_adapter``, where :func:`run` does not fit.

    Args:
        mesh: whose identity is presented; None for :func:`meshsec.servers.current_mesh`.
        port: where the server listens, for PeerAuthentication's port levels.
    """

    def __init__(self, mesh: Mesh | None, port: int) -> None:
        mesh = current_mesh() if mesh is None else mesh
        self.context = mesh.server_context(port=port)

    def bind(self, sock: socket.socket) -> socket.socket:
        """Each connection is wrapped by itself."""
        return sock

    def wrap(self, sock: socket.socket) -> tuple[socket.socket, dict[str, Any]]:
        """Without the handshake, which belongs in the worker's thread."""
        try:
            secured = self.context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
            return secured, self.get_environ(secured)
        except OSError as error:
            raise errors.FatalSSLAlert(*error.args) from error

    def get_environ(self, sock: socket.socket) -> dict[str, Any]:  # type: ignore[override]  # as cheroot calls it
        """What every request of this connection carries."""
        return {"wsgi.url_scheme": "https", TRANSPORT_KEY: Transport.of_socket(sock)}

    def makefile(self, sock: socket.socket, mode: str = "r", bufsize: int = -1) -> Any:
        """cheroot's own."""
        return (StreamReader if "r" in mode else StreamWriter)(sock, mode, *([bufsize] if bufsize > 0 else []))


class _Once(dict[bytes, bytes]):
    """Header lines as they come; cheroot answers a ValueError with 400."""

    def __setitem__(self, name: bytes, value: bytes) -> None:
        if name in _SINGLE and name in self:
            raise ValueError("Header given twice.")  # the last one would win, and nobody would know
        super().__setitem__(name, value)


class _HeaderReader(HeaderReader):
    def __call__(self, rfile: Any, hdict: dict[bytes, bytes] | None = None) -> dict[bytes, bytes]:
        found = {} if hdict is None else hdict
        found.update(super().__call__(rfile, _Once()))
        return found

    def _allow_header(self, key_name: bytes) -> bool:
        # X_A and X-A would be one variable of the environ, and the last one in would win.
        allowed: bool = super()._allow_header(key_name)  # type: ignore[misc] # the stubs do not know it
        return allowed and b"_" not in key_name


class _Request(HTTPRequest):
    header_reader = _HeaderReader()


class _Connection(HTTPConnection):
    RequestHandlerClass = _Request


def bind(app: WSGIApplication, *, mesh: Mesh | None, port: int, host: str = "127.0.0.1", **options: Any) -> Server:
    """A server; ``start()`` serves, ``stop()`` ends it.

    Args:
        app: the application, wrapped by the middleware.
        mesh: whose identity is presented; None for :func:`meshsec.servers.current_mesh`.
        port: where to listen.
        host: where to listen.
        options: of ``cheroot.wsgi.Server``.
    """
    server = Server((host, port), app, **options)
    server.ConnectionClass = _Connection
    server.ssl_adapter = MeshAdapter(mesh, port)
    return server


def run(app: WSGIApplication, *, mesh: Mesh | None, port: int, host: str = "127.0.0.1", **options: Any) -> None:
    """Serve until the process is told to stop; the arguments are those of :func:`bind`."""
    bind(app, mesh=mesh, port=port, host=host, **options).safe_start()
