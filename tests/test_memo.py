"""The memo of decisions: whatever comes in whatever order, it never says what judging anew would not."""

from __future__ import annotations

import gc
from dataclasses import replace
from hashlib import sha256
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshsec import AuthContext, Connection, HttpRequest, MeshConfig, PeerIdentity, Workload, WorkloadPolicy
from meshsec.authn import KeySnapshot, KeySource, KeyState, TokenCache
from meshsec.authn import _digest as digest_module
from meshsec.decision import Reason
from meshsec.policy import Callers, DecisionMemo, Remembered, Wanted
from meshsec.policy import _memo as memo_module
from meshsec.resources import ExtAuthzHttp, ForwardedIdentity, KeysConfig, ProtectedResource, parse
from tokens import ISSUER, NOW, encode, key_set, mint, rule_with_outputs, signing_key

KEY, NEXT_KEY, INLINE_KEY = signing_key(), signing_key("ES256", "k2"), signing_key("ES256", "k3")
SOURCE = KeySource(ISSUER, f"{ISSUER}/jwks")
OTHER = "https://other.example"
LEAF = sha256(b"leaf").digest()
WEB = PeerIdentity.of("spiffe://cluster.local/ns/prod/sa/web")
CALLER = replace(WEB, certificate_sha256=LEAF, not_after=NOW + 200.0)

_USERS = f"""
kind: RequestAuthentication
spec:
  jwtRules:
  - issuer: {ISSUER}
    jwksUri: {ISSUER}/jwks
"""
_INLINE = rule_with_outputs(OTHER, INLINE_KEY)
USERS = {
    "users": _USERS,
    "for the web": f"{_USERS}    audiences: [web]\n    forwardOriginalToken: true\n",
    "two issuers": _USERS + _INLINE,
    "required": f"{_USERS}    presence: REQUIRED\n",
    "elsewhere": _USERS.replace(
        "spec:", "metadata: {name: users, annotations: {meshsec.dev/exclude-paths: /open}}\nspec:"
    ),
    "twice": f"{_USERS}    audiences: [shop]\n" + _USERS.partition("jwtRules:")[2] + "    audiences: [web]\n",
    "nobody": "",
}
RULES = {
    "all": "",
    "path": "rules: [{to: [{operation: {paths: [/a, /open]}}]}]",
    "user": f"rules: [{{from: [{{source: {{requestPrincipals: ['{ISSUER}/alice']}}}}]}}]",
    "claim": "rules: [{when: [{key: 'request.auth.claims[groups]', values: [readers]}]}]",
    "header": "rules: [{when: [{key: 'request.headers[x-color]', notValues: [red]}]}]",
    "no header": "action: DENY\n  rules: [{when: [{key: 'request.headers[x-color]', values: ['*']}]}]",
    "far": "rules: [{from: [{source: {remoteIpBlocks: [10.0.0.0/8]}}]}]",
    "near": "action: DENY\n  rules: [{from: [{source: {ipBlocks: [10.0.0.7]}}]}]",
    "peer": "rules: [{from: [{source: {principals: ['*/sa/web']}}]}]",
    "name": "rules: [{when: [{key: connection.sni, values: [web.prod]}]}]",
    "host": "rules: [{to: [{operation: {hosts: [web.prod]}}]}]",
    "blue": "rules: [{when: [{key: 'request.headers[x-color]', values: [blue]}]}]",
    "a claim's header": """rules:
  - to: [{operation: {paths: [/a]}}]
  - when: [{key: 'request.headers[x-user]', values: [alice]}]""",
    "audit": "action: AUDIT\n  rules: [{to: [{operation: {paths: [/a]}}]}]",
}
TOKENS = {
    "none": None,
    "alice": mint(KEY, groups=["readers"]),
    "bob, later": mint(KEY, sub="bob", nbf=NOW + 150),
    "carol, not for long": mint(KEY, sub="carol", exp=NOW + 30),
    "of the next key": mint(NEXT_KEY),
    "of one certificate": mint(KEY, cnf={"x5t#S256": encode(LEAF)}),
    "for the shop": mint(KEY, aud="shop"),
    "of the other": mint(INLINE_KEY, iss=OTHER),
    "of nobody": mint(KEY)[:-8] + "AAAAAAAA",
    "no token": "junk",
}
PLACES = {
    "bearer": lambda token: ("authorization", f"Bearer {token}"),
    "own": lambda token: ("x-token", token),
    "cookie": lambda token: ("Cookie", f"session={token}; theme=dark"),
}
LINES = [
    ("x-color", "red"), ("X-Color", "blue"), ("x_color", "red"), ("x-forwarded-for", "10.1.1.1"), ("x-user", "root"),
    ("X-Forwarded-For", "192.0.2.1"), ("accept", "*/*"), ("accept", "text/html"), ("x-odd", "\x01"), ("x y", "z"),
    ("origin", "https://a.example"), ("access-control-request-method", "PUT"), ("host", "web.prod"),
    ("content-length", "3"), ("transfer-encoding", "chunked"), ("authorization", "Basic eDp5"),
]  # fmt: skip


