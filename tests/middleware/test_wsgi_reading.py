"""What the WSGI middleware reads out of an environ and writes into one, seen from its mesh's side."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest

from meshsec import Decision, HttpRequest, Outcome, Reason
from meshsec.ca import CertificateAuthority
from meshsec.decision import Edits
from meshsec.middleware import TRANSPORT_KEY, Transport, current_context
from meshsec.middleware.wsgi import MeshMiddleware
from middleware.watching import WEB, Watching

PEM = CertificateAuthority.create("td.example").issue_x509_svid("spiffe://td.example/a").chain_pem().decode()


def call(mesh: Watching, app: Any = None, **environ: Any) -> tuple[list[Any], dict[str, Any]]:
    """What the server is told (status, headers, and body), and the environ as the application would leave it."""
    told: list[Any] = []
    given = {"REQUEST_METHOD": "GET", "PATH_INFO": "/a", "HTTP_HOST": "web.prod", **environ}

    def answer(_: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return []

    def start(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
        told.extend([status, headers, *rest])
        return told.append

    told.append(b"".join(MeshMiddleware(app or answer, mesh)(given, start)))
    return told, given


def read(mesh: Watching | None = None, **environ: Any) -> HttpRequest:
    """The request that is judged."""
    mesh = mesh or Watching()
    call(mesh, **environ)
    assert mesh.request is not None
    return mesh.request


@pytest.mark.parametrize(
    ("environ", "target"),
    [
        ({}, "/a"),
        ({"QUERY_STRING": "q=1"}, "/a?q=1"),
        ({"QUERY_STRING": ""}, "/a"),
        ({"SCRIPT_NAME": "/m"}, "/m/a"),
        ({"PATH_INFO": "/:@!$&'()*+,;=-._~x"}, "/:@!$&'()*+,;=-._~x"),
        ({"PATH_INFO": "/%2f?#é "}, "/%252f%3F%23%E9%20"),
        ({"RAW_URI": "/%61?q", "QUERY_STRING": "other"}, "/%61?q"),
        ({"REQUEST_URI": "/%61"}, "/%61"),
        ({"RAW_URI": "/%61", "REQUEST_URI": "/a"}, "/%61"),
        ({"RAW_URI": "/b"}, "/a"),
        ({"RAW_URI": "/b", "REQUEST_URI": "/%61"}, "/%61"),
        ({"RAW_URI": ""}, "/a"),
        ({"RAW_URI": "/a#f"}, "/a#f"),
        ({"RAW_URI": "/a#f?q"}, "/a#f?q"),
        ({"RAW_URI": "http://web.prod/a"}, "http://web.prod/a"),
        ({"RAW_URI": "http://web.prod/a?q"}, "http://web.prod/a?q"),
        ({"RAW_URI": "http://web.prod"}, "/a"),
        ({"RAW_URI": "http://web.prod", "PATH_INFO": ""}, "http://web.prod"),
        ({"RAW_URI": "h-x://web.prod/a"}, "/a"),
        ({"RAW_URI": "h-x://web.prod/a", "PATH_INFO": "h-x://web.prod/a"}, "h-x://web.prod/a"),
        ({"RAW_URI": "/b://web.prod/a"}, "/a"),
        ({"RAW_URI": "/b://web.prod/a", "PATH_INFO": "/b://web.prod/a"}, "/b://web.prod/a"),
        ({"RAW_URI": "/m/%61", "SCRIPT_NAME": "/m"}, "/m/%61"),
    ],
)
def test_the_target(environ: dict[str, str], target: str) -> None:
    """The raw one where it is the path that the server routed; else the path, encoded."""
    assert read(**environ).target == target


def test_a_path_need_not_be_there() -> None:
    """PEP 3333 lets both parts be missing."""
    mesh = Watching()
    MeshMiddleware(lambda *_: [], mesh)({"REQUEST_METHOD": "GET", "HTTP_HOST": "h"}, lambda *_: lambda _: None)
    assert mesh.request is not None
    assert (mesh.request.target, mesh.request.mount, mesh.request.host) == ("", "", "h")


@pytest.mark.parametrize(
    ("tls", "environ", "scheme"),
    [
        (None, {}, "http"),
        (None, {"wsgi.url_scheme": "https"}, "https"),
        (True, {"wsgi.url_scheme": "http"}, "https"),
        (False, {"wsgi.url_scheme": "https"}, "http"),
    ],
)
def test_the_scheme_is_the_connections(tls: bool | None, environ: dict[str, str], scheme: str) -> None:
    """Where that knows; and the application is told the same."""
    mesh = Watching(tls=tls)
    _, after = call(mesh, **environ)
    assert mesh.request is not None
    assert mesh.request.scheme == after["wsgi.url_scheme"] == scheme


def test_the_headers() -> None:
    """All variables of headers, the two without prefix too, where they are not empty; and nothing else."""
    request = read(
        CONTENT_TYPE="text/x", CONTENT_LENGTH="", HTTP_X_A="1", SERVER_NAME="x", **{"meshsec.x": "y", "HTTPS": "on"}
    )
    assert dict(request.headers) == {"host": "web.prod", "content-type": "text/x", "x-a": "1"}
    assert dict(read(CONTENT_TYPE="", CONTENT_LENGTH="0").headers) == {"host": "web.prod", "content-length": "0"}
    assert (request.method, request.host, request.mount, request.joined_headers) == ("GET", "web.prod", "", True)
    assert read(SCRIPT_NAME="/m", REQUEST_METHOD="PUT").mount == "/m"


@pytest.fixture
def pair() -> Iterator[socket.socket]:
    """A connected socket."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as one:
        yield one


