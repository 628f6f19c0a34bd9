"""The same application in every framework: a secret, a plain neighbour of it, and a handler of everything else.

The names with ``, lenient`` are set to take a slash at the end for nothing, where the framework can be set so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

from frameworks.spellings import OTHER, SECRET

__all__ = ["ASGI", "SAID_ELSEWHERE", "SAID_OTHER", "SAID_SECRET", "WSGI", "Note"]

SAID_SECRET: Final = "the secret handler ran"
SAID_OTHER: Final = "the other handler ran"
SAID_ELSEWHERE: Final = "the handler of everything else ran"

Note = Callable[[str], None]
"""Told by each handler that it ran."""


def _add_rules(app: Any, answers: Callable[[str], Any]) -> Any:
    """Flask and Quart declare alike."""
    app.add_url_rule(SECRET, "secret", answers(SAID_SECRET))
    app.add_url_rule(OTHER, "other", answers(SAID_OTHER))
    app.add_url_rule("/", "root", answers(SAID_ELSEWHERE))
    app.add_url_rule("/<path:rest>", "rest", answers(SAID_ELSEWHERE))
    return app


def _views(note: Note) -> Callable[[str], Any]:
    """Plain functions, for Flask and Bottle."""

    def answers(text: str) -> Any:
        def view(rest: str = "") -> str:
            note(text)
            return text

        return view

    return answers


def flask(note: Note) -> Any:
    """As it comes."""
    from flask import Flask

    return _add_rules(Flask("flask_app"), _views(note))


def lenient_flask(note: Note) -> Any:
    """With slashes at the end taken for nothing."""
    from flask import Flask

    app = Flask("lenient_flask_app")
    app.url_map.strict_slashes = False
    return _add_rules(app, _views(note))


def quart(note: Note) -> Any:
    """As it comes. Plain functions would run in threads."""
    from quart import Quart

    def answers(text: str) -> Any:
        async def view(rest: str = "") -> str:
            note(text)
            return text

        return view

    return _add_rules(Quart("quart_app"), answers)


class _Said:
    """A resource of Falcon's."""

    def __init__(self, note: Note, text: str) -> None:
        self.note, self.text = note, text

    def on_get(self, request: Any, response: Any) -> None:
        """WSGI."""
        self.note(self.text)
        response.text = self.text

    def sink(self, request: Any, response: Any, **_: Any) -> None:
        """What no route takes."""
        self.on_get(request, response)


class _SaidLater(_Said):
    async def on_get(self, request: Any, response: Any) -> None:  # type: ignore[override]
        """ASGI."""
        self.note(self.text)
        response.text = self.text

    async def sink(self, request: Any, response: Any, **_: Any) -> None:  # type: ignore[override]
        """What no route takes."""
        await self.on_get(request, response)


def _falcon(app: Any, note: Note, said: type[_Said]) -> Any:
    app.add_route(SECRET, said(note, SAID_SECRET))
    app.add_route(OTHER, said(note, SAID_OTHER))
    app.add_sink(said(note, SAID_ELSEWHERE).sink, "/")
    return app


def falcon(note: Note) -> Any:
    """WSGI."""
    from falcon import App

    return _falcon(App(), note, _Said)


def lenient_falcon(note: Note) -> Any:
    """WSGI, with slashes at the end taken for nothing."""
    from falcon import App

    app = App()
    app.req_options.strip_url_path_trailing_slash = True
    return _falcon(app, note, _Said)


def falcon_asgi(note: Note) -> Any:
    """ASGI."""
    from falcon.asgi import App

    return _falcon(App(), note, _SaidLater)


def lenient_falcon_asgi(note: Note) -> Any:
    """ASGI, with slashes at the end taken for nothing."""
    from falcon.asgi import App

    app = App()
    app.req_options.strip_url_path_trailing_slash = True
    return _falcon(app, note, _SaidLater)


