"""Rules on headers: they see the request as the application will, in the lines that a proxy would make of it."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from meshsec import Connection, Decision, HttpRequest, MeshConfig, Workload, WorkloadPolicy
from meshsec.resources import parse
from meshsec.testing import TestIssuer

ISSUER = TestIssuer()
TOKEN = ISSUER.token(sub="alice")
BEARER = ("Authorization", f"Bearer {TOKEN}")
WEB = Workload(name="web", namespace="prod")
LAST = ("X-Forwarded-For", "10.0.0.1, 9.9.9.9")


def document(kind: str, **spec: Any) -> dict[str, Any]:
    """A resource of the workload's namespace."""
    metadata = {"name": "one", "namespace": "prod"}
    return {"apiVersion": "security.istio.io/v1", "kind": kind, "metadata": metadata, "spec": spec}


def users(**rule: Any) -> dict[str, Any]:
    """A RequestAuthentication of our issuer."""
    return document("RequestAuthentication", jwtRules=[{"issuer": ISSUER.issuer, "jwks": ISSUER.jwks, **rule}])


def deny(name: str, *values: str, action: str = "DENY") -> dict[str, Any]:
    """An AuthorizationPolicy on one header."""
    rules = [{"when": [{"key": f"request.headers[{name}]", "values": list(values)}]}]
    return document("AuthorizationPolicy", action=action, rules=rules)


def allowed(*documents: dict[str, Any], headers: tuple[tuple[str, str], ...], **config: Any) -> bool:
    """Whether a request with these headers gets in."""
    resources = parse("\n---\n".join(map(json.dumps, documents)))
    policy = WorkloadPolicy.compile(resources, WEB, MeshConfig(**config))
    request = HttpRequest("GET", "/", "web", (("Host", "web"), *headers))
    decision = policy.decide(Connection(source_ip="127.0.0.1"), request, {}, now=time.time())
    assert isinstance(decision, Decision)
    return decision.allowed


@pytest.mark.parametrize("compatibility", ["safe", "istio"])
def test_a_spent_token_is_not_there(compatibility: str) -> None:
    """The application will not see the token, so no rule does; one that is forwarded is there."""
    mode = {"compatibility": compatibility}
    rule = deny("authorization", "*")
    assert allowed(users(), rule, headers=(BEARER,), **mode)
    assert not allowed(users(forwardOriginalToken=True), rule, headers=(BEARER,), **mode)
    assert not allowed(rule, headers=(BEARER,), **mode)


@pytest.mark.parametrize("compatibility", ["safe", "istio"])
def test_claims_in_headers_are_there(compatibility: str) -> None:
    """What the rule puts there counts, never what the client did."""
    source = users(outputClaimToHeaders=[{"header": "x-sub", "claim": "sub"}])
    mode = {"compatibility": compatibility}
    forged = ("x-sub", "mallory")
    assert not allowed(source, deny("x-sub", "alice"), headers=(BEARER, forged), **mode)
    assert allowed(source, deny("x-sub", "mallory"), headers=(BEARER, forged), **mode)
    assert not allowed(source, deny("x-sub", "mallory", action="ALLOW"), headers=(forged,), **mode)


@pytest.mark.parametrize(
    ("action", "value", "safe", "istio"),
    [
        ("DENY", "bot", False, True),
        ("DENY", "bot,x", False, False),
        ("DENY", "y", True, True),
        ("ALLOW", "bot", False, False),
        ("ALLOW", "bot,x", False, True),
        ("ALLOW", "*", True, True),
    ],
)
def test_lines_that_a_proxy_joins(action: str, value: str, *, safe: bool, istio: bool) -> None:
    """Several lines of User-Agent are one behind Envoy; whoever cannot tell takes the stricter of both."""
    headers = (("User-Agent", "bot"), ("User-Agent", "x"))
    rule = deny("User-Agent", value, action=action)
    assert allowed(rule, headers=headers) is safe
    assert allowed(rule, headers=headers, compatibility="istio") is istio


def test_lines_that_no_proxy_joins() -> None:
    """Each line of any other header is looked at alone."""
    headers = (("x-a", "bot"), ("x-a", "x"))
    for compatibility in ("safe", "istio"):
        assert not allowed(deny("x-a", "bot"), headers=headers, compatibility=compatibility)
        assert allowed(deny("x-a", "bot,x"), headers=headers, compatibility=compatibility)
        assert allowed(deny("x-a", "x", action="ALLOW"), headers=headers, compatibility=compatibility)


@pytest.mark.parametrize(
    ("lines", "believed"),
    [
        ((), "127.0.0.1"),
        ((LAST,), "9.9.9.9"),
        ((LAST, ("X-Forwarded-For", "::1")), "::1"),
        ((("X-Forwarded-For", "9.9.9.9,"),), "127.0.0.1"),
        ((("X-Forwarded-For", "9.9.9.9:80"),), "127.0.0.1"),
        ((("X-Forwarded-For", "[::1]"),), "127.0.0.1"),
    ],
)
def test_the_clients_address(lines: tuple[tuple[str, str], ...], believed: str) -> None:
    """The last address of X-Forwarded-For in Istio's reading; otherwise that one and the one that is connected."""

    def admits(field: str, *addresses: str, compatibility: str) -> bool:
        rule = document("AuthorizationPolicy", rules=[{"from": [{"source": {field: list(addresses)}}]}])
        return allowed(rule, headers=lines, compatibility=compatibility)

    assert admits("remoteIpBlocks", believed, compatibility="istio")
    assert not admits("notRemoteIpBlocks", believed, compatibility="istio")
    assert admits("remoteIpBlocks", believed, "127.0.0.1", compatibility="safe")
    for address in (believed, "127.0.0.1"):
        alone = believed == "127.0.0.1"
        assert admits("remoteIpBlocks", address, compatibility="safe") is alone
        assert not admits("notRemoteIpBlocks", address, compatibility="safe")
