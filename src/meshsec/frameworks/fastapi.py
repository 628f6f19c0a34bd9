"""For FastAPI and Starlette: who calls, as a dependency.

::

    @app.get("/me")
    def me(caller: Caller) -> str: ...
"""

from __future__ import annotations

from typing import Annotated, cast

from fastapi import Depends
from fastapi.requests import HTTPConnection

from ..attributes import AuthContext

__all__ = ["Caller", "caller"]


def caller(connection: HTTPConnection) -> AuthContext:
    """The peer, the end user and the decision for this request.

    Raises:
        RuntimeError: the application is not wrapped by ``mesh.asgi``: it must not run unprotected unnoticed.
    """
    context = connection.scope.get("meshsec")
    if context is None:
        raise RuntimeError("this application is not wrapped by mesh.asgi(app)")
    return cast("AuthContext", context)


Caller = Annotated[AuthContext, Depends(caller)]
