"""The legacy kinds' decision: istio.md 5.3, sentence by sentence, and what differs from it on purpose."""

from __future__ import annotations

import contextlib
import json
import re
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshsec import (
    AuthContext,
    ConfigError,
    Connection,
    HttpRequest,
    MeshConfig,
    PeerIdentity,
    Reason,
    Workload,
    WorkloadPolicy,
)
from meshsec.attributes import Target, read_target
from meshsec.authn import KeySource, KeyState, NeedKeys
from meshsec.jose import SigningKey
from meshsec.resources import Compatibility, PathNormalization, parse
from tokens import ISSUER, NOW, jwks, key_set, mint, signing_key

WEB = Workload(name="web", namespace="prod", labels={"app": "web"}, ports={"http": 8080})
INGRESS = PeerIdentity.of("spiffe://cluster.local/ns/prod/sa/ingress")
OLD = PeerIdentity.of("spiffe://old.local/ns/prod/sa/ingress")
PEER_FAILED, ORIGIN_FAILED = "Peer authentication failed.", "Origin authentication failed."

KEY, OTHER_KEY = signing_key(), signing_key("ES256", "k2")
OTHER = "https://other.example"
GOOD, OTHER_GOOD = mint(), mint(OTHER_KEY, iss=OTHER)
FORGED = mint(SigningKey.generate("ES256", kid="k1"))
EXPIRED = mint(exp=NOW - 3600)


def jwt(issuer: str = ISSUER, key: SigningKey = KEY, **fields: Any) -> dict[str, Any]:
    """An origin with its keys in the policy."""
    return {"jwt": {"issuer": issuer, "jwks": jwks(key), **fields}}


def triggers(*rules: dict[str, Any]) -> dict[str, Any]:
    """Trigger rules as a field of a jwt; snake_case, as they are found."""
    return {"trigger_rules": list(rules)}


def compiled(
    spec: dict[str, Any] | None = None, *more: str, compatibility: Compatibility = "safe", **config: Any
) -> WorkloadPolicy:
    """A namespace's default Policy, and more documents."""
    document = {
        "apiVersion": "authentication.istio.io/v1alpha1",
        "kind": "Policy",
        "metadata": {"name": "default", "namespace": "prod"},
        "spec": spec or {},
    }
    ambiguous = "istio" if compatibility == "istio" else "refuse"
    settings = MeshConfig(
        trust_domain_aliases=("old.local",), compatibility=compatibility, ambiguous_paths=ambiguous, **config
    )
    return WorkloadPolicy.compile(parse("\n---\n".join([json.dumps(document), *more])), WEB, settings)


def judged(policy: WorkloadPolicy, target: str = "/", token: str | None = None, *headers: tuple[str, str],
           peer: PeerIdentity | None = None, method: str = "GET", port: int | None = 8080,
           tls: bool | None = None) -> AuthContext:  # fmt: skip
    """What one request comes to."""
    bearer = (("authorization", f"Bearer {token}"),) if token else ()
    connection = Connection(destination_port=port, peer=peer, tls=peer is not None if tls is None else tls)
    found = policy.judge(connection, HttpRequest(method, target, "web", (*bearer, *headers)), {}, now=NOW)
    assert isinstance(found, AuthContext), found
    return found


def said(context: AuthContext) -> str | tuple[int, str, str]:
    """``ok``, or status, body and reason; no refusal challenges or names a user."""
    decision = context.decision
    if decision.allowed:
        return "ok"
    assert decision.edits.response_headers in ((), (("connection", "close"),))
    assert context.principal is None
    return decision.status, decision.message, str(decision.reason)


STRICT, PERMISSIVE = {"mtls": {}}, {"mtls": {"mode": "PERMISSIVE"}}


# ------------------------------------------------------------------ 1. peers


@pytest.mark.parametrize(
    ("spec", "peer", "expected", "known"),
    [
        ({"peers": [STRICT]}, INGRESS, "ok", INGRESS),
        ({"peers": [STRICT]}, None, (401, PEER_FAILED, "peer_required"), None),
        ({"peers": [PERMISSIVE]}, INGRESS, "ok", INGRESS),
        ({"peers": [PERMISSIVE]}, None, "ok", None),
        ({"peers": [STRICT, PERMISSIVE]}, None, "ok", None),
        ({"peers": [STRICT], "peerIsOptional": True}, None, "ok", None),
        ({"peers": [STRICT], "peerIsOptional": True}, INGRESS, "ok", INGRESS),
        # the server's own trust domain, in both modes; an alias is another one
        ({"peers": [STRICT]}, OLD, (401, PEER_FAILED, "peer_distrusted"), OLD),
        ({"peers": [PERMISSIVE]}, OLD, (401, PEER_FAILED, "peer_distrusted"), OLD),
        ({"peers": [STRICT], "peerIsOptional": True}, OLD, "ok", None),
        # without peers mutual TLS is disabled
        ({}, None, "ok", None),
        ({}, INGRESS, (401, PEER_FAILED, "tls_not_expected"), None),
        ({"peerIsOptional": True}, INGRESS, (401, PEER_FAILED, "tls_not_expected"), None),
    ],
)
def test_peers(spec: dict[str, Any], peer: PeerIdentity | None, expected: Any, known: PeerIdentity | None) -> None:
    """The first that succeeds; the application sees the peer that was accepted, and no other."""
    context = judged(compiled(spec), peer=peer)
    assert said(context) == expected
    assert context.peer == known


