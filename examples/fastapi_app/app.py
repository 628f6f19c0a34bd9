"""productpage: a FastAPI service that asks another service of the mesh, on behalf of its user.

``python app.py`` serves it with mutual TLS. Who may call what stands in ../mesh, not here.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
from fastapi import Depends, FastAPI, HTTPException, Request

import meshsec.servers.uvicorn
from meshsec import Mesh
from meshsec.clients.httpx2 import AsyncMeshTransport
from meshsec.frameworks.fastapi import Caller

logging.basicConfig(level=logging.INFO, format="%(name)s %(message)s")
logging.getLogger("meshsec.access").setLevel(logging.DEBUG)  # which rules did not match, too
log = logging.getLogger("productpage")

mesh = Mesh.load()  # $MESHSEC_CONFIG, $MESHSEC_WORKLOAD


@asynccontextmanager
async def lifespan(api: FastAPI) -> AsyncIterator[None]:
    async with httpx2.AsyncClient(transport=AsyncMeshTransport(mesh), base_url="https://reviews.prod") as client:
        api.state.reviews = client
        yield


def tell(request: Request, caller: Caller) -> None:
    """Log why a request was let in; refusals never come this far and are logged by meshsec."""
    why = caller.decision.explain().replace("\n", " |")
    log.info("request_id=%r: %s", request.headers.get("x-request-id", "-"), why)


api = FastAPI(lifespan=lifespan, dependencies=[Depends(tell)])


@api.get("/health")
async def health() -> dict[str, str]:
    return {"status": "up"}


@api.get("/reviews/{book}")
async def reviews(book: int, request: Request, caller: Caller) -> dict[str, Any]:
    passed_on = {name: request.headers[name] for name in ("authorization", "x-request-id") if name in request.headers}
    try:
        answer = await request.app.state.reviews.get(f"/reviews/{book}", headers=passed_on)
    except httpx2.TransportError as error:
        raise HTTPException(502, "reviews cannot be reached") from error
    if answer.status_code != 200:
        raise HTTPException(502, f"reviews answered {answer.status_code}")
    return {"user": subject(caller), "reviews": answer.json()}


@api.get("/admin")
async def admin(caller: Caller) -> dict[str, Any]:
    return {"user": subject(caller), "place": "admin"}


def subject(caller: Caller) -> str | None:
    return caller.principal.subject if caller.principal else None


app = mesh.asgi(api)

if __name__ == "__main__":
    meshsec.servers.uvicorn.run(app, mesh=mesh, port=mesh.workload.ports["https"])
