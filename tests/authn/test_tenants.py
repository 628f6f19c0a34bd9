"""A templated issuer (Entra's ``{tenantid}``): it stands for the tenants that are listed, and for nobody else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from meshsec import Connection, HttpRequest, Mesh, MeshConfig, Reason, Workload
from meshsec.authn import KeySource, NeedKeys
from meshsec.errors import ConfigError, KeysUnavailableError
from meshsec.jose import KeySet, SigningKey
from meshsec.policy import WorkloadPolicy
from meshsec.resources import IssuerConfig, load_mesh, parse
from meshsec.sources import KeyStore
from meshsec.sources._fetch import FetchResult, discover
from tokens import NOW, jwks, mint, signing_key

TEMPLATE = "https://login.example/{tenantid}/v2.0"
ONE, TWO, OTHER = "11111111-aaaa", "22222222-bbbb", "99999999-ffff"
WORKLOAD = Workload(name="web", namespace="prod")
POLICY = """
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: users, namespace: prod}
spec: {jwtRules: [{issuer: "%s", audiences: [web], %s}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: one, namespace: prod}
spec: {rules: [{from: [{source: {requestPrincipals: ["https://login.example/11111111-aaaa/v2.0/*", "%s/*"]}}]}]}
"""


def issuer(tenant: str) -> str:
    """What a tenant's tokens say."""
    return TEMPLATE.replace("{tenantid}", tenant)


def token(tenant: str = ONE, key: SigningKey | None = None, **changes: Any) -> str:
    """A good one of a tenant."""
    return mint(key, **{"iss": issuer(tenant), "tid": tenant, **changes})


def policy(
    keys: str | None = None, *, tenants: tuple[str, ...] = (ONE, TWO), compatibility: Any = "safe"
) -> WorkloadPolicy:
    """A workload that takes two tenants, and lets in the users of both."""
    inline = f"jwks: '{keys or jwks(signing_key())}'"
    config = MeshConfig(issuers={TEMPLATE: IssuerConfig(tenants=tenants)}, compatibility=compatibility)
    return WorkloadPolicy.compile(parse(POLICY % (TEMPLATE, inline, issuer(TWO))), WORKLOAD, config)


def reason(text: str, made: WorkloadPolicy | None = None) -> Reason:
    """What becomes of a request with the token."""
    request = HttpRequest("GET", "/", "web.prod", [("authorization", f"Bearer {text}")])
    found = (made or policy()).decide(Connection(), request, {}, now=NOW)
    assert not isinstance(found, NeedKeys)
    return found.reason  # type: ignore[union-attr]


@pytest.mark.parametrize("compatibility", ["safe", "istio"])
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (token(ONE), Reason.ALLOW_RULE),
        (token(TWO), Reason.ALLOW_RULE),
        (token(OTHER), Reason.JWT_ISSUER),
        (token(ONE, tid=TWO), Reason.JWT_ISSUER),
        (token(ONE, tid=OTHER), Reason.JWT_ISSUER),
        (token(ONE, tid=None), Reason.JWT_ISSUER),
        (token(ONE, tid=[ONE]), Reason.JWT_ISSUER),
        (token(ONE, tid=1), Reason.JWT_ISSUER),
        (token(ONE, tid=ONE.upper()), Reason.JWT_ISSUER),
        (token(ONE, iss=TEMPLATE), Reason.JWT_ISSUER),
        (token(ONE, iss=TEMPLATE, tid="{tenantid}"), Reason.JWT_ISSUER),
        (token(ONE, iss=issuer(ONE) + "/"), Reason.JWT_ISSUER),
        (token(ONE, iss=issuer(f"{ONE}/v2.0/{ONE}")), Reason.JWT_ISSUER),
        (token(ONE, iss=None), Reason.JWT_ISSUER),
        (token(ONE, aud="other"), Reason.JWT_AUDIENCE),
        (token(ONE, signing_key("ES256", "k2")), Reason.JWT_UNKNOWN_KEY),
    ],
)
def test_only_the_listed_tenants_are_meant(text: str, expected: Reason, compatibility: Any) -> None:
    """``iss`` is the template with a listed tenant in it, and ``tid`` is that very tenant."""
    assert reason(text, policy(compatibility=compatibility)) is expected


def keys_with(**issuers: Any) -> str:
    """A key set whose keys, by name, say whom they sign for."""
    named = [(signing_key("ES256", name), said) for name, said in issuers.items()]
    return json.dumps(
        {"keys": [{**key.public_jwk(), **({} if said is None else {"issuer": said})} for key, said in named]}
    )


@pytest.mark.parametrize(
    ("said", "of_one", "of_two"),
    [
        (None, Reason.ALLOW_RULE, Reason.ALLOW_RULE),
        (TEMPLATE, Reason.ALLOW_RULE, Reason.ALLOW_RULE),
        (issuer(ONE), Reason.ALLOW_RULE, Reason.JWT_UNKNOWN_KEY),
        (issuer(OTHER), Reason.JWT_UNKNOWN_KEY, Reason.JWT_UNKNOWN_KEY),
        ("https://sts.example/{tenantid}/", Reason.JWT_UNKNOWN_KEY, Reason.JWT_UNKNOWN_KEY),
        ("", Reason.JWT_UNKNOWN_KEY, Reason.JWT_UNKNOWN_KEY),
        (7, Reason.JWT_UNKNOWN_KEY, Reason.JWT_UNKNOWN_KEY),
    ],
)
def test_a_key_may_be_one_tenants(said: Any, of_one: Reason, of_two: Reason) -> None:
    """Its own ``issuer`` member says so; another key of the set, without one, does not help."""
    made = policy(keys_with(k1=said, k2=None))
    assert (reason(token(ONE), made), reason(token(TWO), made)) == (of_one, of_two)
    assert reason(token(ONE, signing_key("ES256", "k2")), made) is Reason.ALLOW_RULE


