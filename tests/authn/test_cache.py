"""The cache of verified tokens: what it may remember, what it must forget, and that nothing else changes with it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshsec.authn import (
    CompiledRequestAuthentication,
    KeySnapshot,
    KeySource,
    KeyState,
    TokenCache,
    TokenResult,
    compile_request_authentication,
)
from meshsec.authn import _cache as cache_module
from meshsec.authn._digest import secret_proof
from meshsec.decision import Reason
from meshsec.jose import KeySet, VerificationKey
from meshsec.resources import JWTRule, RequestAuthentication
from tokens import ISSUER, NOW, encode, jwks, key_set, mint, request_facts, signing_key

KEY = signing_key()
KEYS, NEW_KEYS = key_set(KEY), key_set(signing_key("ES256", "k2"))
SOURCE = KeySource(ISSUER, f"{ISSUER}/jwks")
GOOD = mint()


@pytest.fixture
def verified(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows by one with every signature that is really checked."""
    checks: list[str] = []
    real = VerificationKey.verify

    def verify(self: VerificationKey, algorithm: str, message: bytes, signature: bytes) -> bool:
        checks.append(algorithm)
        return real(self, algorithm, message, signature)

    monkeypatch.setattr(VerificationKey, "verify", verify)
    return checks


def rule(**fields: Any) -> JWTRule:
    """A rule whose keys are fetched."""
    return JWTRule(**{"issuer": ISSUER, "jwks_uri": f"{ISSUER}/jwks", **fields})


def compiled(*rules: JWTRule, token_cache: bool = True, **annotations: str) -> CompiledRequestAuthentication:
    """Rules of one resource."""
    metadata = {
        "name": "users",
        "annotations": {f"meshsec.dev/{key}-paths": text for key, text in annotations.items()},
    }
    resource = RequestAuthentication(metadata=metadata, spec={"jwt_rules": list(rules or [rule()])})
    return compile_request_authentication([resource], token_cache=token_cache)


def snapshot(keys: KeySet = KEYS, cache: TokenCache | None = None) -> KeySnapshot:
    """The key set at hand, with a cache of its own."""
    return {SOURCE: KeyState(keys, cache=cache or TokenCache())}


def judge(
    policy: CompiledRequestAuthentication,
    keys: KeySnapshot,
    token: str = GOOD,
    *,
    now: float = NOW,
    target: str = "/",
) -> TokenResult:
    """One request."""
    facts = request_facts(target, ("authorization", f"Bearer {token}"))
    found = policy.authenticate(facts, keys, now=now, ask=False)
    assert isinstance(found, TokenResult)
    return found


def code(*args: Any, **options: Any) -> str | None:
    """Why a request is refused."""
    error = judge(*args, **options).error
    return error.code if error else None


def test_the_third_time_nothing_is_verified(verified: list[str]) -> None:
    """A token gets in on second sight, and then gives the very same result."""
    policy, keys = compiled(rule(output_payload_to_header="x-payload")), snapshot()
    results = [judge(policy, keys) for _ in range(5)]
    assert len(verified) == 2
    assert all(result == results[0] for result in results)
    assert results[0].principal is not None


def test_keys_of_a_rule_have_a_cache_too(verified: list[str]) -> None:
    """Also where they are written into it."""
    policy = compiled(rule(jwks_uri=None, jwks=jwks(KEY)))
    for _ in range(5):
        assert judge(policy, {}).error is None
    assert len(verified) == 2


def test_each_key_set_remembers_its_own(verified: list[str]) -> None:
    """What one rule's keys verified is kept with them, and not with the next rule's."""
    policy = compiled(rule(), rule(issuer="https://other.example", jwks_uri="https://other.example/jwks"))
    other = KeySource("https://other.example", "https://other.example/jwks")
    keys = {**snapshot(), other: KeyState(NEW_KEYS, cache=TokenCache())}
    for _ in range(5):
        assert judge(policy, keys).error is None
    assert len(verified) == 2


def test_one_switch_turns_it_off(verified: list[str]) -> None:
    """Without a cache every request verifies."""
    policy = compiled(rule(jwks_uri=None, jwks=jwks(KEY)), token_cache=False)
    for _ in range(4):
        assert judge(policy, {}).error is None
    assert judge(compiled(), {SOURCE: KeyState(KEYS)}).error is None
    assert len(verified) == 5


