"""All that is remembered, together: a mesh that runs answers each request as one that was made just for it.

What is remembered: decisions, tokens, facts of a connection and its last request, chains that held, header names,
compiled patterns; and what may change under it: requests, callers, tokens, time, policies, keys, roots, revocations,
authorizers.
"""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
import sys
import tempfile
from base64 import encodebytes
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from threading import Event, Semaphore
from typing import Any, Final
from unittest import mock
from urllib.parse import quote, unquote, unquote_to_bytes

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from hypothesis import given, settings
from hypothesis import strategies as st

from meshsec import AuthContext, Mesh
from meshsec.errors import KeysUnavailableError, MeshsecError
from meshsec.jose import SigningKey
from meshsec.mesh import _mesh as mesh_module
from meshsec.middleware import TRANSPORT_KEY, Transport, current_context
from meshsec.sources import _keys as keys_module
from meshsec.sources._fetch import FetchResult
from pki import NOW, TestCA, key_pem, pem
from tokens import ISSUER, encode, jwks, mint, rule_with_outputs, signing_key
from tokens import pem as key_text
from wire import careless, shake_hands, wired

FULL: Final = bool(os.environ.get("MESHSEC_FULL"))
DAY: Final = 86_400.0
OFTEN: Final = 8  # a request that came so often is found at every place where it may be remembered
OTHER: Final = "https://other.example"

# ---------------------------------------------------------------- who there is

LONG: Final[dict[str, Any]] = {"not_before": NOW - DAY, "not_after": NOW + DAY}
FIRST, SECOND = (TestCA("cluster.local", **LONG) for _ in range(2))
BETWEEN: Final = FIRST.intermediate(**LONG)
PARTNER, NEXT_PARTNER = (TestCA("partner.example", **LONG) for _ in range(2))
OWN, RENEWED = (FIRST.leaf("/ns/default/sa/default", **LONG) for _ in range(2))
CALLERS: Final = {
    "web": FIRST.leaf("/ns/prod/sa/web", **LONG),
    "web again": FIRST.leaf("/ns/prod/sa/web", **LONG),
    "api": SECOND.leaf("/ns/prod/sa/api", **LONG),
    "between": BETWEEN.leaf("/ns/prod/sa/web", **LONG),
    "not for long": FIRST.leaf("/ns/prod/sa/web", **{**LONG, "not_after": NOW + 200}),
    "partner": PARTNER.leaf("/ns/prod/sa/web", **LONG),
}
ROOTS: Final = {"first": (FIRST,), "both": (FIRST, SECOND)}
PARTNERS: Final = {"partner": (PARTNER,), "next": (NEXT_PARTNER,), "both partners": (PARTNER, NEXT_PARTNER)}


def _serial(chain: list[bytes]) -> int:
    return x509.load_der_x509_certificate(chain[0]).serial_number


LISTS: Final = {
    "web": (FIRST.crl(_serial(CALLERS["web"][0])),),
    "between": (BETWEEN.crl(_serial(CALLERS["between"][0])),),
    "the authority between": (FIRST.crl(BETWEEN.certificate.serial_number),),
    "nobody": (FIRST.crl(),),
}

# What a transport knows; each is TLS with the certificate that it names, or what another's TLS took, or plaintext.
CONNECTIONS: Final[dict[str, dict[str, Any]]] = {
    "plain": {"source_ip": "10.0.0.7", "destination_ip": "10.0.0.1", "destination_port": 80},
    "another address": {"source_ip": "10.0.0.8", "destination_port": 80},
    "another port": {"source_ip": "10.0.0.7", "destination_port": 8443},
    "another own address": {"source_ip": "10.0.0.7", "destination_ip": "10.9.9.9", "destination_port": 80},
    "a proxy": {"source_ip": "10.7.7.7", "destination_port": 80},
    "a socket": {"unix": True},
    "nothing known": {},
    **{name: {"tls": name, "source_ip": "10.0.0.7", "destination_port": 8443} for name in CALLERS},
    "web, by name": {"tls": "web", "sni": "web.prod", "source_ip": "10.0.0.7", "destination_port": 8443},
    "web, other port": {"tls": "web", "source_ip": "10.0.0.7", "destination_port": 80},
    "shown api": {"shown": "api", "source_ip": "10.0.0.7", "destination_port": 8443},
    "shown between": {"shown": "between", "source_ip": "10.0.0.7", "destination_port": 8443},
}

# ---------------------------------------------------------------- what they send

KEY, NEXT_KEY, INLINE_KEY = signing_key(), signing_key("ES256", "k2"), signing_key("ES256", "k3")
NAMESAKE: Final = SigningKey.from_pem(key_text("ES256", "another"), "ES256", kid=KEY.kid)
KEY_SETS: Final = {
    "one": jwks(KEY), "both": jwks(KEY, NEXT_KEY), "next": jwks(NEXT_KEY),
    "named alike": jwks(NAMESAKE), "broken": "[]", "down": None,
}  # fmt: skip


