"""Decisions that are remembered, through both middlewares: the application cannot tell."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from meshsec import Connection, Mesh, MeshConfig, Workload
from meshsec.middleware import Transport
from meshsec.policy import DecisionMemo, Remembered
from meshsec.resources import parse
from meshsec.sources import PolicyVersion
from middleware.remembering import CLOSED, ISSUER, POLICIES, scope_of

TOKEN = ISSUER.token()
# A caller is known when one came twice, a request line when it came twice since.
WARM = 4
LINES = [("Host", "web.prod"), ("X-Token", TOKEN), ("X-Request-Id", "{}"), ("x-user", "root"), ("accept", "*/*")]


@pytest.fixture
def mesh() -> Iterator[Mesh]:
    """A mesh with a policy that removes, adds and normalizes."""
    with Mesh(workload=Workload(name="web"), resources=parse(POLICIES), config=MeshConfig()) as found:
        yield found


@pytest.fixture
def recalled(mesh: Mesh, monkeypatch: pytest.MonkeyPatch) -> list[Remembered]:
    """What the memo said, each time that it knew."""
    found: list[Remembered] = []
    real = DecisionMemo.recall

    def recall(self: DecisionMemo, *given: Any) -> Any:
        known = real(self, *given)
        found.extend([known] if isinstance(known, Remembered) else [])
        return known

    monkeypatch.setattr(DecisionMemo, "recall", recall)
    return found


def over_asgi(mesh: Mesh, number: int, **changes: Any) -> dict[str, Any] | int:
    """The scope that the application got, or the status."""
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(dict(scope))

    async def send(message: Any) -> None:
        seen.append(message.get("status"))

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    headers = [(name.encode(), value.format(number).encode()) for name, value in changes.pop("lines", LINES)]
    given = scope_of(headers, **{"state": {}, **changes})
    asyncio.run(mesh.asgi(app)(given, receive, send))
    return seen[0]


def over_wsgi(mesh: Mesh, number: int, **changes: Any) -> dict[str, Any] | int:
    """The environ that the application got, or the status."""
    seen: list[Any] = []

    def app(environ: Any, start_response: Any) -> list[bytes]:
        seen.append(dict(environ))
        return []

    lines = {f"HTTP_{name.upper().replace('-', '_')}": value.format(number) for name, value in LINES}
    environ = {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/x/../a",
        "QUERY_STRING": "q=1",
        "RAW_URI": "/x/../a?q=1",
        "wsgi.url_scheme": "https",
        **lines,
        **changes,
    }
    given = {key: value for key, value in environ.items() if value is not None}
    mesh.wsgi(app)(given, lambda status, *_: seen.append(int(status[:3])))
    return seen[0]


@pytest.mark.parametrize("call", [over_asgi, over_wsgi])
def test_the_application_gets_the_same_every_time(call: Any, mesh: Mesh, recalled: list[Remembered]) -> None:
    """Headers taken and added, the normalized target, the scheme; and each time its own request's other headers."""
    found = [call(mesh, number) for number in range(WARM + 3)]
    assert len(recalled) == 3
    for number, seen in enumerate(found):
        expected = {**found[0], **{key: seen[key] for key in ("headers", "HTTP_X_REQUEST_ID") if key in seen}}
        assert seen == expected
        assert seen.get("HTTP_X_REQUEST_ID", str(number)) == str(number)
        assert seen["meshsec"].principal.subject == "test-user"
        assert seen["meshsec"].token == TOKEN
        assert "/a" in seen["meshsec"].decision.explain()
    if call is over_asgi:
        assert found[-1]["headers"] == [
            (b"Host", b"web.prod"),
            (b"X-Request-Id", b"6"),
            (b"accept", b"*/*"),
            (b"x-user", b"test-user"),
        ]
        assert (found[-1]["path"], found[-1]["raw_path"], found[-1]["query_string"]) == ("/a", b"/a", b"q=1")
    else:
        assert (found[-1]["PATH_INFO"], found[-1]["RAW_URI"]) == ("/a", "/a?q=1")
        assert "HTTP_X_TOKEN" not in found[-1]
        assert found[-1]["HTTP_X_USER"] == "test-user"


@pytest.mark.parametrize("call", [over_asgi, over_wsgi])
def test_what_does_not_count_may_not_be_malformed(call: Any, mesh: Mesh, recalled: list[Remembered]) -> None:
    """A control character in a header that nobody reads, behind a request that is remembered."""
    changes: dict[str, Any] = {"HTTP_X_REQUEST_ID": "\x01"}
    if call is over_asgi:
        changes = {"lines": [(name, "\x01" if name == "X-Request-Id" else value) for name, value in LINES]}
    assert [call(mesh, number) == 400 for number in range(WARM + 2)] == [False] * (WARM + 2)
    assert call(mesh, WARM + 2, **changes) == 400
    assert len(recalled) == 2


def test_two_credentials_that_were_joined_are_refused_though_no_rule_reads_them(
    mesh: Mesh, recalled: list[Remembered]
) -> None:
    """Behind a request with one that is remembered: tokens stand elsewhere here, the application may read these."""
    for number in range(WARM + 2):
        assert over_wsgi(mesh, number, HTTP_AUTHORIZATION="Basic eDp5") != 400
    assert over_wsgi(mesh, WARM + 2, HTTP_AUTHORIZATION="Basic eDp5, Basic eDp6") == 400
    assert len(recalled) == 2


