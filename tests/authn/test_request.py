"""RequestAuthentication: which tokens are asked for and taken where, and what the application receives."""

from __future__ import annotations

import json
import socket
from base64 import b64encode
from typing import Any

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshsec.attributes import RequestFacts
from meshsec.authn import (
    CompiledRequestAuthentication,
    KeySnapshot,
    KeySource,
    KeyState,
    NeedKeys,
    TokenResult,
    compile_request_authentication,
)
from meshsec.decision import Reason
from meshsec.errors import ConfigError
from meshsec.jose import SigningKey
from meshsec.resources import Compatibility, JWTRule, RequestAuthentication
from tokens import ISSUER, NOW, claims, encode, jwks, key_set, mint, raw, request_facts, signing_key

KEY = signing_key()
OTHER = "https://other.example"
OTHER_KEY = signing_key("ES256", "k2")
GOOD = mint()
OTHER_GOOD = mint(OTHER_KEY, iss=OTHER)
FORGED = mint(SigningKey.generate("ES256", kid="k1"))

INCLUDE = "meshsec.dev/include-paths"
EXCLUDE = "meshsec.dev/exclude-paths"


def rule(**fields: Any) -> JWTRule:
    """A rule for the first issuer, its keys inline."""
    return JWTRule(**{"issuer": ISSUER, "jwks": jwks(KEY), **fields})


def other_rule(**fields: Any) -> JWTRule:
    """A rule for the second issuer."""
    return rule(**{"issuer": OTHER, "jwks": jwks(OTHER_KEY), **fields})


def fetched_rule(**fields: Any) -> JWTRule:
    """A rule for the first issuer whose keys are fetched."""
    return JWTRule(**{"issuer": ISSUER, "jwks_uri": f"{ISSUER}/jwks", **fields})


FETCHED = KeySource(ISSUER, f"{ISSUER}/jwks")


def resource(*rules: JWTRule, name: str = "users", **annotations: str) -> RequestAuthentication:
    """A resource; include and exclude are our annotations."""
    keys = {"include": INCLUDE, "exclude": EXCLUDE}
    metadata = {"name": name, "annotations": {keys[key]: value for key, value in annotations.items()}}
    return RequestAuthentication(metadata=metadata, spec={"jwt_rules": list(rules)})


def compiled(
    *resources: RequestAuthentication | JWTRule, compatibility: Compatibility = "safe"
) -> CompiledRequestAuthentication:
    """Resources, and bare rules each in a resource of its own."""
    found = [item if isinstance(item, RequestAuthentication) else resource(item) for item in resources]
    return compile_request_authentication(found, compatibility=compatibility)


def bearer(token: str, *headers: tuple[str, str], target: str = "/") -> RequestFacts:
    """A request with a bearer token."""
    return request_facts(target, ("authorization", f"Bearer {token}"), *headers)


def run(policy: CompiledRequestAuthentication, facts: RequestFacts, keys: KeySnapshot | None = None) -> TokenResult:
    """A final result."""
    found = policy.authenticate(facts, keys or {}, now=NOW, ask=False)
    assert isinstance(found, TokenResult)
    return found


def code_of(
    policy: CompiledRequestAuthentication, facts: RequestFacts, keys: KeySnapshot | None = None
) -> str | None:
    """The refusal's code; None for a request that passes. A refusal names nobody and adds nothing."""
    found = run(policy, facts, keys)
    if found.error is None:
        return None
    assert found.principal is None
    assert found.add_headers == ()
    assert len(str(found.error)) < 512
    return Reason(found.error.code)


def user(policy: CompiledRequestAuthentication, facts: RequestFacts) -> str | None:
    """Who is taken for the caller; None for nobody."""
    found = run(policy, facts)
    assert found.error is None, found.error
    return found.principal and found.principal.name


# ------------------------------------------------------------------------------------------------ one rule


def test_a_token_is_optional_and_names_the_user() -> None:
    """Without one nobody is named; with a good one its user is; with a bad one the request is refused."""
    policy = compiled(rule())
    assert run(policy, request_facts("/")) == TokenResult()
    assert user(policy, bearer(GOOD)) == f"{ISSUER}/alice"
    assert code_of(policy, bearer(FORGED)) == Reason.JWT_SIGNATURE