@pytest.mark.parametrize("key", ["gunicorn.socket", "gunicorn.sock", "werkzeug.socket"])
def test_the_socket_comes_before_everything_else(key: str, pair: socket.socket) -> None:
    """Whoever else says something of the connection."""
    mesh = Watching()
    call(mesh, **{key: pair, TRANSPORT_KEY: Transport(source_ip="9.9.9.9"), "SSL_CLIENT_CERT": PEM})
    assert mesh.transport is not None
    assert (mesh.transport.source_ip, mesh.transport.chain) == ("127.0.0.1", ())


def test_a_transport_is_taken_out() -> None:
    """The application does not see it; what is none counts for nothing, not even for there being none."""
    mesh = Watching()
    _, after = call(mesh, **{TRANSPORT_KEY: Transport(source_ip="10.0.0.1"), "SSL_CLIENT_CERT": PEM})
    assert mesh.transport == Transport(source_ip="10.0.0.1")
    assert TRANSPORT_KEY not in after
    call(mesh, **{TRANSPORT_KEY: "10.0.0.1", "SSL_CLIENT_CERT": PEM})
    assert mesh.transport is None
    call(mesh)
    assert mesh.transport is None


@pytest.mark.parametrize(
    ("verify", "certificates"), [(None, 1), ("SUCCESS", 1), ("NONE", 0), ("FAILED:expired", 0), ("", 0)]
)
def test_a_certificate_of_the_servers_own_tls(verify: str | None, certificates: int) -> None:
    """Where the server says nothing else, or that it holds; it is TLS in any case."""
    mesh = Watching()
    call(mesh, SSL_CLIENT_CERT=PEM, **({} if verify is None else {"SSL_CLIENT_VERIFY": verify}))
    assert mesh.transport is not None
    assert len(mesh.transport.chain) == certificates
    assert mesh.transport.tls is not None


def test_a_refusal_leaves_the_connection_to_the_server() -> None:
    """PEP 3333: no hop-by-hop header; the status has its phrase, or a word in its place."""
    expired = Decision(Outcome.UNAUTHENTICATED, Reason.PEER_EXPIRED, "the certificate has expired")
    told, _ = call(Watching(expired))
    assert told[0] == "401 Unauthorized"
    assert told[-1] == b"the certificate has expired"
    assert "content-length" in dict(told[1])
    assert "connection" not in dict(told[1])
    told, _ = call(Watching(Decision(Outcome.DENY, Reason.CHECK_DENIED, "no", status=499)))
    assert told[0] == "499 Refused"


