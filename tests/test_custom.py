"""CUSTOM policies in the pure core: when an authorizer must be asked, and what its answer makes of the request."""

from __future__ import annotations

import string
from dataclasses import replace
from typing import Any

import pytest

from meshsec import (
    AuthContext,
    ConfigError,
    Connection,
    Decision,
    HttpRequest,
    MeshConfig,
    Outcome,
    PeerIdentity,
    Reason,
    Workload,
    WorkloadPolicy,
)
from meshsec.authn import KeySource, KeyState, NeedKeys
from meshsec.policy import CheckAnswer, NeedCheck
from meshsec.resources import ExtAuthzHttp, parse
from meshsec.testing import TestIssuer
from sweeping import sweep

NOW = 1_800_000_000.0
ISSUER = TestIssuer()
WEB = Workload(name="web", namespace="prod")
OPA = ExtAuthzHttp(service="opa.prod", port=80, headers_to_upstream_on_allow=("x-user", "authorization", "x-out-*"))
CONFIG = MeshConfig(extension_providers={"opa": OPA, "second": None})

ALLOW_USERS = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: users, namespace: prod}
spec: {rules: [{when: [{key: 'request.headers[x-user]', values: [ada]}]}]}
"""
DENY_ADMIN = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-admin, namespace: prod}
spec: {action: DENY, rules: [{to: [{operation: {paths: [/admin]}}]}]}
"""
TOKENS = f"""
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {{name: tokens, namespace: prod}}
spec:
  jwtRules:
  - {{issuer: {ISSUER.issuer}, jwks: '{ISSUER.jwks}', outputClaimToHeaders: [{{header: x-sub, claim: sub}}]}}
"""


def custom(rule: str = "{}", provider: str = "opa", name: str = "checked") -> str:
    """A CUSTOM policy with one rule."""
    return f"""
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: {name}, namespace: prod}}
spec: {{action: CUSTOM, provider: {{name: {provider}}}, rules: [{rule}]}}
"""


ADMIN = "{to: [{operation: {paths: [/admin]}}]}"
CHECK_ADMIN = custom(ADMIN)
CHECK_ALL = custom()


def compiled(*documents: str, config: MeshConfig = CONFIG) -> WorkloadPolicy:
    """The policy that these documents make."""
    return WorkloadPolicy.compile(parse("\n---\n".join(documents)), WEB, config)


def asked(policy: WorkloadPolicy, *answers: CheckAnswer | NeedKeys, headers: Any = (), target: str = "/",
          keys: Any = None, joined: bool = False) -> AuthContext | NeedKeys | NeedCheck:  # fmt: skip
    """What the policy says of one request after these answers."""
    request = HttpRequest("GET", target, "web.prod", headers, "http", joined_headers=joined)
    return policy.judge(Connection(source_ip="10.0.0.7"), request, keys or {}, now=NOW, answers=answers)


def decided(policy: WorkloadPolicy, *answers: CheckAnswer | NeedKeys, **request: Any) -> Decision:
    """As :func:`asked`, where it must be a decision."""
    found = asked(policy, *answers, **request)
    assert isinstance(found, AuthContext)
    return found.decision


def passing(provider: str = "opa", *headers: tuple[str, str], **more: Any) -> CheckAnswer:
    """A provider that lets the request pass."""
    return CheckAnswer(allowed=True, provider=provider, request_headers=headers, **more)


def test_a_request_that_matches_becomes_a_question() -> None:
    """The question names the policy, and holds the request as the application would get it."""
    found = asked(compiled(CHECK_ADMIN), target="/x/../admin?b=1", headers=[("X-A", "1"), ("x-a", "2"), ("X-B", "3")])
    assert found == NeedCheck(
        "opa", "prod/checked", 0, "GET", "/admin?b=1", "web.prod",
        (("x-a", "1"), ("x-a", "2"), ("x-b", "3")), "http", Connection(source_ip="10.0.0.7"),
    )  # fmt: skip