@pytest.mark.parametrize("spec", [{"peers": [PERMISSIVE]}, {"peers": [STRICT], "peerIsOptional": True}])
def test_tls_without_a_certificate_is_never_taken(spec: dict[str, Any]) -> None:
    """As Istio's listeners: whoever speaks TLS to them shows a certificate."""
    assert said(judged(compiled(spec), tls=True)) == (401, PEER_FAILED, "peer_required")


def test_a_peer_of_an_unknown_trust_domain_stays_outside() -> None:
    """Even where the peer is optional: its certificate was not worth anything."""
    policy = compiled({"peers": [STRICT], "peerIsOptional": True})
    peer = PeerIdentity.of("spiffe://evil.example/ns/prod/sa/ingress")
    assert said(judged(policy, peer=peer)) == (401, PEER_FAILED, "peer_distrusted")


def test_the_peer_is_asked_before_the_origin() -> None:
    """A request that lacks both is told about the peer."""
    assert said(judged(compiled({"peers": [STRICT], "origins": [jwt()]})))[1] == PEER_FAILED


# ------------------------------------------------------------------ 2. origins


@pytest.mark.parametrize(
    ("spec", "token", "expected"),
    [
        ({"origins": [jwt()]}, GOOD, "ok"),
        ({"origins": [jwt()]}, None, (401, ORIGIN_FAILED, "jwt_missing")),
        ({"origins": [jwt()]}, FORGED, (401, ORIGIN_FAILED, "jwt_signature")),
        ({"origins": [jwt()]}, EXPIRED, (401, ORIGIN_FAILED, "jwt_expired")),
        ({"origins": [jwt()]}, OTHER_GOOD, (401, ORIGIN_FAILED, "jwt_issuer")),
        ({"origins": [jwt(audiences=["web", "x"])]}, GOOD, "ok"),
        ({"origins": [jwt(audiences=["x"])]}, GOOD, (401, ORIGIN_FAILED, "jwt_audience")),
        ({"origins": [jwt(), jwt(OTHER, OTHER_KEY)]}, OTHER_GOOD, "ok"),
        ({"origins": [jwt()], "originIsOptional": True}, None, "ok"),
        ({"origins": [jwt()], "originIsOptional": True}, GOOD, "ok"),
        ({"originIsOptional": True, "principalBinding": "USE_ORIGIN"}, None, "ok"),
        ({"principalBinding": "USE_ORIGIN"}, None, (401, ORIGIN_FAILED, "origin_required")),
        ({"principalBinding": "USE_ORIGIN"}, GOOD, (401, ORIGIN_FAILED, "origin_required")),
        ({"principalBinding": "USE_PEER"}, None, "ok"),
        ({}, FORGED, "ok"),
    ],
)
@pytest.mark.parametrize("compatibility", ["safe", "istio"])
def test_origins(spec: dict[str, Any], token: str | None, expected: Any, compatibility: Compatibility) -> None:
    """Where one is asked for, any that holds will do; no body says why, and every status is 401."""
    assert said(judged(compiled(spec, compatibility=compatibility), token=token)) == expected


def test_the_user_is_the_tokens() -> None:
    """The application sees who the token is about, and the token itself: it is always forwarded."""
    context = judged(compiled({"origins": [jwt()]}), "/a?access_token=x", GOOD, ("x-other", "y"))
    assert said(context) == (401, ORIGIN_FAILED, "jwt_several")
    context = judged(compiled({"origins": [jwt()]}), "/a?b=c", GOOD)
    assert context.principal is not None
    assert context.principal.name == f"{ISSUER}/alice"
    assert context.decision.edits.remove_headers == ()
    assert context.decision.edits.target is None


@pytest.mark.parametrize(
    ("fields", "target", "headers", "expected"),
    [
        ({}, f"/?access_token={GOOD}", [], "ok"),
        ({"jwtHeaders": ["X-Token"]}, "/", [("x-token", GOOD)], "ok"),
        ({"jwtHeaders": ["x-token"]}, "/", [("x-token", f"Bearer {GOOD}")], "jwt_malformed"),
        ({"jwtHeaders": ["x-token"]}, "/", [("authorization", f"Bearer {GOOD}")], "jwt_missing"),
        ({"jwtParams": ["t"]}, f"/?t={GOOD}", [], "ok"),
        ({"jwtParams": ["t"]}, f"/?access_token={GOOD}", [], "jwt_missing"),
        ({"jwtHeaders": ["x-token"], "jwtParams": ["t"]}, f"/?t={GOOD}", [], "ok"),
    ],
)
def test_where_tokens_are_looked_for(fields: Any, target: str, headers: Any, expected: str) -> None:
    """A header's whole value, a parameter; the usual places only where neither is named."""
    context = judged(compiled({"origins": [jwt(**fields)]}), target, None, *headers)
    assert said(context) == "ok" if expected == "ok" else context.decision.reason == expected