@pytest.mark.parametrize(("details", "kind"), [(True, "application/problem+json"), (False, "text/plain")])
def test_problem_details_only_where_they_are_wanted(details: bool, kind: str) -> None:
    """By the client, and by the mesh; a gRPC client gets a gRPC status in any case."""
    denied = Decision(Outcome.DENY, Reason.DENY_RULE, "RBAC: access denied")
    told, _ = call(Watching(denied, problem_details=details), HTTP_ACCEPT="application/json")
    assert dict(told[1])["content-type"].startswith(kind)
    assert dict(call(Watching(denied, problem_details=details))[0][1])["content-type"].startswith("text/plain")
    told, _ = call(Watching(denied, problem_details=details), CONTENT_TYPE="application/grpc")
    assert (told[0], dict(told[1])["grpc-status"]) == ("200 OK", "7")


def test_what_a_decision_adds_to_the_answer() -> None:
    """Behind the application's own headers; an error's details go on to the server."""
    edits = Edits(response_headers=(("set-cookie", "b"),))
    error = (ValueError, ValueError("x"), None)

    def app(_: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [("set-cookie", "a")])(b"written")
        start_response("500 Oops", [], error)
        return [b"body"]

    told, _ = call(Watching(Decision(Outcome.ALLOW, Reason.NO_ALLOW_POLICY, edits=edits)), app)
    both = [("set-cookie", "a"), ("set-cookie", "b")]
    assert told == ["200 OK", both, b"written", "500 Oops", both[1:], error, b"body"]
    told, _ = call(Watching(), app)
    assert told == ["200 OK", both[:1], b"written", "500 Oops", [], error, b"body"]


def test_what_a_decision_writes_into_the_environ() -> None:
    """Target, mount and query; headers away, then added, several of one name as one."""
    edits = Edits(
        target="/m/b%20c?x=1",
        remove_headers=("x-a", "content-type"),
        add_headers=(("x-b", "1"), ("x-b", "2"), ("content-type", "new")),
    )
    decision = Decision(Outcome.ALLOW, Reason.NO_ALLOW_POLICY, edits=edits)
    _, after = call(
        Watching(decision),
        SCRIPT_NAME="/m", RAW_URI="/m/a", REQUEST_URI="/old", QUERY_STRING="y", HTTP_X_A="1", CONTENT_TYPE="old",
    )  # fmt: skip
    assert (after["PATH_INFO"], after["QUERY_STRING"], after["SCRIPT_NAME"]) == ("/b c", "x=1", "/m")
    assert after["RAW_URI"] == after["REQUEST_URI"] == "/m/b%20c?x=1"
    assert (after["HTTP_X_B"], after["CONTENT_TYPE"]) == ("1,2", "new")
    assert "HTTP_X_A" not in after
    assert after["meshsec"].peer is WEB


def test_a_target_is_written_where_nothing_is_mounted() -> None:
    """Without SCRIPT_NAME, and without a raw target that could stay behind."""
    decision = Decision(Outcome.ALLOW, Reason.NO_ALLOW_POLICY, edits=Edits(target="/b"))
    _, after = call(Watching(decision), PATH_INFO="/x/../b", QUERY_STRING="y")
    assert (after["PATH_INFO"], after["QUERY_STRING"]) == ("/b", "")
    assert not {"SCRIPT_NAME", "RAW_URI", "REQUEST_URI"} & after.keys()


def test_a_refusal_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """One line."""
    with caplog.at_level("INFO", logger="meshsec.access"):
        told, _ = call(Watching(Decision(Outcome.DENY, Reason.DENY_RULE, "no", status=403)))
    assert told[0].startswith("403")
    assert len(caplog.records) == 1


def test_the_context_is_current_only_inside_the_application() -> None:
    """The next request of the same thread does not find it."""
    seen: list[Any] = []
    _, after = call(Watching(), lambda *_: seen.append(current_context()) or [])
    assert seen == [after["meshsec"]]
    assert current_context() is None