def test_without_rules_nothing_is_read() -> None:
    """A token that nobody asked for is the application's affair."""
    assert run(compiled(), bearer(FORGED)) == TokenResult()


def test_an_unlisted_issuer_is_refused_without_a_question(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither optional nor fetched: no key is asked for and no socket is opened."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    policy = compiled(fetched_rule(), other_rule())
    stranger = mint(iss="https://stranger.example")
    found = policy.authenticate(bearer(stranger), {FETCHED: KeyState(None, fetchable=True)}, now=NOW)
    assert isinstance(found, TokenResult)
    assert str(found.error) == "Jwt issuer is not configured"
    assert code_of(policy, bearer(mint(iss=None))) == Reason.JWT_ISSUER


@pytest.mark.parametrize(
    ("facts", "code"),
    [
        (request_facts(f"/?access_token={GOOD}"), None),
        (bearer(GOOD, target=f"/?access_token={GOOD}"), Reason.JWT_SEVERAL),
        (bearer(GOOD, target=f"/?access_token={FORGED}"), Reason.JWT_SEVERAL),
        (bearer(GOOD, target="/?access_token="), Reason.JWT_SEVERAL),
        (request_facts(f"/?access_token={GOOD}&access_token={GOOD}"), Reason.JWT_SEVERAL),
        (request_facts("/?access_token="), Reason.JWT_MALFORMED),
        (request_facts("/?access_token"), Reason.JWT_MALFORMED),
        (request_facts("/", ("authorization", f"Bearer {GOOD}, Bearer {GOOD}")), Reason.JWT_MALFORMED),
        (request_facts("/", ("authorization", f"Bearer {GOOD},a=b"), joined=True), Reason.JWT_MALFORMED),
        (request_facts("/", ("authorization", f"Foo Bearer {GOOD}")), Reason.JWT_MALFORMED),
        (request_facts("/", ("authorization", f"Basic Og==, Bearer {GOOD}")), Reason.JWT_MALFORMED),
        (request_facts("/", ("authorization", f"bearer {GOOD}")), None),
        (request_facts("/", ("authorization", "Bearer")), None),
        (request_facts("/", ("authorization", "Basic Og==")), None),
    ],
)
def test_one_rule_takes_one_token(facts: RequestFacts, code: Reason | None) -> None:
    """Two are refused, whatever they are, and so is what Istio would find in the middle of a value."""
    assert code_of(compiled(rule()), facts) == code


def test_two_lines_of_a_token_header_are_two_tokens() -> None:
    """As lines, and joined by a gateway interface."""
    policy = compiled(rule(from_headers=[{"name": "x-token"}]))
    assert user(policy, request_facts("/", ("x-token", GOOD))) == f"{ISSUER}/alice"
    assert code_of(policy, request_facts("/", ("x-token", GOOD), ("x-token", GOOD))) == Reason.JWT_SEVERAL
    assert code_of(policy, request_facts("/", ("x-token", f"{GOOD},{GOOD}"), joined=True)) == Reason.JWT_MALFORMED
    assert code_of(policy, request_facts("/", ("x-token", ""))) == Reason.JWT_MALFORMED


def test_presence_required_demands_a_token() -> None:
    """401 where none of the rule's locations holds one; another rule's location does not count."""
    policy = compiled(rule(presence="REQUIRED"), other_rule(from_headers=[{"name": "x-other"}]))
    assert str(run(policy, request_facts("/")).error) == "Jwt is missing"
    assert code_of(policy, request_facts("/", ("x-other", OTHER_GOOD))) == Reason.JWT_MISSING
    assert user(policy, bearer(GOOD)) == f"{ISSUER}/alice"


# ------------------------------------------------------------------------------------------------ several rules


def test_the_issuer_chooses_the_rule() -> None:
    """Two issuers at the same place; each token is verified with its own issuer's keys alone."""
    policy = compiled(rule(), other_rule())
    assert user(policy, bearer(GOOD)) == f"{ISSUER}/alice"
    assert user(policy, bearer(OTHER_GOOD)) == f"{OTHER}/alice"
    assert code_of(policy, bearer(mint(OTHER_KEY))) == Reason.JWT_UNKNOWN_KEY
    assert code_of(policy, bearer(raw({"alg": "ES256"}, claims(), OTHER_KEY))) == Reason.JWT_SIGNATURE


def test_one_of_two_rules_for_an_issuer_is_enough() -> None:
    """As when keys or audiences are split over two resources."""
    policy = compiled(rule(audiences=["a"]), rule(audiences=["b"]))
    assert user(policy, bearer(mint(aud="a")))
    assert user(policy, bearer(mint(aud="b")))
    assert code_of(policy, bearer(mint(aud="c"))) == Reason.JWT_AUDIENCE


def test_every_token_that_a_rule_sees_must_hold() -> None:
    """A good token does not carry a bad one in another rule's place past us, as it would in Istio."""
    policy = compiled(rule(), other_rule(from_headers=[{"name": "x-other"}]))
    assert user(policy, bearer(GOOD, ("x-other", OTHER_GOOD))) == f"{ISSUER}/alice"
    assert code_of(policy, bearer(GOOD, ("x-other", "junk"))) == Reason.JWT_MALFORMED
    assert code_of(policy, bearer(GOOD, ("x-other", GOOD))) == Reason.JWT_ISSUER
    assert code_of(policy, bearer(FORGED, ("x-other", OTHER_GOOD))) == Reason.JWT_SIGNATURE


def test_of_two_good_tokens_the_first_issuers_is_the_caller() -> None:
    """Issuers are in the order of their names, as in Istio; only that rule makes headers; both tokens are spent."""
    first = rule(output_payload_to_header="x-first")
    second = other_rule(from_headers=[{"name": "x-other"}], output_payload_to_header="x-second")
    for order in ((first, second), (second, first)):
        found = run(compiled(*order), bearer(GOOD, ("x-other", OTHER_GOOD)))
        assert found.principal is not None
        assert found.principal.issuer == ISSUER
        assert found.add_headers == (("x-first", GOOD.split(".")[1]),)
        assert set(found.remove_headers) == {"authorization", "x-other"}


def test_a_rules_place_does_not_say_whose_token_it_is() -> None:
    """A place that several rules read may hold the last one's token: the caller is still the earlier issuer's."""
    here, there = {"from_headers": [{"name": "x-here"}]}, {"from_headers": [{"name": "x-there"}]}
    issuers = ["https://a.example", "https://b.example", "https://c.example"]
    rules = [
        JWTRule(issuer=iss, jwks=jwks(KEY), **place) for iss, place in zip(issuers, (here, there, here), strict=True)
    ]
    facts = request_facts("/", ("x-here", mint(iss=issuers[2])), ("x-there", mint(iss=issuers[1])))
    found = run(compiled(resource(*rules)), facts)
    assert [principal.issuer for principal in found.accepted] == issuers[1:]
    assert found.principal is found.accepted[0]
    assert found.text == facts.headers["x-there"][0]


# ------------------------------------------------------------------------------------------------ paths


@pytest.mark.parametrize(
    ("annotations", "required", "open_"),
    [
        ({"include": "/admin*"}, ["/admin", "/admin/x", "/administrator"], ["/", "/x/admin"]),
        ({"include": "/a,/b\n/c"}, ["/a", "/b", "/c", "/a/"], ["/", "/ab", "/a/b"]),
        ({"exclude": "/health"}, ["/", "/health/", "/healthz", "/x"], ["/health", "/health?x=1"]),
        ({"exclude": "*.css"}, ["/", "/a.css/x"], ["/a.css"]),
        (
            {"include": "/api/*", "exclude": "/api/public*"},
            ["/api/", "/api/x"],
            ["/", "/api/public", "/api/public/x"],
        ),
        ({"include": "/v1/{*}/items"}, ["/v1/a/items"], ["/v1//items", "/v1/items"]),
        ({"include": "/x", "exclude": "/x"}, [], ["/x", "/"]),
        ({"include": "*"}, ["/", "/x"], []),
    ],
)
def test_paths_say_where_a_token_is_required(
    annotations: dict[str, str], required: list[str], open_: list[str]
) -> None:
    """Where it triggers a valid token must be there; elsewhere none is read and none is removed."""
    policy = compiled(resource(rule(output_payload_to_header="x-payload"), **annotations))
    for path in required:
        assert code_of(policy, request_facts(path)) == Reason.JWT_MISSING
        assert code_of(policy, bearer(FORGED, target=path)) == Reason.JWT_SIGNATURE
        assert user(policy, bearer(GOOD, target=path)) == f"{ISSUER}/alice"
    for path in open_:
        for token in (FORGED, GOOD):
            facts = bearer(token, ("x-payload", "forged"), target=path)
            assert run(policy, facts) == TokenResult(remove_headers=("x-payload",))


def test_percent_spelling_neither_escapes_nor_slips_in() -> None:
    """What an application decodes to an included path is included; only the very spelling of an excluded one is."""
    included = compiled(resource(rule(), include="/a:b"))
    excluded = compiled(resource(rule(), exclude="/a:b"))
    for target, codes in {
        "/a:b": (Reason.JWT_MISSING, None),
        "/a%3Ab": (Reason.JWT_MISSING, Reason.JWT_MISSING),
    }.items():
        assert (code_of(included, request_facts(target)), code_of(excluded, request_facts(target))) == codes


@pytest.mark.parametrize("target", ["//admin", "/x/../admin", "/./admin", "/%61dmin", "/admin?/x", "/admin#/x"])
def test_no_spelling_of_a_path_avoids_the_trigger(target: str) -> None:
    """Paths are normalized before; a path with two readings triggers if one of them does."""
    policy = compiled(resource(rule(), include="/admin"))
    assert code_of(policy, request_facts(target)) == Reason.JWT_MISSING


@pytest.mark.parametrize("name", ["x-envoy-original-path", "x-original-url", "x-rewrite-url", "x-forwarded-uri"])
def test_no_header_stands_for_the_path(name: str) -> None:
    """CVE-2023-27487: what a client says the path was neither avoids the trigger nor pulls it."""
    policy = compiled(resource(rule(), include="/admin"))
    assert code_of(policy, request_facts("/admin", (name, "/open"))) == Reason.JWT_MISSING
    assert code_of(policy, request_facts("/open", (name, "/admin"))) is None


def test_an_exclusion_must_hold_for_every_reading() -> None:
    """``//health`` may be routed as ``/health`` or as it is: a token is required."""
    policy = compiled(resource(rule(), exclude="/health"))
    assert user(policy, request_facts("/health")) is None
    assert code_of(policy, request_facts("//health")) == Reason.JWT_MISSING


def test_a_token_of_any_triggered_resource_will_do() -> None:
    """Resources are used together, as in Istio; one that does not trigger does not count."""
    policy = compiled(
        resource(rule(), name="a", include="/both,/a"),
        resource(other_rule(), name="b", include="/both,/b"),
        resource(JWTRule(issuer="https://third.example", jwks=jwks(KEY)), name="c"),
    )
    assert user(policy, bearer(GOOD, target="/both")) == f"{ISSUER}/alice"
    assert user(policy, bearer(OTHER_GOOD, target="/both")) == f"{OTHER}/alice"
    assert code_of(policy, bearer(OTHER_GOOD, target="/a")) == Reason.JWT_ISSUER
    third = mint(iss="https://third.example")
    assert code_of(policy, bearer(third, target="/a")) == Reason.JWT_MISSING
    assert user(policy, bearer(third, target="/")) == "https://third.example/alice"


def test_a_laxer_rule_of_the_same_issuer_does_not_open_a_triggered_path() -> None:
    """Where a resource requires a token, its own rules judge it."""
    policy = compiled(rule(), resource(rule(audiences=["admin"]), name="strict", include="/admin"))
    assert user(policy, bearer(GOOD)) == f"{ISSUER}/alice"
    assert code_of(policy, bearer(GOOD, target="/admin")) == Reason.JWT_AUDIENCE
    assert user(policy, bearer(mint(aud="admin"), target="/admin")) == f"{ISSUER}/alice"


# ------------------------------------------------------------------------------------------------ what the app gets


def test_a_spent_token_is_removed() -> None:
    """The header with all its lines, the parameter alone, a cookie never; forwarded tokens stay."""
    places: dict[str, Any] = {"from_headers": [{"name": "X-Token"}], "from_params": ["t"], "from_cookies": ["c"]}
    policy = compiled(rule(**places))
    assert run(policy, request_facts("/", ("x-token", GOOD))).remove_headers == ("x-token",)
    found = run(policy, request_facts(f"/?a=%2f&t={GOOD}&b"))
    assert (found.query, found.remove_headers) == ("a=%2f&b", ())
    assert run(policy, request_facts(f"/?t={GOOD}")).query == ""
    found = run(policy, request_facts("/?t2=1", ("cookie", f"c={GOOD}")))
    assert (found.query, found.remove_headers) == (None, ())
    forwarding = compiled(rule(**places, forward_original_token=True))
    for facts in (request_facts("/", ("x-token", GOOD)), request_facts(f"/?t={GOOD}")):
        found = run(forwarding, facts)
        assert found.principal is not None
        assert (found.query, found.remove_headers) == (None, ())


def test_what_is_added_is_what_the_rules_of_authorization_see() -> None:
    """Also where nothing is taken away for it."""
    policy = compiled(rule(forward_original_token=True, output_payload_to_header="x-payload"))
    found = run(policy, bearer(GOOD))
    assert found.remove_headers == ()
    assert found.seen is not None
    assert found.seen.headers["x-payload"] == (GOOD.split(".")[1],)
    assert found.seen.headers["authorization"] == (f"Bearer {GOOD}",)
    spent = run(compiled(rule()), bearer(GOOD)).seen
    assert spent is not None
    assert "authorization" not in spent.headers


OUTPUTS = [
    ("alice", "alice"),
    ("", None),
    (" a,b\t", " a,b\t"),
    ("é", "é".encode().decode("latin-1")),
    ("\u0085", "\u0085".encode().decode("latin-1")),
    (0, "0"),
    (7, "7"),
    (1 << 60, str(1 << 60)),
    (5.0, "5"),
    (1.5, "1.500000"),
    (-1, "-1.000000"),
    (-1.25, "-1.250000"),
    (-(10**300), f"-{10**300}.000000"),
    (True, "true"),
    (False, "false"),
    (None, None),
    (["a", "b"], "WyJhIiwiYiJd"),
    ({"a": 1}, b64encode(b'{"a":1}').decode()),
    (["é"], b64encode('["é"]'.encode()).decode()),
    ([], b64encode(b"[]").decode()),
]


@pytest.mark.parametrize(("value", "expected"), OUTPUTS)
def test_claims_become_headers(value: object, expected: str | None) -> None:
    """As Istio's proxy writes them; bytes as latin-1 text."""
    policy = compiled(rule(output_claim_to_headers=[{"header": "X-Claim", "claim": "c"}]))
    token = raw({"alg": "ES256", "kid": "k1"}, claims() | {"c": value}, KEY)
    found = run(policy, bearer(token))
    assert found.add_headers == (() if expected is None else (("x-claim", expected),))


@pytest.mark.parametrize("value", ["a\nb", "a\r\nx-admin: 1", "a\0b", "\x7f", "\x1b[2J"])
def test_a_claim_with_a_control_character_is_refused(value: str) -> None:
    """It would be a second header, or the end of one; where no header is made of it, it does no harm."""
    token = mint(c=value)
    policy = compiled(rule(output_claim_to_headers=[{"header": "x-claim", "claim": "c"}]))
    assert code_of(policy, bearer(token)) == Reason.JWT_CLAIM_TYPE
    assert user(compiled(rule()), bearer(token))


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("a.b", "1"),
        ("a.c.d", "2"),
        ("a.c", b64encode(b'{"d":"2"}').decode()),
        ("a.b.x", None),
        ("a.x", None),
        ("a.l.0", None),
        ("dotted.name", None),
    ],
)
def test_dots_lead_into_claims(path: str, expected: str | None) -> None:
    """Objects only; a claim whose own name has a dot is out of reach, as in Istio."""
    policy = compiled(rule(output_claim_to_headers=[{"header": "x", "claim": path}]))
    token = mint(a={"b": "1", "c": {"d": "2"}, "l": ["3"]}, **{"dotted.name": "4"})
    assert dict(run(policy, bearer(token)).add_headers).get("x") == expected


