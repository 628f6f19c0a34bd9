"""attributes: the form of a request is in order, or it is refused before any policy is asked."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshsec.attributes import HttpRequest, Refusal, RequestFacts, freeze_claims, read_request
from meshsec.decision import Reason
from meshsec.resources import AmbiguousPaths, Compatibility, PathNormalization

BASE: Final = PathNormalization.BASE
GOOD: Final = HttpRequest(
    method="GET",
    target="/a?b",
    host="Reviews.prod:8443",
    headers=(("Host", "Reviews.prod:8443"), ("X-Role", " a "), ("x-role", "b"), ("authorization", "Bearer t")),
    scheme="https",
)


def read(**changes: Any) -> RequestFacts | Refusal:
    """The good request with some changes."""
    return read_request(replace(GOOD, **changes), BASE, "refuse")


def reason(**changes: Any) -> Reason | None:
    """Why the changed request is refused; None if it is not."""
    result = read(**changes)
    return result.reason if isinstance(result, Refusal) else None


def test_facts() -> None:
    """Names fold, values are trimmed, lines stay apart, the host is folded for comparison."""
    facts = read()
    assert isinstance(facts, RequestFacts)
    assert (facts.method, facts.target.path, facts.target.query, facts.scheme) == ("GET", "/a", "b", "https")
    assert facts.host == "reviews.prod:8443"
    assert dict(facts.headers) == {
        "host": ("Reviews.prod:8443",),
        "x-role": ("a", "b"),
        "authorization": ("Bearer t",),
    }
    with pytest.raises(TypeError):
        facts.headers["x"] = ()  # type: ignore[index]


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"])
def test_methods(method: str) -> None:
    """The methods that Envoy's HTTP/1 codec knows."""
    assert reason(method=method) is None


@pytest.mark.parametrize("method", ["", "get", "Get", "GET ", "FOO", "CONNECT", "PRI", "GE\tT", "GET\n", "\uff27ET"])
def test_bad_methods(method: str) -> None:
    """Unknown or lower-case methods are refused: a framework may fold them after the policy was asked."""
    assert reason(method=method) is Reason.METHOD_INVALID


HOSTS: Final = [
    "h", "H.example", "h.example.", "h:80", "h:", "10.0.0.1", "10.0.0.1:80", "[::1]", "[::1]:443", "a_b", "a-b.c",
]  # fmt: skip
BAD_HOSTS: Final = [
    "u@h", "h/x", "h?x", "h#x", "h x", "h,i", "h\\x", "h%41", "h:abc", "h:80:90", "h:123456", "[::1", "::1", "h;x",
    "h\x85", "hé", "h'x", "*",
]  # fmt: skip


@pytest.mark.parametrize("host", HOSTS)
def test_hosts(host: str) -> None:
    """Names, addresses, ports."""
    facts = read(host=host, headers=[("host", host)])
    assert isinstance(facts, RequestFacts)
    assert facts.host == host.lower()


@pytest.mark.parametrize("host", BAD_HOSTS)
def test_bad_hosts(host: str) -> None:
    """What a URL built from the host would be read differently for, and two hosts that a server joined."""
    assert reason(host=host, headers=()) is Reason.HOST_INVALID
    assert reason(host=None, headers=[("host", host)]) is Reason.HOST_INVALID


@pytest.mark.parametrize(
    ("host", "lines", "expected"),
    [
        (None, [], Reason.HOST_MISSING),
        ("", [], Reason.HOST_MISSING),
        (None, ["h"], None),
        ("h", [], None),
        ("h", ["H"], None),
        ("h", ["h", "h"], Reason.HOST_INVALID),
        ("h", ["h", "i"], Reason.HOST_INVALID),
        ("h", ["i"], Reason.HOST_INVALID),
    ],
)
def test_exactly_one_host(host: str | None, lines: list[str], expected: Reason | None) -> None:
    """There is one host, and everybody reads the same."""
    assert reason(host=host, headers=[("Host", line) for line in lines]) is expected


def test_the_host_line_of_each_byte() -> None:
    """Of all 256 bytes only those of names are taken; nothing breaks."""
    taken = {chr(byte) for byte in range(256) if reason(host=f"h{chr(byte)}h", headers=()) is None}
    assert taken == set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-")


