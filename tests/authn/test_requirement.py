"""``compatibility: istio``: tokens found, read and combined as Istio's proxy does (istio.io, RequestAuthentication).

A real Envoy is asked the same in tests/interop; here is what it said, by name.
"""

from __future__ import annotations

from typing import Any

import pytest

from meshsec.attributes import RequestFacts
from meshsec.authn import (
    CompiledRequestAuthentication,
    KeySource,
    KeyState,
    NeedKeys,
    TokenResult,
    compile_request_authentication,
)
from meshsec.decision import Reason
from meshsec.resources import JWTRule, RequestAuthentication
from tokens import ISSUER, NOW, jwks, key_set, mint, request_facts, signing_key

KEY = signing_key()
OTHER = "https://other.example"
GOOD = mint(KEY)
EXPIRED = mint(KEY, exp=NOW - 600)
FORGED = mint(signing_key(name="k9"))
STRANGER = mint(KEY, iss="https://stranger.example")


def rule(issuer: str = ISSUER, **fields: Any) -> JWTRule:
    """A rule with its keys written into it."""
    return JWTRule(issuer=issuer, **({"jwks": jwks(KEY)} | fields))


def compiled(*rules: JWTRule, **metadata: Any) -> CompiledRequestAuthentication:
    """The rules in one resource."""
    resource = RequestAuthentication(
        metadata={"name": "one", "namespace": "prod", **metadata}, spec={"jwt_rules": list(rules)}
    )
    return compile_request_authentication([resource], compatibility="istio")


def asked(policy: CompiledRequestAuthentication, facts: RequestFacts) -> TokenResult:
    """A final result."""
    found = policy.authenticate(facts, {}, now=NOW, ask=False)
    assert isinstance(found, TokenResult)
    return found


def said(policy: CompiledRequestAuthentication, facts: RequestFacts) -> str:
    """The user, "nobody", or why not."""
    found = asked(policy, facts)
    if found.error is not None:
        return found.error.code
    return found.principal.subject if found.principal else "nobody"


@pytest.mark.parametrize(
    ("value", "answer"),
    [
        (f"Bearer {GOOD}", "alice"),
        (f"Basic Og==, Bearer {GOOD}", "alice"),
        (f"Foo Bearer {GOOD}", "alice"),
        (f"Bearer   {GOOD}", "alice"),
        (f"Bearer ={GOOD}", "alice"),
        (f"Bearer {GOOD},x", "jwt_malformed"),
        (f"bearer {GOOD}", "nobody"),
        ("Bearer", "nobody"),
        (GOOD, "nobody"),
    ],
)
def test_the_prefix_may_stand_anywhere(value: str, answer: str) -> None:
    """In any place, in this case; what no token begins with is skipped behind it."""
    assert said(compiled(rule()), request_facts("/", ("authorization", value))) == answer


@pytest.mark.parametrize(
    ("token", "answer"),
    [
        (f".{GOOD}", "alice"),
        (f"{GOOD}..", "alice"),
        (GOOD.replace(".", "..."), "alice"),
        (f"{GOOD}==", "alice"),
        (f"{GOOD}=", "jwt_malformed"),
        (f"{GOOD}===", "jwt_malformed"),
        (f"{GOOD[:-5]} \t{GOOD[-5:]}", "alice"),
        (GOOD.replace(".", " .", 1), "jwt_signature"),
        (f"{GOOD}.x", "jwt_malformed"),
        ("", "jwt_malformed"),
        (mint(KEY, exp=None), "alice"),
        (mint(KEY, exp=0), "alice"),
        (EXPIRED, "jwt_expired"),
        (mint(signing_key(name="k9"), exp=NOW - 600), "jwt_expired"),
        (mint(signing_key(name="k9"), aud="x"), "jwt_audience"),
        (STRANGER, "jwt_issuer"),
        (FORGED, "jwt_unknown_key"),
    ],
)
def test_a_token_is_read_leniently_and_its_claims_come_first(token: str, answer: str) -> None:
    """What Envoy overlooks is overlooked; a token with several faults is refused for its claims."""
    policy = compiled(rule(from_headers=[{"name": "x-t"}], audiences=["web"]))
    assert said(policy, request_facts("/", ("x-t", token))) == answer