def _thumbprint(name: str) -> str:
    return encode(x509.load_der_x509_certificate(CALLERS[name][0][0]).fingerprint(hashes.SHA256()))


def _minted(key: Any, **claims: Any) -> str:
    return mint(key, **{"iat": NOW, "exp": NOW + 300, **claims})


TOKENS: Final = {
    "alice": _minted(KEY, groups=["readers"]),
    "alice, twice": _minted(KEY, groups=["readers"], jti="2"),
    "bob, later": _minted(KEY, sub="bob", nbf=NOW + 150),
    "carol, not for long": _minted(KEY, sub="carol", exp=NOW + 30),
    "of the next key": _minted(NEXT_KEY),
    "of one certificate": _minted(KEY, cnf={"x5t#S256": _thumbprint("web")}),
    "for the shop": _minted(KEY, aud="shop"),
    "of the other": _minted(INLINE_KEY, iss=OTHER),
    "of the other, not for long": _minted(INLINE_KEY, iss=OTHER, exp=NOW + 30),
    "of the other, later": _minted(INLINE_KEY, iss=OTHER, nbf=NOW + 150),
    "of nobody": _minted(KEY)[:-8] + "AAAAAAAA",
    "junk": "junk",
}
LINES: Final = [
    ("x-color", "red"), ("X-Color", "blue"), ("x_color", "red"), ("x-user", "root"), ("x-claims", "e30"),
    ("x-forwarded-for", "10.1.1.1"), ("X-Forwarded-For", "192.0.2.1"), ("x-forwarded-for", "10.1.1.1, 192.0.2.1"),
    ("accept", "*/*"), ("accept", "application/json"), ("x-request-id", "1"), ("x-request-id", "\x01"), ("x y", "z"),
    ("origin", "https://a.example"), ("access-control-request-method", "PUT"), ("host", "web.prod"),
    ("content-length", "3"), ("transfer-encoding", "chunked"), ("authorization", "Basic eDp5"),
    ("authorization", "Basic eDp5, Basic eDp6"), ("cookie", "theme=dark"), ("content-type", "application/grpc"),
    ("x-forwarded-client-cert", f'Cert="{quote(pem(CALLERS["web"][0][:1]).decode())}"'), ("x-check", "yes"),
    ("x-forwarded-client-cert", f'Cert="{quote(pem(CALLERS["partner"][0][:1]).decode())}"'), ("x-token", ""),
]  # fmt: skip
PLACES: Final[dict[str, Callable[[str], tuple[str, str]]]] = {
    "bearer": lambda token: ("authorization", f"Bearer {token}"),
    "own": lambda token: ("X-Token", token),
    "cookie": lambda token: ("Cookie", f"session={token}; theme=dark"),
}


@dataclass(frozen=True)
class Ask:
    """One request, and on which connection."""

    headers: tuple[tuple[str, str], ...] = (("host", "web.prod"),)
    connection: str = "plain"
    method: str = "GET"
    path: str = "/a"
    query: str = ""
    mount: str = ""
    scheme: str = "http"
    kind: str = "http"
    raw: bool = True
    by: str = "asgi"


BASES: Final = [
    Ask(),
    Ask((("host", "web.prod"), PLACES["bearer"](TOKENS["alice"]))),
    Ask((("Host", "web.prod"), ("x-color", "blue"), PLACES["own"](TOKENS["of the other"])), "web"),
    Ask((("host", "web.prod"), PLACES["bearer"](TOKENS["of one certificate"]), ("x-request-id", "7")), "web"),
    Ask((("host", "web.prod"), PLACES["cookie"](TOKENS["of the other"]), ("x-forwarded-for", "10.1.1.1")), "a proxy"),
    Ask((("host", "web.prod"), PLACES["bearer"](TOKENS["bob, later"]), ("authorization-x", "1")), "between"),
    Ask((("host", "web.prod"), ("x-color", "blue")), "shown api", by="wsgi"),
    Ask((("host", "web.prod"), PLACES["bearer"](TOKENS["alice"])), "not for long", by="wsgi"),
    Ask((("host", "web.prod"), ("x-check", "yes")), "partner"),
    Ask(connection="web, by name"),
    Ask(
        (
            *(("host", "web.prod"), PLACES["bearer"](TOKENS["alice"])),
            *(("origin", "https://a.example"), ("access-control-request-method", "")),
        ),
        method="OPTIONS",
    ),
    Ask((
        ("host", "web.prod"), ("authorization", "Basic eDp5"), ("cookie", "theme=dark"), ("x-user", "root"),
        ("x-forwarded-for", "10.1.1.1"), ("origin", "https://a.example"), ("x-color", "blue"), ("x-check", "yes"),
    )),
]  # fmt: skip


Change = Callable[[Ask], Ask]


def _line_more(line: tuple[str, str], place: int) -> Change:
    return lambda ask: replace(ask, headers=(*ask.headers[:place], line, *ask.headers[place:]))