def compiled(*documents: str, config: MeshConfig | None = None) -> WorkloadPolicy:
    """A policy of these documents, each named where it is not."""
    heads = ("" if "metadata" in text else f"metadata: {{name: n{number}}}" for number, text in enumerate(documents))
    texts = zip(heads, documents, strict=True)
    joined = "---\n".join(f"apiVersion: security.istio.io/v1\n{head}\n{text}\n" for head, text in texts if text)
    return WorkloadPolicy.compile(parse(joined), Workload(name="web"), config or MeshConfig(allow_no_policy=True))


def rules(name: str) -> str:
    """An AuthorizationPolicy."""
    return f"kind: AuthorizationPolicy\nspec:\n  {RULES[name]}\n" if RULES[name] else ""


def snapshot(*keys: Any, fetchable: bool = False, cached: bool = True) -> KeySnapshot:
    """The keys of the first issuer, as they are at one moment."""
    return {SOURCE: KeyState(key_set(*keys), fetchable=fetchable, cache=TokenCache() if cached else None)}


def callers_of(policy: WorkloadPolicy) -> Callers:
    """Whom a policy remembers, which it does."""
    assert policy.callers is not None
    return policy.callers


def memo_of(policy: WorkloadPolicy) -> DecisionMemo:
    """Where they are kept."""
    return callers_of(policy).memo


class Door:
    """A policy in front of which an adapter stands, its memo between them, as in the middleware."""

    def __init__(self, policy: WorkloadPolicy) -> None:
        self.policy = policy
        self.recalled = 0
        self.known = 0

    def ask(self, connection: Connection, request: HttpRequest, keys: KeySnapshot, now: float) -> Any:
        """What the application would get to know."""
        line = (request.method, request.target, request.scheme, request.mount)
        memo = None if self.policy.callers is None else self.policy.callers.memo
        names, values = zip(*request.headers, strict=True)
        found = None
        if memo is not None:
            encoded = tuple(name.encode("latin-1") for name in names), tuple(value.encode() for value in values)
            found = memo.recall(connection, line, *encoded, keys, now)
        self.recalled += isinstance(found, Remembered)
        if isinstance(found, Wanted) and found.caller is not None:
            found = callers_of(self.policy).judge_line(found, replace(request, headers=()), now) or found
            self.known += isinstance(found, Remembered)
        if isinstance(found, Remembered):
            return found.told(encoded[1])
        context = self.policy.judge(connection, request, keys, now=now)
        if isinstance(found, Wanted) and isinstance(context, AuthContext):
            callers_of(self.policy).remember(found, context, connection, request, keys, now)
        return context

    def is_remembered(self, connection: Connection, request: HttpRequest, keys: KeySnapshot, now: float) -> bool:
        """Whether a request is, when it has come as often as it takes and comes once more."""
        for _ in range(5):
            before = self.recalled
            self.ask(connection, request, keys, now)
        return self.recalled > before

    def is_known(self, connection: Connection, request: HttpRequest, keys: KeySnapshot, now: float) -> bool:
        """Whether its caller is, when one has come as often as it takes, and the same request with another path."""
        for number in range(3):
            before = self.known
            self.ask(connection, replace(request, target=f"{request.target}/{number}"), keys, now)
        return self.known > before


def request(*lines: tuple[str, str], target: str = "/a", **changes: Any) -> HttpRequest:
    """A request."""
    return HttpRequest("GET", target, None, (("host", "web.prod"), *lines), **{"scheme": "http", **changes})


def bearer(name: str = "alice") -> tuple[str, str]:
    """A header with a token."""
    return "authorization", f"Bearer {TOKENS[name]}"


KEYS = snapshot(KEY)
PLAIN = Connection(source_ip="10.0.0.7")
PEER = Connection(peer=CALLER, tls=True)