def test_headers_are_made_of_the_token_as_it_is() -> None:
    """Space-delimited claims are split for policies, not for headers; the payload is the original segment."""
    policy = compiled(
        rule(output_payload_to_header="X-Payload", output_claim_to_headers=[{"header": "x-scope", "claim": "scope"}])
    )
    token = mint(scope="read write")
    found = run(policy, bearer(token))
    assert found.add_headers == (("x-payload", token.split(".")[1]), ("x-scope", "read write"))
    assert found.principal is not None
    assert found.principal.claims["scope"] == ("read", "write")


PREFLIGHT = (("origin", "https://app.example"), ("access-control-request-method", "PUT"))


def test_output_headers_are_always_taken_from_the_client() -> None:
    """Those of every rule, whatever happens next: no token, another issuer's token, a preflight, another path."""
    policy = compiled(
        rule(output_payload_to_header="X-Payload"),
        resource(
            other_rule(output_claim_to_headers=[{"header": "X-User", "claim": "sub"}]), name="b", include="/other"
        ),
    )
    forged = (("x-payload", "forged"), ("x-user", "root"))
    for facts in (
        request_facts("/", *forged),
        bearer(GOOD, *forged),
        bearer(FORGED, *forged),
        request_facts("/other", *forged),
        request_facts("/", *forged, *PREFLIGHT, method="OPTIONS"),
    ):
        assert {"x-payload", "x-user"} <= set(run(policy, facts).remove_headers)
    assert run(policy, request_facts("/")).remove_headers == ()