def test_a_request_that_does_not_match_asks_nobody() -> None:
    """It goes on to the other policies."""
    assert decided(compiled(CHECK_ADMIN), target="/other").reason is Reason.NO_ALLOW_POLICY


@pytest.mark.parametrize("target", ["//admin", "/%61dmin", "/./admin", "/admin?x", "/x/..//admin"])
def test_no_spelling_slips_past_the_question(target: str) -> None:
    """Every reading of a path is looked at."""
    assert isinstance(asked(compiled(CHECK_ADMIN), target=target), NeedCheck)


def test_a_fact_that_is_not_known_makes_the_provider_be_asked() -> None:
    """In doubt, ask."""
    found = asked(compiled(custom("{to: [{operation: {ports: ['9']}}]}")))
    assert isinstance(found, NeedCheck)


def test_a_provider_that_lets_pass_does_not_overrule_the_others() -> None:
    """DENY and ALLOW policies still have their say."""
    assert decided(compiled(CHECK_ALL, DENY_ADMIN), passing(), target="/admin").reason is Reason.DENY_RULE
    assert decided(compiled(CHECK_ALL, ALLOW_USERS), passing()).reason is Reason.NO_ALLOW_RULE
    assert decided(compiled(CHECK_ALL), passing()).reason is Reason.NO_ALLOW_POLICY


@pytest.mark.parametrize(
    ("status", "outcome"), [(403, Outcome.DENY), (401, Outcome.UNAUTHENTICATED), (302, Outcome.DENY)]
)
def test_a_refusal_is_the_providers_own(status: int, outcome: Outcome) -> None:
    """Its status, its body, its headers; and the policy that asked is named."""
    answer = CheckAnswer(
        allowed=False, provider="opa", status=status, body=b"go away", response_headers=(("location", "/login"),)
    )
    found = decided(compiled(CHECK_ALL, ALLOW_USERS), answer)
    assert (found.outcome, found.status, found.reason) == (outcome, status, Reason.CHECK_DENIED)
    assert (found.policy, found.rule, found.edits.body) == ("prod/checked", 0, b"go away")
    assert found.edits.response_headers == (("location", "/login"),)
    assert "rule 0 of the CUSTOM policy prod/checked matches, and provider opa said so" in found.explain()


def test_a_failure_has_its_own_reason() -> None:
    """An operator must see that nobody said no."""
    found = decided(compiled(CHECK_ALL), CheckAnswer(allowed=False, provider="opa", status=503, failure="timed out"))
    assert (found.status, found.reason) == (503, Reason.CHECK_FAILED)
    assert "provider opa failed: timed out" in found.explain()


def test_an_open_failure_is_told() -> None:
    """failOpen passes, and the explanation says so."""
    found = decided(compiled(CHECK_ALL), passing(failure="timed out"))
    assert found.allowed
    assert "passed: rule 0 of the CUSTOM policy prod/checked matches, and provider opa failed" in found.explain()


def test_the_provider_comes_before_the_token() -> None:
    """A bad token is not even looked at before the provider lets the request pass."""
    policy, headers = compiled(CHECK_ALL, TOKENS), [("authorization", "Bearer x.y.z")]
    assert isinstance(asked(policy, headers=headers), NeedCheck)
    denied = CheckAnswer(allowed=False, provider="opa")
    assert decided(policy, denied, headers=headers).reason is Reason.CHECK_DENIED
    assert decided(policy, passing(), headers=headers).reason is Reason.JWT_MALFORMED


def test_a_peer_that_must_not_be_here_asks_nobody() -> None:
    """What TLS and HTTP refuse is refused first."""
    connection = Connection(peer=PeerIdentity.of("spiffe://evil.example/ns/a/sa/b"), tls=True)
    request = HttpRequest("GET", "/", "web", (), "https")
    found = compiled(CHECK_ALL).decide(connection, request, {}, now=NOW)
    assert isinstance(found, Decision)
    assert found.reason is Reason.PEER_DISTRUSTED
    assert decided(compiled(CHECK_ALL), target="/%00").reason is Reason.TARGET_CONTROL_CHARACTER


