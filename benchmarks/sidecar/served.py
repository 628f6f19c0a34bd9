"""The application that is measured, on uvicorn: ``python -m benchmarks.sidecar.served PORT LOOP [MESH]``.

With a mesh's folder it is protected in process; without one it is plain, and trusts the Envoy before it.
"""

from __future__ import annotations

import sys
from collections.abc import MutableMapping
from typing import Any, Final

import uvicorn

__all__ = ["hello"]

_HEAD: Final = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"text/plain"), (b"content-length", b"14")],
}
_BODY: Final = {"type": "http.response.body", "body": b"Hello, meshes!"}


async def hello(scope: MutableMapping[str, Any], _receive: Any, send: Any) -> None:
    """As small as an application can be: what is measured is what stands before it."""
    if scope["type"] == "http":
        await send(_HEAD)
        await send(_BODY)


def main(port: int, loop: str, folder: str | None = None) -> None:
    """Serve until killed."""
    options: dict[str, Any] = {
        "http": "httptools", "loop": loop, "lifespan": "off", "access_log": False, "log_level": "warning",
        "timeout_keep_alive": 75,
    }  # fmt: skip
    if folder is None:
        uvicorn.run(hello, host="127.0.0.1", port=port, server_header=False, proxy_headers=False, **options)
        return
    # Not before: the plain application shall not hold in memory what it does not use.
    from meshsec import Mesh
    from meshsec.servers import uvicorn as mesh_server

    mesh = Mesh.load(folder, workload="reviews")
    mesh_server.run(mesh.asgi(hello), mesh=mesh, port=port, **options)


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
