"""What verifying one token costs, side by side in one run: ``python -m benchmarks.jwt``.

The limit is cryptography's own ``verify`` on bytes that are ready ("raw"); every other row does the whole work:
form, key by ``kid``, signature, ``exp``, issuer and audience. All rows take turns in each round, in random order; a
ratio is the median of the rounds' ratios, so that a busy neighbour slows all of them alike. Where every token comes
once, the cache of verified tokens is never of use, and what it costs is told. Libraries that are not installed
(``pip install --group bench``) are left out, which is said; ryjwt needs Python 3.12.
"""

from __future__ import annotations

import json
import random
import statistics
import sys
import threading
import time
from base64 import urlsafe_b64decode
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib import import_module
from typing import Any, Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from meshsec import HttpRequest
from meshsec.attributes import RequestFacts, read_request
from meshsec.authn import CompiledRequestAuthentication, TokenResult, compile_request_authentication
from meshsec.authn._judge import judge_text
from meshsec.resources import JWTRule, PathNormalization, RequestAuthentication
from meshsec.testing import TestIssuer

ALGORITHMS: Final = ("RS256", "ES256", "EdDSA")
ROUNDS: Final = 31
CALLS: Final = 60
AUDIENCE: Final = "web"
CLAIMS: Final[dict[str, Any]] = {
    "aud": AUDIENCE,
    "azp": "frontend",
    "jti": "0b1f6a52-6d3e-4c5f-9d43-5b6f0f3c2a11",
    "scope": "read write",
    "email": "alice@example.com",
    "groups": ["readers", "writers"],
}

RAW: Final = "raw cryptography verify"
ONCE: Final = "meshsec, each token once, no cache"
ONCE_CACHED: Final = "meshsec, each token once, cached"

Verify = Callable[[], object]


class Subject:
    """One issuer, one token, and every way to verify it."""

    def __init__(self, algorithm: str, jwks_url: str) -> None:
        self.algorithm = algorithm
        self.issuer = TestIssuer(algorithm=algorithm)
        self.token = self.issuer.token(**CLAIMS)
        self.jwk: dict[str, Any] = json.loads(self.issuer.jwks)["keys"][0]
        self.jwks_url = jwks_url

    def rows(self) -> Iterator[tuple[str, Verify]]:
        """Name and function; only what is installed and knows the algorithm."""
        yield RAW, self._raw()
        yield "meshsec, uncached", self._meshsec(cached=False)
        yield "meshsec, cached", self._meshsec(cached=True)
        yield "meshsec, whole request, uncached", self._meshsec_request(cached=False)
        yield "meshsec, whole request, cached", self._meshsec_request(cached=True)
        tokens = [self.issuer.token(**CLAIMS, n=number) for number in range(ROUNDS * CALLS)]
        yield ONCE, self._each_once(tokens, cached=False)
        yield ONCE_CACHED, self._each_once(tokens, cached=True)
        for name, make in _PEERS.items():
            try:
                verify = make(self)
                verify()
            except Exception as error:  # noqa: BLE001 - not installed, or another algorithm's
                print(f"  ({self.algorithm}: {name} left out: {type(error).__name__}: {error})", file=sys.stderr)
            else:
                yield name, verify

    def _raw(self) -> Verify:
        signed, _, signature = self.token.encode().rpartition(b".")
        data = _decode(signature)
        key: Any = import_module("joserfc.jwk").JWKRegistry.import_key(self.jwk).get_op_key("verify")
        if self.algorithm == "RS256":
            pad, digest = padding.PKCS1v15(), hashes.SHA256()
            return lambda: key.verify(data, signed, pad, digest)
        if self.algorithm == "ES256":
            der = encode_dss_signature(int.from_bytes(data[:32], "big"), int.from_bytes(data[32:], "big"))
            curve = ec.ECDSA(hashes.SHA256())
            return lambda: key.verify(der, signed, curve)
        return lambda: key.verify(data, signed)

    def _policy(self, *, cached: bool) -> CompiledRequestAuthentication:
        rule = JWTRule(issuer=self.issuer.issuer, audiences=[AUDIENCE], jwks=self.issuer.jwks)
        resource = RequestAuthentication(metadata={"name": "users"}, spec={"jwt_rules": [rule]})
        return compile_request_authentication([resource], token_cache=cached)

    def _meshsec(self, *, cached: bool) -> Verify:
        """A token that was found, against the rules for its place."""
        rules, now = self._policy(cached=cached).rules, time.time()
        place = rules[0].locations[0]
        return lambda: judge_text(self.token, place, rules, {}, now)

    def _each_once(self, tokens: Sequence[str], *, cached: bool) -> Verify:
        """As many as there are calls, or a token would come again."""
        rules, now, rest = self._policy(cached=cached).rules, time.time(), iter(tokens)
        place = rules[0].locations[0]
        return lambda: judge_text(next(rest), place, rules, {}, now)

    def _meshsec_request(self, *, cached: bool) -> Verify:
        """As a request is authenticated: the token is looked for in every place, and taken out of its header."""
        policy = self._policy(cached=cached)
        request = HttpRequest("GET", "/", "web", [("authorization", f"Bearer {self.token}")])
        facts = read_request(request, PathNormalization.BASE, "refuse")
        if not isinstance(facts, RequestFacts):
            raise SystemExit("the request is refused")
        now = time.time()
        result = policy.authenticate(facts, {}, now=now)
        if not isinstance(result, TokenResult) or result.principal is None:
            raise SystemExit("the token is refused")
        return lambda: policy.authenticate(facts, {}, now=now)