def _line_changed(name: str, value: str) -> Change:
    """In its place, so that nothing but the value tells the two apart; a line more where there was none."""

    def change(ask: Ask) -> Ask:
        lines = [(given, value if given.lower() == name.lower() else old) for given, old in ask.headers]
        return replace(ask, headers=tuple(lines) if tuple(lines) != ask.headers else (*lines, (name, value)))

    return change


def _fields(**fields: Any) -> Change:
    return lambda ask: replace(ask, **fields)


_GIVEN: Final = [*LINES, *(place(token) for place in PLACES.values() for token in TOKENS.values())]
_PATHS: Final = [
    "/", "/b", "/open", "/a/", "/A", "/x/../a", "/%61", "/a%2Fb", "//a", "/a;b", "/a/c", "/admin", "/a%3Ab", "/a:b",
    "/.well-known/oauth-protected-resource", "/a%0a", "http://web.prod/a", "http://other/a",
]  # fmt: skip
CHANGES: Final[list[Change]] = [
    *(_fields(connection=name) for name in CONNECTIONS),
    *(_fields(method=name) for name in ("POST", "HEAD", "OPTIONS", "get")),
    *(_fields(path=path) for path in _PATHS),
    *(_fields(query=query) for query in ("q=1", f"access_token={TOKENS['alice']}", "a=/../b")),
    _fields(mount="/a"), _fields(mount="/m", path="/m/a"), _fields(mount="/m"), _fields(scheme="https"),
    _fields(kind="websocket", scheme="ws"), _fields(raw=False), _fields(by="wsgi"), _fields(by="asgi"),
    *(_line_changed(*line) for line in _GIVEN),
    *(_line_more(line, place) for line in _GIVEN for place in (0, 9)),
    _line_changed("host", "other"), _line_changed("host", "web.prod:80"), _line_changed("host", ""),
    lambda ask: replace(ask, headers=ask.headers[::-1]),
    lambda ask: replace(ask, headers=ask.headers[:-1] or ask.headers),
    lambda ask: replace(ask, headers=(*ask.headers, ask.headers[-1])),
    lambda ask: replace(ask, headers=tuple((name.title(), value) for name, value in ask.headers)),
    lambda ask: replace(ask, headers=tuple((name.replace("-", "_"), value) for name, value in ask.headers)),
]  # fmt: skip


def changed(ask: Ask, random: Random) -> Ask:
    """Another request, one change away from it; sometimes two."""
    for _ in range(random.choice((1, 1, 2))):
        ask = random.choice(CHANGES)(ask)
    return ask


# ---------------------------------------------------------------- what is written in the folder