@pytest.mark.parametrize("call", [over_asgi, over_wsgi])
def test_a_newer_policy_knows_nothing(call: Any, mesh: Mesh, recalled: list[Remembered]) -> None:
    """The very next request is judged by it."""
    for number in range(WARM + 2):
        assert call(mesh, number) != 403
    current = mesh._policies.current
    mesh._policies.current = PolicyVersion.compile(parse(CLOSED), current.workload, current.config)
    assert call(mesh, WARM + 2) == 403
    assert len(recalled) == 2


NO_RAW = {"RAW_URI": None}
BY_WSGI: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {"REQUEST_METHOD": "POST"}),
    ({}, {"wsgi.url_scheme": "http"}),
    ({}, {"HTTP_HOST": "other.prod"}),
    ({}, {"RAW_URI": "/a"}),
    ({}, {"REQUEST_URI": "/x/../a"}),
    (NO_RAW, {**NO_RAW, "REQUEST_URI": "/x/../a?q=1"}),
    (NO_RAW, {**NO_RAW, "PATH_INFO": "/a"}),
    (NO_RAW, {**NO_RAW, "PATH_INFO": "/b"}),
    (NO_RAW, {**NO_RAW, "QUERY_STRING": "q=2"}),
    (NO_RAW, {**NO_RAW, "QUERY_STRING": None}),
    (NO_RAW, {**NO_RAW, "SCRIPT_NAME": "/x/..", "PATH_INFO": "/a"}),
    (NO_RAW, {**NO_RAW, "SCRIPT_NAME": "/admin"}),
]
BY_ASGI: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {"method": "POST"}),
    ({}, {"scheme": "http"}),
    ({}, {"raw_path": b"/a"}),
    ({}, {"path": "/b", "raw_path": b"/b"}),
    ({}, {"query_string": b"q=2"}),
    ({}, {"root_path": "/x"}),
    ({"raw_path": None}, {"raw_path": None, "path": "/b"}),
    ({"root_path": None}, {"root_path": "/a"}),
    ({}, {"lines": [("Host", "other.prod"), *LINES[1:]]}),
    ({}, {"lines": [*LINES[:1], ("X-Token", ISSUER.token(sub="bob")), *LINES[2:]]}),
    ({}, {"lines": [*LINES, ("x-more", "")]}),
    ({}, {"lines": LINES[::-1]}),
]


@pytest.mark.parametrize(
    ("call", "usual", "other"),
    [*((over_wsgi, *pair) for pair in BY_WSGI), *((over_asgi, *pair) for pair in BY_ASGI)],
)
def test_every_part_of_a_request_tells_it_apart(
    call: Any, usual: dict[str, Any], other: dict[str, Any], mesh: Mesh, recalled: list[Remembered]
) -> None:
    """One that differs in it from a remembered one is judged anew, though it be allowed, too."""
    for number in range(WARM + 2):
        assert isinstance(call(mesh, number, **usual), dict)
    assert len(recalled) == 2
    call(mesh, WARM + 2, **other)
    assert len(recalled) == 2
    call(mesh, WARM + 3, **usual)
    assert len(recalled) == 3


def test_a_websocket_and_a_request_are_not_one(mesh: Mesh, recalled: list[Remembered]) -> None:
    """They differ in their scheme, too."""
    for number in range(WARM + 2):
        assert over_asgi(mesh, number)["scheme"] == "https"  # type: ignore[index]
        assert over_asgi(mesh, number, type="websocket", scheme="wss")["scheme"] == "wss"  # type: ignore[index]
    assert len(recalled) == 6


@pytest.mark.parametrize("without", ["method", "raw_path", "root_path", "scheme", "state"])
def test_a_scope_need_not_hold_everything(without: str, mesh: Mesh, recalled: list[Remembered]) -> None:
    """What ASGI leaves open may be missing, and is remembered all the same."""
    found = [over_asgi(mesh, number, **{without: None}) for number in range(WARM + 2)]
    assert all(isinstance(seen, dict) and seen["path"] == "/a" for seen in found)
    assert len(recalled) == 2


def test_headers_that_are_no_bytes_are_not_looked_up(mesh: Mesh, recalled: list[Remembered]) -> None:
    """A server that breaks the rules gets what judging says, and no more."""
    connection = Connection()
    assert mesh.recall(connection, ("http",), (b"host",), ("text",)) is None
    assert mesh.recall(connection, ("http",), ("host",), ("\u20ac",)) is None
    assert mesh.recall(connection, ([],), (b"host",), (b"web",)) is None  # type: ignore[arg-type]


def test_what_is_remembered_keeps_the_background_thread_going(mesh: Mesh, recalled: list[Remembered]) -> None:
    """In a worker that was forked after the memo was filled nothing may ever be judged, and keys must stay fresh."""
    for number in range(WARM + 1):
        over_asgi(mesh, number)
    mesh._after_fork()
    assert not mesh._running
    over_asgi(mesh, WARM + 1)
    assert mesh._running
    assert len(recalled) == 2


def test_facts_of_a_connection_are_found_out_once(mesh: Mesh) -> None:
    """The same object, as long as nothing changes; another mesh finds out for itself."""
    transport = Transport(source_ip="10.0.0.7", destination_port=80)
    first = mesh.connection(transport)
    assert mesh.connection(transport) is first
    with Mesh(workload=Workload(name="b"), config=MeshConfig(allow_no_policy=True)) as other:
        assert other.connection(transport) == first
        assert other.connection(transport) is not first