def test_what_a_key_says_counts_for_templates_alone() -> None:
    """Elsewhere it is a member that nobody knows, as in Istio."""
    resources = parse(POLICY % (issuer(ONE), f"jwks: '{keys_with(k1=issuer(OTHER))}'", issuer(TWO)))
    assert reason(token(ONE), WorkloadPolicy.compile(resources, WORKLOAD, MeshConfig())) is Reason.ALLOW_RULE


def test_a_template_without_tenants_stands_for_nobody() -> None:
    """Without its entry in mesh.yaml it is a text like any other, which no token has."""
    resources = parse(POLICY % (TEMPLATE, f"jwks: '{jwks(signing_key())}'", issuer(TWO)))
    made = WorkloadPolicy.compile(resources, WORKLOAD, MeshConfig())
    assert reason(token(ONE), made) is Reason.JWT_ISSUER
    assert reason(token(ONE, iss=TEMPLATE), made) is Reason.NO_ALLOW_RULE


# ------------------------------------------------------------------------------------------------ discovery

PLACE = "https://login.example/organizations/v2.0"
WELL_KNOWN = f"{PLACE}/.well-known/openid-configuration"


def test_the_template_is_discovered_where_mesh_yaml_says() -> None:
    """The document there must be the template's own; the same document is refused for every other issuer."""
    document = {"issuer": TEMPLATE, "jwks_uri": "https://login.example/common/keys"}
    asked: list[str] = []

    def fetch(url: str, *, timeout: float) -> FetchResult:
        asked.append(url)
        return FetchResult(
            200, json.dumps(document).encode() if url == WELL_KNOWN else keys_with(k1=TEMPLATE).encode()
        )

    source = KeySource(TEMPLATE)
    store = KeyStore([source], issuers={TEMPLATE: IssuerConfig(tenants=(ONE,), discovery=PLACE)}, fetch=fetch)
    store.wait(NeedKeys((source,)))
    assert asked == [WELL_KNOWN, "https://login.example/common/keys"]
    found = store.snapshot()[source].keys
    assert found == KeySet.parse(keys_with(k1=TEMPLATE))
    for other in (issuer(ONE), PLACE):
        with pytest.raises(KeysUnavailableError, match="another issuer's"):
            discover(other, timeout=1, fetch=lambda *_, **__: FetchResult(200, json.dumps(document).encode()))
    document["issuer"] = issuer(ONE)
    with pytest.raises(KeysUnavailableError, match="another issuer's"):
        discover(TEMPLATE, timeout=1, fetch=fetch, place=PLACE)


def test_the_place_of_the_keys_is_written_down() -> None:
    """A template alone leads nowhere."""
    resources = parse("\n".join((POLICY % (TEMPLATE, "timeout: 2s", issuer(TWO))).splitlines()))
    config = MeshConfig(issuers={TEMPLATE: IssuerConfig(tenants=(ONE,))})
    with pytest.raises(ConfigError, match=r"spec.jwtRules\[0\].issuer.*write jwksUri, or discovery"):
        Mesh(workload=WORKLOAD, resources=resources, config=config)
    config = MeshConfig(issuers={TEMPLATE: IssuerConfig(tenants=(ONE,), discovery=PLACE)})
    assert Mesh(workload=WORKLOAD, resources=resources, config=config).policy.sources == (KeySource(TEMPLATE),)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        (TEMPLATE, "{refresh: 60}"),
        (TEMPLATE, "{tenants: []}"),
        (TEMPLATE, '{tenants: ["*"]}'),
        (TEMPLATE, '{tenants: ["a/b"]}'),
        (TEMPLATE, '{tenants: ["{tenantid}"]}'),
        (TEMPLATE, '{tenants: [""]}'),
        (TEMPLATE, "{tenants: [a, a]}"),
        (TEMPLATE, "{tenants: [a], jwtSvid: true}"),
        (TEMPLATE, "{tenants: [a], discovery: ftp://login.example}"),
        ("https://a.example/{tenantid}/{tenantid}", "{tenants: [a]}"),
        ("http://login.example/{tenantid}/v2.0", "{tenants: [a]}"),
        ("https://login.example/common/v2.0", "{tenants: [a]}"),
        ("https://login.example/common/v2.0", "{discovery: https://login.example}"),
    ],
)
def test_nothing_open_ended_is_loaded(tmp_path: Path, name: str, settings: str) -> None:
    """A template lists its tenants, and only a template does."""
    good = f"issuers: {{'{TEMPLATE}': {{tenants: [{ONE}, {TWO}], discovery: '{PLACE}'}}}}"
    (tmp_path / "mesh.yaml").write_text(good)
    assert load_mesh(tmp_path).config.issuers[TEMPLATE].tenants == (ONE, TWO)
    (tmp_path / "mesh.yaml").write_text(f"issuers: {{'{name}': {settings}}}")
    with pytest.raises(ConfigError, match=r"mesh\.yaml:1:"):
        load_mesh(tmp_path)


def test_it_has_no_equivalent_in_envoy() -> None:
    """Which compares ``iss`` with one text."""
    with pytest.raises(ConfigError, match="gives tenants or JWT-SVIDs"):
        policy().to_envoy()
