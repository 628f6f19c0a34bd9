"""External authorizers: real HTTP servers that say yes, no, nonsense or nothing, and functions in this process."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from authorizer import Authorizer, running
from meshsec import ConfigError, Connection, HttpRequest, Mesh, MeshConfig, Reason, Workload
from meshsec.policy import CheckAnswer, NeedCheck
from meshsec.resources import ExtAuthzHttp, Service, parse
from meshsec.sources import Authorizers, Dialled, _check
from meshsec.sources._fetch import Asking
from meshsec.sources._kept import KeptLines
from world import World

QUESTION = NeedCheck(
    "opa", "prod/checked", 0, "GET", "/admin?b=1", "web.prod:8443",
    (("authorization", "Bearer t"), ("cookie", "c=1"), ("x-a", "1"), ("x-a", "2"), ("x-b", "3"),
     ("content-length", "7")),
    "http", Connection(source_ip="10.0.0.7"),
)  # fmt: skip
POLICY = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: checked, namespace: prod}
spec: {action: CUSTOM, provider: {name: opa}, rules: [{to: [{operation: {paths: ["/admin*"]}}]}]}
"""
ADMIN = HttpRequest("GET", "/admin", "web.prod", (), "http")
OTHER = HttpRequest("GET", "/other", "web.prod", (), "http")


@pytest.fixture
def authorizer() -> Iterator[Authorizer]:
    """An authorizer that says yes, until it is told otherwise."""
    with running() as found:
        yield found


def directly(host: str, port: int) -> Dialled:
    """Hosts are addresses."""
    return Dialled(((host, port),))


Make = Callable[..., Authorizers]


@pytest.fixture
def make() -> Iterator[Make]:
    """Makes authorizers, and closes them."""
    with ExitStack() as stack:
        yield lambda dial=directly: stack.enter_context(closing(Authorizers({}, dial)))


def ask(settings: ExtAuthzHttp | None, question: NeedCheck = QUESTION, **providers: Any) -> CheckAnswer:
    """One check; asked for an event loop too, the answer must be the same."""
    with closing(Authorizers(providers, directly)) as authorizers:
        found = authorizers.ask(question, settings)
        assert asyncio.run(authorizers.ask_async(question, settings)) == found
        return found


def test_a_check_is_the_request_without_its_body(authorizer: Authorizer) -> None:
    """Method, path with prefix and query, Host, Authorization; nothing else of the client's is shown."""
    ask(authorizer.settings(path_prefix="/check"))
    method, path, headers = authorizer.asked[0]
    assert (method, path) == ("GET", "/check/admin?b=1")
    assert dict(headers) == {
        "host": "web.prod:8443",
        "authorization": "Bearer t",
        "content-length": "0",
        "user-agent": "meshsec",
        "accept-encoding": "identity",
    }


def test_named_headers_are_shown_with_every_line(authorizer: Authorizer) -> None:
    """An authorizer that sees only one of two lines judges another request than the application gets."""
    settings = authorizer.settings(include_request_headers_in_check=("X-A", "coo*", "*-length"))
    ask(settings)
    headers = authorizer.asked[0][2]
    assert [line for line in headers if line[0] in ("x-a", "x-b", "cookie", "content-length")] == [
        ("content-length", "0"), ("cookie", "c=1"), ("x-a", "1"), ("x-a", "2"),
    ]  # fmt: skip


def test_additional_headers_win_over_the_clients(authorizer: Authorizer) -> None:
    """What the mesh tells the authorizer, a client cannot."""
    ask(
        authorizer.settings(
            include_request_headers_in_check=("x-a",),
            include_additional_headers_in_check={"X-A": "mesh", "authorization": "mesh"},
        )
    )
    found = dict(authorizer.asked[0][2])
    assert (found["x-a"], found["authorization"], len(authorizer.asked[0][2])) == ("mesh", "mesh", 6)


@pytest.mark.parametrize("method", ["GET", "POST", "HEAD", "PUT", "OPTIONS", "PROPFIND"])
def test_the_method_is_the_requests(authorizer: Authorizer, method: str) -> None:
    """Without a body, whatever the method."""
    assert ask(authorizer.settings(), replace(QUESTION, method=method)).allowed
    assert authorizer.asked[0][0] == method