tokens = st.sampled_from([name for name in TOKENS if name != "none"]).map(TOKENS.__getitem__)
token_lines = st.builds(lambda place, token: PLACES[place](token), st.sampled_from(sorted(PLACES)), tokens)
noise = st.text(alphabet="ab", max_size=2).map(lambda text: ("x-request-id", text))
headers = st.lists(st.one_of(token_lines, st.sampled_from(LINES), noise), max_size=3)
requests = st.builds(
    lambda lines, target, method, host, mount: HttpRequest(
        method, target, None, (("Host", host), *lines), "http", mount=mount
    ),
    headers,
    st.sampled_from(
        [
            "/a",
            "/open",
            "/a?q=1",
            "/x/../a",
            "/b",
            f"/a?access_token={TOKENS['alice']}",
            "http://other/a",
            "/a//%2e",
            "*",
        ]
    ),
    st.sampled_from(["GET", "GET", "OPTIONS"]),
    st.sampled_from(["web.prod", "other"]),
    st.sampled_from(["", "/a"]),
)
connections = st.sampled_from([
    PLAIN,
    Connection(source_ip="10.0.0.8"),
    Connection(source_ip="10.0.0.7", remote_ip="10.2.2.2"),
    Connection(source_ip="10.0.0.7", peer=CALLER, tls=True, sni="web.prod"),
    Connection(source_ip="10.0.0.7", peer=replace(CALLER, certificate_sha256=b"x" * 32), tls=True),
    Connection(),
])  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_with_and_without_the_memo_every_answer_is_the_same(data: st.DataObject) -> None:
    """Over policies, requests, callers, time in any direction, rotated keys: verdict, edits and explanation."""
    documents = [USERS[data.draw(st.sampled_from(sorted(USERS)))]]
    documents += map(rules, data.draw(st.lists(st.sampled_from(sorted(RULES)), max_size=3, unique=True)))
    door = Door(compiled(*(text for text in documents if text)))
    asked = data.draw(st.lists(st.tuples(connections, requests), min_size=1, max_size=4))
    snapshots = [KEYS, snapshot(KEY, NEXT_KEY), snapshot(NEXT_KEY, fetchable=True), snapshot(KEY, cached=False)]
    step = st.tuples(
        st.sampled_from(asked), st.sampled_from(snapshots), st.sampled_from([0, 0, 0, 100, 155, 250, 400, -300])
    )
    for (connection, one), keys, later in data.draw(st.lists(step, min_size=8, max_size=24)):
        now = NOW + later + 0.5
        anew = door.policy.judge(connection, one, keys, now=now)
        for _ in range(2):
            found = door.ask(connection, one, keys, now)
            assert found == anew
            if isinstance(anew, AuthContext):
                assert found.decision.explain() == anew.decision.explain()
                assert found.token == anew.token


@pytest.mark.parametrize("users", USERS)
@pytest.mark.parametrize("name", RULES)
def test_only_what_counts_is_read(users: str, name: str) -> None:
    """A request whose other header values are gone is judged as the request itself."""
    policy = compiled(USERS[users], rules(name), "kind: PeerAuthentication\nspec: {mtls: {mode: PERMISSIVE}}")
    memo = memo_of(policy)
    whole = request(bearer(), *LINES[:4], ("accept", "text/html"), ("referer", "x"), ("user-agent", "y"))
    names = tuple(name.encode() for name, _ in whole.headers)
    lines = tuple(value.encode() for _, value in whole.headers)
    wanted = [memo.recall(PLAIN, (), names, lines, KEYS, NOW) for _ in range(2)][1]
    assert isinstance(wanted, Wanted)
    reduced = wanted.reduced(whole)
    assert reduced.headers != whole.headers
    judged = policy.judge(PLAIN, whole, KEYS, now=NOW)
    again = policy.judge(PLAIN, reduced, KEYS, now=NOW)
    assert judged == again
    assert isinstance(judged, AuthContext)
    assert isinstance(again, AuthContext)
    assert judged.decision.explain() == again.decision.explain()


def test_a_request_is_remembered_when_it_comes_again() -> None:
    """Not at first sight, and whatever its values that do not count."""
    door = Door(compiled(USERS["users"], rules("user")))
    for number in range(7):
        assert door.ask(PLAIN, request(bearer(), ("x-request-id", str(number))), KEYS, NOW).decision.allowed
    assert (door.known, door.recalled) == (2, 3)


