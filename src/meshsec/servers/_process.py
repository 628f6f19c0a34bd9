"""The mesh of this process, for servers that start their workers themselves and so cannot be handed one."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..mesh import Mesh

__all__ = ["current_mesh", "use_mesh"]


class _Process:
    """One per process; a fork's child begins with its parent's mesh, which starts anew in it."""

    def __init__(self) -> None:
        self.mesh: Mesh | None = None
        self.renew()

    def renew(self) -> None:
        self.lock = threading.Lock()  # it may have been held when the process was forked


_process = _Process()
os.register_at_fork(after_in_child=_process.renew)


def current_mesh() -> Mesh:
    """This process's mesh: loaded at the first call, from ``$MESHSEC_CONFIG`` and ``$MESHSEC_WORKLOAD``.

    An application that is served by worker processes wraps itself with this one, so that its requests and its TLS
    share one mesh: ``app = current_mesh().asgi(app)``.

    Raises:
        ConfigError: as :meth:`meshsec.Mesh.load` says.
    """
    from ..mesh import Mesh

    with _process.lock:
        if _process.mesh is None:
            _process.mesh = Mesh.load()
        return _process.mesh


def use_mesh(mesh: Mesh) -> Mesh:
    """Make a mesh that you have built yourself this process's; call it where the application is made. Returns it."""
    with _process.lock:
        _process.mesh = mesh
    return mesh