@pytest.mark.parametrize(
    ("target", "sent"),
    [("/a/../b", "/a/../b"), ("//a", "//a"), ("/%2fa%41", "/%2fa%41"), ("/\xe4?\xff", "/%E4?%FF"), ("*", "*")],
)
def test_the_path_is_sent_as_it_was_judged(authorizer: Authorizer, target: str, sent: str) -> None:
    """Nothing on the way normalizes it once more; only what HTTP cannot carry is quoted."""
    assert ask(authorizer.settings(fail_open=False), replace(QUESTION, target=target)).allowed
    assert authorizer.asked[0][1] in (sent, f"/{sent.lstrip('/')}")  # the test's server merges the slashes in front


def test_200_lets_pass_with_the_headers_that_are_listed(authorizer: Authorizer) -> None:
    """Every line of them; what belongs to the connection never."""
    authorizer.headers = [
        ("X-User", "ada"), ("X-Group", "a"), ("X-Group", "b"), ("Set-Cookie", "s=1"), ("Set-Cookie", "t=2"),
        ("Other", "o"), ("Connection", "close"),
    ]  # fmt: skip
    found = ask(
        authorizer.settings(
            headers_to_upstream_on_allow=("x-user", "x-g*", "conn*"), headers_to_downstream_on_allow=("SET-COOKIE",)
        )
    )
    assert found == CheckAnswer(
        allowed=True,
        provider="opa",
        request_headers=(("x-user", "ada"), ("x-group", "a"), ("x-group", "b")),
        response_headers=(("set-cookie", "s=1"), ("set-cookie", "t=2")),
    )


def test_nothing_is_passed_on_that_is_not_listed(authorizer: Authorizer) -> None:
    """Without lists a check says yes and no more."""
    authorizer.headers = [("X-User", "ada")]
    assert ask(authorizer.settings()) == CheckAnswer(allowed=True, provider="opa")


@pytest.mark.parametrize(
    ("status", "told"),
    [(201, 403), (204, 403), (302, 302), (304, 403), (400, 400), (401, 401), (403, 403), (404, 404), (429, 429)],
)
def test_whatever_is_not_200_is_a_refusal(authorizer: Authorizer, status: int, told: int) -> None:
    """With the authorizer's status where it is one of a refusal; failOpen has no say."""
    authorizer.status, authorizer.body = status, b"" if status in (204, 304) else b"no"
    found = ask(authorizer.settings(fail_open=True, status_on_error="503"))
    assert (found.allowed, found.status, found.failure) == (False, told, None)


def test_a_refusal_brings_its_head_and_body(authorizer: Authorizer) -> None:
    """All headers where none are listed; of those that are listed, and of what HTTP needs, the others not."""
    authorizer.status, authorizer.body = 401, b"log in"
    authorizer.headers = [("WWW-Authenticate", "Basic"), ("X-Why", "because"), ("X-Internal", "1")]
    everything = ask(authorizer.settings())
    assert everything.body == b"log in"
    assert everything.response_headers == (("www-authenticate", "Basic"), ("x-why", "because"), ("x-internal", "1"))
    listed = ask(authorizer.settings(headers_to_downstream_on_deny=("x-why",)))
    assert listed.response_headers == (("www-authenticate", "Basic"), ("x-why", "because"))


def test_a_long_refusal_is_one(authorizer: Authorizer) -> None:
    """However much it says; a body that is too large must not look like a failure, which may be open."""
    authorizer.status, authorizer.body = 403, b"x" * (3 << 20)
    found = ask(authorizer.settings(fail_open=True))
    assert (found.allowed, found.status, len(found.body)) == (False, 403, 1 << 20)


@pytest.fixture(scope="module")
def naysayer() -> Iterator[Authorizer]:
    """An authorizer that says no to everything."""
    with running() as found:
        found.status = 403
        yield found