def test_it_dies_with_its_keys() -> None:
    """A token is refused as soon as its key is gone, whatever was remembered; with the key it is taken again."""
    policy, old = compiled(), snapshot()
    for _ in range(4):
        assert code(policy, old) is None
    assert code(policy, snapshot(NEW_KEYS)) == Reason.JWT_UNKNOWN_KEY
    assert code(policy, {SOURCE: KeyState(None)}) == Reason.KEYS_UNAVAILABLE
    assert code(policy, {}) == Reason.KEYS_UNAVAILABLE
    assert code(policy, old) is None


@pytest.mark.parametrize(
    ("changes", "now", "expected"),
    [
        ({"exp": NOW + 10}, NOW + 70, None),
        ({"exp": NOW + 10}, NOW + 70.5, Reason.JWT_EXPIRED),
        ({"exp": NOW + 10.9}, NOW + 70.95, Reason.JWT_EXPIRED),
        ({"nbf": NOW}, NOW - 60, None),
        ({"nbf": NOW}, NOW - 61, Reason.JWT_NOT_YET_VALID),
    ],
)
def test_times_are_judged_every_time(changes: dict[str, Any], now: float, expected: str | None) -> None:
    """A token that was remembered ends when it would have ended, also for a clock that was turned back."""
    policy, keys, token = compiled(), snapshot(), mint(**changes)
    for _ in range(3):
        assert code(policy, keys, token) is None
    assert code(policy, keys, token, now=now) == expected
    assert code(policy, snapshot(), token, now=now) == expected


def test_another_rule_is_another_verdict() -> None:
    """What held for one audience says nothing about another, though the keys are the same."""
    keys = snapshot()
    for _ in range(3):
        assert code(compiled(rule(audiences=["web"])), keys) is None
        assert code(compiled(rule(audiences=["other"])), keys) == Reason.JWT_AUDIENCE


def test_paths_choose_the_rule_every_time() -> None:
    """A token that a rule took on an open path is not taken by it where a stricter rule is asked."""
    strict = RequestAuthentication(
        metadata={"name": "strict", "annotations": {"meshsec.dev/include-paths": "/admin"}},
        spec={"jwt_rules": [rule(audiences=["admin"])]},
    )
    lax = RequestAuthentication(metadata={"name": "lax"}, spec={"jwt_rules": [rule()]})
    for order in ([strict, lax], [lax, strict]):
        policy, keys = compile_request_authentication(order), snapshot()
        for _ in range(3):
            assert code(policy, keys, target="/") is None
            assert code(policy, keys, target="/admin") == Reason.JWT_AUDIENCE


@given(st.integers(0, len(GOOD) - 1), st.sampled_from("ABCabc019-_.=é "))
def test_no_other_token_is_ever_found(index: int, character: str) -> None:
    """One character changed, anywhere: another token, and not one that holds."""
    policy, keys = compiled(), snapshot()
    for _ in range(3):
        assert code(policy, keys) is None
    other = GOOD[:index] + character + GOOD[index + 1 :]
    if other.strip() != GOOD:
        assert code(policy, keys, other) is not None


def test_claims_of_another_are_not_found() -> None:
    """The same header and signature around other claims."""
    policy, keys = compiled(), snapshot()
    head, _, signature = GOOD.split(".")
    for _ in range(3):
        assert code(policy, keys) is None
    assert code(policy, keys, f"{head}.{encode({'iss': ISSUER, 'sub': 'root', 'exp': NOW + 9})}.{signature}") == (
        Reason.JWT_SIGNATURE
    )


def test_claims_are_read_only() -> None:
    """No request can change what the next one is told."""
    policy, keys = compiled(), snapshot()
    token = mint(roles=["a"], realm={"roles": ["b"]}, scope="read write")
    for _ in range(3):
        principal = judge(policy, keys, token).principal
        assert principal is not None
        assert principal.claims["roles"] == ("a",)
        assert principal.claims["realm"]["roles"] == ("b",)
        assert principal.claims["scope"] == ("read", "write")
        for mapping in (principal.claims, principal.claims["realm"]):
            with pytest.raises(TypeError):
                mapping["roles"] = ("root",)