PREFLIGHT = (("origin", "https://a.example"), ("access-control-request-method", "PUT"))


@pytest.mark.parametrize(
    ("method", "headers", "ok"),
    [
        ("OPTIONS", PREFLIGHT, True),
        ("GET", PREFLIGHT, False),
        ("OPTIONS", PREFLIGHT[:1], False),
        ("OPTIONS", (), False),
    ],
)
def test_a_cors_preflight_needs_no_token(method: str, headers: Any, ok: bool) -> None:
    """Nor does it have an identity."""
    context = judged(compiled({"origins": [jwt()]}), "/", None, *headers, method=method)
    assert (said(context) == "ok") is ok
    assert context.principal is None


# ------------------------------------------------------------------ trigger rules


EXCLUDED, INCLUDED = "excluded_paths", "included_paths"


@pytest.mark.parametrize(
    ("rules", "asked", "not_asked"),
    [
        ([], ["/", "/a"], []),
        ([{}], ["/", "/a"], []),
        ([{EXCLUDED: [{"exact": "/a"}]}], ["/", "/a/", "/ab", "/A", "/b/a"], ["/a", "/a?b", "/a#b", "/a?/b"]),
        ([{INCLUDED: [{"exact": "/a"}]}], ["/a", "/a?b", "/a#b"], ["/", "/ab", "/A", "/b?/a"]),
        ([{EXCLUDED: [{"prefix": "/a"}]}], ["/", "/b/a"], ["/a", "/a/b", "/ab"]),
        ([{INCLUDED: [{"prefix": "/a"}]}], ["/a", "/a/b", "/ab"], ["/", "/b/a"]),
        ([{EXCLUDED: [{"suffix": ".js"}]}], ["/a.jsx", "/a.js/b"], ["/a.js", "/b/.js", "/a.js?b"]),
        ([{INCLUDED: [{"suffix": ".js"}]}], ["/a.js", "/b/.js"], ["/a.jsx", "/?a.js"]),
        ([{INCLUDED: [{"exact": "/a"}, {"exact": "/b"}]}], ["/a", "/b"], ["/c"]),
        ([{EXCLUDED: [{"exact": "/a"}, {"exact": "/b"}]}], ["/c"], ["/a", "/b"]),
        ([{EXCLUDED: [{"exact": "/a/b"}], INCLUDED: [{"prefix": "/a"}]}], ["/a", "/a/c"], ["/a/b", "/c"]),
        ([{EXCLUDED: [{"exact": "/a"}]}, {EXCLUDED: [{"exact": "/b"}]}], ["/a", "/b", "/c"], []),
        ([{INCLUDED: [{"exact": "/a"}]}, {INCLUDED: [{"exact": "/b"}]}], ["/a", "/b"], ["/c"]),
        ([{EXCLUDED: [{"prefix": "/"}]}, {INCLUDED: [{"exact": "/b"}]}], ["/b"], ["/a", "/"]),
    ],
)
@pytest.mark.parametrize("compatibility", ["safe", "istio"])
def test_trigger_rules(rules: Any, asked: list[str], not_asked: list[str], compatibility: Compatibility) -> None:
    """Any rule that holds asks: none of its excluded paths, and one of the included ones, if it names any."""
    policy = compiled({"origins": [jwt(**(triggers(*rules) if rules else {}))]}, compatibility=compatibility)
    for target in asked:
        assert said(judged(policy, target)) == (401, ORIGIN_FAILED, "jwt_missing"), target
        assert said(judged(policy, target, FORGED)) == (401, ORIGIN_FAILED, "jwt_signature"), target
        assert said(judged(policy, target, GOOD)) == "ok", target
    for target in not_asked:
        for token in (None, FORGED, GOOD):
            context = judged(policy, target, token)
            assert said(context) == "ok", target
            assert context.principal is None, "elsewhere a token is not even read"


@pytest.mark.parametrize(("compatibility", "asked"), [("safe", True), ("istio", False)])
def test_a_slash_at_the_end_of_an_included_path(compatibility: Compatibility, asked: bool) -> None:
    """Some routers take it for nothing: then a token is asked for, as without it."""
    rules = triggers({INCLUDED: [{"exact": "/a"}]})
    policy = compiled({"origins": [jwt(**rules)]}, compatibility=compatibility)
    assert (said(judged(policy, "/a/")) != "ok") is asked
    assert said(judged(policy, "/a")) != "ok"


def test_trigger_rules_never_touch_mutual_tls() -> None:
    """They are about tokens only."""
    policy = compiled({"peers": [STRICT], "origins": [jwt(**triggers({EXCLUDED: [{"exact": "/a"}]}))]})
    assert said(judged(policy, "/a"))[1] == PEER_FAILED
    assert said(judged(policy, "/a", peer=INGRESS)) == "ok"


