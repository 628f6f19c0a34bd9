"""For Django: who calls, on every request, under WSGI and ASGI alike.

::

    application = mesh.wsgi(get_wsgi_application())                     # wsgi.py
    MIDDLEWARE = [..., "meshsec.frameworks.django.MeshMiddleware"]      # settings.py

    def me(request): return JsonResponse({"user": request.user.username, "workload": str(request.mesh.peer.id)})
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Final, cast

from asgiref.sync import iscoroutinefunction, markcoroutinefunction

from ..attributes import AuthContext, RequestPrincipal

__all__ = ["MeshMiddleware", "MeshUser"]


class MeshUser:
    """The end user of one request, with what Django and its decorators ask a user for; without a database.

    Attributes:
        principal: who it is, with every claim of the token; None for the anonymous user.
    """

    is_active: Final = True
    is_staff: Final = False
    is_superuser: Final = False
    pk: Final = None

    def __init__(self, principal: RequestPrincipal | None) -> None:
        self.principal = principal

    @property
    def is_authenticated(self) -> bool:
        """Whether a verified token says who it is."""
        return self.principal is not None

    @property
    def is_anonymous(self) -> bool:
        """The opposite."""
        return self.principal is None

    @property
    def username(self) -> str:
        """``iss/sub``: a subject alone is only unique at its issuer. Empty for the anonymous user."""
        return "" if self.principal is None else self.principal.name

    def get_username(self) -> str:
        """The same."""
        return self.username

    def get_full_name(self) -> str:
        """The ``name`` claim; without one the subject."""
        if self.principal is None:
            return ""
        name = self.principal.claims.get("name")
        return name if isinstance(name, str) and name else self.principal.subject

    def has_perm(self, perm: str, obj: object = None) -> bool:
        """Whether the token's ``scope`` has this word; for one object nobody has any permission."""
        scope = () if self.principal is None else self.principal.claims.get("scope", ())
        return obj is None and isinstance(scope, tuple) and perm in scope

    def has_perms(self, perm_list: Iterable[str], obj: object = None) -> bool:
        """Whether it has all of these words."""
        return all(self.has_perm(perm, obj) for perm in perm_list)

    def has_module_perms(self, _: str) -> bool:
        """Nobody has: there are no models behind a scope."""
        return False

    def __str__(self) -> str:
        return self.username


class MeshMiddleware:
    """Sets ``request.mesh``, an :class:`meshsec.attributes.AuthContext`, and ``request.user``, a :class:`MeshUser`.

    It verifies nothing: the application is wrapped by ``mesh.wsgi`` or ``mesh.asgi``; RuntimeError where it is not.
    Beside Django's own AuthenticationMiddleware, the later of the two says who ``request.user`` is.
    """

    sync_capable: Final = True
    async_capable: Final = True

    def __init__(self, get_response: Callable[[Any], Any]) -> None:
        self._get_response = get_response
        if iscoroutinefunction(get_response):
            markcoroutinefunction(self)

    def __call__(self, request: Any) -> Any:
        """The response, or an awaitable of it, as the next one in the chain gives it."""
        context = _context(request)
        request.mesh, request.user = context, MeshUser(context.principal)
        request.auser = partial(_itself, request.user)
        return self._get_response(request)


def _context(request: Any) -> AuthContext:
    """Never from what a client can write: its headers are in META under names that begin with HTTP_."""
    place = getattr(request, "scope", request.META)
    if "meshsec" not in place:
        raise RuntimeError("this application is not wrapped: mesh.wsgi(application), or mesh.asgi(application)")
    return cast("AuthContext", place["meshsec"])


async def _itself(user: MeshUser) -> MeshUser:
    return user