_USERS = f"kind: RequestAuthentication\nspec:\n  jwtRules:\n  - {{issuer: {ISSUER}, jwksUri: {ISSUER}/jwks"
_INLINE = rule_with_outputs(OTHER, INLINE_KEY)
_EXCLUDED = "metadata: {name: users, annotations: {meshsec.dev/exclude-paths: /open}}\n"
_INCLUDED = "metadata: {name: users, annotations: {meshsec.dev/include-paths: /a}}\n"
USERS: Final = {
    "users": f"{_USERS}}}",
    "for the web": f"{_USERS}, audiences: [web], forwardOriginalToken: true}}",
    "for the shop": f"{_USERS}, audiences: [shop]}}",
    "two issuers": f"{_USERS}}}{_INLINE}",
    "the other alone": _USERS.partition("\n  - ")[0] + _INLINE,
    "required": f"{_USERS}, presence: REQUIRED}}",
    "in the query": f"{_USERS}, fromParams: [access_token], fromHeaders: [{{name: x-token}}]}}",
    "elsewhere": f"{_EXCLUDED}{_USERS}}}",
    "only here": f"{_INCLUDED}{_USERS}}}",
    "nobody": "",
    "as it was": (
        "apiVersion: authentication.istio.io/v1alpha1\nkind: Policy\nmetadata: {name: default}\n"
        f"spec: {{peers: [{{mtls: {{mode: PERMISSIVE}}}}], origins: [{{jwt: {{issuer: {ISSUER}, "
        f"jwksUri: {ISSUER}/jwks}}}}], originIsOptional: true, principalBinding: USE_ORIGIN}}"
    ),
}
MODES: Final = {
    "": "",
    "permissive": "kind: PeerAuthentication\nspec: {mtls: {mode: PERMISSIVE}}",
    "strict": "kind: PeerAuthentication\nspec: {mtls: {mode: STRICT}}",
    "by port": "kind: PeerAuthentication\nspec: {selector: {matchLabels: {app: web}}, mtls: {mode: STRICT}, "
    "portLevelMtls: {80: {mode: PERMISSIVE}}}",
}
_RULES: Final = {
    "path": "rules: [{to: [{operation: {paths: [/a, /open, /a/]}}]}]",
    "no path": "action: DENY\n  rules: [{to: [{operation: {paths: [/b, '/admin*', '/a%3Ab']}}]}]",
    "method": "rules: [{to: [{operation: {methods: [GET, POST]}}]}]",
    "user": f"rules: [{{from: [{{source: {{requestPrincipals: ['{ISSUER}/alice', '{OTHER}/*']}}}}]}}]",
    "some user": "rules: [{from: [{source: {requestPrincipals: ['*']}}]}]",
    "claim": "rules: [{when: [{key: 'request.auth.claims[groups]', values: [readers]}]}]",
    "header": "rules: [{when: [{key: 'request.headers[x-color]', notValues: [red]}]}]",
    "no header": "action: DENY\n  rules: [{when: [{key: 'request.headers[x-color]', values: ['*']}]}]",
    "made header": "rules: [{when: [{key: 'request.headers[x-user]', values: [alice]}]}]",
    "token header": "rules: [{when: [{key: 'request.headers[authorization]', values: ['Bearer*']}]}]",
    "far": "rules: [{from: [{source: {remoteIpBlocks: [10.0.0.0/8]}}]}]",
    "near": "action: DENY\n  rules: [{from: [{source: {ipBlocks: [10.0.0.8]}}]}]",
    "peer": "rules: [{from: [{source: {principals: ['*/sa/web']}}]}]",
    "namespace": "action: DENY\n  rules: [{from: [{source: {notNamespaces: [prod]}}]}]",
    "name": "rules: [{when: [{key: connection.sni, values: [web.prod]}]}]",
    "port": "rules: [{to: [{operation: {ports: ['80']}}]}]",
    "own address": "action: DENY\n  rules: [{when: [{key: destination.ip, values: [10.9.9.9]}]}]",
    "host": "rules: [{to: [{operation: {hosts: [web.prod]}}]}]",
    "audit": "action: AUDIT\n  rules: [{to: [{operation: {paths: [/a]}}]}]",
    "check": "action: CUSTOM\n  provider: {name: asked}\n  rules: [{to: [{operation: {paths: [/a, /b]}}]}]",
    "nobody": "{}",
}
_TRIALS: Final = {
    "on trial": "action: DENY\n  rules: [{to: [{operation: {methods: [GET], notPaths: [/b, '/a/*']}}]}]",
    "an ALLOW on trial": "rules: [{to: [{operation: {paths: ['/a*']}}], "
    "when: [{key: 'request.headers[x-user]', values: [alice]}]}]",
}
RULES: Final = {
    **{name: f"kind: AuthorizationPolicy\nspec:\n  {text}" for name, text in _RULES.items()},
    **{
        name: f"kind: AuthorizationPolicy\nmetadata: {{name: trial-{number}, annotations: "
        f"{{istio.io/dry-run: 'true'}}}}\nspec:\n  {text}"
        for number, (name, text) in enumerate(_TRIALS.items())
    },
}
NOTHING: Final = "kind: PeerAuthentication\nmetadata: {name: other}\nspec: {selector: {matchLabels: {app: other}}}"

SETTINGS: Final = {
    "as usual": "",
    "istio": "compatibility: istio",
    "judge": "ambiguousPaths: judge",
    "read as istio": "ambiguousPaths: istio",
    "a proxy in front": "forwardedIdentity: {format: xfcc, addresses: [10.7.7.7]}",
    "problems": "problemDetails: true",
}


def written(users: str, modes: str, rules: tuple[str, ...]) -> str:
    """A file of policies."""
    mode = "" if users == "as it was" else MODES[modes]  # the legacy kind says that itself
    documents = [NOTHING, USERS[users], mode, *(RULES[name] for name in rules)]
    joined = ""
    for number, text in enumerate(filter(None, documents)):
        named = "" if "metadata:" in text else f"metadata: {{name: n{number}}}\n"
        version = "" if "apiVersion" in text else "apiVersion: security.istio.io/v1\n"
        joined += f"---\n{version}{named}{text}\n"
    return joined


_policies = st.builds(
    written,
    st.sampled_from(sorted(USERS)),
    st.sampled_from(["", "", *sorted(MODES)]),
    st.lists(st.sampled_from(sorted(RULES)), max_size=3, unique=True).map(tuple),
)


_options = st.tuples(st.booleans(), st.sampled_from([0, 0, 1]), st.sampled_from(sorted(SETTINGS)))


def _workload(resource: bool, memo: bool, proxies: int, setting: str) -> str:
    """The mesh's own file; what is remembered is all that differs between two of the same."""
    described = (
        f", protectedResource: {{resource: 'https://web.prod/', authorizationServers: ['{ISSUER}']}}"
        if resource
        else ""
    )
    topology = f", defaultConfig: {{gatewayTopology: {{numTrustedProxies: {proxies}}}}}" if proxies else ""
    switches = f"keys: {{tokenCache: {str(memo).lower()}}}\ndecisionMemo: {str(memo).lower()}"
    return f"""
workloads: {{web: {{labels: {{app: web}}, identity: {{files: ../certs}}{described}}}}}
meshConfig: {{extensionProviders: [{{name: asked}}]{topology}}}
trustBundles: {{partner.example: ../partner.pem}}
policies: [../policies]
allowNoPolicy: true
{switches}
{SETTINGS[setting]}
"""