# Each changes one thing about a request that is remembered: connection, request, keys, seconds later.
CHANGES: dict[str, Any] = {
    "nothing": {},
    "another address": {"connection": replace(PLAIN, source_ip="10.0.0.9")},
    "another name": {"connection": replace(PLAIN, sni="b")},
    "another port": {"connection": replace(PLAIN, destination_port=80)},
    "another own address": {"connection": replace(PLAIN, destination_ip="10.9.9.9")},
    "another first address": {"connection": replace(PLAIN, remote_ip="10.9.9.9")},
    "a unix socket": {"connection": replace(PLAIN, unix=True)},
    "not known whether TLS": {"connection": replace(PLAIN, tls=False)},
    "a peer": {"connection": replace(PLAIN, peer=WEB)},
    "another target": {"request": request(bearer(), target="/a?b")},
    "another scheme": {"request": request(bearer(), scheme="https")},
    "another mount": {"request": request(bearer(), mount="/a")},
    "another method": {"request": replace(request(bearer()), method="PUT")},
    "another host": {"request": HttpRequest("GET", "/a", None, (("host", "b"), bearer()), "http")},
    "another spelling of a name": {"request": request(("Authorization", bearer()[1]))},
    "another header": {"request": request(bearer(), ("accept", "*/*"))},
    "another token": {"request": request(bearer("of one certificate"))},
    "another snapshot of the keys": {"keys": snapshot(KEY)},
    "after its end": {"later": 361},
}


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_a_decision_depends_on_tells_requests_apart(change: str) -> None:
    """One thing changed, and it is judged anew; nothing changed, and it is not."""
    door = Door(compiled(USERS["users"]))
    assert door.is_remembered(PLAIN, request(bearer()), KEYS, NOW)
    given = {"connection": PLAIN, "request": request(bearer()), "keys": KEYS, "later": 0, **CHANGES[change]}
    before = door.recalled
    door.ask(given["connection"], given["request"], given["keys"], NOW + given["later"])
    assert (door.recalled > before) is (change == "nothing")


@pytest.mark.parametrize(
    ("connection", "token", "last", "over"),
    [
        (PLAIN, "alice", NOW + 300 + 59.9, NOW + 300 + 60.1),
        (PLAIN, "carol, not for long", NOW + 89.9, NOW + 90.1),
        (PEER, "of one certificate", NOW + 199.9, NOW + 200.0),
    ],
)
def test_nothing_outlives_what_it_was_made_of(connection: Connection, token: str, last: float, over: float) -> None:
    """Token and certificate end, and with them what was remembered; and it is refused."""
    door = Door(compiled(USERS["users"]))
    assert door.is_remembered(connection, request(bearer(token)), KEYS, NOW)
    assert door.ask(connection, request(bearer(token)), KEYS, last).decision.allowed
    before = door.recalled
    assert not door.ask(connection, request(bearer(token)), KEYS, over).decision.allowed
    assert door.recalled == before > 0


def test_a_clock_that_is_set_back_finds_no_token_before_its_time() -> None:
    """``nbf`` is a bound, too; and so is a clock that is no number."""
    door = Door(compiled(USERS["users"]))
    assert door.is_remembered(PLAIN, request(bearer("bob, later")), KEYS, NOW + 100)
    for now in (NOW, float("nan")):
        assert not door.ask(PLAIN, request(bearer("bob, later")), KEYS, now).decision.allowed


def test_a_key_that_left_the_set_takes_decisions_with_it() -> None:
    """At the very next request."""
    door = Door(compiled(USERS["users"]))
    assert door.is_remembered(PLAIN, request(bearer()), KEYS, NOW)
    assert not door.ask(PLAIN, request(bearer()), snapshot(NEXT_KEY), NOW).decision.allowed
    assert door.ask(PLAIN, request(bearer()), KEYS, NOW).decision.allowed


# What is asked after a caller is known; and whether the line alone tells what is answered.
LINES_AFTER: dict[str, tuple[dict[str, Any], bool]] = {
    "another path": ({"target": "/b"}, True),
    "another query": ({"target": "/a?q=2"}, True),
    "another method": ({"method": "PUT"}, True),
    "an unknown method": ({"method": "get"}, True),
    "a malformed target": ({"target": "/a\x01"}, True),
    "an ambiguous target": ({"target": "/a//b%2fc"}, True),
    "another scheme": ({"scheme": "wss"}, True),
    "a mount that the path leaves": ({"mount": "/x"}, True),
    "a target that names a host": ({"target": "http://web.prod/a"}, False),
    "a target that names another host": ({"target": "http://other/a"}, False),
    "a token in the query": ({"target": f"/a?access_token={TOKENS['alice']}"}, False),
    "a token in the query, encoded": ({"target": f"/a?access%5Ftoken={TOKENS['alice']}"}, False),
    "a path without authentication": ({"target": "/open"}, False),
}


