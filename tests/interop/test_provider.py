"""End users of a certified OpenID Provider, at a real uvicorn that meshsec protects: all over mutual TLS.

Programs and people, nested roles, every algorithm; keys that are added, replaced and withdrawn; a provider that fails
in every way; a token that is bound to a certificate. And the same tokens to a real Envoy.
"""

from __future__ import annotations

import http.client
import json
import ssl
import sys
import time
from base64 import urlsafe_b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit
from urllib.request import urlopen

import pytest

import live
from interop.openid import RESOURCE, Provider, provider, signing_jwk, unavailable
from meshsec import MeshConfig
from meshsec.authn import KeySource, NeedKeys
from meshsec.ca import CertificateAuthority, write_identity
from meshsec.resources import IssuerConfig, KeysConfig
from meshsec.sources import KeyStore
from meshsec.spiffe import X509BundleSet, X509Svid
from meshsec.tls import StaticMaterial, authorize_id, client_context
from waiting import until

MESH_YAML: Final = """
workloads:
  served: {{namespace: prod, serviceAccount: served, identity: {{files: identity}}}}
meshConfig: {{trustDomain: td.example}}
keys: {{refresh: {refresh}, cooldown: 1, timeout: 2}}
issuers:
  {issuer}: {{caFile: roots.pem}}
"""
POLICIES: Final = """
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {{name: users, namespace: prod}}
spec:
  jwtRules:
    - {{issuer: "{issuer}", audiences: ["{resource}"]}}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: users, namespace: prod}}
spec:
  rules:
    - to: [{{operation: {{paths: [/reviews]}}}}]
      when: [{{key: "request.auth.claims[realm_access][roles]", values: [reviewer]}}]
    - to: [{{operation: {{paths: [/admin]}}}}]
      when:
        - {{key: "request.auth.claims[groups]", values: [admins]}}
        - {{key: "request.auth.claims[resource_access][reviews][roles]", values: [writer]}}
    - to: [{{operation: {{paths: [/program]}}}}]
      from: [{{source: {{requestPrincipals: ["{issuer}/service", "{issuer}/batch"]}}}}]
      when: [{{key: "request.auth.claims[scope]", values: [reviews]}}]
"""
BATCH: Final = "spiffe://td.example/ns/prod/sa/batch"
WEB: Final = "spiffe://td.example/ns/prod/sa/web"


@pytest.fixture(scope="module")
def authority() -> CertificateAuthority:
    """Of the mesh's trust domain."""
    return CertificateAuthority.create("td.example")


@pytest.fixture(scope="module")
def idp(tmp_path_factory: pytest.TempPathFactory, authority: CertificateAuthority) -> Iterator[Provider]:
    """The provider; where it cannot be had, that is said."""
    why = unavailable()
    if why:
        pytest.skip(f"WITHOUT THE OPENID PROVIDER: {why}")
    with provider(tmp_path_factory.mktemp("provider"), authority.bundle) as found:
        yield found


@dataclass(frozen=True)
class Protected:
    """The application, and how to call it."""

    served: live.Served

    def ask(self, path: str, token: str | None, svid: X509Svid | None = None) -> tuple[int, str, Any]:
        """Status, challenge and body; as a workload of the mesh."""
        svid = svid or self.served.authority.issue_x509_svid(WEB)
        material = StaticMaterial(svid, X509BundleSet([self.served.authority.bundle]))
        context = client_context(material, authorize=authorize_id(live.SERVER_ID))
        connection = http.client.HTTPSConnection("127.0.0.1", self.served.port, context=context, timeout=live.TIMEOUT)
        connection.request("GET", path, headers={"authorization": f"Bearer {token}"} if token else {})
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        challenge = answer.getheader("www-authenticate") or ""
        return answer.status, challenge, json.loads(body) if answer.status == 200 else body.decode()

    def status(self, token: str | None, path: str = "/program") -> int:
        """The status alone."""
        return self.ask(path, token)[0]


@contextmanager
def protected(
    folder: Path, idp: Provider, authority: CertificateAuthority, refresh: float, roots: bytes | None = None
) -> Iterator[Protected]:
    """A process of its own, that knows of the provider its name and who vouches for it."""
    (folder / "mesh.yaml").write_text(MESH_YAML.format(issuer=idp.issuer, refresh=refresh))
    (folder / "policies.yaml").write_text(POLICIES.format(issuer=idp.issuer, resource=RESOURCE))
    (folder / "roots.pem").write_bytes(roots or idp.roots.read_bytes())
    write_identity(folder / "identity", authority.issue_x509_svid(live.SERVER_ID), authority.bundle)
    port = live.free_port()
    command = [sys.executable, str(Path(__file__).parent / "protected.py"), str(port)]
    with live.serving(folder, command, port, authority) as served:
        yield Protected(served)