LATIN = st.text(st.characters(max_codepoint=255), max_size=40)
VALUES = st.text("\t" + "".join(map(chr, [*range(0x20, 0x7F), *range(0x80, 0x100)])), max_size=60)
NAMES = st.text("abcdefghijklmnopqrstuvwxyz-_!#$%&'*+.^`|~0123456789", min_size=1, max_size=20)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    target=LATIN, headers=st.lists(st.tuples(NAMES, VALUES), max_size=4), host=st.sampled_from(["a", "", "[::1]:1"])
)
def test_no_request_makes_the_asking_fail(
    naysayer: Authorizer, target: str, headers: list[tuple[str, str]], host: str
) -> None:
    """Under failOpen, a request that could not be told to an authorizer would be let in: every one can be told."""
    shown = naysayer.settings(fail_open=True, include_request_headers_in_check=("*a", "a*", *(n for n, _ in headers)))
    question = replace(QUESTION, target="/" + target, headers=tuple(headers), host=host)
    with closing(Authorizers({}, directly)) as authorizers:
        found = authorizers.ask(question, shown)
    assert not found.allowed, found


def refused_port() -> int:
    """A port where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@pytest.mark.parametrize("status", [500, 502, 503, 599])
@pytest.mark.parametrize("fail_open", [False, True])
def test_a_failing_authorizer(authorizer: Authorizer, status: int, fail_open: bool) -> None:
    """Its own failures are statusOnError, or pass under failOpen."""
    authorizer.status = status
    found = ask(authorizer.settings(fail_open=fail_open, status_on_error="429"))
    assert (found.allowed, found.status, found.failure) == (fail_open, 429, f"status {status}")


@pytest.mark.parametrize("fail_open", [False, True])
def test_an_authorizer_that_is_not_there(fail_open: bool) -> None:
    """As one that fails."""
    found = ask(ExtAuthzHttp(service="127.0.0.1", port=refused_port(), fail_open=fail_open))
    assert (found.allowed, found.status) == (fail_open, 403)
    assert "refused" in (found.failure or "").lower()


@pytest.mark.parametrize("fail_open", [False, True])
def test_an_authorizer_that_says_nothing(authorizer: Authorizer, fail_open: bool) -> None:
    """It has its time, and no more."""
    authorizer.hold = threading.Event()
    found = ask(authorizer.settings(timeout=0.1, fail_open=fail_open))
    assert (found.allowed, found.failure is not None) == (fail_open, True)


def test_a_folded_header_is_a_failure_and_never_open(authorizer: Authorizer) -> None:
    """What would break our own message is not passed on."""
    authorizer.headers = [("X-User", "ada\r\n folded")]
    found = ask(authorizer.settings(headers_to_upstream_on_allow=("x-user",), fail_open=True))
    assert found.allowed is False or all("\n" not in value for _, value in found.request_headers)


def test_one_connection_carries_many_checks(authorizer: Authorizer, make: Make) -> None:
    """In this thread or for an event loop; HEAD and long refusals do not confuse it."""
    authorizers = make()
    authorizer.body = b"x" * 100_000
    for method, status in (("GET", 200), ("HEAD", 403), ("POST", 403), ("GET", 200)):
        authorizer.status = status
        question = replace(QUESTION, method=method)
        assert authorizers.ask(question, authorizer.settings()).allowed is (status == 200)
        assert asyncio.run(authorizers.ask_async(question, authorizer.settings())).allowed is (status == 200)
    assert len(authorizer.callers) == 8
    assert len(set(authorizer.callers)) == 1


def test_checks_at_once_have_connections_of_their_own(authorizer: Authorizer, make: Make) -> None:
    """No check waits for another one's answer, and none is given another one's."""
    authorizers = make()

    async def ask_all() -> list[CheckAnswer]:
        questions = [replace(QUESTION, target=f"/{index}") for index in range(20)]
        return await asyncio.gather(*(authorizers.ask_async(one, authorizer.settings()) for one in questions))

    for _ in range(2):
        assert all(found.allowed for found in asyncio.run(ask_all()))
    assert sorted(path for _, path, _ in authorizer.asked) == sorted([f"/{index}" for index in range(20)] * 2)


@pytest.mark.parametrize("told", [False, True])
def test_a_connection_that_ended_is_replaced(authorizer: Authorizer, make: Make, told: bool) -> None:
    """Whether the authorizer says that it hangs up, or just does."""
    authorizer.hang_up = not told
    authorizer.headers = [("connection", "close")] if told else []
    authorizers = make()
    assert all(authorizers.ask(QUESTION, authorizer.settings()).allowed for _ in range(5))
    assert len(set(authorizer.callers)) == 5


@pytest.mark.parametrize("change", ["proof", "idle", "old", "closed", "forked"])
def test_connections_are_kept_with_care(authorizer: Authorizer, change: str) -> None:
    """Not after what was checked when they were made has changed, not for ever, and not by a child."""
    clock = [0.0]
    lines = KeptLines(lambda: clock[0])
    asking = Asking(headers=(("host", "a"),), proof=("ids", 1))

    def fetch(asking: Asking) -> int:
        lines.fetch(f"http://127.0.0.1:{authorizer.port}/", timeout=20, asking=asking)
        return len(set(authorizer.callers))

    assert fetch(asking) == 1
    for _ in range(32 if change == "old" else 1):
        clock[0] += 9.0
        assert fetch(asking) == 1
    clock[0] += {"idle": 30.0, "old": 29.0}.get(change, 0.0)
    if change in ("closed", "forked"):
        getattr(lines, "close" if change == "closed" else "after_fork")()
    assert fetch(replace(asking, proof=("ids", 2)) if change == "proof" else asking) == 2
    lines.close()


def test_the_next_endpoint_is_asked_where_one_refuses(authorizer: Authorizer, make: Make) -> None:
    """And asked first from then on; where all refuse, the authorizer is unavailable."""
    refused = ("127.0.0.1", refused_port())
    dialled: list[list[tuple[str, int]]] = [[refused, refused, ("127.0.0.1", authorizer.port)]]
    authorizers = make(lambda _host, _port: Dialled(tuple(dialled[0])))
    assert authorizers.ask(QUESTION, authorizer.settings()).allowed
    with running() as other:
        dialled[0].insert(0, ("127.0.0.1", other.port))
        assert authorizers.ask(QUESTION, authorizer.settings()).allowed
        assert (len(authorizer.asked), len(other.asked)) == (2, 0)
    dialled[0] = [refused, refused]
    found = authorizers.ask(QUESTION, authorizer.settings())
    assert (found.allowed, "refused" in (found.failure or "").lower()) == (False, True)


def test_a_question_that_was_sent_goes_to_no_other_endpoint(authorizer: Authorizer, make: Make) -> None:
    """An authorizer that takes the connection and does not answer has failed; its neighbour would be asked late."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        places = (silent.getsockname(), ("127.0.0.1", authorizer.port))
        authorizers = make(lambda _host, _port: Dialled(places))
        assert authorizers.ask(QUESTION, authorizer.settings(timeout=0.2)).failure
        assert authorizer.asked == []


