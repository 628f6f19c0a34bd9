"""A value that can match nothing is refused where it is read; beside it the value that was meant."""

from __future__ import annotations

import contextlib
import json
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshsec.errors import ConfigError
from meshsec.resources import AuthorizationPolicy

# Field of a source or an operation, or key of a condition; what is refused; part of the reason; what is taken.
ROWS: Final = [
    ("principals", "spiffe://cluster.local/ns/a/sa/b", "without spiffe://", "cluster.local/ns/a/sa/b"),
    ("principals", "spiffe://*", "without spiffe://", "*"),
    ("principals", "web", "names no workload", "*/web"),
    ("principals", "cluster.local", "names no workload", "cluster.local/*"),
    ("principals", "*/ns/prod/sa/*", "a star counts at one end only", "*/ns/prod/sa/web"),
    ("principals", "clu*ter.local/ns/a/sa/b", "a star counts at one end only", "cluster*"),
    ("principals", "cluster.local/ns/*/sa/b", "a star counts at one end only", "cluster*/ns/a/sa/b"),
    ("principals", "cluster.local/ns/a/sa/b@c", "no such character", "cluster.local/ns/a/sa/b-c"),
    ("principals", "cluster.local/ns/a/sa/\u00e9", "no such character", "*td/ns/a/sa/b"),
    ("principals", "cluster.local//ns/a/sa/b", "no empty segments", "cluster.local/a/ns/a/sa/b"),
    ("principals", "cluster.local/ns/a/sa/", "no empty segments", "cluster.local/ns/a/sa/*"),
    ("principals", "*/sa/", "no empty segments", "*/sa"),
    ("principals", "/ns/a/sa/b", "no empty segments", "*/ns/a/sa/b"),
    ("principals", "cluster.local/../sa/b*", "no dot segments", "cluster.local/..a/sa/b*"),
    ("principals", "Cluster.local/ns/a/sa/b", "in lower case", "cluster.local/ns/A/sa/B"),
    ("principals", "TD*", "in lower case", "td*"),
    ("source.principal", "spiffe://*", "without spiffe://", "*"),
    ("namespaces", "pr od", "a namespace has", "pr*d"),
    ("namespaces", "/prod", "a namespace has", "prod"),
    ("namespaces", "prod/", "a namespace has", "prod/x"),
    ("namespaces", "..", "a namespace has", "*"),
    ("source.namespace", "spiffe://prod", "a namespace has", "*.*"),
    ("serviceAccounts", "prod/*", "no service account", "prod/web"),
    ("serviceAccounts", "prod/w b", "no service account", "w.b"),
    ("serviceAccounts", "a/b/c", "no service account", "b-c"),
    ("source.serviceAccount", "../web", "no service account", "web"),
    ("trustDomains", "Cluster.local", "lower-case", "cluster.local"),
    ("trustDomains", "td:80", "lower-case", "td*"),
    ("source.trustDomain", "spiffe:", "lower-case", "*.local"),
    ("requestPrincipals", "https://*", "split at its last slash", "*"),
    ("requestPrincipals", "https://a.example*", "split at its last slash", "https://a.example/*"),
    ("requestPrincipals", "https://a.example", "split at its last slash", "https://a.example/alice"),
    ("requestPrincipals", "issuer", "an issuer or a subject only", "issuer/*"),
    ("requestPrincipals", "issuer/", "an issuer or a subject only", "issuer*"),
    ("requestPrincipals", "/alice", "an issuer or a subject only", "*/alice"),
    ("requestPrincipals", "/*", "an issuer or a subject only", "*/*"),
    ("request.auth.principal", "https://*", "split at its last slash", "*alice"),
    ("hosts", "https://web.prod", "neither a scheme nor a path", "web.prod"),
    ("hosts", "web.prod/x", "neither a scheme nor a path", "WEB.prod:8080"),
    ("hosts", "*.prod*", "a star counts at one end only", "*.prod"),
    ("hosts", "web.*.prod", "a star counts at one end only", "[::1]:*"),
    ("ports", "0", "no port", "1"),
    ("ports", "65536", "no port", "65535"),
    ("destination.port", "http", "no port", "080"),
    ("methods", "get", "write GET", "GET"),
    ("methods", "BREW", "no request with such a method", "PROPFIND"),
    ("methods", "G*T", "no request with such a method", "G*"),
    ("methods", "*t", "no request with such a method", "*T"),
    ("paths", "admin", "a path begins with /", "/admin"),
    ("paths", "/a?x=1", "without query and fragment", "/a"),
    ("paths", "/a#x", "without query and fragment", "*a"),
    ("paths", "/a b", "percent-encoded", "/a%20b"),
    ("connection.sni", "Web.prod", "lower case", "web.prod"),
    ("connection.sni", "web prod", "visible ASCII", "outbound_.80_._.*"),
    ("request.headers[x]", " a", "white space at their ends", "* a"),
    ("request.headers[x]", "a\t", "white space at their ends", "a\tb"),
    ("request.headers[x]", "* ", "white space at their ends", "a *"),
    ("request.headers[x]", "a\nb", "no control characters", "a,b"),
    ("source.ip", "10.0.0.0/33", "from 0 to 32", "10.0.0.0/32"),
    ("ipBlocks", "localhost", "neither an IP address", "127.0.0.1"),
]  # fmt: skip
OPERATION: Final = ("hosts", "ports", "methods", "paths")
FREE: Final = ("request.auth.claims[x]", "request.auth.audiences", "request.auth.presenter")


