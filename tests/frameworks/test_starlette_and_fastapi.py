"""What users of Starlette and FastAPI expect to hold in their hands, behind the real middleware."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.authentication import requires
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from meshsec import Mesh, Workload
from meshsec.frameworks.fastapi import User
from meshsec.frameworks.starlette import MeshBackend
from meshsec.resources import parse
from meshsec.testing import TestIssuer

ISSUER = TestIssuer()
USERS = f"""
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {{name: users}}
spec: {{jwtRules: [{{issuer: {ISSUER.issuer}, jwks: '{ISSUER.jwks}'}}]}}
"""


def guarded(app: Any) -> TestClient:
    """A client of the application behind a mesh where tokens are optional."""
    return TestClient(Mesh(workload=Workload(name="web"), resources=parse(USERS)).asgi(app))


def bearer(**claims: Any) -> dict[str, str]:
    """A request's header."""
    return {"authorization": f"Bearer {ISSUER.token(**claims)}"}


async def me(request: Request) -> JSONResponse:
    """Who calls, as Starlette says it."""
    user = request.user
    return JSONResponse([user.is_authenticated, user.display_name, request.auth.scopes])


@requires("write")
async def write(request: Request) -> JSONResponse:
    """Only with the scope."""
    return JSONResponse(request.user.identity)


def starlette_app() -> Starlette:
    """An application with Starlette's own middleware."""
    routes = [Route("/me", me), Route("/write", write)]
    return Starlette(routes=routes, middleware=[Middleware(AuthenticationMiddleware, backend=MeshBackend())])


def test_starlette_knows_the_user() -> None:
    """Name, identity and scopes are the token's; without one there is nobody."""
    client = guarded(starlette_app())
    assert client.get("/me").json() == [False, "", []]
    assert client.get("/me", headers=bearer()).json() == [True, "test-user", ["authenticated"]]
    named = bearer(name="Alice", scope="read write")
    assert client.get("/me", headers=named).json() == [True, "Alice", ["authenticated", "read", "write"]]
    assert client.get("/write", headers=named).json() == f"{ISSUER.issuer}/test-user"
    assert client.get("/write", headers=bearer(scope="read")).status_code == 403
    assert client.get("/write", headers=bearer(scope=["write", 1])).status_code == 200


def test_fastapi_demands_the_user_and_documents_it() -> None:
    """401 where the policy let somebody in without a token; the scheme is in OpenAPI."""
    api = FastAPI()

    @api.get("/me")
    def who(user: User) -> str:
        return user.subject

    client = guarded(api)
    assert client.get("/me", headers=bearer(sub="alice")).json() == "alice"
    missing = client.get("/me")
    assert (missing.status_code, missing.headers["www-authenticate"]) == (401, "Bearer")
    document = client.get("/openapi.json").json()
    assert document["paths"]["/me"]["get"]["security"] == [{"endUser": []}]
    scheme = document["components"]["securitySchemes"]["endUser"]
    assert (scheme["type"], scheme["scheme"], scheme["bearerFormat"]) == ("http", "bearer", "JWT")


def test_unprotected_applications_do_not_run() -> None:
    """Whoever forgot to wrap the application learns it with the first request."""
    api = FastAPI()

    @api.get("/me")
    def who(user: User) -> str:
        return user.subject

    for app in (api, starlette_app()):
        with pytest.raises(RuntimeError, match="not wrapped"):
            TestClient(app).get("/me")
