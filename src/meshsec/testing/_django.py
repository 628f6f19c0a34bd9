"""Django's own test client in front of a mesh: its responses are Django's, and the request went through the policy.

This file must not know how anything is judged.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from ..middleware import Enforcer, wsgi

__all__ = ["django_client", "is_django"]


def is_django(app: Any) -> bool:
    """Whether it is what ``get_wsgi_application()`` makes."""
    return any(kind.__module__ == "django.core.handlers.wsgi" for kind in type(app).__mro__)


def django_client(stand_in: Enforcer, header: str | None) -> Any:
    """A ``django.test.Client`` whose requests the mesh judges first."""
    client: Any = import_module("django.test").Client(headers={"authorization": header} if header else {})
    client.handler = _Judged(client.handler, stand_in)
    return client


class _Judged:
    """Takes the place of the client's handler: a request's environ in, Django's response out."""

    def __init__(self, handler: Callable[[dict[str, Any]], Any], stand_in: Enforcer) -> None:
        self._handler = handler
        self._stand_in = stand_in

    def __call__(self, environ: dict[str, Any]) -> Any:
        environ.setdefault("HTTP_HOST", environ["SERVER_NAME"])
        found: list[Any] = []
        heads: list[tuple[str, list[tuple[str, str]]]] = []

        def application(judged: dict[str, Any], start_response: Any) -> list[bytes]:
            found.append(self._handler(judged))
            start_response("200 OK", [])
            return []

        def start(status: str, headers: list[tuple[str, str]], _: Any = None) -> Callable[[bytes], object]:
            heads.append((status, headers))
            return _unused

        body = b"".join(wsgi.MeshMiddleware(application, self._stand_in)(environ, start))
        status, headers = heads[0]
        response = found[0] if found else _refusal(environ, int(status[:3]), body)
        for name, value in headers:
            response[name] = value
        return response


def _unused(_: bytes) -> None:
    """PEP 3333's write, which nothing here calls."""


def _refusal(environ: dict[str, Any], status: int, body: bytes) -> Any:
    response: Any = import_module("django.http").HttpResponse(body, status=status)
    response.wsgi_request = import_module("django.core.handlers.wsgi").WSGIRequest(environ)
    return response
