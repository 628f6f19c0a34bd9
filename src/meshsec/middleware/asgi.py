"""The pure ASGI middleware: HTTP and WebSocket are judged, lifespan passes, everything else is refused.

It reads the request as the server handed it over, asks the enforcer, applies the decision's edits, and nothing more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import compress
from operator import itemgetter
from typing import Any, Final, Self
from urllib.parse import quote, unquote

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .._values import quick
from ..attributes import AuthContext, Connection, HttpRequest
from ..decision import Edits
from ..policy import Remembered, RequestLine, Wanted
from ._current import CURRENT
from ._enforcer import Enforcer
from ._log import log_refusal
from ._render import Response, render
from ._transport import TRANSPORT_KEY, Transport

__all__ = ["MeshMiddleware"]

_JUDGED: Final = frozenset({"http", "websocket"})
_HEADS: Final = frozenset({"http.response.start", "websocket.accept", "websocket.http.response.start"})
# All that a request is read from besides its headers.
_LINE: Final = ("type", "method", "path", "raw_path", "query_string", "root_path", "scheme")
_line: Final = itemgetter(*_LINE)
_SECURE: Final = {"http": "https", "websocket": "wss"}
_PLAIN: Final = {"http": "http", "websocket": "ws"}
# What the application's URL decoder leaves alone; everything else is written percent-encoded.
_PATH_SAFE: Final = "/:@!$&'()*+,;=-._~"
_USUAL_NAMES: Final = 1024  # bytes of all header names of a request; longer ones are not remembered

_HeaderNames = tuple[bytes, ...]
_Lines = list[tuple[bytes, bytes]]


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
        state = scope.get("state")
        # The transport is ours; the application must not take it for an identity.
        transport = state.pop(TRANSPORT_KEY, None) if state else None
        if (
            transport is not None
            and isinstance(last := transport.last, _Last)
            and last.headers == scope["headers"]
            and last.line == _line_of(scope)
            and last.known is transport.found
            and self.mesh.holds(last.found, last.known)
        ):
            context, prepared = last.changed["meshsec"], last.found.prepared
            changed = {**scope, **last.changed, "headers": [*last.passed]}
        else:
            passed = await self._pass(transport, scope, receive, send)
            if passed is None:
                return
            context, prepared, changed = passed
        if transport is not None and transport.extension is not None:
            # A server that fills it by itself one day knows better.
            others = scope.get("extensions")
            changed["extensions"] = {"tls": transport.extension, **others} if others else {"tls": transport.extension}
        before = CURRENT.set(context)
        try:
            await self.app(changed, receive, prepared.adding(send) if prepared.head else send)
        finally:
            CURRENT.reset(before)

    async def _pass(
        self, transport: Transport | None, scope: Scope, receive: Receive, send: Send
    ) -> tuple[AuthContext, _Prepared, dict[str, Any]] | None:
        """Who calls, what changes for the application, and the scope that it gets; None: it is not asked."""
        kind = scope["type"]
        if kind not in _JUDGED:
            if kind != "lifespan":
                raise RuntimeError(f"meshsec does not know ASGI scope type {kind!r} and lets nothing unknown pass")
            await self.app(scope, receive, send)
            return None
        if transport is None and "extensions" in scope:
            transport = _of_extension(scope)
        connection = self.mesh.connection(transport)
        names, values = zip(*scope["headers"]) if scope["headers"] else ((), ())  # noqa: B905 - pairs
        found = self.mesh.recall(connection, _line_of(scope), names, values)
        if isinstance(found, Remembered) and found.prepared is not None:
            context, prepared = found.told(values), found.prepared
            changed = prepared.applied(scope, context)
            if transport is not None and transport.found is not None:
                self._note(transport, scope, found, changed)
        else:
            if transport is not None and transport.last is not None:
                transport.note_last(None)  # it may hold a token, and is the last request no more
            context, prepared = await self._judge(connection, scope, (names, values), found)
            if prepared is None:
                await self._refuse(context, connection, (scope, receive, send))
                return None
            changed = prepared.applied(scope, context)
        return context, prepared, changed

    def _note(self, transport: Transport, scope: Scope, found: Remembered, passed: Scope) -> None:
        """Keep what came of a connection's request, if the one before was the same."""
        last, headers = transport.last, scope["headers"]
        if not (isinstance(last, _Once) and last.headers == headers):
            transport.note_last(_Once(headers))
        elif all(type(line) is tuple and {*map(type, line)} == {bytes} for line in headers):
            # Nothing of it changes under our hands, whoever else has it.
            changed = {**found.prepared.changed, "meshsec": passed["meshsec"]}
            copies = [*headers], [*passed["headers"]]
            transport.note_last(_Last(transport.found, *copies, _line_of(scope), found, changed))

    async def _judge(
        self,
        connection: Connection,
        scope: Scope,
        lines: tuple[_HeaderNames, Sequence[bytes]],
        found: Remembered | Wanted | None,
    ) -> tuple[AuthContext, _Prepared | None]:
        """Who calls; and what changes for the application, if they may."""
        names, values = lines
        request = _read(scope, tls=connection.tls)
        if isinstance(found, Wanted) and found.caller is not None:
            found = self.mesh.judge_line(request, found) or found
        if isinstance(found, Remembered):
            context = found.told(values)
        else:
            judged = self.mesh.judge_soon(connection, request.with_headers(_lines(names, values)), found)
            context = judged if isinstance(judged, AuthContext) else await judged
        if not context.decision.allowed:
            return context, None
        if isinstance(found, Remembered):
            prepared = found.prepared = _Prepared.again(found, scope, request, names)
        else:
            prepared = _Prepared.of(context.decision.edits, scope, request, names)
        return context, prepared

    async def _refuse(self, context: AuthContext, connection: Connection, call: tuple[Scope, Receive, Send]) -> None:
        scope, receive, send = call
        names, values = zip(*scope["headers"]) if scope["headers"] else ((), ())  # noqa: B905 - pairs
        request = _read(scope, tls=connection.tls).with_headers(_lines(names, values))
        log_refusal(context, connection, request)
        content_type = next((value for name, value in request.headers if name == "content-type"), "")
        accept = ",".join(value for name, value in request.headers if name == "accept")
        accepted = accept if self.mesh.config.problem_details else None
        response = render(context.decision, method=request.method, content_type=content_type, accept=accepted)
        if scope["type"] == "websocket":
            await _refuse_websocket(scope, receive, send, response)
        else:
            await _refuse_http(send, response)