def test_our_own_failure_is_never_open() -> None:
    """failOpen is about the authorizer; where we break, the door stays shut."""

    def broken(host: str, port: int) -> Dialled:
        raise ConfigError("no identity")

    settings = ExtAuthzHttp(service="127.0.0.1", port=1, fail_open=True)
    found = Authorizers({}, broken).ask(QUESTION, settings)
    assert (found.allowed, found.failure) == (False, "ConfigError")


# ------------------------------------------------------------------ functions in this process


def yes(_: NeedCheck) -> bool:
    return True


async def slow_yes(_: NeedCheck) -> bool:
    await asyncio.sleep(0)
    return True


def promising(question: NeedCheck) -> Awaitable[bool]:
    return slow_yes(question)


class Called:
    """An object may be a provider."""

    async def __call__(self, question: NeedCheck) -> CheckAnswer:
        return CheckAnswer(allowed=True, request_headers=(("x-path", question.target),))


def failing(_: NeedCheck) -> bool:
    raise OSError("database gone")


@pytest.mark.parametrize(
    ("provider", "expected"),
    [
        (yes, CheckAnswer(allowed=True, provider="opa")),
        (lambda _: False, CheckAnswer(allowed=False, provider="opa")),
        (lambda _: CheckAnswer(allowed=False, status=429), CheckAnswer(allowed=False, provider="opa", status=429)),
        (slow_yes, CheckAnswer(allowed=True, provider="opa")),
        (promising, CheckAnswer(allowed=True, provider="opa")),
        (Called(), CheckAnswer(allowed=True, provider="opa", request_headers=(("x-path", "/admin?b=1"),))),
        (lambda _: None, CheckAnswer(allowed=False, provider="opa", failure="TypeError")),
        (lambda _: 1, CheckAnswer(allowed=False, provider="opa", failure="TypeError")),
        (lambda: True, CheckAnswer(allowed=False, provider="opa", failure="TypeError")),
        (failing, CheckAnswer(allowed=False, provider="opa", failure="OSError")),
    ],
)
def test_functions(provider: Any, expected: CheckAnswer) -> None:
    """True, False or an answer, at once or awaited; everything else refuses. Threads and loops get the same."""
    assert ask(None, opa=provider) == expected