@pytest.mark.parametrize("spelling", ["X_User", "x_user", "x-user", "X-USER"])
@pytest.mark.parametrize("configured", ["x-user", "X_User"])
def test_underscores_make_no_other_header(spelling: str, configured: str) -> None:
    """Behind a gateway interface both spellings are one variable, so both are taken."""
    policy = compiled(rule(output_claim_to_headers=[{"header": configured, "claim": "sub"}]))
    removed = run(policy, request_facts("/", (spelling, "root"), ("x_users", "1"))).remove_headers
    assert removed == (spelling.lower(),)


@pytest.mark.parametrize(
    ("method", "headers", "is_preflight"),
    [
        ("OPTIONS", PREFLIGHT, True),
        ("GET", PREFLIGHT, False),
        ("OPTIONS", PREFLIGHT[:1], False),
        ("OPTIONS", PREFLIGHT[1:], False),
        ("OPTIONS", (("origin", ""), PREFLIGHT[1]), False),
        ("OPTIONS", (PREFLIGHT[0], ("access-control-request-method", "")), False),
    ],
)
def test_a_preflight_has_no_identity(method: str, headers: tuple[tuple[str, str], ...], is_preflight: bool) -> None:
    """Exactly OPTIONS with both headers: tokens are not read, so nobody is named; nothing else is waved through."""
    policy = compiled(rule(presence="REQUIRED"))
    bad = request_facts("/", ("authorization", f"Bearer {FORGED}"), *headers, method=method)
    good = request_facts("/", ("authorization", f"Bearer {GOOD}"), *headers, method=method)
    if is_preflight:
        assert run(policy, bad) == run(policy, good) == TokenResult()
    else:
        assert code_of(policy, bad) == Reason.JWT_SIGNATURE
        assert user(policy, good) == f"{ISSUER}/alice"