@pytest.mark.parametrize(
    ("target", "host", "raw"),
    [
        ("http://Other/x", "other", "/x"),
        ("HTTPS://other:8443/x?q#f", "other:8443", "/x?q"),
        ("http://other", "other", "/"),
        ("http://[::1]:80/", "[::1]:80", "/"),
        ("http://other/x/../y", "other", "/y"),
    ],
)
def test_absolute_form(target: str, host: str, raw: str) -> None:
    """The authority of an absolute-form target is the host; a Host line must say the same."""
    for named in ({"host": None, "headers": ()}, {"host": host.upper(), "headers": [("host", host.upper())]}):
        facts = read(target=target, **named)
        assert isinstance(facts, RequestFacts)
        assert (facts.host, facts.target.raw) == (host, raw)
        assert facts.headers["host"][0].lower() == host
    assert reason(target=target) is Reason.HOST_INVALID


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("http://u@other/x", Reason.HOST_INVALID),
        ("http://o_r/x", Reason.HOST_INVALID),
        ("http:///x", Reason.HOST_MISSING),
        ("http://other:/x", Reason.HOST_INVALID),
        ("http://other\\x", Reason.HOST_INVALID),
        ("http://ot%20er/x", Reason.HOST_INVALID),
        ("http://other?x", Reason.TARGET_MALFORMED),
        ("ftp://other/x", Reason.TARGET_MALFORMED),
        ("http:/x", Reason.TARGET_MALFORMED),
        ("http:other/x", Reason.TARGET_MALFORMED),
        ("*", Reason.TARGET_MALFORMED),
        ("h:443", Reason.TARGET_MALFORMED),
        ("/a%0a", Reason.TARGET_CONTROL_CHARACTER),
        ("/a%2fb", Reason.TARGET_AMBIGUOUS),
    ],
)
def test_bad_targets(target: str, expected: Reason) -> None:
    """Neither origin form nor an absolute form with a plain host."""
    absolute = target.startswith("http://")
    changes: dict[str, Any] = {"host": None, "headers": ()} if absolute else {}
    assert reason(target=target, **changes) is expected


@pytest.mark.parametrize("method", ["GET", "OPTIONS"])
def test_the_asterisk(method: str) -> None:
    """``*`` names the server, not a resource that a policy could speak of: refused, as Envoy does (404 there)."""
    assert reason(target="*", method=method) is Reason.TARGET_MALFORMED


def test_header_values_of_each_byte() -> None:
    """Control characters other than a tab are refused, as Envoy refuses them."""
    refused = {byte for byte in range(256) if reason(headers=[("x-a", f"p{chr(byte)}q")]) is Reason.HEADER_INVALID}
    assert refused == {*range(9), *range(10, 32), 127}
    assert reason(headers=[("x-a", "Ā")]) is Reason.HEADER_INVALID


def test_header_names_of_each_byte() -> None:
    """Only the characters of an RFC 9110 token make a name."""
    taken = {chr(byte) for byte in range(256) if reason(headers=[(f"x{chr(byte)}", "v")]) is None}
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
    assert taken == set("!#$%&'*+-.^_`|~0123456789" + letters)
    assert reason(headers=[("", "v")]) is Reason.HEADER_INVALID


def test_one_authorization_line() -> None:
    """Of two, some programs read the first and some the last."""
    assert reason(headers=[("authorization", "a"), ("Authorization", "a")]) is Reason.AUTHORIZATION_REPEATED
    assert reason(headers=[("authorization", "a, b")]) is None


def test_two_lengths() -> None:
    """Transfer-Encoding beside Content-Length is how requests are smuggled."""
    both = [("transfer-encoding", "chunked"), ("content-length", "3")]
    assert reason(headers=both) is Reason.HEADER_INVALID
    assert reason(headers=both[:1]) is None
    assert reason(headers=both[1:]) is None


@pytest.mark.parametrize(
    ("changes", "host", "authorization"),
    [
        ({"host": "u@h"}, "u@h", None),
        ({"host": "h,i"}, "h,i", None),
        ({"host": ""}, "", None),
        ({"headers": [("host", "h"), ("host", "i")]}, "h,i", None),
        ({"headers": [("authorization", "a"), ("authorization", "b")]}, "reviews.prod:8443", ("a,b",)),
        ({"target": "http://u@other/x"}, "other", None),
        ({"target": "http://other/x", "headers": [("host", "h")]}, "other", None),
    ],
)
def test_as_envoy_does(changes: dict[str, Any], host: str, authorization: tuple[str, ...] | None) -> None:
    """Under ``compatibility: istio`` the hosts and repeated lines that Envoy takes are taken."""
    request = replace(GOOD, **{"headers": (), **changes})
    assert isinstance(read_request(request, BASE, "istio"), Refusal)
    facts = read_request(request, BASE, "istio", compatibility="istio")
    assert isinstance(facts, RequestFacts)
    assert (facts.host, facts.headers.get("authorization")) == (host, authorization)