def test_what_the_provider_sets_is_seen_by_later_policies_and_the_application() -> None:
    """Its headers stand in the place of the client's."""
    policy = compiled(CHECK_ALL, ALLOW_USERS)
    found = decided(policy, passing("opa", ("X-User", "ada")), headers=[("x-user", "eve"), ("x_user", "eve")])
    assert found.allowed
    assert set(found.edits.remove_headers) == {"x-user", "x_user"}
    assert found.edits.add_headers == (("X-User", "ada"),)


def test_a_token_may_come_from_the_provider() -> None:
    """An opaque token is exchanged for one that is verified; it is spent like the client's own."""
    policy = compiled(CHECK_ALL, TOKENS)
    token = ISSUER.token(sub="ada", exp=NOW + 60)
    found = asked(policy, passing("opa", ("authorization", f"Bearer {token}")), headers=[("authorization", "opaque")])
    assert isinstance(found, AuthContext)
    assert found.principal is not None
    assert found.principal.subject == "ada"
    assert [name for name, _ in found.decision.edits.add_headers] == ["x-sub"]
    assert "authorization" in found.decision.edits.remove_headers


def test_only_the_provider_sets_what_is_its_own() -> None:
    """A client that sends the header itself is not believed, asked or not; Istio would leave it."""
    forged = [("x-user", "ada")]
    policy = compiled(CHECK_ADMIN, ALLOW_USERS)
    assert decided(policy, headers=forged).reason is Reason.NO_ALLOW_RULE
    assert decided(policy, passing(), headers=forged, target="/admin").reason is Reason.NO_ALLOW_RULE
    assert decided(compiled(CHECK_ADMIN), headers=forged).edits.remove_headers == ("x-user",)
    istio = replace(CONFIG, compatibility="istio")
    assert decided(compiled(CHECK_ADMIN, ALLOW_USERS, config=istio), headers=forged).allowed


@pytest.mark.parametrize("name", ["authorization", "x-out-of-band", "cookie"])
def test_what_is_also_the_clients_stays(name: str) -> None:
    """Credentials, and names that are only patterns, are not taken from the client."""
    assert decided(compiled(CHECK_ALL), passing(), headers=[(name, "v")]).edits.remove_headers == ()


def test_a_header_that_the_provider_is_shown_stays() -> None:
    """It has judged the client's value."""
    shown = replace(OPA, include_request_headers_in_check=("X-User",))
    config = replace(CONFIG, extension_providers={"opa": shown})
    assert decided(compiled(CHECK_ALL, ALLOW_USERS, config=config), passing(), headers=[("x-user", "ada")]).allowed


def test_headers_for_the_client_go_on_every_answer() -> None:
    """Also when a later policy refuses, as with a session that the provider prolonged."""
    answer = passing(response_headers=(("set-cookie", "a=b"),))
    for policy in (compiled(CHECK_ALL), compiled(CHECK_ALL, ALLOW_USERS)):
        assert ("set-cookie", "a=b") in decided(policy, answer).edits.response_headers


def test_several_providers_are_asked_in_turn_and_must_agree() -> None:
    """By their names; the second sees what the first has set."""
    policy = compiled(CHECK_ALL, custom(provider="second", name="also"))
    first = passing("opa", ("x-user", "ada"), ("x-only", "1"))
    second = asked(policy, first)
    assert isinstance(second, NeedCheck)
    assert (second.provider, ("x-user", "ada") in second.headers) == ("second", True)
    found = decided(policy, first, passing("second", ("x-user", "bob")))
    assert found.edits.add_headers == (("x-only", "1"), ("x-user", "bob"))
    denied = decided(policy, first, CheckAnswer(allowed=False, provider="second"))
    assert (denied.reason, denied.policy) == (Reason.CHECK_DENIED, "prod/also")