def test_a_function_that_ends_its_thread_refuses() -> None:
    """Nobody waits for an answer that will never come."""

    def leave(_: NeedCheck) -> bool:
        raise SystemExit(0)

    found = asyncio.run(Authorizers({"opa": leave}, directly).ask_async(QUESTION, None))
    assert (found.allowed, found.failure) == (False, "the function ended its thread")


def test_a_name_without_a_function_refuses() -> None:
    """Declared in mesh.yaml, and never registered."""
    assert ask(None).failure == "no function is registered under this name"


def test_a_function_comes_before_settings(authorizer: Authorizer) -> None:
    """A program may stand in for what mesh.yaml names."""
    assert not ask(authorizer.settings(), opa=lambda _: False).allowed
    assert authorizer.asked == []


def test_an_event_loop_goes_on_while_an_authorizer_thinks(authorizer: Authorizer, make: Make) -> None:
    """The loop itself opens the door for the answer; were it blocked, nothing would ever come."""
    authorizer.hold = threading.Event()
    entered = threading.Event()

    def provider(_: NeedCheck) -> bool:
        entered.set()
        assert authorizer.hold is not None
        return authorizer.hold.wait(20)

    async def main() -> list[CheckAnswer]:
        function, server = Authorizers({"opa": provider}, directly), make()
        checks = [
            asyncio.ensure_future(function.ask_async(QUESTION, None)),
            asyncio.ensure_future(server.ask_async(QUESTION, authorizer.settings())),
        ]
        while not (entered.is_set() and authorizer.asked):  # noqa: ASYNC110 - threads set these
            await asyncio.sleep(0.001)
        assert authorizer.hold is not None
        authorizer.hold.set()
        return await asyncio.gather(*checks)

    assert all(answer.allowed for answer in asyncio.run(main()))