@dataclass(slots=True, eq=False, repr=False)
class _Once:
    """The headers of a connection's last request, which may be worth keeping if the next one has the same."""

    headers: _Lines


@quick
@dataclass(frozen=True, slots=True, eq=False, repr=False)
class _Last:
    """The last request of a connection, and what the application got: often the next one is the same.

    It holds the token, where there is one, as the server itself does until the next request; the memo holds none.

    Attributes:
        known: what was found out about the connection.
        headers: of the request.
        passed: of what the application got.
        line: the rest of the request.
        found: what was decided.
        changed: keys of the scope.
    """

    known: object
    headers: _Lines
    passed: _Lines
    line: RequestLine
    found: Remembered
    changed: dict[str, Any]


@quick
@dataclass(frozen=True, slots=True)
class _Prepared:
    """What a decision changes for the application, ready for every request that it is remembered for.

    Attributes:
        changed: keys of the scope.
        kept: for each header line, whether it stays; None where all do.
        added: header lines for the request.
        head: header lines for the response.
    """

    changed: dict[str, Any]
    kept: tuple[bool, ...] | None
    added: _Lines
    head: _Lines

    @classmethod
    def of(cls, edits: Edits, scope: Scope, request: HttpRequest, names: _HeaderNames) -> Self:
        """From a request that was read from this scope."""
        kept = _kept(names, edits.remove_headers) if edits.remove_headers else None
        added = [(name.lower(), value) for name, value in _wire(edits.add_headers)]
        return cls(_changed(edits.target, scope, request), kept, added, _wire(edits.response_headers))

    @classmethod
    def again(cls, found: Remembered, scope: Scope, request: HttpRequest, names: _HeaderNames) -> Self:
        """The same; of two requests of one caller the headers are mostly prepared alike."""
        edits, standing = found.decision.edits, found.standing
        if standing is None or edits is not standing.edits:
            return cls.of(edits, scope, request, names)
        like: Self | None = standing.prepared
        if like is None:
            like = standing.prepared = cls.of(edits, scope, request, names)
        return cls(_changed(None, scope, request), like.kept, like.added, like.head)

    def applied(self, scope: Scope, context: AuthContext) -> dict[str, Any]:
        """The scope that the application gets."""
        changed = {**scope, **self.changed, "meshsec": context}
        if self.kept is not None or self.added:
            headers = scope["headers"]
            changed["headers"] = [*(headers if self.kept is None else compress(headers, self.kept)), *self.added]
        return changed

    def adding(self, send: Send) -> Send:
        """Add to the head of the application's response what the decision says."""

        async def send_more(message: Message) -> None:
            if message["type"] in _HEADS:
                message = {**message, "headers": [*message.get("headers", ()), *self.head]}
            await send(message)

        return send_more