def rule(name: str, value: str, *, negated: bool = False) -> dict[str, Any]:
    """A rule on one attribute."""
    if "." in name:
        return {"when": [{"key": name, "notValues" if negated else "values": [value]}]}
    field = f"not{name[0].upper()}{name[1:]}" if negated else name
    part, entry = ("to", "operation") if name in OPERATION else ("from", "source")
    return {part: [{entry: {field: [value]}}]}


def load(*rules: dict[str, Any]) -> AuthorizationPolicy:
    """A policy with these rules."""
    return AuthorizationPolicy(metadata={"name": "a"}, spec={"rules": rules})


@pytest.mark.parametrize(("name", "bad", "reason", "good"), ROWS)
def test_values_that_match_nothing(name: str, bad: str, reason: str, good: str) -> None:
    """Refused in a field and in its negation, each with its place; what was meant is taken."""
    with pytest.raises(ConfigError) as caught:
        load(rule(name, bad), rule(name, bad, negated=True))
    assert len(caught.value.problems) == 2
    assert all(reason in problem.message for problem in caught.value.problems)
    assert load(rule(name, good), rule(name, good, negated=True)).spec.rules


@given(name=st.sampled_from([*(row[0] for row in ROWS), *FREE]), value=st.text(max_size=12))
@settings(max_examples=300)
def test_any_text_is_a_value_or_a_problem(name: str, value: str) -> None:
    """Never anything else than ConfigError."""
    with contextlib.suppress(ConfigError):
        load(rule(name, value))


@pytest.mark.parametrize("name", FREE)
def test_claims_may_be_any_text(name: str) -> None:
    """What an issuer writes into a claim is its own affair."""
    for code in range(1, 256):
        assert load(rule(name, chr(code)))


@pytest.mark.parametrize(("name", "value"), [("paths", "/"), ("source.principal", "a/"), ("request.headers[x]", "")])
def test_sizes(name: str, value: str) -> None:
    """A value has at most 8,192 characters, a list at most 10,000 values."""
    assert load(rule(name, value + "a" * (8192 - len(value))))
    with pytest.raises(ConfigError, match="at most 8192 characters"):
        load(rule(name, value + "a" * (8193 - len(value))))
    for count, fits in ((10_000, True), (10_001, False)):
        document = json.loads(json.dumps(rule(name, "?")).replace('"?"', ",".join([f'"{value}a"'] * count)))
        with contextlib.nullcontext() if fits else pytest.raises(ConfigError, match="at most 10000 entries"):
            load(document)
