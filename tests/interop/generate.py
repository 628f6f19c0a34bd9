"""Policies and requests, made up from a seed: every field, every action, every form of value, and what is odd.

The same seed gives the same policies and requests but for times, keys and addresses.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from interop import words
from interop.client import Route
from interop.sidecar import Site
from meshsec import Connection, HttpRequest, MeshConfig, PeerIdentity, Workload, WorkloadPolicy
from meshsec.attributes import Target, read_target
from meshsec.resources import PathNormalization, parse

__all__ = ["Case", "Question", "cases", "questions"]

_ROOT: Final = "istio-system"
Document = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """Resources and settings, compiled.

    Attributes:
        documents: the resources, as JSON.
        config: the mesh's settings.
        policy: both, compiled for the one workload that there is.
        site: where Envoy serves them.
    """

    documents: tuple[Document, ...]
    config: MeshConfig
    policy: WorkloadPolicy
    site: Site

    @classmethod
    def of(cls, documents: Sequence[Document], config: MeshConfig, site: Site) -> Case:
        """Compile. Raises ConfigError."""
        text = "\n---\n".join(map(json.dumps, documents))
        resources = parse(text) if documents else []
        workload = Workload(name="web", namespace="prod", labels={"app": "web"})
        return cls(tuple(documents), config, WorkloadPolicy.compile(resources, workload, config), site)

    def at(self, site: Site) -> Case:
        """The same elsewhere."""
        return replace(self, site=site)


@dataclass(frozen=True)
class Question:
    """One request. Text is bytes as latin-1.

    Attributes:
        method: the method.
        target: as it stands in the request line.
        headers: every line, Host among them.
        source_ip: where it comes from.
        peer: the SPIFFE ID of its certificate; None: plaintext.
        sni: the TLS server name.
    """

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    source_ip: str
    peer: str | None = None
    sni: str | None = None

    @property
    def bytes(self) -> bytes:
        """What goes over the wire."""
        lines = [f"{self.method} {self.target} HTTP/1.1", *(f"{name}: {value}" for name, value in self.headers)]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")

    def route(self, site: Site) -> Route:
        """The way it goes."""
        return Route(site, self.source_ip, self.peer, self.sni)

    def connection(self, site: Site) -> Connection:
        """The same, as a server would describe it to meshsec."""
        return Connection(
            source_ip=self.source_ip,
            destination_ip=site.ip,
            destination_port=site.plain_port if self.peer is None else site.tls_port,
            peer=None if self.peer is None else PeerIdentity.of(self.peer),
            sni=self.sni,
            tls=self.peer is not None,
        )

    @property
    def request(self) -> HttpRequest:
        """The request, as a server would describe it to meshsec."""
        host = next((value for name, value in self.headers if name.lower() == "host"), None)
        return HttpRequest(self.method, self.target, host, self.headers, "http" if self.peer is None else "https")


def cases(rng: random.Random, sites: Sequence[Site]) -> Iterator[Case]:
    """One policy for each site: every mode of normalization and both compatibilities in turn."""
    modes = list(PathNormalization)
    for index, site in enumerate(sites):
        istio = index // len(modes) % 2 == 1
        domain, *aliases = rng.choice(words.DOMAINS)
        config = MeshConfig(
            trust_domain=domain,
            trust_domain_aliases=tuple(aliases),
            path_normalization=modes[index % len(modes)],
            compatibility="istio" if istio else "safe",
            ambiguous_paths="istio" if istio else rng.choice(("refuse", "judge")),
            allow_no_policy=True,
            num_trusted_proxies=rng.choice((0, 0, 0, 1, 2)),
        )
        yield Case.of(_Author(rng, site, config).documents(), config, site)


def questions(rng: random.Random, case: Case, count: int) -> list[Question]:
    """Requests for one policy; those of one connection one after the other."""
    found = [_Caller(rng, case).question() for _ in range(count)]
    return sorted(found, key=lambda item: (item.peer or "", item.sni or "", item.source_ip))


@dataclass(frozen=True)
class _Author:
    """Writes policies."""

    rng: random.Random
    site: Site
    config: MeshConfig

    def documents(self) -> list[Document]:
        """Half of the time one policy on one attribute, so that every verdict tells of it."""
        if self._maybe(0.5):
            return [self._request(0, self.rng.choice((1, 1, 1, 2))), self._focused()]
        policies = [self._policy(index) for index in range(self.rng.choice((0, 1, 1, 2, 2, 3, 4)))]
        counts = self.rng.choices((1, 1, 1, 2, 3), k=self.rng.choice((0, 1, 1, 1, 2)))
        requests = [self._request(index, count) for index, count in enumerate(counts)]
        if requests and self.config.compatibility == "safe" and self._maybe(0.3):
            annotations = self._annotations()
            for request in requests:
                request["metadata"]["annotations"] = annotations
        return [*requests, *policies]

    def _annotations(self) -> Document:
        """Ours, of which Istio knows nothing but what is exported."""
        fields = self._some(("meshsec.dev/include-paths", "meshsec.dev/exclude-paths"), 2)
        return {field: ",".join(self._some(words.PATH_PATTERNS)) for field in fields}

    def _some(self, values: Sequence[Any], most: int = 3) -> list[Any]:
        places = dict.fromkeys(self.rng.randrange(len(values)) for _ in range(self.rng.randint(1, most)))
        return [values[place] for place in places]

    def _maybe(self, chance: float) -> bool:
        return self.rng.random() < chance

    def _document(self, kind: str, name: str, spec: Mapping[str, Any]) -> Document:
        namespace = _ROOT if self._maybe(0.2) else "prod"
        selector = {"selector": {"matchLabels": {"app": "web"}}} if self._maybe(0.3) else {}
        return {
            "apiVersion": "security.istio.io/v1",
            "kind": kind,
            "metadata": {"name": name, "namespace": namespace},
            "spec": {**selector, **spec},
        }

    def _policy(self, index: int) -> Document:
        action = self.rng.choice(("ALLOW", "ALLOW", "DENY", "DENY", "AUDIT"))
        count = self.rng.choice((1, 1, 1, 2, 3, 0 if action == "ALLOW" else 1))
        rules = [self._rule() for _ in range(count)]
        found = self._document("AuthorizationPolicy", f"p{index}", {"action": action, "rules": rules})
        if action != "AUDIT" and self._maybe(0.1):
            found["metadata"]["annotations"] = {"istio.io/dry-run": "true"}
        return found

    def _focused(self) -> Document:
        action = self.rng.choice(("ALLOW", "DENY"))
        fields = {**self._operations, **self._whens}
        name = self.rng.choice(list(fields))
        if name in self._operations:
            rule = {"to": [{"operation": self._fields({name: self._operations[name]})}]}
        else:
            rule = {"when": [self._when(name)]}
        return self._document("AuthorizationPolicy", "p", {"action": action, "rules": [rule]})

    def _rule(self) -> Document:
        rule: Document = {}
        if self._maybe(0.5):
            rule["from"] = [{"source": self._source()} for _ in range(self.rng.choice((1, 1, 2)))]
        if self._maybe(0.55):
            rule["to"] = [{"operation": self._operation()} for _ in range(self.rng.choice((1, 1, 2)))]
        if self._maybe(0.4):
            rule["when"] = [self._when() for _ in range(self.rng.choice((1, 1, 2)))]
        return rule

    def _fields(self, table: Mapping[str, Sequence[str]]) -> Document:
        found: Document = {}
        for name in self._some(list(table), 2):
            either = self.rng.random()
            negated = f"not{name[0].upper()}{name[1:]}"
            if either < 0.75:
                found[name] = self._some(table[name])
            if either > 0.7:
                found[negated] = self._some(table[name])
        return found

    def _source(self) -> Document:
        if self._maybe(0.15):
            return self._fields({"serviceAccounts": words.SERVICE_ACCOUNTS, "ipBlocks": self._blocks})
        return self._fields(
            {
                "principals": words.PRINCIPALS,
                "requestPrincipals": words.REQUEST_PRINCIPALS,
                "namespaces": words.NAMESPACES,
                "trustDomains": words.TRUST_DOMAINS,
                "ipBlocks": self._blocks,
                "remoteIpBlocks": self._blocks,
            }
        )

    @property
    def _blocks(self) -> tuple[str, ...]:
        return (*words.IP_BLOCKS, self.site.ip)

    @property
    def _ports(self) -> tuple[str, ...]:
        return (str(self.site.tls_port), str(self.site.plain_port), "1")

    @property
    def _operations(self) -> dict[str, Sequence[str]]:
        return {
            "hosts": words.HOST_PATTERNS,
            "ports": self._ports,
            "methods": words.METHOD_PATTERNS,
            "paths": self._paths,
        }

    @property
    def _paths(self) -> list[str]:
        """Without those that no path has once it is normalized: they are refused."""
        mode = self.config.path_normalization
        targets = ((text, read_target(text, mode, "istio")) for text in words.PATH_PATTERNS)
        return [
            text
            for text, target in targets
            if text[-1] == "*" or "{" in text or not isinstance(target, Target) or target.path == text
        ]

    @property
    def _whens(self) -> dict[str, Sequence[str]]:
        return {
            "source.ip": self._blocks,
            "remote.ip": self._blocks,
            "destination.ip": self._blocks,
            "destination.port": self._ports,
            "source.namespace": words.NAMESPACES,
            "source.principal": words.PRINCIPALS,
            "source.serviceAccount": words.SERVICE_ACCOUNTS,
            "source.trustDomain": words.TRUST_DOMAINS,
            "connection.sni": words.SNI_PATTERNS,
            "request.auth.principal": words.REQUEST_PRINCIPALS,
            "request.auth.audiences": words.AUDIENCES,
            "request.auth.presenter": ("web", "api", "*"),
            **{f"request.headers[{name}]": words.HEADER_VALUES for name in words.HEADERS},
            **dict.fromkeys(words.CLAIMS, words.CLAIM_VALUES),
        }

    def _operation(self) -> Document:
        return self._fields(self._operations)

    def _when(self, key: str | None = None) -> Document:
        keys = self._whens
        key = key or self.rng.choice(list(keys))
        either = self.rng.random()
        found: Document = {"key": key}
        if either < 0.75:
            found["values"] = self._some(keys[key])
        if either > 0.7:
            found["notValues"] = self._some(keys[key])
        return found

    def _request(self, index: int, count: int) -> Document:
        rules = [self._jwt_rule() for _ in range(count)]
        return self._document("RequestAuthentication", f"r{index}", {"jwtRules": rules})

    def _jwt_rule(self) -> Document:
        issuer = self.rng.choice(words.ISSUERS)
        rule: Document = {"issuer": issuer, "jwks": words.jwks(issuer)}
        optional: Mapping[str, Callable[[], Any]] = {
            "audiences": lambda: self._some(words.AUDIENCES),
            "fromHeaders": lambda: self._some(
                (
                    {"name": "x-token"},
                    {"name": "X-Token", "prefix": "Token "},
                    {"name": "Authorization", "prefix": "Bearer "},
                ),
                2,
            ),
            "fromParams": lambda: self._some(("token", "access_token"), 2),
            "fromCookies": lambda: ["session"],
            "forwardOriginalToken": lambda: True,
            "outputPayloadToHeader": lambda: "x-payload",
            "outputClaimToHeaders": lambda: self._some(
                ({"header": "x-sub", "claim": "sub"}, {"header": "x-level", "claim": "level"}), 2
            ),
            "spaceDelimitedClaims": lambda: ["roles"],
        }
        rule |= {name: make() for name, make in optional.items() if self._maybe(0.22)}
        return rule


@dataclass(frozen=True)
class _Caller:
    """Makes requests."""

    rng: random.Random
    case: Case

    def question(self) -> Question:
        peer = self._peer()
        v6 = ":" in self.case.site.ip
        lines, parameters = self._tokens()
        return Question(
            method=self.rng.choice(words.METHODS) if self._maybe(0.98) else self.rng.choice(("get", "FOO", "G-T")),
            target=self._target(parameters),
            headers=(*self._headers(), *lines),
            source_ip="::1" if v6 else self.rng.choice(("127.0.0.1", "127.0.0.1", "127.0.0.4", "127.9.0.1")),
            peer=peer,
            sni=self.rng.choice(words.SNIS) if peer else None,
        )

    def _maybe(self, chance: float) -> bool:
        return self.rng.random() < chance

    def _peer(self) -> str | None:
        """Few identities for one policy, so that connections are shared."""
        if self._maybe(0.35):
            return None
        domains = (self.case.config.trust_domain, *self.case.config.trust_domain_aliases)
        return f"spiffe://{self.rng.choice(domains)}{self.rng.choice(words.PEERS)}"

    def _target(self, parameters: Sequence[str]) -> str:
        path = words.odd_path(self.rng).strip(" \t")
        if self._maybe(0.1):
            parameters = [*parameters, self.rng.choice(("q=1", "a=b&c=%2F", "token=", "access_token=x", ""))]
        if parameters:
            path += "?" + "&".join(parameters)
        if self._maybe(0.03):
            return f"http{self.rng.choice(('', 's'))}://{self.rng.choice(words.HOSTS)}{path}"
        return path if self._maybe(0.99) else self.rng.choice(("*", "admin", "/*", "", "web.prod:80"))

    def _headers(self) -> Iterator[tuple[str, str]]:
        roll = self.rng.random()
        if roll < 0.94:
            yield "Host", self.rng.choice(words.HOSTS)
        elif roll < 0.98:
            yield "Host", self.rng.choice(words.ODD_HOSTS)
        if 0.97 < roll < 0.99:
            yield "host", self.rng.choice(words.HOSTS)
        for name in ("x-role", "X-Team", "x-under_score", "User-Agent", "accept", "x-sub", "x-payload"):
            if self._maybe(0.25):
                yield (
                    name,
                    self.rng.choice(
                        (
                            "a",
                            "b",
                            "a,b",
                            "ab",
                            "",
                            "A",
                            " a ",
                            "a b",
                            "b\t",
                            "\xe9",
                            "\xc3\xa9",
                            "a\x01"[: 1 if self._maybe(0.9) else 2],
                        )
                    ),
                )
                if self._maybe(0.2):
                    yield name.lower(), self.rng.choice(("a", "b", ""))
        if self._maybe(0.2):
            yield (
                "X-Forwarded-For",
                self.rng.choice(("9.9.9.9", "10.0.0.1, 9.9.9.9", "9.9.9.9,", "x", "::1", "9.9.9.9:80", "[::1]")),
            )
        if self._maybe(0.05):
            yield from (
                ("Origin", "https://x.example"),
                ("Access-Control-Request-Method", self.rng.choice(("GET", ""))),
            )

    def _tokens(self) -> tuple[list[tuple[str, str]], list[str]]:
        """Header lines and query parameters with tokens in them: mostly none or one."""
        lines: list[tuple[str, str]] = []
        parameters: list[str] = []
        issuers = [rule.issuer for item in self.case.policy.requests for rule in item.spec.jwt_rules] or words.ISSUERS
        for _ in range(self.rng.choice((0, 0, 1, 1, 1, 2))):
            token = words.token(self.rng, self.rng.choice(issuers if self._maybe(0.85) else words.ISSUERS))
            place = self.rng.choice(
                ("bearer", "bearer", "bearer", "bearer", "bearer", "odd", "x-token", "x-prefix", "param", "cookie")
            )
            if place == "param":
                parameters.append(f"{self.rng.choice(('access_token', 'token', 'acces%73_token'))}={token}")
            else:
                lines.append(self._line(place, token))
        return lines, parameters

    def _line(self, place: str, token: str) -> tuple[str, str]:
        if place == "cookie":
            form = self.rng.choice(
                ("session={}", "session={}", "a=b; session={}; c", 'session="{}"', "session={}; session=x")
            )
            return "Cookie", form.format(token)
        if place == "x-token":
            return "x-token", token
        if place == "x-prefix":
            return "X-Token", self.rng.choice(("Token {}", "token {}", "a Token {}")).format(token)
        odd = (
            "bearer {}",
            "Bearer  {}",
            "Basic x",
            "Basic y, Bearer {}",
            "Bearer",
            "Bearer {},x",
            "{}",
            "Bearer\t{}",
            "Bearer={}",
        )
        form = self.rng.choice(odd) if place == "odd" else "Bearer {}"
        return self.rng.choice(("Authorization", "authorization")), form.format(token)
