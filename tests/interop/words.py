"""The words that generated policies and requests are made of: few enough that they meet often."""

from __future__ import annotations

import json
import random
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Final

from meshsec.jose import SigningKey

__all__ = [
    "AUDIENCES", "CLAIMS", "CLAIM_VALUES", "DOMAINS", "HEADERS", "HEADER_VALUES", "HOSTS", "HOST_PATTERNS",
    "IP_BLOCKS",
    "ISSUERS", "METHODS", "METHOD_PATTERNS", "NAMESPACES", "PATHS", "PATH_PATTERNS", "PEERS", "PRINCIPALS",
    "REQUEST_PRINCIPALS", "SERVICE_ACCOUNTS", "SNIS", "SNI_PATTERNS", "TRUST_DOMAINS", "jwks", "odd_path", "signed",
    "signing_key", "token",
]  # fmt: skip

# The mesh's own trust domain, then its aliases.
DOMAINS: Final = (("cluster.local",), ("td1", "old-td"), ("cluster.local", "td1"), ("td1",))

PEERS: Final = (
    "/ns/prod/sa/web", "/ns/prod/sa/web", "/ns/prod/sa/api", "/ns/test/sa/web", "/ns/pod/sa/default", "/ns/d/sa/s",
    "/workload", "/ns/prod/x/sa/web", "/ns/prod/sa/web/more", "/a/ns/test/sa/api", "/ns/ns/sa/prod/sa/web",
)  # fmt: skip
PRINCIPALS: Final = (
    "cluster.local/ns/prod/sa/web", "cluster.local/ns/prod/sa/web", "td1/ns/prod/sa/web", "old-td/ns/test/sa/web",
    "*",
    "*/ns/prod/sa/web", "*/sa/web", "*web", "cluster.local/*", "td1/ns/prod/*", "cluster.local/ns/prod/sa/*",
    "*local/ns/prod/sa/api", "*td/ns/prod/sa/web", "other/ns/prod/sa/web", "cluster*", "td*/ns/prod/sa/web",
)  # fmt: skip
NAMESPACES: Final = ("prod", "prod", "test", "p*", "*d", "*", "p*d", "pr.d", "d", "*/sa/*", "prod/x", "*s*", "ns")
SERVICE_ACCOUNTS: Final = ("web", "prod/web", "prod/api", "test/web", "test/api", "default", "d/s")
TRUST_DOMAINS: Final = ("cluster.local", "td1", "old-td", "*", "td*", "*td", "cluster*", "*.local", "other")

AUDIENCES: Final = ("web", "api", "https://web.example/", "web.example")
REQUEST_PRINCIPALS: Final = (
    "https://a.example/alice", "https://a.example/alice", "https://a.example/*", "*", "*/alice", "*alice", "*ce",
    "https://a.example/al*", "https://b.example/bob", "*example/bob", "*/*", "b*", "http*", "https://a.example/a/b",
)  # fmt: skip
CLAIMS: Final = (
    "request.auth.claims[sub]", "request.auth.claims[groups]", "request.auth.claims[scope]",
    "request.auth.claims[a][b]",
    "request.auth.claims[level]", "request.auth.claims[flag]", "request.auth.claims[empty]",
    "request.auth.claims[roles]",
    "request.auth.claims[a]", "request.auth.claims[mixed]", "request.auth.claims[permission]",
    "request.auth.claims[a[b]c]",
)  # fmt: skip
CLAIM_VALUES: Final = (
    "alice",
    "admin",
    "dev",
    "read",
    "*",
    "ad*",
    "*d",
    "7",
    "true",
    "read write",
    "c",
    "*e*",
    "bob",
)

HOSTS: Final = (
    "web.prod", "web.prod", "web.prod", "WEB.prod", "web.prod:8080", "web.prod.", "api.prod", "127.0.0.1", "[::1]:80",
    "web.prod:", "web.prod.:80",
)  # fmt: skip
ODD_HOSTS: Final = ("", "web_prod", "a b", "web.prod:x", "user@web.prod", "web.prod,api.prod", "web.prod:80:80",
    "web.prod/x",
    "web%2eprod", "[::1", "*")  # fmt: skip