def test_bad_tokens_leave_no_trace() -> None:
    """Neither refused tokens nor those that come once take anybody's place."""
    policy, cache = compiled(), TokenCache()
    keys = snapshot(cache=cache)
    for index in range(50):
        assert code(policy, keys, mint(iss="https://nobody.example", jti=str(index))) is not None
        assert code(policy, keys, GOOD[:-8] + f"{index:08}") is not None
    entries = cache._entries
    assert (entries.young, entries.old, entries.marks) == ({}, {}, set())
    for index in range(50):
        assert code(policy, keys, mint(jti=str(index))) is None
    assert (entries.young, entries.old) == ({}, {})


def test_it_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two generations of each; who is still used stays."""
    monkeypatch.setattr(cache_module, "_MOST", 4)
    policy, cache = compiled(), TokenCache()
    keys = snapshot(cache=cache)
    for index in range(40):
        for _ in range(2):
            assert code(policy, keys, mint(jti=str(index))) is None
            assert code(policy, keys) is None
        assert len(cache._entries.young) <= 4
        assert len(cache._entries.old) <= 4
        assert len(cache._entries.marks) <= 16
    assert hash(GOOD) in cache._entries.young or hash(GOOD) in cache._entries.old


def test_it_holds_no_token() -> None:
    """Neither token nor signature, and digests that are others in another process; nothing shows in repr."""
    policy, cache = compiled(), TokenCache()
    for _ in range(3):
        judge(policy, snapshot(cache=cache))
    ((key, entry),) = cache._entries.young.items()
    assert key == hash(GOOD)
    assert entry.proof == secret_proof(GOOD.encode())
    assert GOOD.split(".")[2].encode() not in entry.token.payload
    assert repr(cache) == "TokenCache()"


def test_two_tokens_of_one_hash_are_two_tokens() -> None:
    """Whoever finds a token whose hash is another's does not get that one's place."""
    policy, cache = compiled(), TokenCache()
    for _ in range(3):
        judge(policy, snapshot(cache=cache))
    entry = cache._entries.young[hash(GOOD)]
    assert cache.find(GOOD, entry.profile, NOW) is entry.token
    other = mint(sub="mallory")
    cache._entries.keep(hash(other), entry)
    assert cache.find(other, entry.profile, NOW) is None


def test_expired_entries_are_not_kept_alive() -> None:
    """Finding an entry that no longer holds gives nothing, and the refusal is the true one."""
    policy, keys = compiled(), snapshot()
    for _ in range(3):
        judge(policy, keys)
    for _ in range(3):
        assert code(policy, keys, now=NOW + 3600) == Reason.JWT_EXPIRED


def test_a_state_with_other_keys_has_another_cache() -> None:
    """Whoever replaces the keys of a state by hand takes the cache with them: it is not part of what is compared."""
    state = KeyState(KEYS, cache=TokenCache())
    assert state == replace(state, cache=None)


def test_a_long_token_is_not_kept(verified: list[str]) -> None:
    """4,096 characters are, one more is not; and a longer one is never taken for one that is."""
    policy, cache = compiled(), TokenCache()
    keys = snapshot(cache=cache)
    filler = next(size for size in range(2000, 4000) if len(mint(filler="x" * size)) >= cache_module._LONGEST - 1)
    for size in (filler - 10, filler + 10):
        token = mint(filler="x" * size)
        for _ in range(4):
            assert code(policy, keys, token) is None
            assert code(policy, keys, token + "A" * 5000) is not None
        assert len(cache._entries.young) == 1


def test_keys_may_change_under_many_threads() -> None:
    """Whoever reads a snapshot gets the verdict of that snapshot, whatever others do meanwhile."""
    policy, old, new = compiled(), snapshot(), snapshot(NEW_KEYS)
    fresh = mint(signing_key("ES256", "k2"))
    tokens = [*(mint(jti=str(index)) for index in range(8)), fresh]

    def work(seed: int) -> set[tuple[bool, str | None]]:
        found = set()
        for index in range(120):
            keys, token = (old, new)[(index + seed) % 2], tokens[(index * 7 + seed) % len(tokens)]
            found.add(((keys is new) == (token is fresh), code(policy, keys, token)))
        return found

    with ThreadPoolExecutor(4) as pool:
        verdicts = set().union(*pool.map(work, range(4)))
    assert verdicts == {(True, None), (False, Reason.JWT_UNKNOWN_KEY)}