def test_of_parameters_and_cookies_the_first_counts() -> None:
    """A second one of the name is not looked at; an empty first one is a bad token."""
    policy = compiled(rule(from_params=["t"], from_cookies=["c"]))
    assert said(policy, request_facts(f"/?t={GOOD}&t=x")) == "alice"
    assert said(policy, request_facts(f"/?t=&t={GOOD}")) == "jwt_malformed"
    assert said(policy, request_facts("/", ("cookie", f"c={GOOD}; c=x"))) == "alice"


def test_every_token_of_a_rule_must_hold_and_the_header_names_the_user() -> None:
    """Cookies first, then parameters, headers last: the last one that held is the identity."""
    policy = compiled(rule(from_headers=[{"name": "x-t"}], from_params=["t"]))
    bob = mint(KEY, sub="bob")
    both = request_facts(f"/?t={bob}&a", ("x-t", GOOD))
    assert said(policy, both) == "alice"
    assert (asked(policy, both).remove_headers, asked(policy, both).query) == (("x-t",), "a")
    assert said(policy, request_facts(f"/?t={EXPIRED}", ("x-t", GOOD))) == "jwt_expired"
    assert said(policy, request_facts(f"/?t={GOOD}", ("x-t", EXPIRED))) == "jwt_expired"


TWO = (rule(), rule(OTHER, from_headers=[{"name": "x-t"}]))


@pytest.mark.parametrize(
    ("facts", "answer"),
    [
        (request_facts("/"), "nobody"),
        (request_facts("/", ("authorization", f"Bearer {GOOD}"), ("x-t", "garbage")), "alice"),
        (request_facts("/", ("x-t", mint(KEY, iss=OTHER))), "alice"),
        (request_facts("/", ("authorization", f"Bearer {EXPIRED}"), ("x-t", "garbage")), "jwt_expired"),
        (request_facts("/", ("authorization", f"Bearer {STRANGER}"), ("x-t", "garbage")), "jwt_malformed"),
        (request_facts("/", ("authorization", f"Bearer {STRANGER}")), "jwt_issuer"),
        (request_facts("/", ("authorization", f"Bearer {FORGED}"), ("x-t", STRANGER)), "jwt_unknown_key"),
    ],
)
def test_the_first_rule_that_holds_ends_the_walk(facts: RequestFacts, answer: str) -> None:
    """Whatever stands where other rules read; of failures the weightiest is told, of equals the last."""
    assert said(compiled(*TWO), facts) == answer


def test_a_spent_token_is_gone_for_the_next_round() -> None:
    """Two issuers' tokens in two places of both rules: one is spent, so that each rule finds but its own."""
    theirs = mint(KEY, iss=OTHER)
    facts = request_facts(f"/?access_token={theirs}", ("authorization", f"Bearer {GOOD}"))
    assert said(compiled(rule(), rule(OTHER)), facts) == "alice"
    kept = (rule(forward_original_token=True), rule(OTHER, forward_original_token=True))
    assert said(compiled(*kept), facts) == "jwt_issuer"


def test_a_required_token() -> None:
    """``presence: REQUIRED`` still asks for one."""
    policy = compiled(rule(presence="REQUIRED"))
    assert said(policy, request_facts("/")) == "jwt_missing"
    assert said(policy, request_facts("/", ("authorization", f"Bearer {GOOD}"))) == "alice"


