"""A real Envoy fetches an issuer's keys as ``to_envoy`` tells it, and takes and refuses the tokens that we do."""

from __future__ import annotations

import http.client
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import pytest

from authorizer import Authorizer, running
from interop import sidecar
from interop.sidecar import Site, sites
from meshsec import Connection, HttpRequest, Mesh, MeshConfig, Workload, WorkloadPolicy
from meshsec.resources import parse
from tokens import ISSUER, encode, jwks, mint, raw, signing_key

WEB: Final = Workload(name="web", namespace="prod")
POLICIES: Final = """
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {{name: users, namespace: prod}}
spec: {{jwtRules: [{{issuer: {issuer}, audiences: [web], jwksUri: 'http://127.0.0.1:{port}/keys'}}]}}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: users, namespace: prod}}
spec: {{rules: [{{from: [{{source: {{requestPrincipals: ['*']}}}}]}}]}}
"""
HTML: Final = b"<html>Sign in</html>"


def _good(**changes: Any) -> str:
    return mint(**{"iat": int(time.time()), "exp": int(time.time()) + 600, **changes})


def _of_another_key() -> str:
    """The name of the key is right, the key is not."""
    payload = {"iss": ISSUER, "sub": "alice", "aud": "web", "exp": int(time.time()) + 600}
    return raw({"alg": "ES256", "kid": "k1"}, payload, signing_key(name="k2"))


def _unsigned() -> str:
    payload = {"iss": ISSUER, "sub": "alice", "aud": "web", "exp": int(time.time()) + 600}
    return f"{encode({'alg': 'none'})}.{encode(payload)}."


TOKENS: Final = {
    "a good one": (_good, 200),
    "of another key": (_of_another_key, 401),
    "of an unknown key": (lambda: _good(key=signing_key(name="k3")), 401),
    "expired": (lambda: _good(exp=int(time.time()) - 120), 401),
    "for somebody else": (lambda: _good(aud="shop"), 403),
    "of another issuer": (lambda: _good(iss="https://evil.example"), 401),
    "unsigned": (_unsigned, 401),
    "none": (lambda: None, 403),
}


@contextmanager
def _both(issuer: Authorizer) -> Iterator[tuple[Site, Mesh]]:
    """Envoy and a mesh under the same policy; each fetches the keys for itself."""
    resources, config = parse(POLICIES.format(issuer=ISSUER, port=issuer.port)), MeshConfig(compatibility="istio")
    exported = WorkloadPolicy.compile(resources, WEB, config).to_envoy()
    (provider,) = exported["http_filters"][0]["typed_config"]["providers"].values()
    name = provider["remote_jwks"]["http_uri"]["cluster"]
    address = {"socket_address": {"address": "127.0.0.1", "port_value": issuer.port}}
    endpoints = {"cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}]}
    cluster = {"name": name, "type": "STATIC", "load_assignment": endpoints}
    (place,) = sites(1)
    with (
        sidecar.running([(place, {**exported, "clusters": [cluster]})], ["cluster.local"]),
        Mesh(workload=WEB, resources=resources, config=config) as mesh,
    ):
        yield place, mesh


def _envoys(place: Site, token: str | None) -> int:
    connection = http.client.HTTPConnection(place.ip, place.plain_port, timeout=30)
    connection.request("GET", "/", headers={"host": "web.prod", **_header(token)})
    status = connection.getresponse().status
    connection.close()
    return status


def _ours(mesh: Mesh, token: str | None) -> int:
    headers = tuple(_header(token).items())
    return mesh.decide(Connection(), HttpRequest("GET", "/", "web.prod", headers, "http")).status


def _header(token: str | None) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"} if token else {}


@pytest.fixture(scope="module")
def serving() -> Iterator[tuple[Site, Mesh]]:
    """Where both are asked, with an issuer that is well."""
    with running() as issuer:
        issuer.body = jwks(signing_key()).encode()
        with _both(issuer) as found:
            yield found


@pytest.mark.parametrize("kind", TOKENS)
def test_both_take_the_same_tokens(serving: tuple[Site, Mesh], kind: str) -> None:
    """By keys that each has fetched for itself."""
    place, mesh = serving
    make, status = TOKENS[kind]
    token = make()
    assert (_envoys(place, token), _ours(mesh, token)) == (status, status)


@pytest.mark.parametrize(("status", "body"), [(500, b""), (200, HTML), (200, b"{}"), (404, b"no")])
def test_without_keys_both_refuse(status: int, body: bytes) -> None:
    """An issuer that has none to give: a token that would be good is refused, as is one that would not."""
    with running() as issuer:
        issuer.status, issuer.body = status, body
        with _both(issuer) as (place, mesh):
            for token in (_good(), _of_another_key()):
                assert (_envoys(place, token), _ours(mesh, token)) == (401, 401)