@pytest.mark.parametrize("changes", [{"host": None}, {"host": "h/x"}, {"host": "h x"}, {"target": "http://o_r/"}])
def test_as_envoy_refuses(changes: dict[str, Any]) -> None:
    """What Envoy refuses is refused in either compatibility."""
    request = replace(GOOD, **{"headers": (), **changes})
    assert isinstance(read_request(request, BASE, "istio", compatibility="istio"), Refusal)


TEXT: Final = st.text(max_size=12)


@given(
    method=st.one_of(TEXT, st.just("GET")),
    target=st.one_of(TEXT, TEXT.map("/{}".format), TEXT.map("http://h{}".format)),
    host=st.one_of(st.none(), TEXT),
    headers=st.lists(st.tuples(TEXT, TEXT), max_size=3),
    ambiguous=st.sampled_from(["refuse", "judge", "istio"]),
    compatibility=st.sampled_from(["safe", "istio"]),
)
@settings(max_examples=300)
def test_any_request(
    method: str,
    target: str,
    host: str | None,
    headers: list[tuple[str, str]],
    ambiguous: AmbiguousPaths,
    compatibility: Compatibility,
) -> None:
    """Facts or a refusal, never an exception."""
    request = HttpRequest(method=method, target=target, host=host, headers=headers)
    assert isinstance(read_request(request, BASE, ambiguous, compatibility=compatibility), RequestFacts | Refusal)


def test_frozen_claims() -> None:
    """Claims are read-only all the way down, and a copy."""
    source: dict[str, Any] = {"a": [1, {"b": ["x"]}], "c": None, "d": True, "e": 1.5}
    frozen = freeze_claims(source)
    source["a"][1]["b"].append("y")
    assert frozen["a"] == (1, {"b": ("x",)})
    with pytest.raises(TypeError):
        frozen["a"][1]["b"] = ()
    with pytest.raises(TypeError, match="JSON"):
        freeze_claims({"a": {1, 2}})


def test_no_secret_shows() -> None:
    """Neither a request nor what was read of it shows its query or its headers."""
    request = HttpRequest("GET", "/x?access_token=s3cret", "h", (("authorization", "Bearer s3cret"),))
    facts = read_request(request, PathNormalization.BASE, "refuse")
    assert isinstance(facts, RequestFacts)
    assert "s3cret" not in repr(request) + repr(facts)


@pytest.mark.parametrize(
    ("value", "refused"),
    [
        ("Bearer a", False),
        ('Digest username="x", realm="a, Bearer b", nc = 1', False),
        ("AWS4-HMAC-SHA256 Credential=a/b, SignedHeaders=host;x-date, Signature=c", False),
        ('Digest realm="left open, Bearer b', False),
        ("Bearer a,Bearer b", True),
        ("Bearer a, Basic eDp5", True),
        ('Digest realm="x", Bearer b', True),
        (r'Digest realm="\"", Bearer b', True),
        ("Bearer a,Negotiate", True),
        ("Bearer a,", True),
        (",Bearer a", True),
        ("Bearer a,,x=y", True),
    ],
)
def test_two_authorization_lines_that_a_server_joined(value: str, refused: bool) -> None:
    """Only parameters go on behind a comma; and where lines are not joined, a comma says nothing."""
    request = HttpRequest("GET", "/", None, (("host", "a"), ("authorization", value)), "http")
    one = read_request(request, PathNormalization.BASE, "refuse")
    joined = read_request(replace(request, joined_headers=True), PathNormalization.BASE, "refuse")
    istio = read_request(
        replace(request, joined_headers=True), PathNormalization.BASE, "refuse", compatibility="istio"
    )
    assert isinstance(one, RequestFacts)
    assert isinstance(istio, RequestFacts)
    assert (isinstance(joined, Refusal) and joined.reason is Reason.AUTHORIZATION_REPEATED) is refused