@pytest.mark.parametrize(("compatibility", "seen"), [("safe", ()), ("istio", ("root",))])
def test_on_a_preflight_no_rule_sees_what_a_client_says_of_claims(
    compatibility: Compatibility, seen: tuple[str, ...]
) -> None:
    """The application never does; the rules of authorization do only where Envoy's reading is asked for."""
    policy = compiled(rule(output_payload_to_header="x-user"), compatibility=compatibility)
    facts = request_facts("/", ("x-user", "root"), *PREFLIGHT, method="OPTIONS")
    found = run(policy, facts)
    assert found.remove_headers == ("x-user",)
    assert (found.seen or facts).headers.get("x-user", ()) == seen


# ------------------------------------------------------------------------------------------------ keys

KEYS = key_set(KEY)
STRANGE = mint(signing_key("ES256", "new"))
NAMELESS = raw({"alg": "ES256"}, claims(), signing_key("ES256", "new"))


@pytest.mark.parametrize(
    ("state", "token", "asks", "code"),
    [
        (None, GOOD, False, Reason.KEYS_UNAVAILABLE),
        (KeyState(None, fetchable=False), GOOD, False, Reason.KEYS_UNAVAILABLE),
        (KeyState(None, fetchable=True), GOOD, True, Reason.KEYS_UNAVAILABLE),
        (KeyState(KEYS, fetchable=True), GOOD, False, None),
        (KeyState(KEYS, fetchable=False), GOOD, False, None),
        (KeyState(KEYS, fetchable=True), STRANGE, True, Reason.JWT_UNKNOWN_KEY),
        (KeyState(KEYS, fetchable=False), STRANGE, False, Reason.JWT_UNKNOWN_KEY),
        (KeyState(KEYS, fetchable=True), NAMELESS, True, Reason.JWT_SIGNATURE),
        (KeyState(KEYS, fetchable=False), NAMELESS, False, Reason.JWT_SIGNATURE),
        (KeyState(KEYS, fetchable=True), FORGED, False, Reason.JWT_SIGNATURE),
        (KeyState(KEYS, fetchable=True), mint(exp=1), False, Reason.JWT_EXPIRED),
        (KeyState(KEYS, fetchable=True), "junk", False, Reason.JWT_MALFORMED),
        (KeyState(None, fetchable=True), "junk", False, Reason.JWT_MALFORMED),
    ],
)
def test_keys_are_asked_for_only_where_a_fetch_may_help(
    state: KeyState | None, token: str, asks: bool, code: Reason | None
) -> None:
    """A question, or a verdict; and always a verdict when questions are over."""
    policy = compiled(fetched_rule())
    snapshot = {} if state is None else {FETCHED: state}
    found = policy.authenticate(bearer(token), snapshot, now=NOW, ask=True)
    assert (found == NeedKeys((FETCHED,))) == asks
    assert code_of(policy, bearer(token), snapshot) == code