@pytest.fixture
def patient(tmp_path: Path, idp: Provider, authority: CertificateAuthority) -> Iterator[Protected]:
    """Fetches keys once, and then only where a token names an unknown one."""
    with protected(tmp_path, idp, authority, 3600) as found:
        yield found


@pytest.fixture
def eager(tmp_path: Path, idp: Provider, authority: CertificateAuthority) -> Iterator[Protected]:
    """Fetches keys every second."""
    with protected(tmp_path, idp, authority, 1) as found:
        yield found


@pytest.fixture(autouse=True)
def in_order(idp: Provider) -> Iterator[None]:
    """Each test begins and ends with a provider that works."""
    idp.sign_with(("RS256", "first"))
    idp.say(fault=None, listen=True)
    yield
    idp.say(fault=None, listen=True)


def published(idp: Provider) -> int:
    """How often the key set was asked for."""
    return idp.say()["keys"]


def claims(token: str) -> dict[str, Any]:
    """What it says."""
    segment = token.split(".")[1]
    found: dict[str, Any] = json.loads(urlsafe_b64decode(segment + "=" * (-len(segment) % 4)))
    return found


# ------------------------------------------------------------------------------------------------------------ users


def test_programs_come_in_by_discovery_with_every_algorithm(patient: Protected, idp: Provider) -> None:
    """Nothing but the issuer's name is configured. One byte of the signature, and it is none."""
    algorithms = ("RS256", "ES256", "EdDSA", "PS256", "RS512", "ES384")
    keys = [(algorithm, f"k{index}") for index, algorithm in enumerate(algorithms)]
    for index, key in enumerate(keys):
        idp.sign_with(key, publish=keys)
        token = idp.service_token()
        until(lambda token=token: patient.status(token) == 200)  # the first of them asks for the keys anew
        status, _, answer = patient.ask("/program", token)
        assert (status, answer["user"], answer["issuer"], answer["peer"]) == (200, "service", idp.issuer, WEB), key
        assert "authorization" not in answer["headers"]
        head, _, signature = token.rpartition(".")
        flipped = f"{head}.{signature[:9]}{'A' if signature[9] != 'A' else 'B'}{signature[10:]}"
        assert patient.ask("/program", flipped)[::2] == (401, "Jwt verification fails"), keys[index]


def test_people_have_what_their_roles_say(patient: Protected, idp: Provider) -> None:
    """Authorization code with PKCE; nested roles and groups decide."""
    alice, bob = idp.person_tokens("alice")["access_token"], idp.person_tokens("bob")["access_token"]
    status, _, answer = patient.ask("/reviews", alice)
    assert (status, answer["user"], answer["roles"]) == (200, "alice", ["reviewer", "offline_access"])
    assert patient.status(alice, "/admin") == 200
    assert patient.ask("/reviews", bob)[::2] == (403, "RBAC: access denied")
    assert patient.status(bob, "/admin") == 403
    assert patient.status(None, "/reviews") == 403
    assert patient.status(idp.service_token(), "/reviews") == 403


def test_tokens_for_others_are_refused(patient: Protected, idp: Provider) -> None:
    """Another service's, the client's own ID token, and one that only the provider can read."""
    assert patient.status(idp.service_token(RESOURCE)) == 200
    status, challenge, body = patient.ask("/program", idp.service_token("https://other.example/"))
    assert (status, body) == (403, "Audiences in Jwt are not allowed")
    assert 'error="invalid_token"' in challenge
    tokens = idp.person_tokens("alice")
    assert patient.ask("/reviews", tokens["id_token"])[::2] == (403, "Audiences in Jwt are not allowed")
    opaque = tokens["access_token"].split(".")[1]
    assert patient.status(opaque, "/reviews") == 401


def test_a_bound_token_is_good_on_its_own_connection_only(
    patient: Protected, idp: Provider, authority: CertificateAuthority, tmp_path: Path
) -> None:
    """RFC 8705: the workload's own SVID; neither another workload's, nor another of the same."""
    own = authority.issue_x509_svid(BATCH)
    token = idp.bound_token(own, tmp_path)
    assert "x5t#S256" in claims(token)["cnf"]
    status, _, answer = patient.ask("/program", token, own)
    assert (status, answer["user"], answer["peer"]) == (200, "batch", BATCH)
    for other in (authority.issue_x509_svid(WEB), authority.issue_x509_svid(BATCH)):
        assert patient.ask("/program", token, other)[::2] == (401, "Jwt is bound to another certificate")
    assert patient.status(token) == 401
    assert patient.ask("/program", token, own)[0] == 200


# ------------------------------------------------------------------------------------------------------------- keys