def test_checks_for_loops_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the bound nobody is asked, and failOpen does not make that a way in."""
    monkeypatch.setattr(_check, "_AT_ONCE", 1)
    release = threading.Event()
    authorizers = Authorizers({"slow": lambda _: release.wait(20)}, directly)

    async def main() -> tuple[CheckAnswer, CheckAnswer, CheckAnswer]:
        first = asyncio.ensure_future(authorizers.ask_async(replace(QUESTION, provider="slow"), None))
        await asyncio.sleep(0)
        second = await authorizers.ask_async(QUESTION, ExtAuthzHttp(service="127.0.0.1", port=1, fail_open=True))
        release.set()
        await first
        third = await authorizers.ask_async(replace(QUESTION, provider="slow"), None)
        return await first, second, third

    first, second, third = asyncio.run(main())
    assert (first.allowed, second.allowed, third.allowed) == (True, False, True)
    assert second.failure == "1 checks are under way"


# ------------------------------------------------------------------ through a mesh


def mesh_of(settings: ExtAuthzHttp | None, *policies: str, **more: Any) -> Mesh:
    """A workload whose /admin is checked."""
    return Mesh(
        workload=Workload(name="web", namespace="prod"),
        resources=parse("\n---\n".join((POLICY, *policies))),
        config=MeshConfig(extension_providers={"opa": settings}),
        **more,
    )


def both(mesh: Mesh, request: HttpRequest) -> Any:
    """The decision, which threads and event loops must get alike."""
    found = mesh.decide(Connection(), request)
    assert asyncio.run(mesh.decide_async(Connection(), request)) == found
    return found


def test_a_mesh_asks_over_http(authorizer: Authorizer) -> None:
    """Only about what the policy names, and each time anew."""
    with mesh_of(authorizer.settings()) as mesh:
        assert both(mesh, OTHER).allowed
        assert authorizer.asked == []
        assert both(mesh, ADMIN).allowed
        authorizer.status = 403
        assert both(mesh, ADMIN).reason is Reason.CHECK_DENIED
        authorizer.status = 500
        assert both(mesh, ADMIN).reason is Reason.CHECK_FAILED
        assert mesh.status()["providers"] == {"opa": f"127.0.0.1:{authorizer.port}: status 500"}


def test_an_outage_is_logged_once(authorizer: Authorizer, caplog: pytest.LogCaptureFixture) -> None:
    """When it begins and when it is over, not at every request; meanwhile it stands in the status."""
    caplog.set_level("INFO", "meshsec.check")
    with mesh_of(authorizer.settings()) as mesh:
        for status in (200, 503, 503, 500, 200, 403):
            authorizer.status = status
            both(mesh, ADMIN)
            if status == 503:
                assert mesh.status()["providers"]["opa"].endswith(": status 503")
    found = [record.message for record in caplog.records if record.name == "meshsec.check"]
    assert found == ["provider opa cannot be asked: status 503", "provider opa answers again"]


def test_a_refusal_without_a_type_is_text() -> None:
    """A browser must not guess what a body is."""
    no = CheckAnswer(allowed=False, body=b"<script>")
    mesh = mesh_of(None, providers={"opa": lambda _: no})
    for call in (_call_wsgi, _call_asgi):
        assert ("content-type", "text/plain") in call(mesh)[1]
    mesh.close()


def test_a_mesh_asks_functions() -> None:
    """Given at once, or registered later under a name that mesh.yaml has."""
    with mesh_of(None) as mesh:
        assert both(mesh, ADMIN).reason is Reason.CHECK_FAILED
        assert mesh.status()["providers"] == {"opa": None}

        @mesh.provider("opa")
        def only_local(check: NeedCheck) -> bool:
            return check.connection.source_ip is None

        assert both(mesh, ADMIN).allowed
        assert not mesh.decide(Connection(source_ip="10.0.0.1"), ADMIN).allowed
        assert only_local(replace(QUESTION, connection=Connection()))
        assert mesh.status()["providers"] == {"opa": "function"}
    given = Mesh(
        workload=Workload(name="web", namespace="prod"), resources=parse(POLICY), providers={"opa": lambda _: False}
    )
    assert both(given, ADMIN).reason is Reason.CHECK_DENIED


def test_a_name_that_nobody_knows_cannot_be_registered() -> None:
    """A function under a mistyped name would never be asked."""
    with pytest.raises(ConfigError) as caught:
        mesh_of(None).provider("opaa")
    assert caught.value.code == "unknown_provider"
    assert "it has: opa" in str(caught.value)


def test_functions_survive_a_reload(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A newer version of the files knows the program's providers, too."""
    monkeypatch.setattr(Mesh, "start", lambda _: None)
    (tmp_path / "mesh.yaml").write_text("workloads: {web: {namespace: prod}}\n")
    (tmp_path / "checked.yaml").write_text(POLICY)
    mesh = Mesh.load(tmp_path, providers={"opa": lambda _: False})
    (tmp_path / "checked.yaml").write_text(POLICY.replace("/admin*", "/other"))
    mesh._policies.refresh()
    mesh._policies.refresh()
    assert mesh.status()["reload"]["version"] == 2
    assert (mesh.decide(Connection(), ADMIN).allowed, mesh.decide(Connection(), OTHER).allowed) == (True, False)


