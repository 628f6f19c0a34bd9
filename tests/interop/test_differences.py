"""Every difference from Istio that is meant, shown by one request: to a real Envoy, and to meshsec in both modes.

Rows of ``docs/explanation/differences-from-istio.md``. The last number is what ``compatibility: istio`` says: where
it is not Envoy's, the difference is one that stays.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import pytest

from interop import words
from interop.client import Client
from interop.compare import decided, served
from interop.generate import Case, Document, Question
from interop.sidecar import sites
from meshsec import MeshConfig
from meshsec.resources import PathNormalization

ISSUER: Final = "https://a.example"
OTHER: Final = "https://b.example"
PEER: Final = "spiffe://cluster.local/ns/prod/sa/web"


def policy(action: str, *rules: Document) -> Document:
    """An AuthorizationPolicy."""
    return document("AuthorizationPolicy", {"action": action, "rules": list(rules)})


def request_authentication(*rules: Document) -> Document:
    """A RequestAuthentication."""
    return document("RequestAuthentication", {"jwtRules": list(rules)})


def document(kind: str, spec: Mapping[str, Any]) -> Document:
    """A resource of the workload's namespace."""
    metadata = {"name": "one", "namespace": "prod"}
    return {"apiVersion": "security.istio.io/v1", "kind": kind, "metadata": metadata, "spec": dict(spec)}


def jwt_rule(issuer: str = ISSUER, **changes: Any) -> Document:
    """A rule for an issuer's tokens."""
    return {"issuer": issuer, "jwks": words.jwks(issuer), **changes}


def paths(*values: str) -> Document:
    """A rule on paths."""
    return {"to": [{"operation": {"paths": list(values)}}]}


def hosts(*values: str) -> Document:
    """A rule on hosts."""
    return {"to": [{"operation": {"hosts": list(values)}}]}


def source(**fields: list[str]) -> Document:
    """A rule on the caller."""
    return {"from": [{"source": fields}]}


def header(name: str, *values: str) -> Document:
    """A rule on a header."""
    return {"when": [{"key": f"request.headers[{name}]", "values": list(values)}]}


def question(target: str = "/", *headers: tuple[str, str], host: str | None = "web.prod", **changes: Any) -> Question:
    """A plain request but for these changes."""
    lines = headers if host is None else (("Host", host), *headers)
    return replace(Question("GET", target, lines, "127.0.0.1"), **changes)


def token(header: Mapping[str, Any] | None = None, *, payload: bytes | None = None, **claims: Any) -> str:
    """A good token but for these changes; None removes a claim."""
    key = words.signing_key(ISSUER, "k1")
    all_claims = {"iss": ISSUER, "sub": "alice", "exp": int(time.time()) + 600, **claims}
    kept = {name: value for name, value in all_claims.items() if value is not None}
    return words.signed({"alg": key.algorithm, "kid": key.kid, **(header or {})}, payload or kept, key)


def bearer(text: str) -> tuple[str, str]:
    """A header line with a token."""
    return "Authorization", f"Bearer {text}"


