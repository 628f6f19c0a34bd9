"""A connection's request that is the same as its last one gets what that one got; any other is looked at anew."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest

from meshsec import AuthContext, Connection, Mesh, MeshConfig, Workload
from meshsec.middleware import TRANSPORT_KEY, Transport, current_context
from meshsec.policy import Remembered
from meshsec.resources import parse
from meshsec.sources import PolicyVersion
from middleware.remembering import CLOSED, ISSUER, POLICIES, Scope, scope_of

TOKEN: Final = ISSUER.token(nbf=1_000_000_000)
OTHER_TOKEN: Final = ISSUER.token(sub="bob")
OPEN: Final = CLOSED.replace("{}", "{rules: [{}]}")
# Caller and line are known after four requests; the next two show that they are the same, and what may not change.
OFTEN: Final = 6
HEADERS: Final = [
    (b"host", b"web.prod"),
    (b"x-token", TOKEN.encode()),
    (b"x-request-id", b"7"),
    (b"x-user", b"root"),
    (b"accept", b"*/*"),
]


def request(**changes: Any) -> Scope:
    """One of bytes and lists that nobody else has, over plaintext."""
    headers = [(bytes(bytearray(name)), bytes(bytearray(value))) for name, value in HEADERS]
    return scope_of(**{"headers": headers, "scheme": "http", **changes})


class Service:
    """A protected application that keeps what it gets, and counts what a mesh had to look up."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, policies: str = POLICIES) -> None:
        self.mesh = Mesh(workload=Workload(name="web"), resources=parse(policies), config=MeshConfig())
        self.transport = Transport(source_ip="10.0.0.7", destination_port=80)
        self.looked_up, self.adds = 0, True
        self.got: list[Scope] = []
        real = Mesh.recall

        def recall(mesh: Mesh, *given: Any) -> Any:
            self.looked_up += 1
            return real(mesh, *given)

        monkeypatch.setattr(Mesh, "recall", recall)

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        """Spoil all that it may."""
        context: AuthContext = scope["meshsec"]
        assert current_context() is context
        self.got.append({**scope, "headers": [*scope["headers"]]})
        if self.adds:
            scope["headers"].append((b"x-admin", b"yes"))
        await send({"type": "http.response.start", "status": 200, "headers": []})

    def ask(self, scope: Scope | None = None, *, transport: Transport | None = None) -> Scope | int:
        """What the application got; or the status that was sent in its place."""
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        async def receive() -> Any:
            raise AssertionError("nobody reads the body")

        given = request() if scope is None else scope
        given["state"] = {TRANSPORT_KEY: transport or self.transport}
        before = len(self.got)
        asyncio.run(self.mesh.asgi(self.app)(given, receive, send))
        return self.got[-1] if len(self.got) > before else int(sent[0]["status"])

    def is_looked_up(self, scope: Scope | None = None, **given: Any) -> bool:
        """Whether a request was not taken for the last one."""
        before = self.looked_up
        self.ask(scope, **given)
        return self.looked_up > before


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    """One whose connection had the same request often enough."""
    made = Service(monkeypatch)
    with made.mesh:
        for _ in range(OFTEN):
            assert isinstance(made.ask(), dict)
        assert made.looked_up == OFTEN
        yield made


def test_the_application_gets_what_it_got_before(service: Service) -> None:
    """Headers taken and added, the normalized target, the caller; nothing of what it did to them."""
    for _ in range(3):
        assert not service.is_looked_up()
    assert [{**seen, "state": None} for seen in service.got] == [{**service.got[0], "state": None}] * (OFTEN + 3)
    assert service.got[-1]["headers"] == [
        (b"host", b"web.prod"),
        (b"x-request-id", b"7"),
        (b"accept", b"*/*"),
        (b"x-user", b"test-user"),
    ]
    assert (service.got[-1]["path"], service.got[-1]["raw_path"]) == ("/a", b"/a")
    assert service.got[-1]["state"] == {}
    context = service.got[-1]["meshsec"]
    assert (context.token, context.principal.subject) == (TOKEN, "test-user")
    assert "/a" in context.decision.explain()