def test_an_authorizer_that_the_mesh_names_is_asked_over_mutual_tls() -> None:
    """It must prove who it is before it is told anything; an impostor is told nothing."""
    world = World()
    with world.mesh("opa") as opa, world.mesh("intruder") as intruder:
        for host, context, status in ((opa, opa.server_context(), 200), (intruder, intruder.server_context(), 403)):
            with running(context) as authorizer:
                services = {
                    "opa.prod": Service(ids=(str(world.id("opa")),), endpoints=(f"127.0.0.1:{authorizer.port}",))
                }
                settings = ExtAuthzHttp(service="prod/opa.prod", port=80, timeout=20)
                with Mesh(
                    workload=Workload(name="web", namespace="prod", service_account="web"),
                    resources=parse(POLICY),
                    config=MeshConfig(extension_providers={"opa": settings}, services=services),
                    identity=world.identity("web"),
                ) as mesh:
                    assert both(mesh, ADMIN).status == status, host.workload
                    assert bool(authorizer.asked) is (status == 200)


def test_headers_reach_the_client_and_the_application() -> None:
    """Through both kinds of middleware: set for the application, added to the response, or a refusal as it is."""
    answers: list[CheckAnswer] = []
    mesh = mesh_of(None, providers={"opa": lambda _: answers[0]})
    yes = CheckAnswer(
        allowed=True,
        request_headers=(("x-user", "ada"),),
        response_headers=(("set-cookie", "s=1"), ("set-cookie", "t=2")),
    )
    no = CheckAnswer(
        allowed=False, status=302, body=b"<p>", response_headers=(("location", "/in"), ("content-type", "text/html"))
    )
    for call in (_call_wsgi, _call_asgi):
        answers[:] = [yes]
        status, headers, body, user = call(mesh)
        assert (status, body, user) == (200, b"hello", "ada")
        assert [line for line in headers if line[0] == "set-cookie"] == [("set-cookie", "s=1"), ("set-cookie", "t=2")]
        answers[:] = [no]
        status, headers, body, user = call(mesh)
        assert (status, body, user) == (302, b"<p>", None)
        assert sorted(headers) == [("content-length", "3"), ("content-type", "text/html"), ("location", "/in")]
    mesh.close()


_Called = tuple[int, list[tuple[str, str]], bytes, str | None]


def _call_wsgi(mesh: Mesh) -> _Called:
    seen: list[Any] = []
    started: list[Any] = []

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        seen.append(environ["HTTP_X_USER"])
        start_response("200 OK", [("x-app", "1")])
        return [b"hello"]

    environ: Any = {
        "REQUEST_METHOD": "GET", "PATH_INFO": "/admin", "HTTP_HOST": "web.prod", "wsgi.url_scheme": "http",
        "HTTP_X_USER": "eve",
    }  # fmt: skip
    body = b"".join(mesh.wsgi(app)(environ, lambda status, headers, exc_info=None: started.append((status, headers))))
    status, headers = started[0]
    return int(status.split()[0]), headers, body, seen[0] if seen else None


def _call_asgi(mesh: Mesh) -> _Called:
    seen: list[str] = []
    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.extend(value.decode() for name, value in scope["headers"] if name == b"x-user")
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x-app", b"1")]})
        await send({"type": "http.response.body", "body": b"hello"})

    async def send(message: Any) -> None:
        sent.append(message)

    scope: Any = {
        "type": "http", "method": "GET", "scheme": "http", "path": "/admin", "raw_path": b"/admin",
        "query_string": b"", "root_path": "", "headers": [(b"host", b"web.prod"), (b"x-user", b"eve")],
    }  # fmt: skip
    asyncio.run(mesh.asgi(app)(scope, None, send))  # type: ignore[arg-type]
    headers = [(name.decode(), value.decode()) for name, value in sent[0]["headers"]]
    return sent[0]["status"], headers, sent[1]["body"], seen[0] if seen else None