@pytest.mark.parametrize("after", LINES_AFTER)
def test_of_a_known_caller_the_line_alone_is_judged(after: str) -> None:
    """Where it tells; everything else takes the whole request. The answer is that of judging it whole."""
    changes, by_line = LINES_AFTER[after]
    door = Door(compiled(USERS["elsewhere"], rules("path")))
    for _ in range(2):
        assert door.ask(PLAIN, request(bearer()), KEYS, NOW).decision.allowed
    asked = replace(request(bearer()), **changes)
    whole = door.policy.judge(PLAIN, asked, KEYS, now=NOW)
    assert isinstance(whole, AuthContext)
    found = door.ask(PLAIN, asked, KEYS, NOW)
    assert found == whole
    assert found.decision.explain() == whole.decision.explain()
    assert door.known == by_line


def test_a_known_caller_is_told_whose_tokens_are_taken() -> None:
    """RFC 9728: the document that anybody is told, at its place; beside it the rules say what may be asked for."""
    own = ProtectedResource(resource="https://web.prod/", authorization_servers=["https://idp.example"])
    plain = compiled(USERS["users"], rules("path"))
    policy = WorkloadPolicy.compile(
        [*plain.requests, *parse("apiVersion: security.istio.io/v1\nmetadata: {name: paths}\n" + rules("path"))],
        Workload(name="web", protected_resource=own),
        MeshConfig(),
    )
    door = Door(policy)
    for _ in range(3):
        assert door.ask(PLAIN, request(bearer()), KEYS, NOW).decision.allowed
    another = request(bearer(), target="/open")
    found = door.ask(PLAIN, another, KEYS, NOW)
    assert found == policy.judge(PLAIN, another, KEYS, now=NOW)
    assert found.metadata_url == "https://web.prod/.well-known/oauth-protected-resource"
    told = door.ask(PLAIN, request(bearer(), target="/.well-known/oauth-protected-resource"), KEYS, NOW)
    assert (told.decision.reason, told.decision.status) == (Reason.RESOURCE_METADATA, 200)
    other = door.ask(PLAIN, request(bearer(), target="/.well-known/oauth-protected-resourcf"), KEYS, NOW)
    assert other.decision.status == 403
    assert door.known == 4


def test_a_host_in_a_target_is_not_its_callers() -> None:
    """The next request with the same header lines, of which none is Host, names nobody and is refused."""
    door = Door(compiled(USERS["users"], rules("host")))
    asked = HttpRequest("GET", "http://web.prod/a", None, (bearer(),), "http")
    for _ in range(3):
        assert door.ask(PLAIN, asked, KEYS, NOW).decision.allowed
    assert door.ask(PLAIN, replace(asked, target="/a"), KEYS, NOW).decision.status == 400
    assert door.known == 0
    assert door.is_known(PLAIN, request(bearer()), KEYS, NOW)


def test_what_a_path_has_to_do_with_tokens_is_known_for_each_kind_of_path() -> None:
    """Two kinds of one caller's paths, of which one needs no token, are both judged by the line in the end."""
    door = Door(compiled(USERS["elsewhere"], rules("path")))
    for _ in range(4):
        for target in ("/a", "/open"):
            assert door.ask(PLAIN, request(bearer(), target=target), KEYS, NOW).decision.allowed
    assert (door.known, door.recalled) == (4, 1)


RULES_BUT_FOR_PREFLIGHTS = """
kind: AuthorizationPolicy
spec:
  rules:
  - to: [{operation: {methods: [OPTIONS]}}]
  - from: [{source: {requestPrincipals: ["*"]}}]
"""
PREFLIGHT = (("origin", "https://a.example"), ("access-control-request-method", "PUT"))


@pytest.mark.parametrize("first", ["GET", "OPTIONS"])
def test_of_a_caller_who_might_ask_as_a_preflight_the_method_counts(first: str) -> None:
    """A preflight has no identity; the same headers with another method have one."""
    door = Door(compiled(USERS["users"], RULES_BUT_FOR_PREFLIGHTS))
    for method in (first, first, first, "GET", "OPTIONS"):
        asked = replace(request(*PREFLIGHT, bearer()), method=method)
        found, whole = door.ask(PLAIN, asked, KEYS, NOW), door.policy.judge(PLAIN, asked, KEYS, now=NOW)
        assert found == whole
        assert found.decision.allowed
        assert (found.principal is None) == (method == "OPTIONS")
    assert door.known == 2