def test_messages_about_keys_are_istios() -> None:
    """What a client sees says nothing of our fetching."""
    policy = compiled(fetched_rule())
    assert str(run(policy, bearer(GOOD)).error) == "Jwks remote fetch is failed"
    error = run(policy, bearer(STRANGE), {FETCHED: KeyState(KEYS)}).error
    assert str(error) == "Jwks doesn't have key to match kid or alg from Jwt"


def test_one_bad_token_is_refused_before_keys_are_fetched_for_another() -> None:
    """A question is asked only where every other token holds or waits too."""
    policy = compiled(fetched_rule(), other_rule(from_headers=[{"name": "x-other"}]))
    keys = {FETCHED: KeyState(None, fetchable=True)}
    assert policy.authenticate(bearer(GOOD, ("x-other", OTHER_GOOD)), keys, now=NOW) == NeedKeys((FETCHED,))
    found = policy.authenticate(bearer(GOOD, ("x-other", "junk")), keys, now=NOW)
    assert isinstance(found, TokenResult)
    assert found.error is not None


@pytest.mark.parametrize("second", ["junk", OTHER_GOOD[:-8] + "AAAAAAAA", GOOD[:-8] + "AAAAAAAA"])
@pytest.mark.parametrize("fetchable", [True, False])
def test_of_several_bad_tokens_the_first_is_told(fetchable: bool, second: str) -> None:
    """Whether or not keys could be fetched for it just now."""
    policy = compiled(fetched_rule(), other_rule(from_headers=[{"name": "x-other"}]))
    keys = {FETCHED: KeyState(KEYS, fetchable=fetchable)}
    found = policy.authenticate(bearer(STRANGE, ("x-other", second)), keys, now=NOW)
    assert isinstance(found, TokenResult)
    assert found.error is not None
    assert found.error.code == Reason.JWT_UNKNOWN_KEY


