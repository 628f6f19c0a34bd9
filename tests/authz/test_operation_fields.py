"""authz: what is done. Hosts, ports, methods and paths, and where a DENY sees more than an ALLOW."""

from __future__ import annotations

from typing import Any, Final

import pytest

from authz.cases import ISTIO, both, compiled, matches, operation, policy, request, when, without_host
from meshsec.errors import ConfigError
from meshsec.resources import MeshConfig, PathNormalization

# Field, value, a request it matches, one it does not.
FIELDS: Final[list[tuple[str, str, dict[str, Any], dict[str, Any]]]] = [
    ("hosts", "a.example", {"host": "a.example"}, {"host": "b.example"}),
    ("hosts", "A.Example", {"host": "a.eXAMPLE"}, {"host": "aa.example"}),
    ("hosts", "a.example:8080", {"host": "a.example:8080"}, {"host": "a.example"}),
    ("hosts", "a.example:*", {"host": "a.example:8080"}, {"host": "a.example"}),
    ("hosts", "*.example", {"host": "a.example"}, {"host": "a.example.com"}),
    ("hosts", "a.*", {"host": "a.example"}, {"host": "b.a.example"}),
    ("methods", "GET", {"method": "GET"}, {"method": "HEAD"}),
    ("methods", "P*", {"method": "PUT"}, {"method": "GET"}),
    ("methods", "*T", {"method": "PUT"}, {"method": "HEAD"}),
    ("paths", "/a", {"target": "/a"}, {"target": "/a/b"}),
    ("paths", "/a", {"target": "/a?x=/b"}, {"target": "/b?x=/a"}),
    ("paths", "/a", {"target": "/a#f"}, {"target": "/A"}),
    ("paths", "/a*", {"target": "/ab/c"}, {"target": "/b"}),
    ("paths", "*.html", {"target": "/x.html"}, {"target": "/x.htm"}),
    ("paths", "*/x*", {"target": "/a/x*"}, {"target": "/a/xy"}),
    ("paths", "/pkg.Svc/Method", {"target": "/pkg.Svc/Method", "method": "POST"}, {"target": "/pkg.Svc/Other"}),
    ("paths", "/v1/{*}/b", {"target": "/v1/a/b"}, {"target": "/v1/a/a/b"}),
    ("paths", "/v1/{**}", {"target": "/v1/a/b"}, {"target": "/v2/a"}),
    ("ports", "8080", {"destination_port": 8080}, {"destination_port": 80}),
    ("ports", "1", {"destination_port": 1}, {"destination_port": 8080}),
]


@pytest.mark.parametrize(("field", "value", "good", "bad"), FIELDS)
def test_operation(field: str, value: str, good: dict[str, Any], bad: dict[str, Any]) -> None:
    """The field and its negation, in an ALLOW and in a DENY."""
    negated = "not" + field[0].upper() + field[1:]
    for changes, expected in ((good, True), (bad, False)):
        asked = request(**changes)
        assert both(operation(**{field: [value]}), asked) is expected
        assert both(operation(**{negated: [value]}), asked) is not expected


@pytest.mark.parametrize("field", ["hosts", "methods", "paths"])
def test_star(field: str) -> None:
    """``*`` holds for every request."""
    assert both(operation(**{field: ["*"]}), request())


def test_an_empty_host_is_present() -> None:
    """To Envoy, ``*`` in hosts asks for presence only."""
    assert both(operation(hosts=["*"]), request(host="", lenient=True), config=ISTIO)


def test_absolute_form_wins() -> None:
    """To Envoy the authority in the target is the host."""
    asked = request(target="http://other/x", host="a.example", lenient=True)
    assert both(operation(hosts=["other"]), asked)
    assert not both(operation(hosts=["a.example"]), asked)


@pytest.mark.parametrize(
    "host", ["a.example:80", "a.example.", "a.example:", "a.example.:443", "A.EXAMPLE.:8080", "a.example..:1"]
)
def test_other_names_of_a_host(host: str) -> None:
    """An ALLOW wants the very host; a DENY also sees through a port and a dot at the end; Istio does not."""
    rule, asked = operation(hosts=["a.example"]), request(host=host)
    assert not matches(rule, asked, "ALLOW")
    assert matches(rule, asked, "DENY")
    assert not matches(rule, asked, "DENY", config=ISTIO)


@pytest.mark.parametrize("host", ["a.example:80", "a.example."])
def test_other_names_and_negation(host: str) -> None:
    """ALLOW with notHosts excludes the other names too; DENY with notHosts spares the very host only."""
    rule, asked = operation(notHosts=["a.example"]), request(host=host)
    assert not matches(rule, asked, "ALLOW")
    assert matches(rule, asked, "ALLOW", config=ISTIO)
    assert matches(rule, asked, "DENY")


