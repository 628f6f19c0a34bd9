"""For Starlette (and FastAPI): ``request.user`` and ``request.auth``, through Starlette's own middleware.

::

    Starlette(routes=…, middleware=[Middleware(AuthenticationMiddleware, backend=MeshBackend())])
"""

from __future__ import annotations

from starlette.authentication import AuthCredentials, AuthenticationBackend, BaseUser
from starlette.requests import HTTPConnection

from ..attributes import AuthContext, RequestPrincipal

__all__ = ["MeshBackend", "MeshUser"]


class MeshUser(BaseUser):
    """The end user of this request.

    Attributes:
        principal: who it is, with every claim of the token.
    """

    def __init__(self, principal: RequestPrincipal) -> None:
        self.principal = principal

    @property
    def is_authenticated(self) -> bool:
        """Always: without a verified token there is Starlette's own unauthenticated user."""
        return True

    @property
    def display_name(self) -> str:
        """The ``name`` claim; without one the subject."""
        name = self.principal.claims.get("name")
        return name if isinstance(name, str) and name else self.principal.subject

    @property
    def identity(self) -> str:
        """``iss/sub``: a subject alone is only unique at its issuer."""
        return self.principal.name


class MeshBackend(AuthenticationBackend):
    """Tells Starlette who the mesh says is calling. It verifies nothing: that was done before.

    ``request.auth.scopes`` are ``authenticated`` and the words of the token's ``scope``.
    """

    async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, BaseUser] | None:
        """The user of a verified token; None without one.

        Raises:
            RuntimeError: the application is not wrapped by ``mesh.asgi``: it must not run unprotected unnoticed.
        """
        context: AuthContext | None = conn.scope.get("meshsec")
        if context is None:
            raise RuntimeError("this application is not wrapped by mesh.asgi(app)")
        if context.principal is None:
            return None
        words = context.principal.claims.get("scope", ())
        scopes = [word for word in words if isinstance(word, str)] if isinstance(words, tuple) else []
        return AuthCredentials(["authenticated", *scopes]), MeshUser(context.principal)