def spare_bits(text: str) -> str:
    """The same signature, written with a last character whose spare bits are not zero."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return text[:-1] + alphabet[alphabet.index(text[-1]) + 1]


@dataclass(frozen=True)
class Row:
    """One difference: what is asked under which policy, and what Envoy, meshsec, and meshsec as Istio say."""

    documents: tuple[Document, ...]
    question: Question
    envoy: int
    safe: str
    istio: int
    normalization: PathNormalization = PathNormalization.BASE


NOTHING: Final[tuple[Document, ...]] = ()
NO_ADMIN: Final = (policy("DENY", paths("/admin")),)
USERS: Final = (request_authentication(jwt_rule()),)
TWO_PLACES: Final = (request_authentication(jwt_rule(), jwt_rule(OTHER, fromHeaders=[{"name": "x-token"}])),)
CLAIM_HEADER: Final = (
    request_authentication(jwt_rule(outputClaimToHeaders=[{"header": "x-sub", "claim": "sub"}])),
    policy("DENY", header("x-sub", "mallory")),
)
PREFLIGHT: Final = (("Origin", "https://x.example"), ("Access-Control-Request-Method", "GET"))

ROWS: Final[Mapping[str, Row]] = {
    "an encoded slash": Row(NO_ADMIN, question("/x/..%2Fadmin"), 200, "400 target_ambiguous", 200),
    "an encoded backslash": Row(NO_ADMIN, question("/x%5Cadmin"), 200, "400 target_ambiguous", 200),
    "a doubled slash": Row(NO_ADMIN, question("//admin"), 200, "403 deny_rule", 200),
    "an encoded line end": Row(NO_ADMIN, question("/admin%0a"), 200, "400 target_control_character", 200),
    "an encoded line separator": Row(NO_ADMIN, question("/x%e2%80%a8"), 200, "400 target_control_character", 200),
    "encoded again and again": Row(NO_ADMIN, question("/%25252561dmin"), 200, "400 target_ambiguous", 200),
    "no UTF-8": Row(NO_ADMIN, question("/%ff"), 200, "400 target_ambiguous", 200),
    "a dot segment with parameters": Row(NO_ADMIN, question("/x/..;y/z"), 200, "400 target_ambiguous", 200),
    "a dot segment that is left": Row(
        NO_ADMIN, question("/x/../admin"), 200, "400 target_ambiguous", 200, PathNormalization.NONE
    ),
    "a stray percent sign": Row(NO_ADMIN, question("/%zz"), 200, "400 target_malformed", 200),
    "a denied path in another spelling": Row(
        (policy("DENY", paths("/a%3Ab")),), question("/a:b"), 200, "403 deny_rule", 200
    ),
    "a denied path with a slash at its end": Row(NO_ADMIN, question("/admin/"), 200, "403 deny_rule", 200),
    "a denied path without the slash at its end": Row(
        (policy("DENY", paths("/admin/*")),), question("/admin"), 200, "403 deny_rule", 200
    ),
    "a path that alone is not allowed, with a slash at its end": Row(
        (policy("ALLOW", {"to": [{"operation": {"notPaths": ["/admin"]}}]}),),
        question("/admin/"),
        200,
        "403 no_allow_rule",
        200,
    ),
    "a denied host with a port": Row(
        (policy("DENY", hosts("web.prod")),), question(host="web.prod:8080"), 200, "403 deny_rule", 200
    ),
    "a denied host with a dot": Row(
        (policy("DENY", hosts("web.prod")),), question(host="web.prod."), 200, "403 deny_rule", 200
    ),
    "two Host lines": Row(NOTHING, question("/", ("Host", "other")), 200, "400 host_invalid", 200),
    "two Host lines, one of them empty": Row(
        (policy("ALLOW", hosts("other")),),
        question("/", ("Host", "other"), host=""),
        200,
        "400 host_invalid",
        200,
    ),
    "an empty Host": Row(NOTHING, question(host=""), 200, "400 host_missing", 200),
    "a host that is none": Row(NOTHING, question(host="a,b"), 200, "400 host_invalid", 200),
    "two Authorization lines": Row(
        USERS, question("/", ("Authorization", "Basic x"), bearer(token())), 200, "400 authorization_repeated", 200
    ),
    "a header in several lines, which Envoy joins": Row(
        (policy("DENY", header("user-agent", "bot")),),
        question("/", ("User-Agent", "bot"), ("User-Agent", "x")),
        200, "403 deny_rule", 200,
    ),
    "a token without an end": Row(USERS, question("/", bearer(token(exp=None))), 200, "401 jwt_no_expiry", 200),
    "a token whose end is 0": Row(USERS, question("/", bearer(token(exp=0))), 200, "401 jwt_expired", 200),
    "a token with crit": Row(
        USERS, question("/", bearer(token({"crit": ["x"]}))), 200, "401 jwt_critical_header", 200
    ),
    "a token with dots too many": Row(USERS, question("/", bearer(f".{token()}.")), 200, "401 jwt_malformed", 200),
    "a token with padding": Row(USERS, question("/", bearer(f"{token()}==")), 200, "401 jwt_malformed", 200),
    "a token with spare bits": Row(USERS, question("/", bearer(spare_bits(token()))), 200, "401 jwt_malformed", 200),
    "Bearer inside a value": Row(
        USERS, question("/", ("Authorization", f"Basic x, Bearer {token()}")), 200, "401 jwt_malformed", 200
    ),
    "two tokens for one rule": Row(
        USERS, question(f"/?access_token={token()}", bearer(token())), 200, "401 jwt_several", 200
    ),
    "a bad token where another rule reads": Row(
        TWO_PLACES, question("/", bearer(token()), ("x-token", "garbage")), 200, "401 jwt_malformed", 200
    ),
    "a claim header that the client sent, on a preflight": Row(
        CLAIM_HEADER, question("/", ("x-sub", "mallory"), *PREFLIGHT, method="OPTIONS"),
        403, "200 no_allow_policy", 403,
    ),
    "an address in X-Forwarded-For": Row(
        (policy("ALLOW", source(remoteIpBlocks=["9.9.9.9"])),), question("/", ("X-Forwarded-For", "9.9.9.9")),
        200, "403 no_allow_rule", 200,
    ),
    "a star that reaches beyond the namespace": Row(
        (policy("ALLOW", source(namespaces=["*a"])),), question(peer=PEER), 200, "403 no_allow_rule", 200
    ),
    "a SPIFFE ID of another form": Row(
        (policy("DENY", source(notServiceAccounts=["web"])),), question(peer=f"{PEER}/more"),
        200, "403 deny_rule", 200,
    ),
    "JSON that is not JSON": Row(
        USERS, question("/", bearer(token(payload=b"{'iss': 'https://a.example'}"))), 200, "401 jwt_malformed", 401
    ),
    "JSON nested deeper than 32 levels": Row(
        USERS, question("/", bearer(token(x=json.loads("[" * 40 + "]" * 40)))), 200, "401 jwt_malformed", 401
    ),
    "a token above 32 KiB": Row(
        USERS, question("/", bearer(token(x="x" * 30_000))), 200, "401 jwt_too_large", 401
    ),
    "a request to the server itself": Row(
        NOTHING, question("*", method="OPTIONS"), 404, "400 target_malformed", 400
    ),
}  # fmt: skip

SAFE: Final = MeshConfig(allow_no_policy=True)
ISTIO: Final = MeshConfig(allow_no_policy=True, compatibility="istio", ambiguous_paths="istio")


@pytest.fixture(scope="module")
def envoy() -> Mapping[str, int]:
    """What a real Envoy answers, for every row."""
    found = {}
    places = dict(zip(ROWS, sites(len(ROWS), v6_every=len(ROWS) + 1), strict=True))
    with served([_case(row, ISTIO).at(places[name]) for name, row in ROWS.items()]), Client() as client:
        for name, row in ROWS.items():
            found[name] = client.ask(row.question.route(places[name]), row.question.bytes).status
    return found


def _case(row: Row, config: MeshConfig) -> Case:
    (place,) = sites(1, v6_every=2)
    return Case.of(row.documents, replace(config, path_normalization=row.normalization), place)


@pytest.mark.parametrize("name", ROWS)
def test_what_envoy_says(name: str, envoy: Mapping[str, int]) -> None:
    """The difference is still there."""
    assert envoy[name] == ROWS[name].envoy


@pytest.mark.parametrize("name", ROWS)
def test_what_meshsec_says(name: str) -> None:
    """The safe side."""
    decision = decided(_case(ROWS[name], SAFE), ROWS[name].question)
    assert f"{decision.status} {decision.reason}" == ROWS[name].safe


@pytest.mark.parametrize("name", ROWS)
def test_what_compatibility_says(name: str) -> None:
    """Envoy's verdict, but for what stays."""
    assert decided(_case(ROWS[name], ISTIO), ROWS[name].question).status == ROWS[name].istio
