"""Certificate-bound tokens: taken over the connection of their certificate, and over no other."""

from __future__ import annotations

import math
from hashlib import sha256
from typing import Any

import pytest

from meshsec import Connection, Decision, HttpRequest, MeshConfig, PeerIdentity, Reason, Workload, WorkloadPolicy
from meshsec.attributes import RequestPrincipal
from meshsec.authn import check_binding, verify_token
from meshsec.errors import TokenError
from meshsec.jose import KeySet
from meshsec.resources import JWTRule, RequestAuthentication, parse
from meshsec.spiffe import SpiffeId
from tokens import ISSUER, NOW, encode, jwks, mint, signing_key

MINE, OTHER = sha256(b"mine").digest(), sha256(b"other").digest()
ID = SpiffeId.parse("spiffe://cluster.local/ns/prod/sa/web")


def user(confirmation: Any) -> RequestPrincipal:
    """An end user whose token has this ``cnf``."""
    return RequestPrincipal(ISSUER, "alice", {"cnf": confirmation})


def peer(digest: bytes | None) -> PeerIdentity:
    """A peer with a certificate of this digest."""
    return PeerIdentity(ID, digest, None)


def code(principal: RequestPrincipal | None, found: PeerIdentity | None) -> str | None:
    """Why the token is refused."""
    try:
        check_binding(principal, found)
    except TokenError as error:
        return error.code
    return None


@pytest.mark.parametrize(
    ("confirmation", "found", "expected"),
    [
        ({"x5t#S256": encode(MINE)}, peer(MINE), None),
        ({"x5t#S256": encode(MINE)}, peer(OTHER), Reason.JWT_BOUND),
        ({"x5t#S256": encode(MINE)}, peer(None), Reason.JWT_BOUND),
        ({"x5t#S256": encode(MINE)}, None, Reason.JWT_BOUND),
        ({"x5t#S256": encode(MINE[:31])}, peer(MINE), Reason.JWT_BOUND),
        ({"x5t#S256": ""}, peer(MINE), Reason.JWT_BOUND),
        ({"x5t#S256": encode(MINE) + "="}, peer(MINE), Reason.JWT_CLAIM_TYPE),
        ({"x5t#S256": "é"}, peer(MINE), Reason.JWT_CLAIM_TYPE),
        ({"x5t#S256": None}, peer(MINE), Reason.JWT_CLAIM_TYPE),
        ({"x5t#S256": (encode(MINE),)}, peer(MINE), Reason.JWT_CLAIM_TYPE),
        ("x5t#S256", peer(MINE), Reason.JWT_CLAIM_TYPE),
        ({"jkt": encode(MINE)}, peer(MINE), Reason.JWT_BOUND),
        ({"jkt": None}, None, Reason.JWT_BOUND),
        ({"jkt": encode(MINE), "x5t#S256": encode(MINE)}, peer(MINE), Reason.JWT_BOUND),
        ({"jwk": {}}, None, None),
        ({}, None, None),
        (None, None, None),
    ],
)
def test_the_certificate_must_be_the_one(confirmation: Any, found: PeerIdentity | None, expected: str | None) -> None:
    """RFC 8705 section 3.1; whatever cannot be read is refused."""
    assert code(user(confirmation), found) == expected


def test_nobody_is_bound_to_nothing() -> None:
    """A request without a token has no binding."""
    assert code(None, None) is None