def test_several_origins_take_turns() -> None:
    """The pair that Istio's own tests had: one issuer for a path, the other for the rest."""
    policy = compiled(
        {
            "origins": [
                jwt(**triggers({EXCLUDED: [{"exact": "/other"}, {"exact": "/health"}]})),
                jwt(OTHER, OTHER_KEY, **triggers({INCLUDED: [{"exact": "/other"}]})),
            ],
            "principalBinding": "USE_ORIGIN",
        }
    )
    rows = {("/", GOOD): "ok", ("/other", OTHER_GOOD): "ok", ("/health", None): "ok", ("/health", FORGED): "ok"}
    for (target, token), expected in rows.items():
        assert said(judged(policy, target, token)) == expected
    for target, token in (("/", OTHER_GOOD), ("/other", GOOD), ("/", None), ("/other", None)):
        assert said(judged(policy, target, token))[1] == ORIGIN_FAILED


@pytest.mark.parametrize("target", ["/x/../admin", "/%61dmin", "/./admin", "/x/%2e%2e/admin"])
def test_a_path_is_judged_normalized(target: str) -> None:
    """What the application will see counts: no spelling escapes an included path or enters an excluded one."""
    included = compiled({"origins": [jwt(**triggers({INCLUDED: [{"prefix": "/admin"}]}))]})
    assert said(judged(included, target)) == (401, ORIGIN_FAILED, "jwt_missing")
    excluded = compiled({"origins": [jwt(**triggers({EXCLUDED: [{"prefix": "/x/"}]}))]})
    assert said(judged(excluded, target)) == (401, ORIGIN_FAILED, "jwt_missing")


@pytest.mark.parametrize("target", ["//admin", "/a%3Ab", "/A%2fb"])
def test_every_reading_of_a_path_is_judged(target: str) -> None:
    """Slashes that routers merge, and characters that applications decode."""
    rule = {INCLUDED: [{"exact": "/admin"}, {"exact": "/a:b"}, {"exact": "/A/b"}]}
    policy = compiled({"origins": [jwt(**triggers(rule))]})
    assert not judged(policy, target).decision.allowed
    exactly = compiled({"origins": [jwt(**triggers(rule))]}, compatibility="istio")
    assert said(judged(exactly, target)) == "ok"


def test_an_excluded_path_is_its_very_spelling() -> None:
    """In doubt a token is asked for."""
    policy = compiled({"origins": [jwt(**triggers({EXCLUDED: [{"exact": "/a:b"}]}))]})
    assert said(judged(policy, "/a:b")) == "ok"
    assert said(judged(policy, "/a%3Ab")) == (401, ORIGIN_FAILED, "jwt_missing")


# ------------------------------------------------------------------ safer than 5.3


@pytest.mark.parametrize(
    ("spec", "headers", "safe"),
    [
        # a bad token, where a token may be missing
        ({"origins": [jwt()], "originIsOptional": True}, [("authorization", f"Bearer {FORGED}")], "jwt_signature"),
        # a bad token beside a good one
        (
            {"origins": [jwt(), jwt(OTHER, OTHER_KEY, jwtHeaders=["x-other"])]},
            [("authorization", f"Bearer {GOOD}"), ("x-other", FORGED)],
            "jwt_issuer",
        ),
        # a token that never expires
        ({"origins": [jwt()]}, [("authorization", f"Bearer {mint(exp=None)}")], "jwt_no_expiry"),
    ],
)
def test_a_bad_token_on_a_triggered_path_is_refused(spec: Any, headers: Any, safe: str) -> None:
    """Whoever sends a token means it; Istio passed these."""
    assert said(judged(compiled(spec), "/", None, *headers)) == (401, ORIGIN_FAILED, safe)
    assert said(judged(compiled(spec, compatibility="istio"), "/", None, *headers)) == "ok"


@pytest.mark.parametrize("compatibility", ["safe", "istio"])
def test_of_two_good_tokens_the_first_origins_counts(compatibility: Compatibility) -> None:
    """In the order of the policy, not of the issuers' names."""
    spec = {"origins": [jwt(OTHER, OTHER_KEY, jwtHeaders=["x-other"]), jwt()]}
    headers = ("authorization", f"Bearer {GOOD}"), ("x-other", OTHER_GOOD)
    context = judged(compiled(spec, compatibility=compatibility), "/", None, *headers)
    assert context.principal is not None
    assert context.principal.issuer == OTHER


# ------------------------------------------------------------------ an exchanged token


EXCHANGED = {"jwtHeaders": ["Ingress-Authorization"]}


@pytest.mark.parametrize(
    ("claims", "value", "expected"),
    [
        ({"original_claims": {"iss": "https://idp", "sub": "bob", "groups": ["a"]}}, "istio {}", "https://idp/bob"),
        ({"original_claims": {"iss": "https://idp", "sub": "bob"}}, "{}", "jwt_missing"),
        ({"original_claims": "bob"}, "istio {}", "jwt_claim_type"),
        ({}, "istio {}", "jwt_claim_type"),
    ],
)
@pytest.mark.parametrize("compatibility", ["safe", "istio"])
def test_an_exchanged_token_names_the_first_ones_user(
    claims: Any, value: str, expected: str, compatibility: Compatibility
) -> None:
    """It stands in ``ingress-authorization`` after ``istio``, and says whom it was exchanged for."""
    policy = compiled({"origins": [jwt(**EXCHANGED)], "principalBinding": "USE_ORIGIN"}, compatibility=compatibility)
    context = judged(policy, "/", None, ("ingress-authorization", value.format(mint(**claims))))
    found = context.principal.name if context.principal else context.decision.reason
    assert found == expected