def test_a_key_that_is_published_before_its_use_costs_nothing(
    tmp_path: Path, idp: Provider, authority: CertificateAuthority
) -> None:
    """The first token of the new key is good at once, without a fetch; the old one's stay good."""
    old, new = ("RS256", "first"), ("ES256", "second")
    idp.sign_with(old, publish=[new])
    before = idp.service_token()
    with protected(tmp_path, idp, authority, 3600) as app:
        assert app.status(before) == 200
        fetched = published(idp)
        idp.sign_with(new, publish=[old])
        assert app.status(idp.service_token()) == 200
        assert app.status(before) == 200
        assert published(idp) == fetched


def test_a_key_that_is_replaced_suddenly(patient: Protected, idp: Provider) -> None:
    """One fetch, for which the request waits; then the old key's tokens are good no longer."""
    before = idp.service_token()
    assert patient.status(before) == 200
    assert patient.status(before) == 200
    fetched = published(idp)
    idp.sign_with(("ES256", "sudden"))
    assert patient.status(before) == 200, "nobody has said otherwise yet"
    after = idp.service_token()
    until(lambda: patient.status(after) == 200)
    assert published(idp) == fetched + 1
    assert patient.ask("/program", before)[0] == 401


def test_a_key_that_is_withdrawn(eager: Protected, idp: Provider) -> None:
    """Its tokens are refused after the next refresh, known or not, though they last for minutes still."""
    old, new = ("EdDSA", "stolen"), ("ES256", "fresh")
    idp.sign_with(old, publish=[new])
    stolen = idp.service_token()
    until(lambda: eager.status(stolen) == 200)
    assert {eager.status(stolen) for _ in range(3)} == {200}
    idp.sign_with(new)
    until(lambda: eager.status(stolen) == 401)
    assert claims(stolen)["exp"] - time.time() > 300
    assert eager.status(idp.service_token()) == 200
    assert eager.ask("/program", stolen)[2] == "Jwks doesn't have key to match kid or alg from Jwt"


def test_the_same_name_for_another_key(eager: Protected, idp: Provider) -> None:
    """A provider that names its new key as the old one: known tokens are verified anew."""
    before = idp.service_token()
    until(lambda: eager.status(before) == 200)
    renamed = {**signing_jwk("RS256", "another"), "kid": "first"}
    idp.say(keys=[renamed, signing_jwk("RS256", "id")])
    after = idp.service_token()
    until(lambda: eager.status(after) == 200)
    assert eager.ask("/program", before)[::2] == (401, "Jwt verification fails")


# ----------------------------------------------------------------------------------------------------------- faults

FAULTS: Final = (
    "500",
    "unavailable",
    "html",
    "garbage",
    "empty",
    "list",
    "huge",
    "redirect",
    "silence",
    "drip",
    "reset",
)


@pytest.mark.parametrize("fault", [*FAULTS, "down"])
def test_a_provider_that_fails_disturbs_no_known_key(eager: Protected, idp: Provider, fault: str) -> None:
    """The last good set serves on without delay, a new key is not believed; when it works again, neither is lost."""
    token = idp.service_token()
    until(lambda: eager.status(token) == 200)
    idp.sign_with(("ES256", "new"))
    unknown = idp.service_token()
    fetched = published(idp)
    idp.say(fault=None if fault == "down" else fault, listen=fault != "down")
    if fault != "down":
        until(lambda: published(idp) > fetched)
    assert eager.status(unknown) == 401
    for _ in range(3):
        begin = time.monotonic()
        assert eager.status(token) == 200
        assert time.monotonic() - begin < 1.0
    idp.say(fault=None, listen=True)
    until(lambda: eager.status(unknown) == 200)
    assert eager.status(token) == 401


@pytest.mark.parametrize("fault", ["500", "garbage", "silence", "down"])
def test_a_provider_that_fails_from_the_start(
    tmp_path: Path, idp: Provider, authority: CertificateAuthority, fault: str
) -> None:
    """Its tokens are refused in bounded time and nobody else's request is; once it works, so do they."""
    token = idp.service_token()
    idp.say(fault=None if fault == "down" else fault, listen=fault != "down")
    with protected(tmp_path, idp, authority, 3600) as app:
        for _ in range(2):
            begin = time.monotonic()
            assert app.ask("/program", token)[::2] == (401, "Jwks remote fetch is failed")
            assert time.monotonic() - begin < 4.0
        assert app.status(None) == 403
        idp.say(fault=None, listen=True)
        until(lambda: app.status(token) == 200)