def _header(place: int, name: bytes, value: bytes) -> dict[str, Any]:
    return {"headers": [*HEADERS[:place], (name, value), *HEADERS[place + 1 :]]}


CHANGES: Final[dict[str, dict[str, Any]]] = {
    "method": {"method": "POST"},
    "path": {"path": "/ws", "raw_path": b"/ws"},
    "a path that may not": {"path": "/closed", "raw_path": b"/closed"},
    "only the raw path": {"raw_path": b"/a"},
    "no raw path": {"raw_path": None},
    "query": {"query_string": b"q=2"},
    "mount": {"root_path": "/x"},
    "scheme": {"scheme": "https"},
    "kind": {"type": "websocket", "method": None},
    "host": _header(0, b"host", b"web.prod2"),
    "token": _header(1, b"x-token", OTHER_TOKEN.encode()),
    "what no rule reads": _header(2, b"x-request-id", b"8"),
    "a control character": _header(2, b"x-request-id", b"\x01"),
    "name": _header(2, b"x-request-ie", b"7"),
    "case of a name": _header(0, b"Host", b"web.prod"),
    "one less": {"headers": HEADERS[:-1]},
    "one more": {"headers": [*HEADERS, (b"x-more", b"")]},
    "what the application added to the last": {"headers": [*HEADERS, (b"x-admin", b"yes")]},
    "order": {"headers": HEADERS[::-1]},
    "none": {"headers": []},
}


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_differs_is_looked_up(change: str, service: Service) -> None:
    """And the twin that does not differ still is not."""
    assert not service.is_looked_up()
    assert service.is_looked_up(request(**CHANGES[change]))


def test_what_the_application_adds_to_the_servers_own_list_is_not_the_last_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where nothing is taken or added, it gets the very list that the server made."""
    service = Service(monkeypatch, OPEN)
    with service.mesh:
        for number in range(OFTEN):
            service.adds = number == OFTEN - 1
            service.ask()
        assert not service.is_looked_up()
        assert service.is_looked_up(request(headers=[*HEADERS, (b"x-admin", b"yes")]))


def test_another_connection_is_another(service: Service) -> None:
    """Though all that is known of it be the same."""
    assert service.is_looked_up(transport=Transport(source_ip="10.0.0.7", destination_port=80))


def test_two_meshes_on_one_connection_are_two(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each says for itself what came of the last request."""
    other = Service(monkeypatch)
    with other.mesh:
        assert other.is_looked_up(transport=service.transport)
        assert service.is_looked_up()


def _newer_policy(service: Service) -> None:
    current = service.mesh._policies.current
    service.mesh._policies.current = PolicyVersion.compile(parse(CLOSED), current.workload, current.config)


ENDS: Final[dict[str, Callable[[Service, pytest.MonkeyPatch], Any]]] = {
    "the policy": lambda service, _: _newer_policy(service),
    "the keys": lambda service, patch: patch.setattr(service.mesh._keys, "snapshot", dict),
    "the token": lambda _, patch: patch.setattr("time.time", lambda: 1e11),
    "the clock, set back": lambda _, patch: patch.setattr("time.time", lambda: 0.0),
    "what is known of the connection": lambda service, _: service.transport.note(None),
    "the mesh, closed": lambda service, _: service.mesh.close(),
    "the process, forked": lambda service, _: service.mesh._after_fork(),
}