def bottle(note: Note) -> Any:
    """As it comes."""
    from bottle import Bottle

    app, answers = Bottle(), _views(note)
    app.route(SECRET, callback=answers(SAID_SECRET))
    app.route(OTHER, callback=answers(SAID_OTHER))
    app.route("/", callback=answers(SAID_ELSEWHERE))
    app.route("/<rest:path>", callback=answers(SAID_ELSEWHERE))
    return app


class _Routes:
    """What Django takes for a module of routes."""

    def __init__(self, *routes: Any) -> None:
        self.urlpatterns = routes


def configure_django() -> None:
    """Settings are one per process, for whichever test comes first."""
    import django
    from django.conf import settings

    if not settings.configured:
        settings.configure(ALLOWED_HOSTS=["*"], MIDDLEWARE=[], LOGGING_CONFIG=None, ROOT_URLCONF=_Routes())
        django.setup()


def _django(base: type[Any], note: Note, *, later: bool) -> Any:
    """Routes are each application's own."""
    from django.http import HttpResponse
    from django.urls import path, re_path

    configure_django()

    def answers(text: str) -> Any:
        def view(request: Any) -> Any:
            note(text)
            return HttpResponse(text)

        async def async_view(request: Any) -> Any:
            return view(request)

        return async_view if later else view

    routes = _Routes(
        path(SECRET[1:], answers(SAID_SECRET)),
        path(OTHER[1:], answers(SAID_OTHER)),
        re_path("", answers(SAID_ELSEWHERE)),
    )

    class Handler(base):  # type: ignore[misc]
        def resolve_request(self, request: Any) -> Any:
            request.urlconf = routes
            return super().resolve_request(request)

    return Handler()


def django_wsgi(note: Note) -> Any:
    """WSGI."""
    from django.core.handlers.wsgi import WSGIHandler

    return _django(WSGIHandler, note, later=False)


def django_asgi(note: Note) -> Any:
    """ASGI."""
    from django.core.handlers.asgi import ASGIHandler

    return _django(ASGIHandler, note, later=True)


def starlette(note: Note) -> Any:
    """As it comes."""
    from starlette.applications import Starlette
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    def answers(text: str) -> Any:
        async def view(request: Any) -> Any:
            note(text)
            return PlainTextResponse(text)

        return view

    return Starlette(
        routes=[
            Route(SECRET, answers(SAID_SECRET)),
            Route(OTHER, answers(SAID_OTHER)),
            Route("/{rest:path}", answers(SAID_ELSEWHERE)),
        ]
    )


def fastapi(note: Note) -> Any:
    """As it comes."""
    from fastapi import FastAPI

    app = FastAPI(openapi_url=None)

    def answers(text: str) -> Any:
        async def view() -> str:
            note(text)
            return text

        return view

    app.get(SECRET)(answers(SAID_SECRET))
    app.get(OTHER)(answers(SAID_OTHER))
    app.get("/{rest:path}")(answers(SAID_ELSEWHERE))
    return app


def litestar(note: Note) -> Any:
    """As it comes."""
    from litestar import Litestar, get

    def answers(text: str) -> Any:
        async def view() -> str:
            note(text)
            return text

        return view

    routes = [
        get(SECRET)(answers(SAID_SECRET)),
        get(OTHER)(answers(SAID_OTHER)),
        get(["/", "/{rest:path}"])(answers(SAID_ELSEWHERE)),
    ]
    return Litestar(routes, openapi_config=None, logging_config=None)


WSGI: Final[Mapping[str, Callable[[Note], Any]]] = MappingProxyType({
    "flask": flask,
    "flask, lenient": lenient_flask,
    "falcon": falcon,
    "falcon, lenient": lenient_falcon,
    "bottle": bottle,
    "django": django_wsgi,
})  # fmt: skip
ASGI: Final[Mapping[str, Callable[[Note], Any]]] = MappingProxyType({
    "quart": quart,
    "falcon asgi": falcon_asgi,
    "falcon asgi, lenient": lenient_falcon_asgi,
    "django asgi": django_asgi,
    "starlette": starlette,
    "fastapi": fastapi,
    "litestar": litestar,
})  # fmt: skip
