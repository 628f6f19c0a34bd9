"""JWT-SVIDs in requests: an issuer ``spiffe://<trust domain>`` of mesh.yaml, SPIFFE's rules, the domain's bundle."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from meshsec import Connection, HttpRequest, MeshConfig, Reason, Workload
from meshsec.attributes import AuthContext
from meshsec.authn import KeySource
from meshsec.ca import CertificateAuthority
from meshsec.errors import ConfigError
from meshsec.jose import SigningKey
from meshsec.mesh import Mesh
from meshsec.policy import WorkloadPolicy
from meshsec.resources import IssuerConfig, KeysConfig, load_mesh, parse
from tokens import ISSUER, NOW, claims, jwks, mint, raw, signing_key

DOMAIN = "spiffe://cluster.local"
WEB, FOREIGN = f"{DOMAIN}/ns/prod/sa/web", "spiffe://partner.example/ns/prod/sa/web"
WORKLOAD = Workload(name="reviews", namespace="prod")
CONFIG = MeshConfig(issuers={DOMAIN: IssuerConfig(jwt_svid=True)}, keys=KeysConfig(cooldown=0.01))
POLICY = """
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {{name: callers, namespace: prod}}
spec:
  jwtRules:
    - {{issuer: "{issuer}", audiences: [reviews, "https://reviews.prod/"], {keys}}}
    - {{issuer: "https://issuer.example", audiences: [web], jwks: '{users}'}}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: callers, namespace: prod}}
spec:
  rules:
    - when: [{{key: "request.auth.claims[sub]", values: ["{web}"]}}]
    - from: [{{source: {{requestPrincipals: ["https://issuer.example/alice"]}}}}]
"""
KEY, OTHER = signing_key("ES256"), signing_key("ES256", "k2")


def bundle(*keys: SigningKey, use: str = "jwt-svid") -> str:
    """A SPIFFE bundle with these JWT authorities, and a key for users' tokens beside them, which is none."""
    members = [{**key.public_jwk(), "use": use} for key in keys]
    return json.dumps({"keys": [*members, OTHER.public_jwk()], "spiffe_sequence": 1, "spiffe_refresh_hint": 60})


def compiled(keys: str | None = None, issuer: str = DOMAIN, config: MeshConfig = CONFIG) -> WorkloadPolicy:
    """A workload that takes JWT-SVIDs of its trust domain and users' tokens."""
    inline = f"jwks: '{bundle(KEY) if keys is None else keys}'"
    text = POLICY.format(issuer=issuer, keys=inline, users=jwks(KEY), web=WEB)
    return WorkloadPolicy.compile(parse(text), WORKLOAD, config)


def svid(key: SigningKey = KEY, header: dict[str, Any] | None = None, **changes: Any) -> str:
    """A good JWT-SVID but for these changes."""
    head = {"alg": key.algorithm, "kid": key.kid, "typ": "JWT", **(header or {})}
    given = claims(**{"sub": WEB, "aud": ["reviews"], "iss": None, **changes})
    return raw({name: value for name, value in head.items() if value is not None}, given, key)


def judged(token: str, policy: WorkloadPolicy | None = None) -> AuthContext:
    """What becomes of a request with the token."""
    request = HttpRequest("GET", "/", "reviews.prod", [("authorization", f"Bearer {token}")])
    found = (policy or compiled()).judge(Connection(), request, {}, now=NOW)
    assert isinstance(found, AuthContext)
    return found