HOST_PATTERNS: Final = (
    "web.prod",
    "web.prod",
    "WEB.PROD",
    "web.prod:*",
    "web*",
    "*.prod",
    "*",
    "*prod.",
    "*:8080",
    "api*",
    "[*",
)
METHODS: Final = ("GET", "GET", "GET", "GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD", "PATCH", "PROPFIND")
METHOD_PATTERNS: Final = ("GET", "GET", "POST", "*", "G*", "*T", "HEAD", "P*", "OPTIONS")
SNIS: Final = (None, "web.prod", "outbound-.8080.-.web.prod", "Api.prod")
SNI_PATTERNS: Final = ("web.prod", "*", "outbound*", "*.prod", "api.prod")
IP_BLOCKS: Final = (
    "127.0.0.1", "127.0.0.0/8", "127.0.0.5/31", "10.0.0.0/8", "::1", "::/0", "0.0.0.0/0", "127.9.8.7/12", "9.9.9.9",
    "::ffff:127.0.0.1", "9.0.0.0/8",
)  # fmt: skip
HEADERS: Final = (
    "x-role",
    "X-Team",
    "x-under_score",
    "user-agent",
    "accept",
    "cookie",
    "authorization",
    "host",
    "x-sub",
)
HEADER_VALUES: Final = ("a", "b", "a,b", "ab", "*", "a*", "*b", "A", "a b", "web.prod", "\xe9")

PATHS: Final = (
    "/", "/admin", "/admin", "/admin/", "/admin/users", "/a/b", "/a/b/c", "/public", "/public/x.txt", "/A/b", "/a//b",
    "/api/v1/items/7", "/adminx", "/a:b",
)  # fmt: skip
PATH_PATTERNS: Final = (
    "/admin", "/admin", "/admin*", "/admin/*", "*admin", "*", "/a/b", "/a/{*}", "/a/{**}", "/{*}/b", "/{**}", "*.txt",
    "/public*", "/a//b", "/a%2Fb", "/a%2fb", "/api/{*}/items/{*}", "/{*}/{**}/c", "/{**}/users", "/a%20b", "//*",
    "/a/{**}/",
    "/a:b", "/a%3Ab", "/*x", "*;x", "/%61dmin", "/public/{*}",
)  # fmt: skip
_ODD: Final = (
    "/", "//", "/./", "/../", "/%2e/", "/%2E%2e/", "%2F", "%2f", "%5C", "%5c", "\\", ";x", "/..;/", "/..;x=1/",
    "/.;/", ".",
    "..", "%2e", "%00", "%0a", "%0D", "%25", "%252F", "%2561", "%", "%2", "%zz", "%ff", "%c3%a9", "%e2%80%a8",
    "%c2%85", "%41",
    "%61", "%7e", "~", "#f", "#f?q", "?q=1", "?q=/../x", "?", "|", "\"", "<", ">", "^", "`", "[", "]", "{", "}",
    "\x7f", "\xe9",
    "\t", " ", "*", "@", "'", "(", "!", "$", "&", "+", ",", "=", ":", "%20", "+", "admin", "b", "/a", "x.txt",
    "\x01", "%3B",
    "%3b", "%3A", "%7C", "%C0%AF", "/...", "/.a", "%2%65", "%%32%65", "%u002e",
)  # fmt: skip

ISSUERS: Final = ("https://a.example", "https://b.example", "c")
_LATER: Final = 3600


def odd_path(rng: random.Random) -> str:
    """A path, with anything in it."""
    text = rng.choice(PATHS)
    for _ in range(rng.choice((0, 0, 0, 0, 1, 1, 1, 2, 3))):
        at = rng.randint(1 if rng.random() < 0.97 else 0, len(text))
        text = text[:at] + rng.choice(_ODD) + text[at:]
    return text


@cache
def signing_key(issuer: str, name: str) -> SigningKey:
    return SigningKey.generate("RS256" if issuer == "c" else "ES256", kid=name)


@cache
def jwks(issuer: str) -> str:
    """The public keys of an issuer."""
    return json.dumps({"keys": [signing_key(issuer, name).public_jwk() for name in ("k1", "k2")]})


def _claims(rng: random.Random, issuer: str) -> dict[str, Any]:
    now = int(time.time())
    found: dict[str, Any] = {
        "iss": issuer,
        "sub": rng.choice(("alice", "alice", "bob", "a/b", "", "cedric")),
        "aud": rng.choice(("web", ["web", "api"], "https://web.example", "other", "api/")),
        "exp": now + _LATER,
    }
    extra: dict[str, Any] = {
        "azp": rng.choice(("web", "api")),
        "groups": rng.choice((["admin", "dev"], "admin", [], ["x"], "")),
        "scope": rng.choice(("read write", "read", " ", ["read write"], "read  dev", "a\tb")),
        "permission": rng.choice(("admin dev", ["admin"])),
        "roles": rng.choice(("admin dev", "dev")),
        "a": rng.choice(({"b": "c"}, {"b": ["c", "d"]}, [{"b": "c"}], "c", {"b": {"c": "d"}})),
        "level": rng.choice((7, 7.0, 1.5, -1, "7", True)),
        "flag": rng.choice((True, "true")),
        "empty": "",
        "mixed": [1, None, "dev", ["admin"]],
        "a[b]c": "c",
    }
    return found | {name: value for name, value in extra.items() if rng.random() < 0.5}