# ---------------------------------------------------------------- the world in which they run


@dataclass
class Clock:
    """The time of day, and seconds that only grow."""

    wall: float = NOW + 0.5
    steady: float = 1000.0

    def time(self) -> float:
        """As the module's."""
        return self.wall


class World:
    """Clocks, an issuer, an authorizer and a folder that change between requests, and meshes that live in it.

    ``running`` remembers whatever it likes. ``careful`` went through the same, and was told to remember neither
    decisions nor tokens, nor is it shown the same transport twice. ``fresh`` is made anew whenever something changed.
    """

    def __init__(self, folder: Path, clock: Clock, options: tuple[bool, int, str], policies: str) -> None:
        self.folder, self.clock, self.keys = folder, clock, "one"
        self.agrees = True
        for name in ("on", "off", "certs", "policies"):
            (folder / name).mkdir()
        resource, proxies, setting = options
        for name, memo in (("on", True), ("off", False)):
            (folder / name / "mesh.yaml").write_text(_workload(resource, memo, proxies, setting))
        (folder / "certs" / "cert-chain.pem").write_bytes(pem(OWN[0]))
        (folder / "certs" / "key.pem").write_bytes(key_pem(OWN[1]))
        self.put("certs/root-cert.pem", ROOTS["both"])
        self.put("partner.pem", PARTNERS["partner"])
        (folder / "policies" / "p.yaml").write_text(policies)
        self.running, self.careful = self.mesh("on"), self.mesh("off")
        self._fresh: Mesh | None = None
        self.accepting = self.running.server_context()
        self.transports = {name: self.connected(name) for name in CONNECTIONS}

    def put(self, name: str, authorities: tuple[TestCA, ...]) -> None:
        """Write certificates of authorities."""
        (self.folder / name).write_bytes(b"".join(one.pem for one in authorities))

    def mesh(self, name: str) -> Mesh:
        """A mesh of one of the two folders, whose time is ours."""
        mesh = Mesh.load(self.folder / name, providers={"asked": self.authorize})
        mesh._keys._clock, mesh._keys._fetch = lambda: self.clock.steady, self.fetch
        mesh.start()
        self.land(mesh)
        return mesh

    def fetch(self, url: str, *, timeout: float) -> FetchResult:
        """The issuer."""
        body = KEY_SETS[self.keys]
        if body is None:
            raise KeysUnavailableError("down")
        return FetchResult(200, body.encode())

    def authorize(self, question: Any) -> bool:
        """The authorizer."""
        return self.agrees and ("x-check", "yes") in question.headers

    @staticmethod
    def land(mesh: Mesh) -> None:
        """Let what is being fetched arrive."""
        for shelf in list(mesh._keys._shelves.values()):
            if shelf.flight is not None:
                shelf.flight.landed.result(20)

    def connected(self, name: str) -> Transport | None:
        """A new connection; None where it is refused."""
        facts = dict(CONNECTIONS[name])
        who, sni, shown = facts.pop("tls", None), facts.pop("sni", None), facts.pop("shown", None)
        if shown:
            facts.update(chain=tuple(CALLERS[shown][0]), tls=object())
        if who:
            server, client = wired(self.accepting, careless("client", CALLERS[who]), sni)
            try:
                shake_hands(server, client)
            except (ssl.SSLError, MeshsecError):
                return None
            facts["tls"] = server
        return Transport(**facts)

    @property
    def fresh(self) -> Mesh:
        """One that was not there before the last change."""
        if self._fresh is None:
            self._fresh = self.mesh("off")
        return self._fresh

    def changed(self) -> None:
        """Let everybody who was there before see it, as their threads would."""
        if self._fresh is not None:
            self._fresh.close()
        self._fresh = None
        for mesh in (self.running, self.careful):
            assert mesh._identity is not None
            for _ in range(2):  # a file counts when it is found the same again
                mesh._policies.refresh()
                mesh._renew(mesh._identity, mesh._stop)
            mesh._keys.refresh_due()
            self.land(mesh)
            assert mesh._policies.status()["failure"] is None
            assert mesh._identity.status()["failure"] is None

    def close(self) -> None:
        """The end."""
        for mesh in (self.running, self.careful, *filter(None, [self._fresh])):
            mesh.close()

    # ------------------------------------------------------------ what may happen

    def step(self, kind: str, value: Any) -> None:
        """One change."""
        getattr(self, f"_{kind}")(value)
        self.changed()

    def _clock(self, seconds: float) -> None:
        self.clock.wall += seconds
        self.clock.steady += max(seconds, 0)

    def _policies(self, text: str) -> None:
        (self.folder / "policies" / "p.yaml").write_text(text)

    def _keys(self, name: str) -> None:
        self.keys = name
        self.clock.steady += 301

    def _lists(self, name: str) -> None:
        (self.folder / "certs" / "ca-crl.pem").write_text("".join(map(_crl_pem, LISTS[name])))

    def _roots(self, name: str) -> None:
        self.put("certs/root-cert.pem", ROOTS[name])

    def _partners(self, name: str) -> None:
        self.put("partner.pem", PARTNERS[name])

    def _renewed(self, again: bool) -> None:
        chain, key = RENEWED if again else OWN
        (self.folder / "certs" / "cert-chain.pem").write_bytes(pem(chain))
        (self.folder / "certs" / "key.pem").write_bytes(key_pem(key))

    def _authorizer(self, agrees: bool) -> None:
        self.agrees = agrees

    def _connect(self, name: str) -> None:
        self.transports[name] = self.connected(name)

    def _forked(self, _: None) -> None:
        mesh_module._forget_threads()
        keys_module._after_fork()