@pytest.mark.parametrize("end", ENDS)
def test_it_ends_with_all_that_it_was_made_of(end: str, service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """The very next request is looked up."""
    assert not service.is_looked_up()
    ENDS[end](service, monkeypatch)
    assert service.is_looked_up()


def test_it_ends_with_the_policy_though_another_connection_met_the_newer_one_first(service: Service) -> None:
    """By then that one's memo is of the same keys."""
    assert not service.is_looked_up()
    _newer_policy(service)
    assert service.ask(transport=Transport()) == 403
    assert service.ask() == 403


@pytest.mark.parametrize("turns", [OFTEN, OFTEN + 1])
def test_a_request_between_is_the_last_one(turns: int, service: Service) -> None:
    """Two that take turns are looked up every time; one that comes twice again is not, from the third time on."""
    both = [request(headers=[*HEADERS, (b"x-more", b"")]), request()]
    for _ in range(OFTEN):
        service.ask(request(headers=both[0]["headers"]))
    for turn in range(turns):
        assert service.is_looked_up(request(headers=both[(turn + 1) % 2]["headers"]))
    for expected in (True, True, False):
        assert service.is_looked_up(request(headers=both[(turns + 1) % 2]["headers"])) is expected


@pytest.mark.parametrize(
    "make",
    [
        lambda name, value: (name, bytearray(value)),
        lambda name, value: [name, value],
    ],
)
def test_what_may_change_is_not_kept(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A buffer or a list may be another's, who writes the next request into it."""
    service = Service(monkeypatch)
    kept = (b"host", b"x-token")
    headers = [(name, value) if name in kept else make(name, value) for name, value in HEADERS]
    with service.mesh:
        assert all(service.is_looked_up(request(headers=[*headers])) for _ in range(OFTEN + 3))
        assert len(service.got) == OFTEN + 3


def test_the_servers_extension_is_told_each_time(service: Service) -> None:
    """What the transport says of TLS, beside what the server says of this very request."""
    transport = Transport(source_ip="10.0.0.7", destination_port=80, extension={"tls_version": 0x0304})
    for number in range(OFTEN + 3):
        seen = service.ask(request(extensions={"number": number}), transport=transport)
        assert isinstance(seen, dict)
        assert seen["extensions"] == {"number": number, "tls": {"tls_version": 0x0304}}
    assert service.looked_up == OFTEN + 2


def test_of_a_certificate_that_is_verified_each_time_nothing_is_kept(service: Service) -> None:
    """Nor anything that could be looked at in vain."""
    transport = Transport(source_ip="10.0.0.7", destination_port=80, chain=(b"no certificate",))
    for _ in range(OFTEN):
        assert service.is_looked_up(transport=transport)
    assert transport.last is None


def test_no_token_is_shown(service: Service) -> None:
    """By a connection that keeps one, or saw it once."""
    for last in (service.transport.last, None):
        assert TOKEN not in repr(service.transport)
        assert TOKEN not in repr(service.transport.last)
        service.transport.note_last(None)
        service.ask()
        assert service.transport.last is not last


NEXT: Final[dict[str, dict[str, Any]]] = {
    "refused": CHANGES["a path that may not"],
    "no token": _header(1, b"x-token", b"junk"),
    "not asked for before": CHANGES["path"],
    "of a new caller": CHANGES["token"],
    "that nobody remembers": CHANGES["none"],
}


@pytest.mark.parametrize("times", [1, OFTEN])
@pytest.mark.parametrize("change", NEXT)
def test_a_token_is_kept_until_the_next_request_and_no_longer(change: str, times: int, service: Service) -> None:
    """Whatever becomes of that: where nothing is remembered of it, there is no last request."""
    service.transport.note_last(None)
    for _ in range(times):
        service.ask()
    assert service.transport.last is not None
    service.ask(request(**NEXT[change]))
    assert service.transport.last is None


def _remembered(connection: Connection) -> int:
    """How many decisions about its requests anybody keeps."""
    return sum(type(one) is Remembered and one.caller.connection is connection for one in gc.get_objects())


def test_a_quiet_connection_keeps_nothing_but_its_own_last_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """When all else is forgotten it is gone at once, though nobody collects garbage; and this with the connection."""
    service = Service(monkeypatch, OPEN)
    service.adds = False
    others = [request(path=f"/{number}", raw_path=b"/%d" % number) for number in range(9)]
    gc.collect()
    gc.disable()
    try:
        with service.mesh:
            for scope in [request()] * OFTEN + others * 3 + [request()] * OFTEN:
                service.ask({**scope})
            assert not service.is_looked_up()
            service.got.clear()
            connection = service.mesh.connection(service.transport)
            assert _remembered(connection) == 1 + len(others)
            service.mesh._keys._publish()
            service.ask(transport=Transport())
            assert _remembered(connection) == 1
            service.transport = Transport()
            assert _remembered(connection) == 0
    finally:
        gc.enable()