def test_an_authority_that_nobody_named_is_not_believed(
    tmp_path: Path, idp: Provider, authority: CertificateAuthority
) -> None:
    """The provider's certificate counts: with another ``caFile`` no key is taken from it."""
    other = CertificateAuthority.create("idp.example").bundle.to_pem()
    with protected(tmp_path, idp, authority, 3600, other) as app:
        assert app.ask("/program", idp.service_token())[::2] == (401, "Jwks remote fetch is failed")
        assert any("certificate" in line for line in app.served.log), app.served.log


# ------------------------------------------------------------------------------------------------------------ Envoy


@pytest.mark.skipif(find_spec("envoy") is None, reason="WITHOUT ENVOY: there is none for this machine")
def test_envoy_takes_the_same_tokens(idp: Provider, authority: CertificateAuthority, tmp_path: Path) -> None:
    """Every token of the provider, with the provider's own key set, to a real Envoy: the same verdict."""
    from interop.client import Client
    from interop.compare import decided, served
    from interop.generate import Case, Question
    from interop.sidecar import sites

    (place,) = sites(1, v6_every=2)
    tokens = _tokens_of_every_kind(idp, authority.issue_x509_svid(BATCH), tmp_path)
    documents = _rules_with_keys(idp)
    istio, safe = (
        Case.of(documents, MeshConfig(compatibility=mode, ambiguous_paths=paths), place)
        for mode, paths in (("istio", "istio"), ("safe", "refuse"))
    )
    statuses = []
    with served([istio]), Client() as client:
        for token in tokens:
            asked = Question("GET", "/", (("Host", "web"), ("Authorization", f"Bearer {token}")), "127.0.0.1")
            envoy = client.ask(asked.route(place), asked.bytes)
            assert decided(istio, asked).status == envoy.status
            bound = token.count(".") == 2 and "cnf" in claims(token)
            assert decided(safe, asked).status == (401 if bound else envoy.status)
            statuses.append(envoy.status)
    assert {200, 401, 403} <= set(statuses)


@pytest.mark.skipif(find_spec("envoy") is None, reason="WITHOUT ENVOY: there is none for this machine")
def test_keys_come_through_a_proxy_over_tls(idp: Provider, tmp_path: Path) -> None:
    """Envoy's CONNECT, with an authority of its own; the provider's name is checked inside, by the provider's."""
    from interop.sidecar import tunnelling

    proxies = CertificateAuthority.create("proxies.example")
    own = proxies.issue_x509_svid("spiffe://proxies.example/ns/a/sa/proxy", dns_names=["localhost"])
    (tmp_path / "proxies.pem").write_bytes(proxies.bundle.to_pem())
    source, roots = KeySource(idp.issuer), str(idp.roots)
    with tunnelling(own, urlsplit(idp.issuer).port or 443) as port:
        for ca_file, issuers, expected in [
            (str(tmp_path / "proxies.pem"), roots, True),
            (roots, roots, False),
            (str(tmp_path / "proxies.pem"), str(tmp_path / "proxies.pem"), False),
        ]:
            config = KeysConfig(proxy=f"https://localhost:{port}", proxy_ca_file=ca_file)
            store = KeyStore([source], config, issuers={idp.issuer: IssuerConfig(ca_file=issuers)})
            before = published(idp)
            store.wait(NeedKeys((source,)))
            assert (store.snapshot()[source].keys is not None, published(idp) - before) == (expected, int(expected))


def _tokens_of_every_kind(idp: Provider, batch: X509Svid, folder: Path) -> list[str]:
    """Of programs and people, for us and for others, signed with every algorithm; the keys stay published."""
    keys = [(algorithm, f"k{index}") for index, algorithm in enumerate(("RS256", "ES256", "EdDSA", "PS384", "ES512"))]
    found = []
    for key in keys:
        idp.sign_with(key, publish=keys)
        alice, bob = idp.person_tokens("alice"), idp.person_tokens("bob")
        found += [alice["access_token"], alice["id_token"], bob["access_token"], alice["access_token"][:-2]]
        found += [idp.service_token(), idp.service_token("https://other.example/")]
    return [*found, idp.bound_token(batch, folder)]


def _rules_with_keys(idp: Provider) -> list[dict[str, Any]]:
    """The rules of above, and what the provider publishes written into them."""
    with urlopen(f"{idp.issuer}/jwks", context=ssl.create_default_context(cafile=idp.roots)) as answer:
        rule = {"issuer": idp.issuer, "audiences": [RESOURCE], "jwks": answer.read().decode()}
    roles = {"key": "request.auth.claims[realm_access][roles]", "values": ["reviewer"]}
    kinds = {"RequestAuthentication": {"jwtRules": [rule]}, "AuthorizationPolicy": {"rules": [{"when": [roles]}]}}
    head = {"apiVersion": "security.istio.io/v1", "metadata": {"name": "one", "namespace": "prod"}}
    return [{**head, "kind": kind, "spec": spec} for kind, spec in kinds.items()]