def _crl_pem(der: bytes) -> str:
    return f"-----BEGIN X509 CRL-----\n{encodebytes(der).decode()}-----END X509 CRL-----\n"


_events = st.one_of(
    st.tuples(st.just("clock"), st.sampled_from([1, 30, 61, 100, 250, -100, -301])),
    st.tuples(st.just("policies"), _policies),
    st.tuples(st.just("keys"), st.sampled_from(sorted(KEY_SETS))),
    st.tuples(st.just("lists"), st.sampled_from(sorted(LISTS))),
    st.tuples(st.just("roots"), st.sampled_from(sorted(ROOTS))),
    st.tuples(st.just("partners"), st.sampled_from(sorted(PARTNERS))),
    st.tuples(st.just("renewed"), st.booleans()),
    st.tuples(st.just("authorizer"), st.booleans()),
    st.tuples(st.just("connect"), st.sampled_from(sorted(CONNECTIONS))),
    st.tuples(st.just("forked"), st.none()),
)


# ---------------------------------------------------------------- what is seen of an answer


def _told(context: AuthContext) -> tuple[Any, ...]:
    principal = context.principal
    who = principal and (principal.issuer, principal.subject, dict(principal.claims))
    told = context.token, context.metadata_url
    return context.peer, who, context.decision, context.decision.explain(), told


def over_asgi(mesh: Mesh, ask: Ask, transport: Transport | None) -> list[Any]:
    """What is sent, and what the application got."""
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert current_context() is scope["meshsec"]
        seen.append({key: value for key, value in scope.items() if key not in ("meshsec", "state", "extensions")})
        seen.append(_told(scope["meshsec"]))
        start = "http.response.start" if scope["type"] == "http" else "websocket.accept"
        await send({"type": start, "status": 200, "headers": [(b"x", b"y")]})

    async def send(message: Any) -> None:
        seen.append(message)

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    scope = {
        "type": ask.kind,
        "path": unquote(ask.path),
        "query_string": ask.query.encode(),
        "root_path": ask.mount,
        "scheme": ask.scheme,
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in ask.headers],
        "state": {TRANSPORT_KEY: transport},
        "extensions": {"websocket.http.response": {}},
        **({"method": ask.method} if ask.kind == "http" else {}),
        **({"raw_path": ask.path.encode()} if ask.raw else {}),
    }
    asyncio.run(mesh.asgi(app)(scope, receive, send))
    return seen


def over_wsgi(mesh: Mesh, ask: Ask, transport: Transport | None) -> list[Any]:
    """The same."""
    seen: list[Any] = []

    def app(environ: Any, start_response: Any) -> list[bytes]:
        assert current_context() is environ["meshsec"]
        seen.append({key: value for key, value in environ.items() if key != "meshsec"})
        seen.append(_told(environ["meshsec"]))
        start_response("200 OK", [("x", "y")])
        return [b"body"]

    environ: dict[str, Any] = {
        "REQUEST_METHOD": ask.method,
        "SCRIPT_NAME": ask.mount,
        "PATH_INFO": unquote_to_bytes(ask.path).decode("latin-1").removeprefix(ask.mount),
        "QUERY_STRING": ask.query,
        "wsgi.url_scheme": ask.scheme,
        TRANSPORT_KEY: transport,
        **({"RAW_URI": f"{ask.path}?{ask.query}" if ask.query else ask.path} if ask.raw else {}),
    }
    for name, value in ask.headers:
        variable = name.upper().replace("-", "_")
        variable = variable if variable in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{variable}"
        environ[variable] = f"{environ[variable]},{value}" if variable in environ else value
    body = mesh.wsgi(app)(environ, lambda *head, **_: seen.append(head))
    return [*seen, b"".join(body)]


OVER: Final = {"asgi": over_asgi, "wsgi": over_wsgi}


