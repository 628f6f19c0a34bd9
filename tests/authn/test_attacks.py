"""Attacks on tokens that broke others, where no other test has them. docs/explanation/known-attacks.md lists all."""

from __future__ import annotations

import hmac
import time
import tracemalloc
from base64 import b64decode
from contextlib import suppress
from itertools import product
from pathlib import Path
from typing import Any, Final

import pytest
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_der_private_key

import meshsec
from interop.changes import CHANGES
from interop.forge import ISSUER as ODD_ISSUER
from interop.forge import SIGNERS, make
from meshsec.authn import (
    CompiledRequestAuthentication,
    KeySource,
    KeyState,
    NeedKeys,
    TokenResult,
    compile_request_authentication,
    verify_token,
)
from meshsec.decision import Reason
from meshsec.errors import TokenError
from meshsec.jose import KeySet
from meshsec.resources import Compatibility, JWTRule, RequestAuthentication
from tokens import ISSUER, NOW, claims, encode, jwks, key_set, mint, raw, request_facts, signing_key

KEY: Final = signing_key()
KEYS: Final = key_set(KEY)
RULE: Final = JWTRule(issuer=ISSUER, audiences=["web"], jwks=jwks(KEY))
OTHER: Final = "https://other.example"
MODES: Final[tuple[Compatibility, ...]] = ("safe", "istio")


def compiled(rules: list[JWTRule], compatibility: Compatibility) -> CompiledRequestAuthentication:
    """Rules of one resource."""
    resource = RequestAuthentication(metadata={"name": "users"}, spec={"jwt_rules": rules})
    return compile_request_authentication([resource], compatibility=compatibility)


def result(policy: CompiledRequestAuthentication, target: str, *headers: tuple[str, str]) -> TokenResult:
    """What becomes of a request."""
    found = policy.authenticate(request_facts(target, *headers), {}, now=NOW, ask=False)
    assert isinstance(found, TokenResult)
    return found


# ---------------------------------------------------------------------------------- several issuers (CVE-2021-21378)

TOKENS: Final = {
    "none": (None, None, Reason.JWT_MISSING),
    "good": (mint(), None, None),
    "forged": (mint(signing_key("ES256", "k9")), Reason.JWT_UNKNOWN_KEY, Reason.JWT_UNKNOWN_KEY),
    "expired": (mint(exp=NOW - 999), Reason.JWT_EXPIRED, Reason.JWT_EXPIRED),
    "of nobody": (mint(iss="https://stranger.example"), Reason.JWT_ISSUER, Reason.JWT_ISSUER),
    "without issuer": (mint(iss=None), Reason.JWT_ISSUER, Reason.JWT_ISSUER),
    "junk": ("junk", Reason.JWT_MALFORMED, Reason.JWT_MALFORMED),
    "empty": ("", None, Reason.JWT_MISSING),
}


@pytest.mark.parametrize(("name", "required", "issuers", "mode"), list(product(TOKENS, (False, True), (1, 2), MODES)))
def test_an_unknown_issuer_is_never_taken_for_no_token(
    name: str, required: bool, issuers: int, mode: Compatibility
) -> None:
    """Nothing but the absence of a token is absence, however many rules there are and whether one must be there."""
    token, optional, demanded = TOKENS[name]
    presence: Any = "REQUIRED" if required else "OPTIONAL"
    rules = [JWTRule(issuer=iss, jwks=jwks(KEY), presence=presence) for iss in (ISSUER, OTHER)[:issuers]]
    headers = [] if token is None else [("authorization", f"Bearer {token}")]
    found = result(compiled(rules, mode), "/", *headers)
    assert (found.error and Reason(found.error.code)) == (demanded if required else optional)
    assert (found.principal is not None) == (name == "good")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("second", [mint(), "junk", mint(iss=OTHER), mint(exp=1)])
def test_several_tokens_while_no_key_can_be_had(mode: Compatibility, second: str) -> None:
    """CVE-2025-64527: a clean refusal, whichever token comes first; never an accepted one."""
    fetched = [JWTRule(issuer=iss, jwks_uri=f"{iss}/jwks", from_params=["t"], from_headers=[{"name": "x-t"}])
               for iss in (ISSUER, OTHER)]  # fmt: skip
    policy = compiled(fetched, mode)
    for one, other in ((mint(), second), (second, mint())):
        found = result(policy, f"/?t={one}", ("x-t", other))
        assert found.error is not None
        assert found.principal is None
        for fetchable in (True, False):
            snapshot = {KeySource(iss, f"{iss}/jwks"): KeyState(None, fetchable=fetchable) for iss in (ISSUER, OTHER)}
            facts = request_facts(f"/?t={one}", ("x-t", other))
            again = policy.authenticate(facts, snapshot, now=NOW)
            assert isinstance(again, NeedKeys) or again.error is not None


# ------------------------------------------------------------------------------------------------------------ work