def test_hosts_with_addresses() -> None:
    """The brackets of an IPv6 address belong to the name."""
    assert matches(operation(hosts=["[::1]"]), request(host="[::1]:80"), "DENY")
    assert not matches(operation(hosts=["[::2]"]), request(host="[::1]:80"), "DENY")


SPELLINGS: Final = [
    ("/v1/users:delete", "/v1/users%3Adelete"),
    ("/v1/users:delete", "/v1/users%3adelete"),
    ("/caf%C3%A9", "/caf%c3%a9"),
    ("/a%20b*", "/a%20%62c"),
    ("/x/{*}/@me", "/x/1/%40me"),
    ("*/x!", "/a/x%21"),
    ("/x", "/x/"),
    ("/x", "/x//"),
    ("/x!", "/%78%21/"),
    ("/x", "/x%2f"),
    ("*/x", "/a/x/"),
    ("/x/{*}", "/x/1/"),
    ("/x/", "/x"),
    ("/x/", "/%78"),
    ("/x/*", "/x"),
    ("*/x/", "/a/x"),
    ("/x/{*}/", "/x/1"),
    ("/x/{**}", "/x"),
]


@pytest.mark.parametrize(("value", "path"), SPELLINGS)
def test_other_spellings_of_a_path(value: str, path: str) -> None:
    """A DENY matches whatever a router may take for the denied path; an ALLOW the normalized spelling only."""
    asked = request(path=path)
    deny = matches(operation(paths=[value]), asked, "DENY")
    assert deny
    assert not matches(operation(paths=[value]), asked, "ALLOW")
    assert not matches(operation(paths=[value]), asked, "DENY", config=ISTIO)
    assert not matches(operation(notPaths=[value]), asked, "ALLOW")
    assert matches(operation(notPaths=[value]), asked, "DENY")


@pytest.mark.parametrize("path", ["/v1/[x]", "/v1/a[", "/v1/é"])
def test_characters_that_envoy_operators_miss(path: str) -> None:
    """``{*}`` in a DENY misses nothing; in an ALLOW it matches what Envoy's matches."""
    rule = operation(paths=["/v1/{*}"])
    assert matches(rule, request(path=path), "DENY")
    assert not matches(rule, request(path=path), "ALLOW")
    assert not matches(rule, request(path=path), "DENY", config=ISTIO)


# Fact that is not known, and rules that need it.
UNKNOWN: Final = [
    ({"source_ip": None}, "source.ip", "10.0.0.0/8"),
    ({"source_ip": None}, "remote.ip", "10.0.0.0/8"),
    ({"source_ip": "/run/app.sock"}, "source.ip", "0.0.0.0/0"),
    ({"source_ip": ""}, "source.ip", "::/0"),
    ({"destination_ip": None}, "destination.ip", "10.0.0.0/8"),
    ({"destination_port": None}, "destination.port", "8080"),
]


@pytest.mark.parametrize(("facts", "key", "value"), UNKNOWN)
def test_facts_that_are_not_known(facts: dict[str, Any], key: str, value: str) -> None:
    """A DENY that needs them matches and an ALLOW does not, negated or not, in either compatibility."""
    asked = request(**facts)
    for rule in (when(key, value), when(key, notValues=[value])):
        for config in ({}, {"config": ISTIO}):
            assert matches(rule, asked, "DENY", **config)
            assert not matches(rule, asked, "ALLOW", **config)


@pytest.mark.parametrize(
    ("normalization", "path", "judged"),
    [
        (PathNormalization.BASE, "/a/../b", "/b"),
        (PathNormalization.BASE, "/a\\b", "/a/b"),
        (PathNormalization.BASE, "/%61", "/a"),
        (PathNormalization.MERGE_SLASHES, "/a//b", "/a/b"),
        (PathNormalization.DECODE_AND_MERGE_SLASHES, "/a%2fb", "/a/b"),
    ],
)
def test_a_path_that_no_request_has_once_it_is_normalized(
    normalization: PathNormalization, path: str, judged: str
) -> None:
    """A rule that would silently match nothing is an error; where nothing is normalized, it matches."""
    config = MeshConfig(path_normalization=normalization)
    with pytest.raises(ConfigError, match=rf"can match no path under {normalization}: it is judged as '{judged}'"):
        compiled(policy(operation(paths=[path]), action="DENY"), config=config)
    assert (
        not compiled(policy(operation(paths=[judged]), action="DENY"), config=config)
        .evaluate(request(path=judged))
        .allowed
    )
    verbatim = MeshConfig(path_normalization=PathNormalization.NONE)
    assert matches(operation(paths=[path]), request(path=path), "DENY", config=verbatim)


def test_a_host_that_is_not_known() -> None:
    """It may be any: a DENY takes it for its own, an ALLOW does not."""
    asked = without_host(request())
    assert matches(operation(hosts=["a.example"]), asked, "DENY")
    assert not matches(operation(hosts=["a.example"]), asked, "ALLOW")