@pytest.mark.parametrize("compatibility", ["safe", "istio"])
@pytest.mark.parametrize(
    ("token", "reason"),
    [
        (svid(), Reason.ALLOW_RULE),
        (svid(aud=["other", "reviews"]), Reason.ALLOW_RULE),
        (svid(aud="https://reviews.prod/"), Reason.ALLOW_RULE),
        (svid(iss="https://oidc.cluster.local"), Reason.ALLOW_RULE),
        (svid(header={"typ": "JOSE"}), Reason.ALLOW_RULE),
        (svid(sub=f"{DOMAIN}/ns/prod/sa/other"), Reason.NO_ALLOW_RULE),
        (svid(aud="other"), Reason.JWT_AUDIENCE),
        (svid(aud="reviews.prod"), Reason.JWT_AUDIENCE),  # Istio's prefixes and slashes are not SPIFFE's
        (svid(aud=None), Reason.JWT_AUDIENCE),
        (svid(exp=None), Reason.JWT_NO_EXPIRY),
        (svid(exp=NOW - 61), Reason.JWT_EXPIRED),
        (svid(nbf=NOW + 61), Reason.JWT_NOT_YET_VALID),
        (svid(header={"typ": "at+jwt"}), Reason.JWT_MALFORMED),
        (svid(header={"x5t": "a"}), Reason.JWT_CRITICAL_HEADER),
        (svid(signing_key("EdDSA")), Reason.JWT_ALGORITHM),
        (svid(OTHER), Reason.JWT_UNKNOWN_KEY),
        (svid(sub=FOREIGN), Reason.JWT_ISSUER),
        (svid(sub=f"{DOMAIN}.evil.example/ns/prod/sa/web"), Reason.JWT_ISSUER),
        (svid(sub=DOMAIN), Reason.JWT_ISSUER),
        (svid(sub=f"{DOMAIN}/"), Reason.JWT_CLAIM_TYPE),
        (svid(sub=f"{DOMAIN}/a%20b"), Reason.JWT_CLAIM_TYPE),
        (svid(sub="alice"), Reason.JWT_ISSUER),
        (svid(sub=None), Reason.JWT_ISSUER),
        (svid(sub=7), Reason.JWT_ISSUER),
        (mint(), Reason.ALLOW_RULE),
        (mint(exp=NOW - 100), Reason.JWT_EXPIRED),
    ],
)
def test_spiffes_rules_hold(token: str, reason: Reason, compatibility: Any) -> None:
    """Form, subject, key, times, audience; users' tokens are judged beside them as ever."""
    config = MeshConfig(issuers=CONFIG.issuers, compatibility=compatibility)
    assert judged(token, compiled(config=config)).decision.reason is reason


def test_the_trust_domain_is_the_issuer_whatever_the_token_says() -> None:
    """A domain that signs a famous ``iss`` into its tokens does not become that issuer."""
    found = judged(svid(iss=ISSUER, sub=WEB), compiled())
    assert found.principal is not None
    assert (found.principal.issuer, found.principal.subject) == (DOMAIN, WEB)
    assert found.principal.claims["iss"] == DOMAIN
    assert found.peer is None


@pytest.mark.parametrize("use", ["sig", "x509-svid", "enc", ""])
def test_only_keys_for_jwt_svids_count(use: str) -> None:
    """A key set for users' tokens is no bundle."""
    for keys in (bundle(KEY, use=use), jwks(KEY)):
        with pytest.raises(ConfigError, match=r"spec.jwtRules\[0\].jwks.*no JWT authority"):
            compiled(keys)
    with pytest.raises(ConfigError, match="not a SPIFFE bundle"):
        compiled('{"keys": [{}], "spiffe_sequence": "1"}')


def test_without_mesh_yamls_word_it_is_an_issuer_like_any_other() -> None:
    """Istio's reading: ``iss`` must be that text."""
    plain = compiled(jwks(KEY), config=MeshConfig())
    assert judged(svid(), plain).decision.reason is Reason.JWT_ISSUER
    assert judged(svid(iss=DOMAIN, sub=WEB), plain).decision.reason is Reason.ALLOW_RULE


def test_somebody_must_be_meant() -> None:
    """A JWT-SVID's rule names audiences."""
    text = POLICY.format(issuer=DOMAIN, keys=f"jwks: '{bundle(KEY)}'", users=jwks(KEY), web=WEB)
    with pytest.raises(ConfigError, match=r"spec.jwtRules\[0\].issuer.*name the audiences"):
        WorkloadPolicy.compile(
            parse(text.replace('audiences: [reviews, "https://reviews.prod/"], ', "")), WORKLOAD, CONFIG
        )


