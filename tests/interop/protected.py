"""A real uvicorn with an application that says who the user is; the mesh comes from the environment.

Started as a process of its own: ``python protected.py PORT``.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from meshsec.servers import current_mesh, uvicorn

__all__ = ["app"]


async def app(scope: Any, receive: Any, send: Any) -> None:
    """HTTP is answered with what the middleware hands on, lifespan passes."""
    if scope["type"] == "lifespan":
        while True:
            kind = (await receive())["type"]
            await send({"type": f"{kind}.complete"})
            if kind == "lifespan.shutdown":
                return
    context = scope["meshsec"]
    principal = context.principal
    facts = {
        "peer": str(context.peer.id) if context.peer else None,
        "user": principal.subject if principal else None,
        "issuer": principal.issuer if principal else None,
        "roles": list(principal.claims.get("realm_access", {}).get("roles", ())) if principal else [],
        "headers": [name.decode() for name, _ in scope["headers"]],
    }
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": json.dumps(facts).encode()})


if __name__ == "__main__":
    uvicorn.run(current_mesh().asgi(app), mesh=None, port=int(sys.argv[1]))