def test_an_answer_of_another_provider_is_none() -> None:
    """``a`` does not speak for ``ab``."""
    assert isinstance(asked(compiled(CHECK_ALL), passing("op")), NeedCheck)


def test_checks_and_keys_are_asked_for_one_after_the_other() -> None:
    """No question twice, and the third call decides."""
    remote = TOKENS.replace(f"jwks: '{ISSUER.jwks}', ", "")
    source = KeySource(ISSUER.issuer)
    cold = {source: KeyState(None, fetchable=True)}
    policy, headers = compiled(CHECK_ALL, remote), [("authorization", f"Bearer {ISSUER.token()}")]
    assert isinstance(asked(policy, headers=headers, keys=cold), NeedCheck)
    keys = asked(policy, passing(), headers=headers, keys=cold)
    assert keys == NeedKeys((source,))
    assert decided(policy, passing(), keys, headers=headers, keys=cold).reason is Reason.KEYS_UNAVAILABLE


def test_unknown_providers_are_refused_by_name_at_load() -> None:
    """Istio would deny what matches, without a word to whoever mistyped."""
    with pytest.raises(ConfigError) as caught:
        compiled(custom(provider="opaa"), custom(provider="nobody", name="other"))
    assert [problem.field for problem in caught.value.problems] == ["spec.provider.name"] * 2
    assert "no authorizer 'opaa' is in meshConfig.extensionProviders; it has: opa, second" in str(caught.value)


def test_custom_alone_is_a_policy() -> None:
    """A workload with nothing else may start."""
    assert compiled(CHECK_ALL).applied == ("AuthorizationPolicy prod/checked",)


def test_a_function_is_not_exported() -> None:
    """A real sidecar without the check would let pass what we do not."""
    assert len(compiled(CHECK_ALL).to_envoy()["http_filters"]) == 2
    with pytest.raises(ConfigError, match="a function: second") as caught:
        compiled(CHECK_ALL, custom(provider="second", name="also")).to_envoy()
    assert caught.value.code == "no_equivalent"


@sweep("code")
def test_an_answer_cannot_break_a_message(code: int) -> None:
    """A header that a provider sets is one line, or no answer."""
    fits = code == 9 or (code >= 0x20 and code != 0x7F)
    for field in ("request_headers", "response_headers"):
        try:
            CheckAnswer(allowed=True, **{field: (("x-a", f"a{chr(code)}b"),)})
        except ValueError:
            assert not fits
        else:
            assert fits


@sweep("code")
def test_an_answers_header_has_a_name(code: int) -> None:
    """The characters of a token (RFC 9110 section 5.6.2): with any other, one line would become two."""
    fits = chr(code) in f"{string.ascii_letters}{string.digits}!#$%&'*+-.^_`|~"
    for field in ("request_headers", "response_headers"):
        for name in (f"x{chr(code)}a", f"x-a{chr(code)}"):
            try:
                CheckAnswer(allowed=True, **{field: ((name, "b"),)})
            except ValueError:
                assert not fits
            else:
                assert fits


@pytest.mark.parametrize("status", [0, 100, 200, 204, 299, 600, -403])
def test_a_refusal_has_a_status_of_a_refusal(status: int) -> None:
    """A client must not take a refusal for a success."""
    with pytest.raises(ValueError, match="no status"):
        CheckAnswer(allowed=False, status=status)


def test_answers_hide_what_they_carry() -> None:
    """Tokens are in there."""
    text = repr(passing("opa", ("authorization", "Bearer s3cret"))) + repr(
        asked(compiled(CHECK_ALL), headers=[("a", "s3cret")], target="/a?access_token=s3cret")
    )
    assert "s3cret" not in text