def _changed(target: str | None, scope: Scope, request: HttpRequest) -> dict[str, Any]:
    """Keys of the scope; the target is another one where that is given."""
    if target is not None:
        path, _, query = target.partition("?")
        raw, query_string = path.encode("latin-1"), query.encode("latin-1")
        return {"scheme": request.scheme, "path": unquote(path), "raw_path": raw, "query_string": query_string}
    if scope.get("raw_path"):
        # Also one that an outer layer left behind: what was judged is all that the application may see.
        return {"scheme": request.scheme, "raw_path": request.target.partition("?")[0].encode("latin-1")}
    return {"scheme": request.scheme}


def _line_of(scope: Scope) -> RequestLine:
    try:
        line: RequestLine = _line(scope)
        return line
    except KeyError:  # some of it need not be there
        return tuple(map(scope.get, _LINE))


def _of_extension(scope: Scope) -> Transport | None:
    """What the ASGI TLS extension says, where a server fills it; an error in it means that nothing was verified."""
    extension = (scope.get("extensions") or {}).get("tls")
    if extension is None:
        return None
    chain = () if extension.get("client_cert_error") else extension.get("client_cert_chain") or ()
    return Transport.of_certificates(chain)


def _read(scope: Scope, *, tls: bool | None) -> HttpRequest:
    """All but the header lines."""
    kind = scope["type"]
    scheme = scope.get("scheme", "") if tls is None else (_SECURE[kind] if tls else _PLAIN[kind])
    mount = scope.get("root_path", "")
    # The Host line is among the headers; servers put :authority there, too.
    return HttpRequest(
        scope.get("method", "GET"),
        _target(scope),
        None,
        (),
        scheme or _PLAIN[kind],
        False,  # noqa: FBT003 - repeated lines are not joined; by position, which is quicker
        _latin1(mount) if mount else "",
    )


def _lines(names: _HeaderNames, values: Sequence[bytes]) -> Sequence[tuple[str, str]]:
    return tuple(zip(_decoded(names), [value.decode("latin-1") for value in values]))  # noqa: B905 - pairs


def _decoded(names: _HeaderNames) -> tuple[str, ...]:
    """Clients send the same names again and again, so most are remembered."""
    usual = len(b"".join(names)) <= _USUAL_NAMES
    return _decode(names) if usual else _decode.__wrapped__(names)


@lru_cache(1024)
def _decode(names: _HeaderNames) -> tuple[str, ...]:
    return tuple([name.decode("latin-1") for name in names])


def _kept(names: _HeaderNames, removed: tuple[str, ...]) -> tuple[bool, ...]:
    """For each header line, whether it stays."""
    usual = len(b"".join(names)) <= _USUAL_NAMES
    return _keep(names, removed) if usual else _keep.__wrapped__(names, removed)


@lru_cache(1024)
def _keep(names: _HeaderNames, removed: tuple[str, ...]) -> tuple[bool, ...]:
    gone = {name.encode("latin-1") for name in removed}
    return tuple([name.lower() not in gone for name in names])


def _target(scope: Scope) -> str:
    """The raw request target; where an outer layer rewrote the path, the rewritten one is what will be routed."""
    path = scope["path"]
    raw = scope.get("raw_path")
    text = raw.decode("latin-1") if raw else ""
    if not raw or (unquote(text) if "%" in text else text) != path:
        text = quote(path, safe=_PATH_SAFE)
    query = scope.get("query_string", b"").decode("latin-1")
    return f"{text}?{query}" if query else text


def _latin1(text: str) -> str:
    """Decoded ASGI text is UTF-8 (surrogates stand for bytes that are not); the core reads bytes as latin-1."""
    return text.encode("utf-8", "surrogateescape").decode("latin-1")


def _wire(headers: tuple[tuple[str, str], ...]) -> _Lines:
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers] if headers else []


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
