"""WorkloadPolicy: what is selected, in which order it is decided, and what is asked for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshsec import (
    AuthContext,
    ConfigError,
    Connection,
    Decision,
    HttpRequest,
    MeshConfig,
    MeshsecError,
    Outcome,
    PeerIdentity,
    Reason,
    Workload,
    WorkloadPolicy,
)
from meshsec.authn import KeySource, KeyState, NeedKeys
from meshsec.resources import parse
from meshsec.testing import TestIssuer

NOW = 1_800_000_000.0
ISSUER = TestIssuer()
WEB = Workload(name="web", namespace="prod", labels={"app": "web"}, ports={"http": 8443})
INGRESS = PeerIdentity.of("spiffe://cluster.local/ns/prod/sa/ingress")

STRICT = """
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: istio-system}
spec: {mtls: {mode: STRICT}}
"""
ALLOW_INGRESS = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: ingress, namespace: prod}
spec: {rules: [{from: [{source: {principals: [cluster.local/ns/prod/sa/ingress]}}]}]}
"""
DENY_ADMIN = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-admin, namespace: istio-system}
spec: {action: DENY, rules: [{to: [{operation: {paths: [/admin]}}]}]}
"""
USERS = f"""
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {{name: users, namespace: prod}}
spec: {{jwtRules: [{{issuer: {ISSUER.issuer}, jwks: '{ISSUER.jwks}', audiences: [shop]}}]}}
"""
REMOTE_USERS = """
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: users, namespace: prod}
spec: {jwtRules: [{issuer: "https://issuer.example"}]}
"""


def compiled(*documents: str, config: MeshConfig | None = None, workload: Workload = WEB) -> WorkloadPolicy:
    """The policy that these documents make for a workload."""
    return WorkloadPolicy.compile(parse("\n---\n".join(documents)), workload, config or MeshConfig())


def decided(policy: WorkloadPolicy, *, peer: PeerIdentity | None = INGRESS, tls: bool | None = None,
            port: int = 8443, target: str = "/", token: str | None = None, mount: str = "",
            rejected: Reason | None = None, now: float = NOW) -> Decision:  # fmt: skip
    """Decide one request and insist on a decision."""
    headers = (("authorization", f"Bearer {token}"),) if token else ()
    request = HttpRequest("GET", target, "web.prod", headers, "https", mount=mount)
    connection = Connection(
        destination_port=port, peer=peer, tls=bool(peer) if tls is None else tls, rejected=rejected
    )
    answer = policy.decide(connection, request, {}, now=now)
    if not isinstance(answer, Decision):
        raise TypeError("the policy asked a question")
    return answer


def test_rule_that_decided_is_named() -> None:
    """An allowed request says which policy and rule let it in, a denied one which kept it out."""
    policy = compiled(ALLOW_INGRESS, DENY_ADMIN)
    allowed, denied = decided(policy), decided(policy, target="/admin")
    assert (allowed.outcome, allowed.reason, allowed.policy, allowed.rule) == (
        Outcome.ALLOW, Reason.ALLOW_RULE, "prod/ingress", 0)  # fmt: skip
    assert (denied.outcome, denied.reason, denied.policy, denied.rule) == (
        Outcome.DENY, Reason.DENY_RULE, "istio-system/no-admin", 0)  # fmt: skip
    assert "/admin" in denied.explain()


def test_allow_anywhere_turns_the_default_to_deny() -> None:
    """With an ALLOW policy whoever it does not name is refused; without one everybody passes."""
    other = PeerIdentity.of("spiffe://cluster.local/ns/prod/sa/intruder")
    assert decided(compiled(ALLOW_INGRESS), peer=other).reason is Reason.NO_ALLOW_RULE
    assert decided(compiled(DENY_ADMIN), peer=other).reason is Reason.NO_ALLOW_POLICY


@pytest.mark.parametrize(
    ("change", "applies"),
    [
        ("", True),
        ("namespace: other", False),
        ("namespace: istio-system", True),
        ("selector: {matchLabels: {app: web}}", True),
        ("selector: {matchLabels: {app: other}}", False),
        ("targetRefs: [{kind: Gateway, group: gateway.networking.k8s.io, name: g}]", False),
    ],
)
def test_policies_are_selected_as_istio_selects_them(change: str, applies: bool) -> None:
    """Namespace or root namespace, and a selector that the labels satisfy; targetRefs are never for a workload."""
    key, _, _ = change.partition(":")
    namespace = change if key == "namespace" else "namespace: prod"
    spec = f"{change}, " if key in {"selector", "targetRefs"} else ""
    document = f"""
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: nobody, {namespace}}}
spec: {{{spec}action: ALLOW}}
"""
    policy = compiled(document, config=MeshConfig(allow_no_policy=True))
    assert decided(policy).allowed is not applies


def test_no_policy_at_all_is_an_error_unless_allowed() -> None:
    """A workload that nothing applies to does not start by mistake."""
    with pytest.raises(ConfigError) as caught:
        compiled(ALLOW_INGRESS.replace("prod}", "other}"))
    assert caught.value.code == "no_policy"
    assert decided(
        compiled(ALLOW_INGRESS.replace("prod}", "other}"), config=MeshConfig(allow_no_policy=True))
    ).allowed


def test_selector_in_the_root_namespace_is_refused() -> None:
    """Istio ignores such a PeerAuthentication silently; here it is an error with its place."""
    document = STRICT.replace("spec: {", "spec: {selector: {matchLabels: {app: web}}, ")
    with pytest.raises(ConfigError, match="root namespace"):
        compiled(document)


@pytest.mark.parametrize(
    ("mode", "peer", "tls", "reason"),
    [
        ("STRICT", INGRESS, True, Reason.NO_ALLOW_POLICY),
        ("STRICT", None, False, Reason.PEER_REQUIRED),
        ("STRICT", None, True, Reason.PEER_REQUIRED),
        ("PERMISSIVE", INGRESS, True, Reason.NO_ALLOW_POLICY),
        ("PERMISSIVE", None, False, Reason.NO_ALLOW_POLICY),
        ("PERMISSIVE", None, True, Reason.PEER_REQUIRED),
        ("DISABLE", INGRESS, True, Reason.TLS_NOT_EXPECTED),
        ("DISABLE", None, False, Reason.NO_ALLOW_POLICY),
    ],
)
def test_peer_authentication_modes(mode: str, peer: PeerIdentity | None, tls: bool, reason: Reason) -> None:
    """Each mode takes what istio.io says it takes on the wire."""
    assert decided(compiled(STRICT.replace("STRICT", mode)), peer=peer, tls=tls).reason is reason


@pytest.mark.parametrize(
    ("peer", "rejected", "reason"),
    [
        (PeerIdentity(INGRESS.id, not_after=NOW + 1), None, Reason.NO_ALLOW_POLICY),
        (PeerIdentity(INGRESS.id, not_after=NOW), None, Reason.PEER_EXPIRED),
        (PeerIdentity.of("spiffe://elsewhere/ns/prod/sa/ingress"), None, Reason.PEER_DISTRUSTED),
        (INGRESS, Reason.PEER_DISTRUSTED, Reason.PEER_DISTRUSTED),
    ],
)
def test_peer_is_rechecked_at_every_request(peer: PeerIdentity, rejected: Reason | None, reason: Reason) -> None:
    """An open connection ends at its next request once its peer has expired or is no longer trusted."""
    decision = decided(compiled(STRICT), peer=peer, rejected=rejected)
    assert decision.reason is reason
    assert decision.allowed or ("connection", "close") in decision.edits.response_headers


def test_alias_of_the_trust_domain_is_trusted() -> None:
    """A former name of our own trust domain is as good as the present one."""
    policy = compiled(
        ALLOW_INGRESS, config=MeshConfig(trust_domain="new.local", trust_domain_aliases=("cluster.local",))
    )
    assert decided(policy).allowed


@pytest.mark.parametrize(
    ("claims", "outcome", "status"),
    [
        ({"aud": "shop"}, Outcome.ALLOW, 200),
        ({"aud": "other"}, Outcome.DENY, 403),
        ({"aud": "shop", "iss": "https://else.example"}, Outcome.UNAUTHENTICATED, 401),
        ({"aud": "shop", "exp": int(NOW) - 61}, Outcome.UNAUTHENTICATED, 401),
    ],
)
def test_token_outcomes(claims: dict[str, object], outcome: Outcome, status: int) -> None:
    """A bad token is 401, a wrong audience 403, as in Istio."""
    decision = decided(compiled(USERS), token=ISSUER.token(now=NOW, **claims))
    assert (decision.outcome, decision.status) == (outcome, status)


def test_invalid_token_is_answered_before_a_deny_rule() -> None:
    """Authentication comes first: 401, not 403."""
    assert decided(compiled(USERS, DENY_ADMIN), target="/admin", token="a.b.c").status == 401


def test_unknown_keys_are_asked_for_once() -> None:
    """With a fetch permitted the policy asks; with the question answered, or no fetch permitted, it refuses."""
    policy = compiled(REMOTE_USERS)
    source = KeySource("https://issuer.example", None)
    assert policy.sources == (source,)
    token = TestIssuer("https://issuer.example").token(now=NOW)
    request = HttpRequest("GET", "/", "web.prod", (("authorization", f"Bearer {token}"),), "https")
    connection = Connection(peer=INGRESS)
    cold = {source: KeyState(None, fetchable=True)}
    question = policy.judge(connection, request, cold, now=NOW)
    assert question == NeedKeys((source,))
    answered = policy.judge(connection, request, cold, now=NOW, answers=(question,))
    assert isinstance(answered, AuthContext)
    assert answered.decision.reason is Reason.KEYS_UNAVAILABLE
    closed = policy.judge(connection, request, {source: KeyState(None, fetchable=False)}, now=NOW)
    assert isinstance(closed, AuthContext)
    assert closed.decision.status == 401


def test_double_slashes_are_judged_both_ways() -> None:
    """//admin stays //admin under BASE, and is judged as /admin too, because routers merge it."""
    assert decided(compiled(DENY_ADMIN), target="//admin").reason is Reason.DENY_RULE
    assert decided(compiled(DENY_ADMIN), target="//other").allowed