def test_headers_made_of_claims_are_what_rules_see_of_a_known_caller() -> None:
    """Not what the client wrote in their place."""
    door = Door(compiled(USERS["two issuers"], rules("a claim's header")))
    lines = (("x-user", "root"), PLACES["own"](TOKENS["of the other"]))
    for target in ("/a", "/a", "/b"):
        found = door.ask(PLAIN, request(*lines, target=target), KEYS, NOW)
        whole = door.policy.judge(PLAIN, request(*lines, target=target), KEYS, now=NOW)
        assert isinstance(whole, AuthContext)
        assert found.decision.allowed
        assert found.decision.explain() == whole.decision.explain()
    nobody = request(("x-user", "alice"))
    for target, status in (("/a", 200), ("/a", 200), ("/b", 403)):
        assert door.ask(PLAIN, replace(nobody, target=target), KEYS, NOW).decision.status == status
    assert door.known == 2


def test_who_was_refused_is_not_known_and_no_refusal_is_remembered() -> None:
    """However often: neither takes a place."""
    door = Door(compiled(USERS["users"], rules("path")))
    for _ in range(4):
        assert door.ask(PLAIN, request(bearer(), target="/b"), KEYS, NOW).decision.status == 403
    memo = memo_of(door.policy)
    assert not memo._entries.callers.young
    for target in ("/a", "/a", *["/b"] * 4):
        door.ask(PLAIN, request(bearer(), target=target), KEYS, NOW)
    assert door.known == 5
    assert not memo._entries.decisions.young


def test_a_known_callers_peer_ends() -> None:
    """With its certificate, also for a line that no token has to do with."""
    door = Door(compiled(USERS["users"]))
    for _ in range(3):
        door.ask(PEER, request(bearer()), KEYS, NOW)
    assert door.known == 1
    for now, status in ((NOW + 199.9, 400), (NOW + 200.0, 401), (float("nan"), 401)):
        assert door.ask(PEER, request(bearer(), target="/a\x01"), KEYS, now).decision.status == status


def test_a_decision_of_an_older_policy_or_of_older_keys_finds_no_place() -> None:
    """A request that began before a change does not leave anything behind after it."""
    old, new = compiled(USERS["users"]), Door(compiled(USERS["users"], rules("path")))
    asked, keys = request(bearer(), target="/b"), snapshot(KEY)
    names, values = ((b"host", b"authorization"), tuple(value.encode() for _, value in asked.headers))
    line = (asked.method, asked.target, asked.scheme, asked.mount)
    wanted = [memo_of(old).recall(PLAIN, line, names, values, keys, NOW) for _ in range(2)][1]
    assert isinstance(wanted, Wanted)
    context = old.judge(PLAIN, asked, keys, now=NOW)
    assert isinstance(context, AuthContext)
    assert context.decision.allowed
    callers_of(new.policy).remember(wanted, context, PLAIN, asked, keys, NOW)
    callers_of(compiled(USERS["users"])).remember(wanted, context, PLAIN, asked, keys, NOW)
    assert not wanted.entries.callers.young
    assert not new.ask(PLAIN, asked, keys, NOW).decision.allowed
    callers_of(old).remember(wanted, context, PLAIN, asked, snapshot(KEY), NOW)
    assert not wanted.entries.callers.young
    callers_of(old).remember(wanted, context, PLAIN, asked, keys, NOW)
    assert wanted.entries.callers.young
    known = memo_of(old).recall(PLAIN, line, names, values, keys, NOW)
    assert isinstance(known, Wanted)
    assert callers_of(old).judge_line(known, asked, NOW) is not None
    assert callers_of(new.policy).judge_line(known, asked, NOW) is None


# Policies whose decisions are never remembered: somebody else is asked or believed, or it is switched off.
_CUSTOM = "kind: AuthorizationPolicy\nspec:\n  action: CUSTOM\n  provider: {name: asked}\n  rules: [{}]"
_LEGACY = "apiVersion: authentication.istio.io/v1alpha1\nkind: Policy\nmetadata: {name: default}\nspec: {}"
_READS_TOKEN = "kind: AuthorizationPolicy\nspec:\n  rules: [{when: [{key: 'request.headers[%s]', values: ['*']}]}]"
_FORWARDED = ForwardedIdentity(format="xfcc", addresses=("10.0.0.0/8",))
_ASKED = ExtAuthzHttp(service="asked.prod", port=80)