@pytest.mark.parametrize(
    ("claims", "named"),
    [
        ({"iss": "https://idp", "sub": "bob"}, True),
        ({"iss": ["https://idp", "x"], "sub": ["bob"]}, True),
        ({"sub": "bob"}, False),
        ({"iss": "https://idp"}, False),
        ({"iss": "", "sub": "bob"}, False),
        ({"iss": [], "sub": "bob"}, False),
        ({"iss": 7, "sub": "bob"}, False),
        ({"iss": [7], "sub": "bob"}, False),
        ({"iss": "https://idp", "sub": {}}, False),
    ],
)
def test_who_was_exchanged_for_is_named_by_both_texts(claims: dict[str, Any], named: bool) -> None:
    """A gateway may put anything there: without an issuer and a subject that are text nobody is the principal."""
    spec = {"origins": [jwt(**EXCHANGED)], "principalBinding": "USE_ORIGIN"}
    header = ("ingress-authorization", f"istio {mint(original_claims=claims)}")
    found = judged(compiled(spec, allow("request.auth.principal", "*")), "/", None, header)
    assert found.decision.reason is (Reason.ALLOW_RULE if named else Reason.NO_ALLOW_RULE)


@pytest.mark.parametrize(
    ("compatibility", "expected"), [("safe", (401, ORIGIN_FAILED, "jwt_bound")), ("istio", "ok")]
)
def test_a_bound_token_is_bound_here_too(compatibility: Compatibility, expected: Any) -> None:
    """Istio does not know of it, so that its own reading takes it."""
    policy = compiled({"origins": [jwt()], "peers": [PERMISSIVE]}, compatibility=compatibility)
    bound = mint(cnf={"x5t#S256": "AA"})
    assert said(judged(policy, "/", bound, peer=INGRESS)) == expected


@pytest.mark.parametrize("compatibility", ["safe", "istio"])
def test_the_users_token_is_there_for_calls_on_their_behalf(compatibility: Compatibility) -> None:
    """As it came, where it names the user; not where it is not asked for, nor one that a gateway made of another."""
    spec = {"origins": [jwt(**triggers({"included_paths": [{"prefix": "/a"}]})), jwt(OTHER, OTHER_KEY)]}
    policy = compiled({**spec, "originIsOptional": True}, compatibility=compatibility)
    assert judged(policy, "/a", GOOD).token == GOOD
    assert judged(policy, "/a", OTHER_GOOD).token == OTHER_GOOD
    assert judged(policy, "/a").token is None
    assert judged(compiled({"peers": [PERMISSIVE]}, compatibility=compatibility), "/a", GOOD).token is None
    exchanged = ("ingress-authorization", f"istio {mint(original_claims={'iss': 'https://idp', 'sub': 'bob'})}")
    context = judged(compiled({"origins": [jwt(**EXCHANGED)]}, compatibility=compatibility), "/", None, exchanged)
    assert (context.principal and context.principal.name, context.token) == ("https://idp/bob", None)


# ------------------------------------------------------------------ 3. attributes


def allow(when: str, *values: str, action: str = "ALLOW", absent: bool = False) -> str:
    """An AuthorizationPolicy of today, with one condition."""
    condition = {"key": when, "notValues" if absent else "values": list(values)}
    return json.dumps(
        {
            "apiVersion": "security.istio.io/v1",
            "kind": "AuthorizationPolicy",
            "metadata": {"name": "one", "namespace": "prod"},
            "spec": {"action": action, "rules": [{"when": [condition]}]},
        }
    )


PEER_TEXT = "cluster.local/ns/prod/sa/ingress"
BOTH = {"peers": [PERMISSIVE], "origins": [jwt()], "originIsOptional": True}
TOKEN = mint(
    sub="alice smith", aud=["a", "b"], azp="app", groups=["x", "y"], nick="al lie", scope="read write", age=7
)


