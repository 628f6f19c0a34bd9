"""What the ASGI middleware reads out of a scope and writes into one, seen from its mesh's side."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from meshsec import AuthContext, Connection, Decision, HttpRequest, Outcome, Reason
from meshsec.decision import Edits
from meshsec.middleware import current_context
from meshsec.middleware.asgi import MeshMiddleware
from middleware.watching import Watching


class WatchingSoon(Watching):
    """The same for an event loop, which must not wait."""

    def judge_soon(self, connection: Connection, request: HttpRequest, wanted: Any = None) -> AuthContext:
        return super().judge(connection, request, wanted)

    def judge(self, *_: Any) -> Any:
        raise AssertionError("this is an event loop")


def call(mesh: Watching, **changes: Any) -> tuple[list[Any], dict[str, Any]]:
    """What the server is told, and the scope that the application gets; None takes a key away."""
    told: list[Any] = []
    seen: dict[str, Any] = {}
    given = {"type": "http", "method": "GET", "scheme": "http", "path": "/a", "query_string": b"", "headers": []}
    scope = {name: value for name, value in {**given, **changes}.items() if value is not None}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.update(scope)
        assert current_context() is scope["meshsec"]
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x-a", b"1")]})
        await send({"type": "http.response.body", "body": b"x"})

    async def send(message: Any) -> None:
        told.append(message)

    async def serve() -> None:
        await MeshMiddleware(app, mesh)(scope, None, send)  # type: ignore[arg-type]
        assert current_context() is None

    asyncio.run(serve())
    return told, seen


def read(**changes: Any) -> HttpRequest:
    """The request that is judged."""
    mesh = WatchingSoon()
    call(mesh, **changes)
    assert mesh.request is not None
    return mesh.request


@pytest.mark.parametrize(
    ("changes", "target"),
    [
        ({}, "/a"),
        ({"query_string": b"q=1"}, "/a?q=1"),
        ({"raw_path": b""}, "/a"),
        ({"raw_path": b"/a"}, "/a"),
        ({"raw_path": b"/%61"}, "/%61"),
        ({"raw_path": b"/%61", "query_string": b"q"}, "/%61?q"),
        ({"raw_path": b"/b"}, "/a"),
        ({"raw_path": b"/%62"}, "/a"),
        ({"raw_path": b"/a/"}, "/a"),
        ({"path": "/%61", "raw_path": b"/%2561"}, "/%2561"),
        ({"path": "/%61", "raw_path": b"/%61"}, "/%2561"),
        ({"path": "/\u00e9?#"}, "/%C3%A9%3F%23"),
        ({"path": "/\u00e9", "raw_path": b"/%c3%a9"}, "/%c3%a9"),
    ],
)
def test_the_target(changes: dict[str, Any], target: str) -> None:
    """The raw one where it is the path that will be routed; else the path, encoded."""
    assert read(**changes).target == target


@pytest.mark.parametrize(
    ("tls", "kind", "told", "scheme"),
    [
        (None, "http", "http", "http"),
        (None, "http", "https", "https"),
        (None, "http", None, "http"),
        (True, "http", "http", "https"),
        (False, "http", "https", "http"),
        (None, "websocket", "wss", "wss"),
        (None, "websocket", None, "ws"),
        (True, "websocket", "ws", "wss"),
        (False, "websocket", "wss", "ws"),
    ],
)
def test_the_scheme_is_the_connections(tls: bool | None, kind: str, told: str | None, scheme: str) -> None:
    """Where that knows; and the application is told the same."""
    mesh = WatchingSoon(tls=tls)
    _, seen = call(mesh, type=kind, scheme=told)
    assert mesh.request is not None
    assert mesh.request.scheme == seen["scheme"] == scheme


def test_a_decisions_headers_go_into_the_head_of_the_response() -> None:
    """And nowhere else; without any, the response is the application's own."""
    edits = Edits(response_headers=(("x-b", "2"),))
    (head, body), _ = call(WatchingSoon(Decision(Outcome.ALLOW, Reason.NO_ALLOW_POLICY, edits=edits)))
    assert head["headers"] == [(b"x-a", b"1"), (b"x-b", b"2")]
    assert body == {"type": "http.response.body", "body": b"x"}
    (head, body), _ = call(WatchingSoon())
    assert head["headers"] == [(b"x-a", b"1")]
    assert body["body"] == b"x"


def test_a_refusal_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """One line, and the application is not called."""
    with caplog.at_level("INFO", logger="meshsec.access"):
        told, seen = call(WatchingSoon(Decision(Outcome.DENY, Reason.DENY_RULE, "no", status=403)))
    assert (told[0]["status"], seen) == (403, {})
    assert len(caplog.records) == 1
