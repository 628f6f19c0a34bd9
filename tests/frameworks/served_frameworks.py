"""What real servers serve in these tests: one application behind each of the meshes of :mod:`frameworks.guarded`.

The request says in ``X-Mesh`` behind which; without it the application stands alone. ``told`` says what was decided,
in ``X-Decided``, whoever answers. Started by ``python -m uvicorn`` and ``python -m gunicorn``.
"""

from __future__ import annotations

import json
from typing import Any, Final

from frameworks.apps import ASGI, WSGI
from frameworks.guarded import guards, judges
from meshsec import Mesh
from meshsec.attributes import AuthContext, Connection, HttpRequest
from meshsec.middleware import Transport
from meshsec.middleware.asgi import MeshMiddleware as AsgiMiddleware
from meshsec.middleware.wsgi import MeshMiddleware as WsgiMiddleware

__all__ = ["asgi", "told_asgi", "told_wsgi", "wsgi"]


def _ignore(_: str) -> None:
    """The client reads in the answer which handler ran."""


_bare_wsgi: Final = WSGI["flask"](_ignore)
_bare_asgi: Final = ASGI["fastapi"](_ignore)
_guards: Final = guards()
_wsgi: Final = {key: mesh.wsgi(_bare_wsgi) for key, mesh in _guards.items()}
_asgi: Final = {key: mesh.asgi(_bare_asgi) for key, mesh in _guards.items()}


def wsgi(environ: dict[str, Any], start_response: Any) -> Any:
    """Flask."""
    return _wsgi.get(environ.get("HTTP_X_MESH", ""), _bare_wsgi)(environ, start_response)


async def asgi(scope: Any, receive: Any, send: Any) -> None:
    """FastAPI."""
    key = dict(scope.get("headers", ())).get(b"x-mesh", b"").decode()
    await _asgi.get(key, _bare_asgi)(scope, receive, send)


class _Telling:
    """A mesh that notes what it decided. Requests come one after the other."""

    def __init__(self, mesh: Mesh) -> None:
        self.mesh, self.config, self.decided = mesh, mesh.config, ""

    def connection(self, transport: Transport | None) -> Connection:
        return self.mesh.connection(transport)

    def recall(self, *_: Any) -> None:
        """Every request is judged, to be noted."""

    def judge(self, connection: Connection, request: HttpRequest, wanted: Any = None) -> AuthContext:
        return self._noted(self.mesh.judge(connection, request))

    async def judge_soon(self, connection: Connection, request: HttpRequest, wanted: Any = None) -> AuthContext:
        return self._noted(await self.mesh.judge_async(connection, request))

    def _noted(self, context: AuthContext) -> AuthContext:
        decision = context.decision
        self.decided = json.dumps([decision.allowed, decision.reason, decision.policy, decision.rule])
        return context


_telling: Final = {key: _Telling(mesh) for key, mesh in judges().items()}


def told_wsgi(environ: dict[str, Any], start_response: Any) -> Any:
    """Answers with the path that the application is to route."""
    telling = _telling[environ["HTTP_X_MESH"]]

    def app(environ: dict[str, Any], start: Any) -> list[bytes]:
        body = f"{environ['PATH_INFO']}?{environ['QUERY_STRING']}".encode("latin-1")
        start("200 OK", [("Content-Length", str(len(body)))])
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]

    def start_telling(status: str, headers: list[tuple[str, str]], *error: Any) -> Any:
        return start_response(status, [*headers, ("X-Decided", telling.decided)])

    return WsgiMiddleware(app, telling)(environ, start_telling)


async def told_asgi(scope: Any, receive: Any, send: Any) -> None:
    """The same over ASGI."""
    if scope["type"] == "lifespan":
        return
    telling = _telling[dict(scope["headers"])[b"x-mesh"].decode()]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        body = scope["path"].encode("utf-8", "surrogateescape") + b"?" + scope["query_string"]
        length = (b"content-length", str(len(body)).encode())
        await send({"type": "http.response.start", "status": 200, "headers": [length]})
        await send({"type": "http.response.body", "body": body})

    async def send_telling(message: Any) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], (b"x-decided", telling.decided.encode())]
        await send(message)

    await AsgiMiddleware(app, telling)(scope, receive, send_telling)