@pytest.mark.parametrize(
    ("documents", "config"),
    [
        ([USERS["users"]], {"decision_memo": False}),
        ([_CUSTOM], {"extension_providers": {"asked": _ASKED}}),
        ([USERS["users"]], {"forwarded_identity": _FORWARDED}),
        ([USERS["users"], _READS_TOKEN % "authorization"], {}),
        ([USERS["two issuers"], _READS_TOKEN % "x-token"], {}),
        ([USERS["two issuers"], _READS_TOKEN % "cookie"], {}),
    ],
)
def test_policies_that_have_no_memo(documents: list[str], config: dict[str, Any]) -> None:
    """Everything is judged; with the memo on and without them, it is not."""
    assert compiled(*documents, config=MeshConfig(allow_no_policy=True, **config)).callers is None
    assert compiled(USERS["two issuers"]).callers is not None


def test_legacy_policies_have_no_memo() -> None:
    """Their tokens may be bad and the request pass."""
    assert WorkloadPolicy.compile(parse(_LEGACY), Workload(name="web")).callers is None


@pytest.mark.parametrize(
    ("asked", "keys", "config"),
    [
        (request(bearer("of nobody")), KEYS, {}),
        (request(target="/b"), KEYS, {}),
        (request(target=f"/a?access_token={TOKENS['alice']}"), KEYS, {}),
        (request(bearer()), snapshot(KEY, cached=False), {}),
        (request(bearer()), KEYS, {"compatibility": "istio"}),
        (request(bearer(), ("x-long", "x")), KEYS, {}),
    ],
)
def test_requests_that_are_never_remembered(asked: HttpRequest, keys: KeySnapshot, config: dict[str, Any]) -> None:
    """Refused; a token that would lie about in the clear, or is to be verified anew; Istio's reading; too long."""
    if ("x-long", "x") in asked.headers:
        asked = replace(asked, target="/a?" + "x" * 2100)
    door = Door(compiled(USERS["users"], rules("path"), config=MeshConfig(**config)))
    assert not door.is_remembered(PLAIN, asked, keys, NOW)


def test_a_bad_value_is_seen_behind_a_remembered_request() -> None:
    """What does not count is still looked through for control characters."""
    door = Door(compiled(USERS["users"]))
    good, bad = (request(bearer(), ("x-request-id", text)) for text in ("1", "1\n"))
    assert door.is_remembered(PLAIN, good, KEYS, NOW)
    assert door.ask(PLAIN, bad, KEYS, NOW).decision.status == 400


def test_nothing_in_a_memo_holds_a_token_or_a_header_that_no_rule_reads() -> None:
    """Neither in what it is found by, nor in what is found, nor in its explanation."""
    door = Door(compiled(USERS["two issuers"], rules("header")))
    lines = [("x-color", "blue"), ("x-password", "hunter2"), PLACES["cookie"](TOKENS["of the other"])]
    assert door.is_remembered(PLAIN, request(*lines, bearer()), KEYS, NOW)
    memo, held, left = memo_of(door.policy), [], list[Any]()
    left += memo._entries.callers.young.items(), memo._entries.decisions.young.items()
    policy = door.policy
    known = {id(one) for one in (policy, memo, policy.callers, policy.rules, policy.tokens, policy.config)}
    while left:
        one = left.pop()
        if id(one) not in known and not isinstance(one, type | type(gc) | type(compiled)):
            known.add(id(one))
            held.append(one)
            left += gc.get_referents(one)
        elif isinstance(one, dict | list | tuple):
            left += [item for item in gc.get_referents(one) if id(item) not in known]
    texts = [one if isinstance(one, str) else one.decode("latin-1") for one in held if isinstance(one, str | bytes)]
    assert "blue" in texts
    signatures = [str(TOKENS[name]).rpartition(".")[2] for name in ("alice", "of the other")]
    assert not [text for text in texts for secret in (*signatures, "hunter2") if secret in text]


def test_requests_that_come_once_push_nothing_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many: only what comes twice gets a place."""
    monkeypatch.setattr(memo_module, "_MOST", 8)
    monkeypatch.setattr(memo_module, "_PATIENCE", 10_000)
    door = Door(compiled(USERS["users"]))
    assert door.is_remembered(PLAIN, request(bearer()), KEYS, NOW)
    for number in range(200):
        door.ask(PLAIN, request(bearer(), (f"x-{number}", ""), target=f"/{number}"), KEYS, NOW)
    assert door.is_remembered(PLAIN, request(bearer()), KEYS, NOW)
    entries = memo_of(door.policy)._entries
    assert len(entries.callers.young) == len(entries.decisions.young) == 1
    assert len(entries.callers.marks) <= 32


def test_a_memo_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two generations of entries, two of header shapes; what is used stays."""
    monkeypatch.setattr(memo_module, "_MOST", 8)
    monkeypatch.setattr(memo_module, "_MOST_SHAPES", 4)
    door = Door(compiled(USERS["users"]))
    for number in range(60):
        assert door.is_remembered(PLAIN, request(bearer(), (f"x-{number}", "")), KEYS, NOW)
        assert door.is_remembered(PLAIN, request(bearer()), KEYS, NOW)
    memo = memo_of(door.policy)
    for kept in (memo._entries.callers, memo._entries.decisions):
        assert len(kept.young) <= 8
        assert len(kept.old) <= 8
    assert len(memo._shapes.young) + len(memo._shapes.old) <= 8