class Log(logging.Handler):
    """What is said of refusals: the reason, which no client sees."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """One line."""
        self.lines.append(record.getMessage())


@contextmanager
def listening() -> Iterator[Log]:
    """To the log of refusals, with all explanations."""
    logger, log = logging.getLogger("meshsec.access"), Log()
    level, propagate = logger.level, logger.propagate
    logger.addHandler(log)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    try:
        yield log
    finally:
        logger.removeHandler(log)
        logger.setLevel(level)
        logger.propagate = propagate


def answered(mesh: Mesh, ask: Ask, transport: Transport | None, log: Log) -> list[Any]:
    """Everything that can be seen of an answer."""
    log.lines.clear()
    return [*OVER[ask.by](mesh, ask, transport), *log.lines]


@contextmanager
def running(options: tuple[bool, int, str], policies: str) -> Iterator[tuple[World, Log]]:
    """A world in which time stands still but for its own steps, and threads do nothing of themselves."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        stack.enter_context(mock.patch.object(mesh_module, "_POLL_SECONDS", DAY))
        stack.enter_context(mock.patch.object(keys_module, "_TICK", DAY))
        clock = Clock()
        stack.enter_context(mock.patch("time.time", clock.time))
        world = World(Path(folder), clock, options, policies)
        stack.callback(world.close)
        yield world, stack.enter_context(listening())


@settings(max_examples=1000 if FULL else 8)
@given(st.data())
def test_a_mesh_that_remembers_answers_as_one_that_does_not(data: st.DataObject) -> None:
    """Over both interfaces, whatever came before: what is sent, what the application gets, and what the log says."""
    events = data.draw(st.lists(_events, max_size=5))
    usual, random = data.draw(st.sampled_from(BASES)), Random(data.draw(st.integers(0, 2**32)))
    with running(data.draw(_options), data.draw(_policies)) as (world, log):
        for event in [None, *events]:
            if event is not None:
                world.step(*event)
            pool = [usual, *(changed(usual, random) for _ in range(20))]
            # Some come several times in a row, as a connection's requests do.
            others = [ask for ask in random.choices(pool, k=16) for _ in range(random.choice((1, 1, 3, 5)))]
            for ask in [*[usual] * OFTEN, *others, *[usual] * OFTEN]:
                compare(world, ask, log)


def compare(world: World, ask: Ask, log: Log, *, fresh: bool = True) -> None:
    """Ask everybody the same, the one that runs last."""
    transport = world.transports[ask.connection]
    if transport is None:
        return
    expected = answered(world.careful, ask, replace(transport), log)
    if fresh and world.keys not in ("broken", "down"):
        assert answered(world.fresh, ask, replace(transport), log) == expected
    assert answered(world.running, ask, transport, log) == expected


_ALICE, _CAROL, _BOB = (replace(BASES[1], headers=(*BASES[0].headers, PLACES["bearer"](TOKENS[name]))) for name in (
    "alice", "carol, not for long", "bob, later"))  # fmt: skip
_BY_USER: Final = written("users", "", ("some user",))
_BY_PEER: Final = written("nobody", "", ("namespace", "peer"))
_Step = tuple[str, Any]

# Policies, a request that they allow, what leads there, and what must end it at once.
ENDS: Final[dict[str, tuple[str, Ask, list[_Step], _Step]]] = {
    "its key is gone": (_BY_USER, _ALICE, [], ("keys", "next")),
    "its key is another": (_BY_USER, _ALICE, [], ("keys", "named alike")),
    "its key came and is gone": (_BY_USER, _ALICE, [("keys", "next"), ("keys", "both")], ("keys", "next")),
    "its token ends": (_BY_USER, _CAROL, [], ("clock", 100)),
    "its token is not yet good": (_BY_USER, _BOB, [("clock", 150)], ("clock", -100)),
    "one of keys written down ends": (
        written("the other alone", "", ("some user",)),
        Ask((*BASES[0].headers, PLACES["own"](TOKENS["of the other, not for long"]))),
        [],
        ("clock", 100),
    ),
    "one of keys written down is not yet good": (
        written("the other alone", "", ("some user",)),
        Ask((*BASES[0].headers, PLACES["own"](TOKENS["of the other, later"]))),
        [("clock", 150)],
        ("clock", -100),
    ),
    "its certificate ends": (_BY_PEER, Ask(connection="not for long"), [], ("clock", 250)),
    "its certificate is revoked": (_BY_PEER, Ask(connection="web"), [("lists", "nobody")], ("lists", "web")),
    "one shown is revoked": (_BY_PEER, Ask(connection="shown between"), [], ("lists", "between")),
    "its issuer's list": (_BY_PEER, Ask(connection="between"), [], ("lists", "between")),
    "its issuer is revoked": (_BY_PEER, Ask(connection="between"), [], ("lists", "the authority between")),
    "its root is gone": (written("nobody", "strict", ()), Ask(connection="api"), [], ("roots", "first")),
    "the root of one shown": (written("nobody", "strict", ()), Ask(connection="shown api"), [], ("roots", "first")),
    "its bundle is another": (_BY_PEER, Ask(connection="partner"), [("partners", "partner")], ("partners", "next")),
    "other policies": (_BY_PEER, Ask(connection="web"), [], ("policies", written("nobody", "", ("nobody",)))),
    "other tokens": (_BY_USER, _ALICE, [], ("policies", written("for the shop", "", ("some user",)))),
    "another mode": (written("nobody", "permissive", ()), Ask(), [], ("policies", written("nobody", "strict", ()))),
    "its authorizer": (
        written("nobody", "", ("check",)),
        Ask(headers=(("host", "web.prod"), ("x-check", "yes"))),
        [],
        ("authorizer", False),
    ),
}