@pytest.mark.parametrize(
    "name", ["https://issuer.example", f"{DOMAIN}/", WEB, "spiffe://", "spiffe://A.b", "cluster.local"]
)
def test_jwt_svids_are_of_a_trust_domain(tmp_path: Path, name: str) -> None:
    """And of nothing else."""
    (tmp_path / "mesh.yaml").write_text(f"issuers: {{'{DOMAIN}': {{jwtSvid: true, refresh: 60}}}}")
    assert load_mesh(tmp_path).config.issuers[DOMAIN].jwt_svid
    (tmp_path / "mesh.yaml").write_text(f"issuers: {{'{name}': {{jwtSvid: true}}}}")
    with pytest.raises(ConfigError, match=r"mesh\.yaml:1:.*jwtSvid"):
        load_mesh(tmp_path)


@contextmanager
def published(documents: dict[str, bytes]) -> Iterator[str]:
    """A real server whose one document may be replaced; its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = documents["bundle"]
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/bundle"
        server.shutdown()
        thread.join()


def test_an_authoritys_tokens_are_taken_with_its_published_bundle() -> None:
    """From ``meshsec.ca`` over HTTP: issued, verified, rotated; another authority's are refused."""
    authority, successor = (CertificateAuthority.create("cluster.local") for _ in range(2))
    documents = {"bundle": authority.bundle_document()}
    with published(documents) as url:
        resources = parse(POLICY.format(issuer=DOMAIN, keys=f'jwksUri: "{url}"', users=jwks(KEY), web=WEB))
        later = [0.0]
        with Mesh(workload=WORKLOAD, resources=resources, config=CONFIG) as mesh:
            mesh._keys._clock = lambda: time.monotonic() + later[0]

            def reason(token: str) -> Reason:
                request = HttpRequest("GET", "/", "reviews.prod", [("authorization", f"Bearer {token}")])
                return mesh.decide(Connection(), request).reason

            good, successors = (one.issue_jwt_svid(WEB, ["reviews"]) for one in (authority, successor))
            assert reason(good) is Reason.ALLOW_RULE
            assert reason(authority.issue_jwt_svid(WEB, ["bank"])) is Reason.JWT_AUDIENCE
            assert reason(successors) is Reason.JWT_UNKNOWN_KEY
            shelf = mesh._keys._shelves[KeySource(DOMAIN, url)]
            assert shelf.max_age == json.loads(documents["bundle"])["spiffe_refresh_hint"]
            documents["bundle"] = b"<html>"
            later[0] += 1
            assert reason(successors) is Reason.JWT_UNKNOWN_KEY
            assert reason(good) is Reason.ALLOW_RULE
            documents["bundle"] = successor.bundle_document()
            later[0] += 1
            assert reason(successor.issue_jwt_svid(WEB, ["reviews"])) is Reason.ALLOW_RULE
            assert reason(good) is Reason.JWT_UNKNOWN_KEY


def test_they_are_remembered_like_others() -> None:
    """The second time it is verified it gets into the cache, the third time it is found there."""
    policy = compiled()
    token = svid()
    assert {judged(token, policy).decision.reason for _ in range(4)} == {Reason.ALLOW_RULE}
    rule = next(rule for rule in policy.tokens.rules if rule.profile.workloads_of)
    assert rule.inline is not None
    assert rule.inline.cache is not None
    assert len(rule.inline.cache._entries.young) == 1
    assert judged(svid(exp=int(time.time()) - NOW), policy).decision.reason is not Reason.ALLOW_RULE


def test_a_legacy_policy_names_its_audiences_too() -> None:
    """What does not go together is a configuration error there as well, with its place."""
    legacy = """
apiVersion: authentication.istio.io/v1alpha1
kind: Policy
metadata: {{name: default, namespace: prod}}
spec: {{origins: [{{jwt: {{issuer: "{domain}", jwksUri: "https://bundle.example/"{more}}}}}]}}
"""
    with pytest.raises(ConfigError, match=r"spec\.origins\[0\]\.jwt\.issuer: a JWT-SVID is for somebody"):
        WorkloadPolicy.compile(parse(legacy.format(domain=DOMAIN, more="")), WORKLOAD, CONFIG)
    named = parse(legacy.format(domain=DOMAIN, more=", audiences: [reviews]"))
    assert WorkloadPolicy.compile(named, WORKLOAD, CONFIG).sources