def test_every_request_is_checked_after_the_cache() -> None:
    """A token that was remembered from its own connection is refused on another, and under Istio's reading is not."""
    rule = JWTRule(issuer=ISSUER, jwks=jwks(signing_key()))
    users = RequestAuthentication(metadata={"name": "users"}, spec={"jwt_rules": [rule]})
    request = HttpRequest(
        "GET", "/", "web", (("authorization", "Bearer " + mint(cnf={"x5t#S256": encode(MINE)})),), "https"
    )

    def reason(policy: WorkloadPolicy, found: PeerIdentity | None) -> Reason:
        decision = policy.decide(Connection(peer=found, tls=found is not None), request, {}, now=NOW)
        assert isinstance(decision, Decision)
        return decision.reason

    strict = WorkloadPolicy.compile([users], Workload(name="web"), MeshConfig())
    for _ in range(4):
        assert reason(strict, peer(MINE)) is Reason.NO_ALLOW_POLICY
        assert reason(strict, peer(OTHER)) is Reason.JWT_BOUND
        assert reason(strict, None) is Reason.JWT_BOUND
    lax = WorkloadPolicy.compile([users], Workload(name="web"), MeshConfig(compatibility="istio"))
    assert reason(lax, None) is Reason.NO_ALLOW_POLICY


@pytest.mark.parametrize(
    ("found", "expected"), [(peer(MINE), Reason.NO_ALLOW_POLICY), (peer(OTHER), Reason.JWT_BOUND)]
)
def test_every_accepted_token_is_checked(found: PeerIdentity, expected: Reason) -> None:
    """A stolen bound token gets in nowhere, also not beside a second token that is the thief's own."""
    own, bound = "https://a.example", "https://b.example"
    places = ((own, "x-a"), (bound, "x-b"))
    rules = [JWTRule(issuer=who, jwks=jwks(signing_key()), from_headers=[{"name": name}]) for who, name in places]
    users = RequestAuthentication(metadata={"name": "users"}, spec={"jwt_rules": rules})
    policy = WorkloadPolicy.compile([users], Workload(name="web"), MeshConfig())
    tokens = (("x-a", mint(iss=own)), ("x-b", mint(iss=bound, cnf={"x5t#S256": encode(MINE)})))
    decision = policy.decide(
        Connection(peer=found, tls=True), HttpRequest("GET", "/", "web", tokens, "https"), {}, now=NOW
    )
    assert isinstance(decision, Decision)
    assert decision.reason is expected


@pytest.mark.parametrize(
    ("found", "inside", "status"),
    [
        (peer(MINE), {}, 200),
        (peer(OTHER), {}, 401),
        (peer(MINE), {"cnf": {"x5t#S256": encode(MINE)}}, 200),
        (peer(MINE), {"cnf": {"x5t#S256": encode(OTHER)}}, 401),
        (peer(MINE), {"cnf": {"jkt": "k"}}, 401),
    ],
)
def test_an_exchanged_token_keeps_its_binding(found: PeerIdentity, inside: dict[str, object], status: int) -> None:
    """The outer token's counts, whatever the claims inside it say, and what they are bound to counts besides."""
    document = f"""
apiVersion: authentication.istio.io/v1alpha1
kind: MeshPolicy
metadata: {{name: default}}
spec:
  peers: [{{mtls: {{}}}}]
  origins: [{{jwt: {{issuer: "{ISSUER}", jwks: '{jwks(signing_key())}', jwtHeaders: [ingress-authorization]}}}}]
  principalBinding: USE_ORIGIN
"""
    policy = WorkloadPolicy.compile(parse(document), Workload(name="web", namespace="prod"), MeshConfig())
    token = mint(cnf={"x5t#S256": encode(MINE)}, original_claims={"iss": "https://o", "sub": "alice", **inside})
    request = HttpRequest("GET", "/", "web", (("ingress-authorization", f"istio {token}"),), "https")
    decision = policy.decide(Connection(peer=found, tls=True, destination_port=8443), request, {}, now=NOW)
    assert isinstance(decision, Decision)
    assert decision.status == status


def test_a_clock_of_nan_accepts_nothing() -> None:
    """A comparison that says no to everything must refuse, not admit."""
    rule = JWTRule(issuer=ISSUER, jwks=jwks(signing_key()))
    with pytest.raises(TokenError):
        verify_token(mint(), rule, KeySet.parse(jwks(signing_key())), now=math.nan)