def test_our_annotations_bring_our_reading_back() -> None:
    """Istio does not know them, so there is nothing to be compatible with."""
    policy = compiled(rule(), annotations={"meshsec.dev/exclude-paths": "/healthz"})
    assert not policy.istio
    assert said(policy, request_facts("/", ("authorization", f"Basic Og==, Bearer {GOOD}"))) == "jwt_malformed"


def test_one_annotated_resource_brings_it_back_for_all() -> None:
    """A workload's rules are used together: they are read in one way, the stricter one."""
    plain, annotated = (
        RequestAuthentication(metadata={"name": name, **more}, spec={"jwt_rules": [rule(issuer)]})
        for name, issuer, more in (
            ("a", ISSUER, {}),
            ("b", OTHER, {"annotations": {"meshsec.dev/include-paths": "/admin"}}),
        )
    )
    for resources, istio in (([plain], True), ([plain, annotated], False), ([annotated, plain], False)):
        assert compile_request_authentication(resources, compatibility="istio").istio is istio


def test_a_missing_key_is_asked_for() -> None:
    """A question where a fetch may help; a refusal, with Envoy's words, where not."""
    source = KeySource(ISSUER, "https://issuer.example/jwks")
    policy = compiled(rule(jwks=None, jwks_uri=source.jwks_uri))
    facts = request_facts("/", ("authorization", f"Bearer {GOOD}"))
    assert policy.authenticate(facts, {source: KeyState(None, fetchable=True)}, now=NOW) == NeedKeys((source,))
    refused = policy.authenticate(facts, {source: KeyState(None)}, now=NOW)
    assert isinstance(refused, TokenResult)
    assert str(refused.error) == "Jwks remote fetch is failed"
    found = policy.authenticate(facts, {source: KeyState(key_set(KEY))}, now=NOW)
    assert isinstance(found, TokenResult)
    assert found.error is None


def seen(result: TokenResult, facts: RequestFacts, name: str) -> tuple[str, ...]:
    """The lines of a header, as rules see them."""
    return (result.seen or facts).headers.get(name, ())


def test_what_the_rules_see() -> None:
    """No spent token, nothing forged where a rule was asked, the claims' headers: as behind Envoy."""
    policy = compiled(rule(output_claim_to_headers=[{"header": "X-Sub", "claim": "sub"}]))
    facts = request_facts("/", ("authorization", f"Bearer {GOOD}"), ("x-sub", "forged"))
    found = asked(policy, facts)
    assert seen(found, facts, "x-sub") == ("alice",)
    assert seen(found, facts, "authorization") == ()


def test_what_a_rule_that_was_not_asked_leaves() -> None:
    """Its header is taken from the application all the same, but not from the rules: they judge what Envoy judges."""
    policy = compiled(rule(), rule(OTHER, output_claim_to_headers=[{"header": "x-sub", "claim": "sub"}]))
    facts = request_facts("/", ("authorization", f"Bearer {GOOD}"), ("x-sub", "forged"))
    found = asked(policy, facts)
    assert seen(found, facts, "x-sub") == ("forged",)
    assert "x-sub" in found.remove_headers


@pytest.mark.parametrize("place", [0, 7, len(GOOD) // 2, len(GOOD)])
def test_any_character_anywhere(place: int) -> None:
    """Only white space and dots are overlooked; everything else is refused, and nothing else happens."""
    policy = compiled(rule(from_headers=[{"name": "x-t"}]))
    passed = set()
    for character in map(chr, (*range(9, 10), *range(0x20, 0x7F), *range(0x80, 0x100))):
        token = GOOD[:place] + character + GOOD[place:]
        if said(policy, request_facts("/", ("x-t", token))) == "alice":
            passed.add(character)
    assert passed <= {"\t", " ", "."}


def test_every_code_is_a_reason() -> None:
    """What is refused is refused with a public code."""
    for token in (EXPIRED, FORGED, STRANGER, "x"):
        facts = request_facts("/", ("authorization", f"Bearer {token}"))
        assert Reason(said(compiled(rule()), facts))
