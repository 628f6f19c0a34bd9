"""The pure ASGI middleware: HTTP and WebSocket are judged, lifespan passes, everything else is refused.

It reads the request as the server handed it over, asks the enforcer, applies the decision's edits, and nothing more.
"""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import quote, unquote

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..attributes import AuthContext, HttpRequest
from ..decision import Edits
from ._current import CURRENT
from ._enforcer import Enforcer
from ._log import log_refusal
from ._render import Response, render
from ._transport import TRANSPORT_KEY, Transport

__all__ = ["MeshMiddleware"]

_JUDGED: Final = frozenset({"http", "websocket"})
_HEADS: Final = frozenset({"http.response.start", "websocket.accept", "websocket.http.response.start"})
_SECURE: Final = {"http": "https", "websocket": "wss"}
_PLAIN: Final = {"http": "http", "websocket": "ws"}
# What the application's URL decoder leaves alone; everything else is written percent-encoded.
_PATH_SAFE: Final = "/:@!$&'()*+,;=-._~"


class MeshMiddleware:
    """Wraps an ASGI 3 application.

    Args:
        app: the application.
        mesh: who judges: a :class:`meshsec.Mesh`.

    The application finds an :class:`meshsec.attributes.AuthContext` in ``scope["meshsec"]``.
    """

    def __init__(self, app: ASGIApp, mesh: Enforcer) -> None:
        self.app = app
        self.mesh = mesh

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind == "lifespan":
            await self.app(scope, receive, send)
            return
        if kind not in _JUDGED:
            raise RuntimeError(f"meshsec does not know ASGI scope type {kind!r} and lets nothing unknown pass")
        # The transport is ours; the application must not take it for an identity.
        transport = scope.get("state", {}).pop(TRANSPORT_KEY, None) or _of_extension(scope)
        connection = self.mesh.connection(transport)
        request = _read(scope, tls=connection.tls)
        context = await self.mesh.judge_async(connection, request)
        if context.decision.allowed:
            edited = _edited(scope, context, request, transport)
            before = CURRENT.set(context)
            try:
                await self.app(edited, receive, _adding(send, context.decision.edits))
            finally:
                CURRENT.reset(before)
            return
        log_refusal(context, connection, request)
        content_type = next((value for name, value in request.headers if name == "content-type"), "")
        accept = ",".join(value for name, value in request.headers if name == "accept")
        accepted = accept if self.mesh.config.problem_details else None
        response = render(context.decision, method=request.method, content_type=content_type, accept=accepted)
        if kind == "websocket":
            await _refuse_websocket(scope, receive, send, response)
        else:
            await _refuse_http(send, response)


def _of_extension(scope: Scope) -> Transport | None:
    """What the ASGI TLS extension says, where a server fills it; an error in it means that nothing was verified."""
    extension = (scope.get("extensions") or {}).get("tls")
    if extension is None:
        return None
    chain = () if extension.get("client_cert_error") else extension.get("client_cert_chain") or ()
    return Transport.of_certificates(chain)


def _read(scope: Scope, *, tls: bool | None) -> HttpRequest:
    kind = scope["type"]
    headers = tuple([(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]])
    scheme = scope.get("scheme", "") if tls is None else (_SECURE[kind] if tls else _PLAIN[kind])
    mount = scope.get("root_path", "")
    # The Host line is among the headers; servers put :authority there, too.
    return HttpRequest(
        scope.get("method", "GET"),
        _target(scope),
        None,
        headers,
        scheme or _PLAIN[kind],
        False,  # noqa: FBT003 - repeated lines are not joined; by position, which is quicker
        _latin1(mount) if mount else "",
    )


def _target(scope: Scope) -> str:
    """The raw request target; where an outer layer rewrote the path, the rewritten one is what will be routed."""
    path = scope["path"]
    raw = scope.get("raw_path")
    text = raw.decode("latin-1") if raw else ""
    if not raw or unquote(text) != path:
        text = quote(path, safe=_PATH_SAFE)
    query = scope.get("query_string", b"").decode("latin-1")
    return f"{text}?{query}" if query else text


def _latin1(text: str) -> str:
    """Decoded ASGI text is UTF-8 (surrogates stand for bytes that are not); the core reads bytes as latin-1."""
    return text.encode("utf-8", "surrogateescape").decode("latin-1")


def _edited(scope: Scope, context: AuthContext, request: HttpRequest, transport: Transport | None) -> Scope:
    edits = context.decision.edits
    changed: dict[str, Any] = {**scope, "meshsec": context, "scheme": request.scheme}
    if transport is not None and transport.extension is not None:
        # A server that fills it by itself one day knows better.
        changed["extensions"] = {"tls": transport.extension, **(scope.get("extensions") or {})}
    if edits.target is not None:
        path, _, query = edits.target.partition("?")
        changed["path"] = unquote(path)
        changed["raw_path"] = path.encode("latin-1")
        changed["query_string"] = query.encode("latin-1")
    elif scope.get("raw_path"):
        # Also one that an outer layer left behind: what was judged is all that the application may see.
        changed["raw_path"] = request.target.partition("?")[0].encode("latin-1")
    if edits.remove_headers or edits.add_headers:
        changed["headers"] = _edited_headers(scope["headers"], edits)
    return changed


def _edited_headers(headers: Any, edits: Edits) -> list[tuple[bytes, bytes]]:
    gone = {name.encode("latin-1") for name in edits.remove_headers}
    kept = [(name, value) for name, value in headers if name.lower() not in gone]
    added = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in edits.add_headers]
    return kept + added


def _adding(send: Send, edits: Edits) -> Send:
    """Add to the head of the application's response what the decision says, if it says anything."""
    if not edits.response_headers:
        return send
    lines = _wire(edits.response_headers)

    async def send_more(message: Message) -> None:
        if message["type"] in _HEADS:
            message = {**message, "headers": [*message.get("headers", ()), *lines]}
        await send(message)

    return send_more


def _wire(headers: tuple[tuple[str, str], ...]) -> list[tuple[bytes, bytes]]:
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]


async def _refuse_http(send: Send, response: Response) -> None:
    await send({"type": "http.response.start", "status": response.status, "headers": _wire(response.headers)})
    await send({"type": "http.response.body", "body": response.body})


async def _refuse_websocket(scope: Scope, receive: Receive, send: Send, response: Response) -> None:
    """Before the handshake is accepted: with our own answer where the server can, with its 403 elsewhere."""
    await receive()  # websocket.connect; a server may refuse messages that come before it was read
    if "websocket.http.response" not in (scope.get("extensions") or {}):
        await send({"type": "websocket.close", "code": 1008})
        return
    start = {"type": "websocket.http.response.start", "status": response.status, "headers": _wire(response.headers)}
    await send(start)
    await send({"type": "websocket.http.response.body", "body": response.body})