def test_of_two_sources_for_an_issuer_both_are_asked() -> None:
    """The key may be in either; one that accepts ends the search."""
    second = KeySource(ISSUER)
    policy = compiled(fetched_rule(), JWTRule(issuer=ISSUER))
    assert policy.sources == (FETCHED, second)
    waiting = KeyState(None, fetchable=True)
    assert policy.authenticate(bearer(GOOD), {FETCHED: waiting, second: waiting}, now=NOW) == NeedKeys(
        (FETCHED, second)
    )
    assert user_with(policy, {FETCHED: waiting, second: KeyState(KEYS)}) == "alice"


def user_with(policy: CompiledRequestAuthentication, keys: KeySnapshot) -> str | None:
    """The subject of the good token."""
    found = policy.authenticate(bearer(GOOD), keys, now=NOW)
    assert isinstance(found, TokenResult)
    return found.principal and found.principal.subject


def test_sources_are_what_must_be_fetched() -> None:
    """Inline keys are not among them; a rule's own timeout goes with its source and does not split it."""
    policy = compiled(rule(), fetched_rule(timeout="2s"), fetched_rule(audiences=["x"]), JWTRule(issuer=OTHER))
    assert policy.sources == (FETCHED, KeySource(OTHER))
    assert [source.timeout for source in policy.sources] == [2.0, None]