@pytest.mark.parametrize("by", OVER)
@pytest.mark.parametrize("end", ENDS)
def test_what_was_remembered_ends_at_once(end: str, by: str) -> None:
    """Allowed many times; one thing changes, and the very next request is refused, and every one after it."""
    policies, ask, before, last = ENDS[end]
    ask = replace(ask, by=by)
    with running((False, 0, "as usual"), policies) as (world, log):
        for event in before:
            world.step(*event)
        transport = world.transports[ask.connection]
        assert transport is not None
        for _ in range(OFTEN):
            compare(world, ask, log)
            assert not log.lines
        world.step(*last)
        for _ in range(4):
            compare(world, ask, log)
            assert log.lines


@pytest.mark.parametrize("by", OVER)
@pytest.mark.parametrize("rule", RULES)
def test_whatever_a_rule_looks_at_is_seen_behind_what_is_remembered(rule: str, by: str) -> None:
    """A request that was allowed often, and then one that differs from it in one thing, one after the other."""
    random = Random(f"{rule}, {by}")
    proxies = int(rule == "far")
    with running((False, proxies, "as usual"), written("two issuers", "", (rule,))) as (world, log):
        for usual in (replace(base, by=by) for base in BASES if base.connection != "not for long"):
            for _ in range(OFTEN):
                compare(world, usual, log, fresh=False)
            if not log.lines:
                for change in CHANGES if FULL else random.sample(CHANGES, 10):
                    compare(world, change(usual), log, fresh=False)
                    compare(world, usual, log, fresh=False)


@pytest.mark.parametrize("setting", ["as usual", "istio"])
@pytest.mark.parametrize("by", OVER)
def test_a_host_in_the_request_line_is_nobody_elses(by: str, setting: str) -> None:
    """Istio's reading lets it win over the Host line; the next request with these lines goes where they say."""
    usual = Ask((("host", "other"),), path="http://web.prod/a", by=by)
    with running((False, 0, setting), written("nobody", "", ("host",))) as (world, log):
        for _ in range(4):
            compare(world, usual, log)
        assert bool(log.lines) is (setting != "istio")
        for _ in range(3):
            compare(world, replace(usual, path="/a"), log)
            assert log.lines


FLIPS: Final[dict[str, tuple[str, _Step, _Step]]] = {
    "keys": (_BY_USER, ("keys", "next"), ("keys", "one")),
    "policies": (_BY_USER, ("policies", written("for the shop", "", ("some user",))), ("policies", _BY_USER)),
    "lists": (_BY_USER, ("lists", "web"), ("lists", "nobody")),
    "clock": (_BY_USER, ("clock", 500), ("clock", -500)),
}


@contextmanager
def taking_turns() -> Iterator[None]:
    """Threads that do nothing but compute give way to one another all the time."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    try:
        yield
    finally:
        sys.setswitchinterval(usual)


@pytest.mark.parametrize("flip", FLIPS)
def test_threads_that_ask_all_the_time_see_a_change_at_once(flip: str) -> None:
    """Whatever begins after a change is complete, and ends before the next begins, is answered by it."""
    policies, end, begin = FLIPS[flip]
    ask = replace(_ALICE, connection="web")
    with running((False, 0, "as usual"), policies) as (world, log), taking_turns(), ThreadPoolExecutor(4) as pool:
        log.setLevel(logging.CRITICAL)
        transport, moment, certain, ended = world.transports["web"], [0], Semaphore(0), Event()

        def go_on(number: int) -> list[tuple[int, bool]]:
            over, wrong = OVER["asgi" if number % 2 else "wsgi"], []
            while not ended.is_set():
                before = moment[0]
                allowed = any(
                    isinstance(part, tuple) and len(part) == 5 for part in over(world.running, ask, transport)
                )
                if moment[0] == before and before % 2 == 0:
                    certain.release()
                    if allowed is bool(before % 4):
                        wrong.append((before, allowed))
            return wrong

        asking = [pool.submit(go_on, number) for number in range(4)]
        try:
            for turn in range(100 if FULL else 8):
                for _ in range(40):
                    assert certain.acquire(timeout=30)
                moment[0] += 1
                world.step(*(begin if turn % 2 else end))
                moment[0] += 1
        finally:
            ended.set()
        assert [one.result(30) for one in asking] == [[]] * 4