def test_an_extension_is_refused_before_the_payload_is_read() -> None:
    """CVE-2026-48525: with ``b64: false`` the payload is not even base64url, and nobody looks."""
    header = encode({"alg": "ES256", "kid": "k1", "crit": ["b64"], "b64": False})
    with pytest.raises(TokenError) as caught:
        verify_token(f"{header}.!!!!.AAAA", RULE, KEYS, now=NOW)
    assert caught.value.code == Reason.JWT_CRITICAL_HEADER


@pytest.mark.parametrize(
    "token",
    [
        "." * 100_000,
        "." * 32_000,
        f"{'e' * 300_000}.AAAA.AAAA",
        f"AAAA.{'e' * 300_000}.AAAA",
        f"AAAA.AAAA.{'e' * 300_000}",
        encode(b'{"a":' * 6_000) + ".AAAA.AAAA",
    ],
    ids=["dots", "dots within bounds", "header", "payload", "signature", "nesting"],
)
def test_a_large_token_costs_no_memory(token: str) -> None:
    """CVE-2025-61920, CVE-2025-27144, CVE-2025-30204: no more than twice what was sent."""
    tracemalloc.start()
    try:
        with pytest.raises(TokenError):
            verify_token(token, RULE, KEYS, now=NOW)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2 * len(token) + 20_000


def test_no_message_repeats_anything_of_a_token() -> None:
    """CVE-2025-65015: short, and without a piece of header, claims or signature; for every odd token there is."""
    rule = JWTRule(issuer=ODD_ISSUER, audiences=["web"], jwks_uri="https://issuer.example/keys")
    keys = KeySet.parse({"keys": [SIGNERS["ES256"].public_jwk()]})
    refused = 0
    for change in CHANGES:
        token = "" if change.stage == "sent" else make("ES256", [change])
        try:
            verify_token(token, rule, keys, now=NOW)
        except TokenError as error:
            refused += 1
            message = str(error) + repr(error)
            assert len(message) < 512
            assert not any(piece[:10] in message for piece in token.split(".") if len(piece) >= 10), change.name
            assert not any(secret in message for secret in ("alice", "mallory", "admin", "xxxx", "yyyy")), change.name
    assert refused > 900


def test_shared_secrets_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """CVE-2016-7036: by the function that is made for it and by nothing else."""
    keys = KeySet.parse({"keys": [SIGNERS["HS256"].public_jwk()]}, allow_symmetric=True)
    rule = JWTRule(issuer=ODD_ISSUER, audiences=["web"], jwks_uri="https://issuer.example/keys")
    token, now = make("HS256", []), time.time()
    assert verify_token(token, rule, keys, now=now)
    monkeypatch.setattr(hmac, "compare_digest", lambda *_: False)
    with pytest.raises(TokenError, match="Jwt verification fails"):
        verify_token(token, rule, keys, now=now)


# ------------------------------------------------------------------------------------------------------------ keys


def test_the_package_holds_no_key() -> None:
    """CVE-2026-31837: whoever reads the source can sign nothing: no private key in it, in any of the usual forms."""
    for path in Path(meshsec.__file__).parent.rglob("*"):
        data = path.read_bytes() if path.suffix in (".py", ".pem", ".json", ".typed", ".html") else b""
        assert b"PRIVATE KEY-----\n" not in data, path
        for word in data.split(b'"'):
            if len(word) > 60 and not set(word) - set(_BASE64):
                with suppress(ValueError, TypeError, UnsupportedAlgorithm):
                    load_der_private_key(b64decode(word + b"=="), None)
                    pytest.fail(f"a private key in {path}")


_BASE64: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/="


def test_without_keys_nobody_is_let_in() -> None:
    """A cold start while the issuer is down: its tokens are refused, whoever signed them."""
    rule = JWTRule(issuer=ISSUER, jwks_uri=f"{ISSUER}/jwks")
    for key in (KEY, *(signing_key(algorithm) for algorithm in ("RS256", "EdDSA"))):
        for mode in MODES:
            found = result(compiled([rule], mode), "/", ("authorization", f"Bearer {mint(key)}"))
            assert found.error is not None
            assert found.error.code == Reason.KEYS_UNAVAILABLE


def test_the_header_does_not_choose_the_key_among_keys_of_one_name() -> None:
    """Two keys of one ``kid``: each is tried with its own algorithm alone, and neither with a token's."""
    pair = KeySet.parse(
        {"keys": [{**signing_key(name).public_jwk(), "kid": "same"} for name in ("ES256", "RS256", "EdDSA")]}
    )
    for name in ("ES256", "RS256", "EdDSA"):
        header = {"alg": name, "kid": "same"}
        assert verify_token(raw(header, claims(), signing_key(name)), RULE, pair, now=NOW).subject == "alice"
        for other in {"ES256", "RS256", "EdDSA", "PS256", "HS256"} - {name}:
            with pytest.raises(TokenError):
                verify_token(raw({**header, "alg": other}, claims(), signing_key(name)), RULE, pair, now=NOW)