@pytest.mark.parametrize(
    ("binding", "key", "value", "peer", "token", "holds"),
    [
        (None, "source.principal", PEER_TEXT, INGRESS, None, True),
        (None, "source.principal", "*", None, TOKEN, False),
        (None, "source.namespace", "prod", INGRESS, None, True),
        (None, "source.namespace", "*", None, None, False),
        # the peer is the principal, unless the origin is
        (None, "request.auth.principal", PEER_TEXT, INGRESS, None, True),
        ("USE_PEER", "request.auth.principal", PEER_TEXT, INGRESS, TOKEN, True),
        ("USE_PEER", "request.auth.principal", "cluster.local/ns/prod/*", INGRESS, TOKEN, True),
        ("USE_PEER", "request.auth.principal", "*/sa/ingress", INGRESS, TOKEN, True),
        ("USE_PEER", "request.auth.principal", f"{ISSUER}/alice", INGRESS, TOKEN, False),
        ("USE_PEER", "request.auth.principal", "*", None, TOKEN, False),
        ("USE_ORIGIN", "request.auth.principal", f"{ISSUER}/alice", INGRESS, TOKEN, True),
        ("USE_ORIGIN", "request.auth.principal", f"{ISSUER}/alice smith", INGRESS, TOKEN, False),
        ("USE_ORIGIN", "request.auth.principal", f"{ISSUER}/a/b", None, mint(sub="a/b"), True),
        ("USE_ORIGIN", "request.auth.principal", f"{ISSUER}/*", None, TOKEN, True),
        ("USE_ORIGIN", "request.auth.principal", "*", INGRESS, None, False),
        ("USE_ORIGIN", "request.auth.principal", "*", INGRESS, mint(sub=None), False),
        # the first audience alone
        (None, "request.auth.audiences", "a", INGRESS, TOKEN, True),
        (None, "request.auth.audiences", "b", INGRESS, TOKEN, False),
        (None, "request.auth.audiences", "*", INGRESS, mint(aud=None), False),
        (None, "request.auth.claims[aud]", "b", INGRESS, TOKEN, True),
        (None, "request.auth.presenter", "app", INGRESS, TOKEN, True),
        # texts and lists of texts; every text is split at its spaces
        (None, "request.auth.claims[groups]", "y", INGRESS, TOKEN, True),
        (None, "request.auth.claims[scope]", "write", INGRESS, TOKEN, True),
        (None, "request.auth.claims[nick]", "lie", INGRESS, TOKEN, True),
        (None, "request.auth.claims[nick]", "al lie", INGRESS, TOKEN, False),
        (None, "request.auth.claims[sub]", "smith", INGRESS, TOKEN, True),
        (None, "request.auth.claims[iss]", ISSUER, INGRESS, TOKEN, True),
        (None, "request.auth.claims[n]", "*", INGRESS, TOKEN, False),
        (None, "request.auth.claims[groups]", "*", INGRESS, None, False),
    ],
)
def test_attributes(
    binding: str | None, key: str, value: str, peer: PeerIdentity | None, token: str | None, holds: bool
) -> None:
    """What today's AuthorizationPolicy sees, asked by an ALLOW and, the other way round, by a DENY."""
    spec = {**BOTH, **({"principalBinding": binding} if binding else {})}
    assert judged(compiled(spec, allow(key, value)), token=token, peer=peer).decision.allowed is holds
    denied = judged(compiled(spec, allow(key, value, action="DENY")), token=token, peer=peer).decision
    assert denied.allowed is not holds
    if not denied.allowed:
        assert (denied.reason, denied.policy, denied.message) == (Reason.DENY_RULE, "prod/one", "RBAC: access denied")
        assert key.partition("[")[0] in denied.explain()
    absent = compiled(spec, allow(key, value, action="DENY", absent=True))
    assert judged(absent, token=token, peer=peer).decision.allowed is holds


def test_the_application_sees_the_token_as_it_is() -> None:
    """Only policies see split claims."""
    context = judged(compiled(BOTH), token=TOKEN, peer=INGRESS)
    assert context.principal is not None
    assert (context.principal.subject, context.principal.claims["nick"]) == ("alice smith", "al lie")
    assert context.peer == INGRESS


def test_a_peer_that_was_not_accepted_is_nobody_to_policies() -> None:
    """Optional means: it passes, unknown."""
    spec = {"peers": [STRICT], "peerIsOptional": True}
    assert not judged(compiled(spec, allow("source.principal", "*")), peer=OLD).decision.allowed
    assert judged(compiled(spec, allow("source.principal", "*")), peer=INGRESS).decision.allowed


# ------------------------------------------------------------------ composed


TODAY = {
    "PeerAuthentication": "{mtls: {mode: STRICT}}",
    "RequestAuthentication": f"{{jwtRules: [{{issuer: {ISSUER}, jwks: '{jwks(KEY)}'}}]}}",
}


@pytest.mark.parametrize("kind", TODAY)
@pytest.mark.parametrize("namespace", ["prod", "istio-system", "other"])
def test_legacy_kinds_beside_todays_are_refused(kind: str, namespace: str) -> None:
    """For one workload; in another namespace each may have its own."""
    other = f"apiVersion: security.istio.io/v1\nkind: {kind}\nmetadata: {{name: x, namespace: {namespace}}}\n"
    document = f"{other}spec: {TODAY[kind]}"
    if namespace == "other":
        assert compiled({}, document).legacy is not None
        return
    with pytest.raises(ConfigError, match=f"beside (a )?{kind}") as caught:
        compiled({}, document)
    (found,) = caught.value.problems
    assert (found.source, found.resource) == ("<string>:1", "Policy prod/default")


def test_todays_kinds_beside_a_legacy_policy_of_another_workload_are_fine() -> None:
    """Only what applies to this one counts."""
    legacy = "apiVersion: authentication.istio.io/v1alpha1\nkind: Policy\nmetadata: {name: a, namespace: prod}\n"
    today = "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: a, namespace: prod}\n"
    resources = parse(f"{legacy}spec: {{targets: [{{name: other}}]}}\n---\n{today}spec: {{mtls: {{mode: STRICT}}}}\n")
    assert WorkloadPolicy.compile(resources, WEB, MeshConfig()).legacy is None


