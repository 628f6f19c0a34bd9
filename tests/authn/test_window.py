"""What may be remembered of a request's tokens: between which moments, and of which requests the same is said."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from meshsec.authn import (
    CompiledRequestAuthentication,
    KeySource,
    KeyState,
    TokenCache,
    compile_request_authentication,
)
from meshsec.jose import SigningKey
from meshsec.resources import Compatibility, JWTRule, RequestAuthentication
from tokens import ISSUER, NOW, jwks, key_set, mint, request_facts, signing_key

KEY = signing_key()
OTHER = "https://other.example"
SOURCE = KeySource(ISSUER, f"{ISSUER}/jwks")
GOOD = mint(exp=NOW + 300, nbf=NOW - 30)
FORGED = mint(SigningKey.generate("ES256", kid="k1"))
PREFLIGHT = (("origin", "https://a.example"), ("access-control-request-method", "GET"))
PLACES: dict[str, Any] = {"from_headers": [{"name": "x-t"}], "from_params": ["a", "b"]}


def compiled(
    *rules: JWTRule, compatibility: Compatibility = "safe", token_cache: bool = True, **annotations: str
) -> CompiledRequestAuthentication:
    """Rules of one resource."""
    notes = {f"meshsec.dev/{key}-paths": text for key, text in annotations.items()}
    spec = {"jwt_rules": list(rules)}
    resource = RequestAuthentication(metadata={"name": "users", "annotations": notes}, spec=spec)
    return compile_request_authentication([resource], compatibility=compatibility, token_cache=token_cache)


def rule(**fields: Any) -> JWTRule:
    """A rule whose keys are written into it."""
    return JWTRule(**{"issuer": ISSUER, "jwks": jwks(KEY), **PLACES, **fields})


FETCHED = rule(jwks=None, jwks_uri=f"{ISSUER}/jwks")
SNAPSHOT = {SOURCE: KeyState(key_set(KEY), cache=TokenCache())}


def test_a_good_token_is_good_for_its_own_time() -> None:
    """With the minute of skew; of several tokens for the time that all of them share."""
    policy = compiled(rule(), rule(issuer=OTHER, from_headers=[{"name": "x-o"}], from_params=["o"]))
    other = mint(iss=OTHER, exp=NOW + 100)
    assert policy.window(request_facts("/", ("x-t", GOOD)), {}, NOW) == (NOW - 90, NOW + 360)
    assert policy.window(request_facts("/", ("x-t", GOOD), ("x-o", other)), {}, NOW) == (NOW - 90, NOW + 160)
    assert policy.window(request_facts("/"), {}, NOW) == (-math.inf, math.inf)
    assert compile_request_authentication([]).window(request_facts("/"), {}, NOW) == (-math.inf, math.inf)


@pytest.mark.parametrize(
    ("policy", "target", "headers"),
    [
        (compiled(rule()), "/", [("x-t", FORGED)]),
        (compiled(rule()), "/", [("x-t", mint(exp=NOW - 100))]),
        (compiled(rule()), f"/?a={GOOD}", []),
        (compiled(rule()), f"/?b={GOOD}", []),
        (compiled(rule()), f"/?%61={GOOD}", []),
        (compiled(rule(presence="REQUIRED")), "/", []),
        (compiled(rule(), compatibility="istio"), "/", [("x-t", GOOD)]),
        (compiled(rule(), token_cache=False), "/", [("x-t", GOOD)]),
        (compiled(rule(), include="/in"), "/in", []),
        (compiled(FETCHED), "/", [("x-t", GOOD)]),
    ],
    ids=[
        "forged", "expired", "in the query", "in the other parameter", "encoded", "missing", "as Istio", "no cache",
        "triggered", "no keys",
    ],
)  # fmt: skip
def test_nothing_is_remembered_of_what_did_not_hold_or_must_be_verified_anew(
    policy: CompiledRequestAuthentication, target: str, headers: list[tuple[str, str]]
) -> None:
    """Nor of a token that would be remembered with the request line."""
    assert policy.window(request_facts(target, *headers), {}, NOW) is None


def test_keys_that_are_fetched_decide_by_their_own_cache() -> None:
    """A set without one has each token verified anew; one that may be asked for is no answer yet."""
    policy, facts = compiled(FETCHED), request_facts("/", ("x-t", GOOD))
    assert policy.window(facts, SNAPSHOT, NOW) == (NOW - 90, NOW + 360)
    assert policy.window(facts, {SOURCE: replace(SNAPSHOT[SOURCE], cache=None)}, NOW) is None
    assert policy.window(facts, {SOURCE: KeyState(None, fetchable=True)}, NOW) is None


def test_a_preflights_tokens_are_not_read() -> None:
    """So that they end nothing; and a request that is none is another one."""
    policy = compiled(rule())
    assert policy.window(request_facts("/", ("x-t", FORGED), *PREFLIGHT, method="OPTIONS"), {}, NOW) == (
        -math.inf,
        math.inf,
    )
    assert policy.window(request_facts("/", ("x-t", FORGED), *PREFLIGHT), {}, NOW) is None
    asked = policy.situation("OPTIONS", ("/",), preflight=True)
    assert asked != policy.situation("GET", ("/",), preflight=True)
    assert asked != policy.situation("OPTIONS", ("/",), preflight=False)


def test_a_request_line_that_may_hold_a_token_is_like_no_other() -> None:
    """Whichever parameter it is in; other parameters make no difference."""
    policy = compiled(rule())
    assert not policy.is_in_query(request_facts("/"))
    assert not policy.is_in_query(request_facts("/x?c=1"))
    for name in ("a", "b", "%61"):
        assert policy.is_in_query(request_facts(f"/?{name}=x"))
        assert policy.is_in_query(request_facts(f"/?c=1&{name}="))


def test_paths_with_other_triggers_are_other_requests() -> None:
    """Where a token is asked for on one of them."""
    (asking,) = compiled(rule(), include="/in").rules
    policy = CompiledRequestAuthentication((*compiled(rule(issuer=OTHER)).rules, asking), frozenset(), ())
    inside, outside = (policy.situation("GET", (path,), preflight=False) for path in ("/in", "/out"))
    assert inside != outside
    assert policy.situation("GET", ("/out/side",), preflight=False) == outside
