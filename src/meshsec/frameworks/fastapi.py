"""For FastAPI and Starlette: who calls, as a dependency.

::

    @app.get("/me")
    def me(caller: Caller, user: User) -> str: ...
"""

from __future__ import annotations

from typing import Annotated, cast

from fastapi import Depends, HTTPException
from fastapi.openapi.models import HTTPBearer
from fastapi.requests import HTTPConnection
from fastapi.security.base import SecurityBase

from ..attributes import AuthContext, RequestPrincipal

__all__ = ["Caller", "User", "caller"]


def caller(connection: HTTPConnection) -> AuthContext:
    """The peer, the end user and the decision for this request.

    Raises:
        RuntimeError: the application is not wrapped by ``mesh.asgi``: it must not run unprotected unnoticed.
    """
    context = connection.scope.get("meshsec")
    if context is None:
        raise RuntimeError("this application is not wrapped by mesh.asgi(app)")
    return cast("AuthContext", context)


class _EndUser(SecurityBase):
    """Stands in the OpenAPI document as a bearer token; verifies nothing, that was done before."""

    def __init__(self) -> None:
        self.model = HTTPBearer(bearerFormat="JWT", description="Verified by the service mesh.")
        self.scheme_name = "endUser"

    def __call__(self, connection: HTTPConnection) -> RequestPrincipal:
        context = caller(connection)
        if context.principal is None:
            place = f' resource_metadata="{context.metadata_url}"' if context.metadata_url else ""
            raise HTTPException(401, "Jwt is missing", {"WWW-Authenticate": f"Bearer{place}"})
        return context.principal


Caller = Annotated[AuthContext, Depends(caller)]
"""The peer, the end user and the decision; either of the first two may be None."""

User = Annotated[RequestPrincipal, Depends(_EndUser())]
"""The end user; 401 where the policies let somebody in who brought no token. In OpenAPI, a bearer token."""
