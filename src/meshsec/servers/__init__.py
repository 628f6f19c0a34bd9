"""One file for each server: how its TLS takes our context, and how a connection's peer reaches the middleware.

Import the one you use: ``meshsec.servers.uvicorn``, ``meshsec.servers.gunicorn``. A file must not judge anything;
what its server cannot carry safely it refuses to start.
"""

from ._process import current_mesh, use_mesh

__all__ = ["current_mesh", "use_mesh"]
