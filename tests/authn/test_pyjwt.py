"""Another library's verdict on the same odd tokens: nothing passes here that PyJWT refuses.

But for two things that are Istio's: audiences are compared without scheme and slash, and a token need not name its
key. What PyJWT lets pass and we do not is one of a few kinds.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from typing import Any, Final

import jwt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interop.changes import CHANGES
from interop.forge import ISSUER, SIGNERS, Change, make
from meshsec.authn import verify_token
from meshsec.decision import Reason
from meshsec.errors import TokenError
from meshsec.jose import KeySet
from meshsec.resources import JWTRule

ALGORITHMS: Final = ("ES256", "RS256", "EdDSA", "PS384", "ES512")
RULE: Final = JWTRule(issuer=ISSUER, audiences=["web"], jwks_uri="https://issuer.example/keys")
KEYS: Final = KeySet.parse({"keys": [SIGNERS[name].public_jwk() for name in ALGORITHMS]})
THEIRS: Final = {name: jwt.PyJWK(SIGNERS[name].public_jwk()) for name in ALGORITHMS}
TRIED: Final = [change for change in CHANGES if change.stage != "sent"]

# What only PyJWT takes: times that are no times, repeated names and NaN and half characters in JSON, ``b64``, size.
STRICTER: Final = {Reason.JWT_CLAIM_TYPE, Reason.JWT_MALFORMED, Reason.JWT_CRITICAL_HEADER, Reason.JWT_TOO_LARGE}


def ours(token: str) -> str | None:
    """Why meshsec refuses; None: it does not."""
    try:
        verify_token(token, RULE, KEYS, now=time.time())
    except TokenError as error:
        return error.code
    return None


def theirs(token: str) -> str | None:
    """Why PyJWT refuses, asked for the same as we ask for; None: it does not."""
    options: Any = {"require": ["exp", "iss"], "verify_iat": False}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            key = THEIRS.get(jwt.get_unverified_header(token).get("kid", ""))
            if key is None:
                return "no key"
            jwt.decode(token, key, ALGORITHMS, audience="web", issuer=ISSUER, leeway=60, options=options)
    except jwt.PyJWTError as error:
        return type(error).__name__
    return None


def compare(signer: str, changes: Sequence[Change]) -> None:
    """Whether one of the two lets pass what the other refuses, and may."""
    token = make(signer, changes)
    mine, other = ours(token), theirs(token)
    names = [change.name for change in changes]
    if mine is None and other is not None:
        assert other == "InvalidAudienceError" or (other == "no key" and "kid" in "".join(names)), (names, other)
    if mine is not None and other is None:
        assert mine in STRICTER, (names, mine)


@pytest.mark.parametrize("signer", ALGORITHMS)
def test_both_take_the_good_token(signer: str) -> None:
    """Without a change; the twin of everything below."""
    token = make(signer, [])
    assert (ours(token), theirs(token)) == (None, None)


def test_no_single_change_passes_here_alone() -> None:
    """Each change there is."""
    for change in TRIED:
        compare("ES256", [change])


@settings(max_examples=150)
@given(st.sampled_from(ALGORITHMS), st.lists(st.sampled_from(TRIED), min_size=1, max_size=3))
def test_no_changes_pass_here_alone(signer: str, changes: list[Change]) -> None:
    """Several at once, and every algorithm."""
    compare(signer, changes)