def test_where_nothing_is_found_it_is_seldom_looked_for() -> None:
    """One in eight, until one is found; then every one again."""
    door = Door(compiled(USERS["users"]))
    memo = memo_of(door.policy)
    for number in range(600):
        door.ask(PLAIN, request((f"x-{number}", "")), KEYS, NOW)
    assert len(memo._entries.callers.marks) < 256 + 600 / 8
    for _ in range(30):
        door.ask(PLAIN, request(), KEYS, NOW)
    assert door.is_remembered(PLAIN, request(), KEYS, NOW)


@pytest.mark.parametrize(
    "digest", [digest_module._by_siphash, digest_module._by_known_siphash, digest_module._by_sha256]
)
def test_digests_tell_tokens_apart_and_mean_nothing_elsewhere(digest: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal for equal bytes of one process; another key, another digest."""
    assert digest(b"a token") == digest(bytes(bytearray(b"a token")))
    assert len({digest(bytes([byte])) for byte in range(256)}) == 256
    before = digest(b"a token")
    monkeypatch.setattr(digest_module, "_one", b"another")
    assert digest(b"a token") != before


@pytest.mark.parametrize("lines", [[("x-token", "a"), ("x-token", "bc")], [("x-token", "ab"), ("x-token", "c")]])
def test_where_several_values_may_hold_tokens_their_bounds_count(lines: list[tuple[str, str]]) -> None:
    """What is one text behind the other is not the same when it is split elsewhere."""
    shape = memo_module._Shape.of((b"x-token", b"x-token"), (), {"x-token"})
    assert shape.secret is not None
    assert shape.digest(shape.secret(tuple(value.encode() for _, value in lines))) != shape.digest((b"abc", b""))
    assert shape.digest((b"a", b"bc")) != shape.digest((b"ab", b"c"))


def test_a_decision_that_something_else_had_a_part_in_is_not_remembered() -> None:
    """The reduced request is judged for itself: were the rules to look at more than is said, nothing is kept."""
    policy = compiled(USERS["users"], rules("blue"))
    memo = memo_module.DecisionMemo({"host"}, {"authorization"})
    object.__setattr__(policy, "callers", replace(callers_of(policy), memo=memo))
    door = Door(policy)
    assert not door.is_remembered(PLAIN, request(bearer(), ("x-color", "blue"), target="/"), KEYS, NOW)
    assert not memo._entries.callers.young
    with mock.patch.object(memo_module.Wanted, "reduced", lambda self, request: request):
        assert door.is_remembered(PLAIN, request(bearer(), ("x-color", "blue")), KEYS, NOW)


def test_fingerprints_of_connections_are_equal_only_if_they_are() -> None:
    """Each fact counts, and who the peer is to the last byte of its certificate."""
    facts: list[dict[str, Any]] = [
        {}, {"source_ip": "a"}, {"destination_ip": "a"}, {"remote_ip": "a"}, {"sni": "a"}, {"tls": True},
        {"tls": False}, {"unix": True}, {"destination_port": 1}, {"peer": WEB}, {"peer": CALLER},
        {"sni": ""}, {"peer": replace(CALLER, not_after=1.0)}, {"peer": replace(CALLER, certificate_sha256=None)},
    ]  # fmt: skip
    assert len({Connection(**fact).fingerprint for fact in facts}) == len(facts)
    assert all(Connection(**fact).fingerprint == Connection(**fact).fingerprint for fact in facts)


def test_the_switch_of_the_token_cache_leaves_requests_without_one() -> None:
    """``keys.tokenCache: false``: tokens are verified every time, everything else may be remembered."""
    config = MeshConfig(allow_no_policy=True, keys=KeysConfig(token_cache=False))
    door = Door(compiled(USERS["two issuers"], config=config))
    assert not door.is_remembered(PLAIN, request(PLACES["own"](TOKENS["of the other"])), KEYS, NOW)
    assert door.is_remembered(PLAIN, request(), KEYS, NOW)