def _decode(segment: bytes) -> bytes:
    return urlsafe_b64decode(segment + b"=" * (-len(segment) % 4))


# ------------------------------------------------------------------------------------------------ the others


def _pyjwt(subject: Subject) -> Verify:
    jwt = import_module("jwt")
    key = jwt.PyJWK(subject.jwk)
    options = {"algorithms": [subject.algorithm], "audience": AUDIENCE, "issuer": subject.issuer.issuer}
    return lambda: jwt.decode(subject.token, key, **options)


def _pyjwt_client(subject: Subject) -> Verify:
    jwt = import_module("jwt")
    client = jwt.PyJWKClient(subject.jwks_url)
    options = {"algorithms": [subject.algorithm], "audience": AUDIENCE, "issuer": subject.issuer.issuer}
    return lambda: jwt.decode(subject.token, client.get_signing_key_from_jwt(subject.token), **options)


def _joserfc(subject: Subject) -> Verify:
    jwt, jwk = import_module("joserfc.jwt"), import_module("joserfc.jwk")
    keys = jwk.KeySet.import_key_set({"keys": [subject.jwk]})
    checks = jwt.JWTClaimsRegistry(
        iss={"essential": True, "value": subject.issuer.issuer}, aud={"essential": True, "value": AUDIENCE}
    )
    return lambda: checks.validate(jwt.decode(subject.token, keys, algorithms=[subject.algorithm]).claims)


def _authlib(subject: Subject) -> Verify:
    jose = import_module("authlib.jose")
    jwt = jose.JsonWebToken([subject.algorithm])
    keys = jose.JsonWebKey.import_key_set({"keys": [subject.jwk]})
    options = {"iss": {"value": subject.issuer.issuer}, "aud": {"value": AUDIENCE}}
    return lambda: jwt.decode(subject.token, keys, claims_options=options).validate()


def _python_jose(subject: Subject) -> Verify:
    jwt = import_module("jose.jwt")
    key = import_module("jose.jwk").construct(subject.jwk, subject.algorithm)
    options = {"algorithms": [subject.algorithm], "audience": AUDIENCE, "issuer": subject.issuer.issuer}
    return lambda: jwt.decode(subject.token, key, **options)


def _jwcrypto(subject: Subject) -> Verify:
    jwt = import_module("jwcrypto.jwt")
    keys = import_module("jwcrypto.jwk").JWKSet.from_json(subject.issuer.jwks)
    checks = {"iss": subject.issuer.issuer, "aud": AUDIENCE, "exp": None}
    return lambda: jwt.JWT(jwt=subject.token, key=keys, algs=[subject.algorithm], check_claims=checks)


def _ryjwt(subject: Subject) -> Verify:
    ryjwt = import_module("ryjwt")
    options = {"algorithms": [subject.algorithm], "audience": AUDIENCE, "issuer": subject.issuer.issuer}
    key = ryjwt.PublicKey.from_jwks({"keys": [subject.jwk]}, **options)
    return lambda: key.decode(subject.token)


_PEERS: Final[dict[str, Callable[[Subject], Verify]]] = {
    "PyJWT, key at hand": _pyjwt,
    "PyJWT, PyJWKClient": _pyjwt_client,
    "joserfc, KeySet": _joserfc,
    "authlib, KeySet": _authlib,
    "python-jose, key at hand": _python_jose,
    "jwcrypto, JWKSet": _jwcrypto,
    "ryjwt (Rust), key at hand": _ryjwt,
}


# ------------------------------------------------------------------------------------------------ measuring


@contextmanager
def key_server() -> Iterator[tuple[str, Callable[[str], None]]]:
    """The URL of a key set, and a function that says what it is."""
    body = [b"{}"]

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-length", str(len(body[0])))
            self.end_headers()
            self.wfile.write(body[0])

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/jwks", lambda text: body.__setitem__(0, text.encode())
    finally:
        server.shutdown()
        server.server_close()


def measure(rows: dict[str, Verify]) -> dict[str, list[float]]:
    """Seconds of this thread's time for one call, by round."""
    found: dict[str, list[float]] = {name: [] for name in rows}
    order = list(rows)
    for _ in range(ROUNDS):
        random.shuffle(order)
        for name in order:
            verify = rows[name]
            began = time.thread_time()
            for _ in range(CALLS):
                verify()
            found[name].append((time.thread_time() - began) / CALLS)
    return found


def ratio(rounds: Sequence[float], others: Sequence[float]) -> float:
    """The median of what it was in each round."""
    return statistics.median(one / other for one, other in zip(rounds, others, strict=True))


def main() -> None:
    """Print one table for each algorithm."""
    with key_server() as (url, publish):
        for algorithm in ALGORITHMS:
            subject = Subject(algorithm, url)
            publish(subject.issuer.jwks)
            times = measure(dict(subject.rows()))
            raw = times[RAW]
            print(f"\n{algorithm}, a token of {len(subject.token)} characters")
            for name, rounds in times.items():
                print(f"{statistics.median(rounds) * 1e6:9.1f} µs  {ratio(rounds, raw):6.3f} x raw   {name}")
            print(f"a cache that is never of use: {ratio(times[ONCE_CACHED], times[ONCE]):.3f} x none")


if __name__ == "__main__":
    main()