def test_a_legacy_policy_is_a_policy() -> None:
    """A workload with nothing else starts, and the policy is listed."""
    policy = compiled({"origins": [jwt()]})
    assert policy.applied == ("Policy prod/default",)
    with pytest.raises(ConfigError) as caught:
        policy.to_envoy()
    assert caught.value.code == "no_equivalent"


FETCHED = KeySource(ISSUER, f"{ISSUER}/jwks")
REMOTE = {
    "origins": [{"jwt": {"issuer": ISSUER, "jwksUri": f"{ISSUER}/jwks", **triggers({INCLUDED: [{"exact": "/a"}]})}}]
}


@pytest.mark.parametrize("compatibility", ["safe", "istio"])
def test_keys_are_asked_for_where_a_token_needs_them(compatibility: Compatibility) -> None:
    """Once; then it is decided, whatever was found."""
    policy = compiled(REMOTE, compatibility=compatibility)
    assert policy.sources == (FETCHED,)
    request = HttpRequest("GET", "/a", "web", (("authorization", f"Bearer {GOOD}"),))
    cold = {FETCHED: KeyState(None, fetchable=True)}
    asked = policy.judge(Connection(), request, cold, now=NOW)
    assert asked == NeedKeys((FETCHED,))
    again = policy.judge(Connection(), request, cold, now=NOW, answers=(asked,))
    assert isinstance(again, AuthContext)
    assert said(again) == (401, ORIGIN_FAILED, "keys_unavailable")
    found = policy.judge(Connection(), request, {FETCHED: KeyState(key_set(KEY))}, now=NOW)
    assert isinstance(found, AuthContext)
    assert said(found) == "ok"
    elsewhere = policy.judge(Connection(), HttpRequest("GET", "/b", "web", request.headers), cold, now=NOW)
    assert isinstance(elsewhere, AuthContext)


SERVICE = """
apiVersion: v1
kind: Service
metadata: {name: web, namespace: prod}
spec:
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: http}, {name: open, port: 81, targetPort: 81}]
"""
BY_PORT = """
apiVersion: authentication.istio.io/v1alpha1
kind: Policy
metadata: {name: web, namespace: prod}
spec: {targets: [{name: web, ports: [{name: http}]}], peers: [{mtls: {}}]}
"""


def test_each_port_has_its_own_policy() -> None:
    """And a request whose port nobody knows is refused where that makes a difference."""
    policy = compiled({}, SERVICE, BY_PORT)
    assert said(judged(policy, peer=INGRESS, port=8080)) == "ok"
    assert said(judged(policy, port=8080)) == (401, PEER_FAILED, "peer_required")
    assert said(judged(policy, port=81)) == "ok"
    assert said(judged(policy, port=7)) == "ok"
    assert said(judged(policy, peer=INGRESS, port=None)) == (401, PEER_FAILED, "port_unknown")
    assert said(judged(compiled({}, SERVICE), port=None)) == "ok"


def test_a_refusal_explains_itself() -> None:
    """To operators: the body says nothing."""
    decision = judged(compiled({"origins": [jwt()]}), token=EXPIRED).decision
    assert decision.explain() == "401 UNAUTHENTICATED (jwt_expired): Jwt is expired"
    decision = judged(compiled({"peers": [STRICT]}), peer=OLD).decision
    assert "spiffe://old.local/ns/prod/sa/ingress is not of the trust domain cluster.local" in decision.explain()


paths = st.lists(st.sampled_from(["/", "/a", "/b", ".js", "%61", "..", "//", "?", "#", "%2f"]), max_size=5).map(
    "".join
)
matches = st.dictionaries(st.sampled_from(["exact", "prefix", "suffix"]), st.sampled_from(["/", "/a", "/a/b", "/b"]),
                          min_size=1, max_size=1)  # fmt: skip
rules = st.dictionaries(st.sampled_from([EXCLUDED, INCLUDED]), st.lists(matches, min_size=1, max_size=2), max_size=2)


@given(st.lists(rules, max_size=3), paths)
@settings(max_examples=200, deadline=None)
def test_safe_never_asks_less_than_istio(trigger_rules: Any, path: str) -> None:
    """Wherever Istio's reading refuses a request without a token, ours does; the rules are read as 5.3 has them."""
    spec = {"origins": [jwt(trigger_rules=trigger_rules)]}
    target = f"/{path}"
    safe = judged(compiled(spec), target).decision
    istio = judged(compiled(spec, compatibility="istio"), target).decision
    assert istio.allowed or not safe.allowed
    read = read_target(target, PathNormalization.BASE, "istio")
    if isinstance(read, Target):
        assert istio.allowed is not _asked(trigger_rules, read.path)


def _asked(trigger_rules: list[dict[str, list[dict[str, str]]]], path: str) -> bool:
    """5.3, written down once more."""
    tests = {"exact": str.__eq__, "prefix": str.startswith, "suffix": str.endswith}

    def any_of(items: list[dict[str, str]]) -> bool:
        return any(tests[kind](path, text) for item in items for kind, text in item.items())

    return not trigger_rules or any(
        not any_of(rule.get(EXCLUDED, [])) and (not rule.get(INCLUDED) or any_of(rule[INCLUDED]))
        for rule in trigger_rules
    )