@pytest.mark.parametrize(
    ("target", "mount", "reason"),
    [
        ("/api/x", "/api", Reason.NO_ALLOW_POLICY),
        ("/api", "/api", Reason.NO_ALLOW_POLICY),
        ("/apiary", "/api", Reason.TARGET_OUTSIDE_MOUNT),
        ("/api/../x", "/api", Reason.TARGET_OUTSIDE_MOUNT),
    ],
)
def test_path_stays_in_its_mount(target: str, mount: str, reason: Reason) -> None:
    """A path that leaves its mount would be routed differently from how it was judged."""
    assert decided(compiled(STRICT), target=target, mount=mount).reason is reason


def test_decision_has_no_truth_value() -> None:
    """``if decision`` would be true for a refusal, so it is an error."""
    with pytest.raises(TypeError, match="allowed"):
        bool(decided(compiled(STRICT)))


POLICY = compiled(STRICT, USERS, ALLOW_INGRESS, DENY_ADMIN)
LATIN = st.text(st.characters(max_codepoint=255), max_size=60)


@given(LATIN, LATIN, st.none() | LATIN, st.lists(st.tuples(LATIN, LATIN), max_size=4), LATIN, st.booleans())
def test_any_request_gets_a_decision(
    method: str, target: str, host: str | None, headers: list[tuple[str, str]], mount: str, joined: bool
) -> None:
    """No request makes anything but a decision or a MeshsecError, and its explanation is text."""
    request = HttpRequest(method, target, host, tuple(headers), "https", joined_headers=joined, mount=mount)
    try:
        answer = POLICY.decide(Connection(peer=INGRESS, destination_port=8443), request, {}, now=NOW)
    except MeshsecError:
        return
    assert isinstance(answer, Decision)
    assert answer.explain()
