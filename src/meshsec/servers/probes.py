"""A second, plain listener for an orchestrator's probes, which hold no certificate.

It never reaches the application: it answers the declared paths by asking a function, and nothing else, so that it can
give nothing away. This file must not know any server.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Self

from ..errors import ConfigError

if TYPE_CHECKING:
    from ..mesh import Mesh

__all__ = ["ProbeListener", "is_ready", "listen"]

_log: Final = logging.getLogger("meshsec.probes")
_TIMEOUT: Final = 5.0
_EVERYWHERE: Final = "0.0.0.0"  # noqa: S104 - a node's agent probes from outside

_Check = Callable[[], bool]


def is_ready(mesh: Mesh) -> bool:
    """Whether the workload can shake hands, now and for a while: it needs no SVID, or has one that others believe.

    Where reading a newer one fails, it is not ready any more in the last third of the present one's life.
    """
    identity = mesh.status()["identity"]
    return identity is None or bool(identity["ready"])


def listen(
    mesh: Mesh, *, port: int, host: str = _EVERYWHERE, checks: Mapping[str, _Check] | None = None
) -> ProbeListener:
    """Listen in a thread of its own, until it is closed or the process ends.

    Args:
        mesh: whose readiness ``/readyz`` tells.
        port: where to listen; 0 for any free one.
        host: where to listen; by default everywhere, for the node's agent comes from outside.
        checks: path to function; True is 200, False or an error 503. By default ``/livez``, always 200, and
            ``/readyz``, :func:`is_ready`. Paths are compared exactly, without the query.

    Raises:
        ConfigError: a path does not begin with a slash.
        OSError: it cannot listen there.
        RuntimeError: no thread can begin.
    """
    known = dict(checks) if checks is not None else {"/livez": lambda: True, "/readyz": lambda: is_ready(mesh)}
    wrong = [path for path in known if not path.startswith("/") or "?" in path]
    if wrong or not known:
        raise ConfigError(
            f"a probe's path begins with a slash and holds no query: {', '.join(wrong) or 'none given'}"
        )
    return ProbeListener((host, port), MappingProxyType(known))


class ProbeListener:
    """A running listener; a context manager.

    Attributes:
        port: where it listens.
    """

    def __init__(self, address: tuple[str, int], checks: Mapping[str, _Check]) -> None:
        handler = type("Handler", (_Handler,), {"checks": checks})
        self._server = ThreadingHTTPServer(address, handler)
        self._server.daemon_threads = True
        self.port: int = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, name="meshsec-probes", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:  # as many threads as there may be
            self._server.server_close()
            raise

    def close(self) -> None:
        """Stop listening; in a forked child the parent listens on."""
        if self._thread.is_alive():
            self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Handler(BaseHTTPRequestHandler):
    """GET and HEAD of the declared paths; every other method is the base class's 501."""

    checks: Mapping[str, _Check]
    timeout = _TIMEOUT
    server_version = "meshsec"
    sys_version = ""

    def do_GET(self) -> None:
        check = self.checks.get(self.path.partition("?")[0])
        status = 404 if check is None else 200 if self._holds(check) else 503
        self.send_response(status)
        self.send_header("content-length", "0")
        self.send_header("connection", "close")
        self.end_headers()

    do_HEAD = do_GET  # noqa: N815 - the base class looks for this name

    def _holds(self, check: _Check) -> bool:
        try:
            return check()
        except Exception:  # noqa: BLE001 - what cannot tell that it is well is not
            _log.exception("a probe's check failed")
            return False

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing: probes come every few seconds."""