class _ExpressionError(Exception):
    pass


def test_expressions_trigger_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """With google-re2, which Python's own expressions play here: on the whole path, and on what it decodes to."""
    engine = SimpleNamespace(
        Options=SimpleNamespace, compile=lambda text, _: re.compile(text), error=_ExpressionError
    )
    monkeypatch.setitem(sys.modules, "re2", engine)
    included = compiled({"origins": [jwt(**triggers({INCLUDED: [{"regex": "/[a-z]:b"}]}))]})
    assert [said(judged(included, target)) == "ok" for target in ("/a:b", "/a:bc", "/a%3Ab")] == [False, True, False]
    several = [{"regex": "/[a-z]:b"}, {"regex": "/[0-9]%3Ab"}, {"exact": "/x"}]
    any_of_them = compiled({"origins": [jwt(**triggers({INCLUDED: several}))]})
    asked = ("/a:b", "/a%3Ab", "/1%3Ab", "/x")
    assert [said(judged(any_of_them, target)) == "ok" for target in (*asked, "/1:b", "/y")] == [False] * 4 + [
        True
    ] * 2
    none_of_them = compiled({"origins": [jwt(**triggers({EXCLUDED: several}))]})
    let_off = ("/a:b", "/1%3Ab", "/x")
    assert [said(judged(none_of_them, target)) == "ok" for target in (*let_off, "/a%3Ab", "/y")] == [True] * 3 + [
        False
    ] * 2
    excluded = compiled({"origins": [jwt(**triggers({EXCLUDED: [{"regex": "/[a-z]:b"}]}))]})
    assert [said(judged(excluded, target)) == "ok" for target in ("/a:b", "/a:bc", "/a%3Ab")] == [True, False, False]


names = st.sampled_from(["web", "api", "default"])
ports = st.lists(
    st.one_of(
        st.fixed_dictionaries({"number": st.sampled_from([80, 8080])}),
        st.fixed_dictionaries({"name": st.sampled_from(["http", "grpc"])}),
    ),
    max_size=2,
)
ONLY_A = [jwt(**triggers({INCLUDED: [{"exact": "/a"}]}))]
specs = st.fixed_dictionaries(
    {},
    optional={
        "targets": st.lists(st.fixed_dictionaries({"name": names, "ports": ports}), max_size=2),
        "peers": st.lists(st.sampled_from([STRICT, PERMISSIVE]), max_size=2),
        "peerIsOptional": st.booleans(),
        "origins": st.sampled_from(
            [
                [],
                [jwt()],
                [jwt(**triggers({INCLUDED: [{"exact": "/a"}]}))],
                [jwt(), jwt(OTHER, OTHER_KEY, **EXCHANGED)],
            ]
        ),
        "originIsOptional": st.booleans(),
        "principalBinding": st.sampled_from(["USE_PEER", "USE_ORIGIN"]),
    },
)
documents = st.one_of(
    st.fixed_dictionaries(
        {
            "apiVersion": st.just("authentication.istio.io/v1alpha1"),
            "kind": st.sampled_from(["Policy", "MeshPolicy"]),
            "metadata": st.fixed_dictionaries({"name": names, "namespace": st.just("prod")}),
            "spec": specs,
        }
    ),
    st.fixed_dictionaries(
        {
            "apiVersion": st.just("v1"),
            "kind": st.just("Service"),
            "metadata": st.fixed_dictionaries({"name": names, "namespace": st.just("prod")}),
            "spec": st.fixed_dictionaries(
                {
                    "selector": st.sampled_from([{}, {"app": "web"}, {"app": "other"}]),
                    "ports": st.sampled_from(
                        [[], [{"port": 80, "name": "http"}], [{"port": 80, "targetPort": "http"}], [{"port": 8080}]]
                    ),
                }
            ),
        }
    ),
)
tokens = st.sampled_from([None, GOOD, FORGED, EXPIRED, OTHER_GOOD, TOKEN, "x", ""])


@given(
    st.lists(documents, max_size=4), tokens, st.sampled_from([None, INGRESS, OLD]), st.sampled_from([None, 80, 8080])
)
@settings(max_examples=300, deadline=None)
def test_any_policies_make_a_decision_or_a_config_error(
    documents: list[Any], token: str | None, peer: PeerIdentity | None, port: int | None
) -> None:
    """And Istio's reading, where both decide, refuses nothing that ours lets pass."""
    verdicts = {}
    for compatibility in ("safe", "istio"):
        config = MeshConfig(trust_domain_aliases=("old.local",), allow_no_policy=True, compatibility=compatibility)
        with contextlib.suppress(ConfigError):
            resources = parse("\n---\n".join(map(json.dumps, documents)))
            policy = WorkloadPolicy.compile(resources, WEB, config)
            verdicts[compatibility] = judged(policy, "/a", token, peer=peer, port=port).decision
    assert len(verdicts) in (0, 2)
    assert not verdicts or verdicts["istio"].allowed or not verdicts["safe"].allowed