def _segment(value: Mapping[str, Any] | bytes) -> str:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def signed(header: Mapping[str, Any], payload: Mapping[str, Any] | bytes, key: SigningKey) -> str:
    text = f"{_segment(header)}.{_segment(payload)}"
    return f"{text}.{_segment(key.sign(text.encode()))}"


def _mint(rng: random.Random, issuer: str, header: Mapping[str, Any] | None = None, **changes: Any) -> str:
    key = signing_key(issuer, "k1")
    claims = {name: value for name, value in {**_claims(rng, issuer), **changes}.items() if value is not _GONE}
    return signed({"alg": key.algorithm, "kid": key.kid, **(header or {})}, claims, key)


_GONE: Final = object()
_Make = Callable[[random.Random, str], str]


def _foreign(rng: random.Random, issuer: str) -> str:
    return signed({"alg": "ES256", "kid": "k1"}, _claims(rng, issuer), signing_key("https://nobody.example", "k1"))


def _without_kid(rng: random.Random, issuer: str) -> str:
    key = signing_key(issuer, rng.choice(("k1", "k2")))
    return signed({"alg": key.algorithm}, _claims(rng, issuer), key)


_BAD: Final[tuple[_Make, ...]] = (
    lambda rng, issuer: _mint(rng, issuer, exp=int(time.time()) - 600),
    lambda rng, issuer: _mint(rng, issuer, exp=int(time.time()) - 600, aud="other"),
    lambda rng, issuer: _mint(rng, issuer, exp=_GONE),
    lambda rng, issuer: _mint(rng, issuer, exp=0),
    lambda rng, issuer: _mint(rng, issuer, exp="tomorrow"),
    lambda rng, issuer: _mint(rng, issuer, exp=time.time() + 600.5),
    lambda rng, issuer: _mint(rng, issuer, nbf=int(time.time()) + 600),
    lambda rng, issuer: _mint(rng, issuer, nbf=None),
    lambda rng, issuer: _mint(rng, issuer, iat=int(time.time()) + 600),
    lambda rng, issuer: _mint(rng, issuer, iat=-1),
    lambda rng, issuer: _mint(rng, issuer, sub=7),
    lambda rng, issuer: _mint(rng, issuer, sub=_GONE),
    lambda rng, issuer: _mint(rng, issuer, iss=_GONE),
    lambda rng, issuer: _mint(rng, issuer, iss="https://other.example"),
    lambda rng, issuer: _mint(rng, issuer, aud=_GONE),
    lambda rng, issuer: _mint(rng, issuer, aud=7),
    lambda rng, issuer: _mint(rng, issuer, {"crit": ["b64"]}),
    lambda rng, issuer: _mint(rng, issuer, {"b64": True}),
    lambda rng, issuer: _mint(rng, issuer, {"kid": "k9"}),
    lambda rng, issuer: _mint(rng, issuer, {"kid": "k2"}),
    lambda rng, issuer: _mint(rng, issuer, {"kid": ""}),
    lambda rng, issuer: _mint(rng, issuer, {"kid": None}),
    lambda rng, issuer: _mint(rng, issuer, {"alg": "none"}),
    lambda rng, issuer: _mint(rng, issuer, {"alg": "HS256"}),
    lambda rng, issuer: _mint(rng, issuer, {"typ": "at+jwt"}),
    lambda rng, issuer: _mint(rng, issuer)[:-4] + "AAAA",
    lambda rng, issuer: "." + _mint(rng, issuer),
    lambda rng, issuer: _mint(rng, issuer) + ".",
    lambda rng, issuer: _mint(rng, issuer).replace(".", "..", 1),
    lambda rng, issuer: _mint(rng, issuer) + "=",
    lambda rng, issuer: _mint(rng, issuer) + ".x",
    lambda rng, issuer: _mint(rng, issuer).replace(".", ".\t", 1),
    lambda rng, issuer: "garbage",
    lambda rng, issuer: "",
    lambda rng, issuer: "a.b.c",
    lambda rng, issuer: signed({"alg": "ES256", "kid": "k1"}, b"[]", signing_key(issuer, "k1")),
    _foreign,
    _without_kid,
)


def token(rng: random.Random, issuer: str) -> str:
    """A token of an issuer; most hold."""
    return _mint(rng, issuer) if rng.random() < 0.7 else rng.choice(_BAD)(rng, issuer)