def test_an_inline_set_without_a_usable_key_is_a_configuration_error() -> None:
    """All of them at once, each with its place."""
    weak = json.dumps({"keys": [{"kty": "RSA", "n": "AQAB", "e": "AQAB"}]})
    with pytest.raises(ConfigError) as caught:
        compiled(rule(jwks=weak), resource(rule(), rule(jwks=weak), name="b"))
    assert [(problem.resource, problem.field) for problem in caught.value.problems] == [
        ("RequestAuthentication default/users", "spec.jwtRules[0].jwks"),
        ("RequestAuthentication default/b", "spec.jwtRules[1].jwks"),
    ]


def test_shared_secrets_are_for_inline_keys() -> None:
    """An HS token verifies with an inline secret that names its algorithm, and with no other."""
    secret = {"kty": "oct", "alg": "HS256", "k": encode(b"s" * 32)}
    policy = compiled(rule(jwks=json.dumps({"keys": [secret]})))
    assert user(policy, bearer(jwt.encode(claims(), b"s" * 32, "HS256"))) == f"{ISSUER}/alice"
    assert code_of(policy, bearer(jwt.encode(claims(), b"t" * 32, "HS256"))) == Reason.JWT_SIGNATURE
    assert code_of(policy, bearer(jwt.encode(claims(), b"s" * 64, "HS512"))) == Reason.JWT_UNKNOWN_KEY


def test_in_compatibility_mode_a_token_may_last_for_ever() -> None:
    """Without exp, or with 0, as in Istio; a past one is past in both modes."""
    policy = compiled(rule(), compatibility="istio")
    for token in (mint(exp=None), mint(exp=0)):
        assert user(policy, bearer(token)) == f"{ISSUER}/alice"
        assert code_of(compiled(rule()), bearer(token)) in (Reason.JWT_NO_EXPIRY, Reason.JWT_EXPIRED)
    assert code_of(policy, bearer(mint(exp=1))) == Reason.JWT_EXPIRED


PIECES = st.sampled_from([GOOD, FORGED, OTHER_GOOD, STRANGE, "Bearer ", "bearer ", ",", " ", "a.b.c", "", "="])
VALUES = st.lists(PIECES, max_size=4).map("".join)


@given(VALUES, st.none() | VALUES, VALUES, st.sampled_from(["/", "/admin", "/x"]))
def test_any_request_is_judged(authorization: str, query: str | None, other: str, path: str) -> None:
    """Accepted or refused with a known reason, never anything else; who is accepted holds a good token."""
    policy = compiled(
        resource(rule(), fetched_rule(), include="/admin"), other_rule(from_headers=[{"name": "x-other"}])
    )
    target = path if query is None else f"{path}?access_token={query.replace(' ', '+')}"
    facts = request_facts(target, ("authorization", authorization), ("x-other", other))
    found = run(policy, facts)
    if found.error is not None:
        assert Reason(found.error.code)
    elif found.principal is not None:
        assert GOOD in authorization + (query or "") or OTHER_GOOD in other
    else:
        assert path != "/admin"
