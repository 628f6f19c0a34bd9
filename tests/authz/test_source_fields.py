"""authz: who calls. The tables of Istio's source fields, each value with what it matches and what it just misses."""

from __future__ import annotations

from typing import Any, Final

import pytest

from authz.cases import ISTIO, WEB, both, compiled, matches, policy, request, source, when
from meshsec.authz._patterns import RequestPrincipalPattern
from meshsec.resources import MeshConfig

ID: Final = "spiffe://cluster.local/ns/{}/sa/{}"
ODD: Final = "spiffe://cluster.local/region/eu/ns/prod/x/sa/web/v2"

# Field, value, a SPIFFE ID it matches, one it does not.
FIELDS: Final = [
    ("principals", "cluster.local/ns/prod/sa/web", WEB, ID.format("prod", "web2")),
    ("principals", "cluster.local/ns/prod/*", WEB, ID.format("prod2", "web")),
    ("principals", "cluster.local/ns/p*", WEB, ID.format("test", "web")),
    ("principals", "*/ns/prod/sa/web", WEB, ID.format("prod", "web2")),
    ("principals", "*/sa/web", WEB, ID.format("prod", "x-web")),
    ("principals", "*web", ID.format("prod", "x-web"), ID.format("prod", "web2")),
    ("principals", "*", WEB, None),
    ("namespaces", "prod", WEB, ID.format("production", "web")),
    ("namespaces", "prod", WEB, ID.format("test", "prod")),
    ("namespaces", "pr*", ID.format("production", "web"), ID.format("xprod", "web")),
    ("namespaces", "*od", WEB, ID.format("test", "prod")),
    ("namespaces", "p*d", WEB, ID.format("prodx", "web")),
    ("namespaces", "p.od", ID.format("p.od", "web"), WEB),
    ("namespaces", "*", WEB, "spiffe://cluster.local/x/prod/sa/web"),
    ("serviceAccounts", "prod/web", WEB, ID.format("test", "web")),
    ("serviceAccounts", "web", WEB, ID.format("test", "web")),
    ("serviceAccounts", "prod/web", WEB.replace("cluster.local", "other"), ID.format("prod", "web2")),
    ("serviceAccounts", "prod/w.b", ID.format("prod", "w.b"), WEB),
    ("trustDomains", "other", "spiffe://other/x", WEB),
    ("trustDomains", "other", "spiffe://other/x", "spiffe://other2/x"),
    ("trustDomains", "cluster*", WEB, "spiffe://other/x"),
    ("trustDomains", "*.local", WEB, "spiffe://cluster.local.evil/x"),
    ("trustDomains", "*", "spiffe://other/x", None),
]
OTHER: Final = {"principals": "zzz/x", "namespaces": "zzz", "serviceAccounts": "zzz", "trustDomains": "zzz"}
KEYS: Final = {
    "principals": "source.principal",
    "namespaces": "source.namespace",
    "serviceAccounts": "source.serviceAccount",
    "trustDomains": "source.trustDomain",
}


@pytest.mark.parametrize(("field", "value", "good", "bad"), FIELDS)
def test_peer(field: str, value: str, good: str, bad: str | None) -> None:
    """The field, its negation and the key of ``when`` agree, in an ALLOW and in a DENY."""
    negated = "not" + field[0].upper() + field[1:]
    for peer, expected in ((good, True), (bad, False)):
        asked = request(peer=peer)
        assert both(source(**{field: [value]}), asked) is expected
        assert both(source(**{negated: [value]}), asked) is not expected
        assert both(when(KEYS[field], value), asked) is expected
        assert both(when(KEYS[field], notValues=[value]), asked) is not expected
        assert both(source(**{field: [OTHER[field], value]}), asked) is expected


@pytest.mark.parametrize("field", sorted(KEYS))
def test_plaintext(field: str) -> None:
    """Without a peer every positive form is false and every negation true."""
    negated = "not" + field[0].upper() + field[1:]
    value = "web" if field == "serviceAccounts" else "*"
    assert not both(source(**{field: [value]}), request())
    assert both(source(**{negated: [value]}), request())


def test_require_mutual_tls() -> None:
    """DENY with notPrincipals ["*"]: Istio's way to demand an identity."""
    rule = source(notPrincipals=["*"])
    assert matches(rule, request(), "DENY")
    assert not matches(rule, request(peer=WEB), "DENY")


def test_case_counts() -> None:
    """Principals are compared as they are."""
    assert not both(source(principals=["cluster.local/ns/PROD/sa/web"]), request(peer=WEB))


def test_stars_beyond_the_namespace() -> None:
    """Envoy lets ``*a`` run on to ``/sa``, so that it matches everyone: an ALLOW does not, a DENY does."""
    rule, asked = source(namespaces=["*a"]), request(peer=WEB)
    assert not matches(rule, asked, "ALLOW")
    assert matches(rule, asked, "DENY")
    assert matches(rule, asked, "ALLOW", config=ISTIO)
    assert not matches(source(notNamespaces=["*a"]), asked, "ALLOW")


@pytest.mark.parametrize(
    ("field", "value"), [("serviceAccounts", "prod/web"), ("serviceAccounts", "web"), ("namespaces", "prod")]
)
def test_identities_of_another_form(field: str, value: str) -> None:
    """A SPIFFE ID that is not exactly Istio's names an account to Envoy: a DENY matches it, an ALLOW does not."""
    asked = request(peer=ODD)
    assert not matches(source(**{field: [value]}), asked, "ALLOW")
    assert matches(source(**{field: [value]}), asked, "DENY")
    assert matches(source(**{field: [value]}), asked, "ALLOW", config=ISTIO)


@pytest.mark.parametrize(
    "path", ["/ns/prod/sa", "/ns/prod/web", "/sa/web/ns/prod", "/xns/prod/sa/web", "/ns/prod/xsa/web"]
)
def test_no_account(path: str) -> None:
    """Not an account in anybody's reading."""
    asked = request(peer=f"spiffe://cluster.local{path}")
    assert not both(source(serviceAccounts=["prod/web"]), asked)
    assert not both(source(serviceAccounts=["prod/web"]), asked, config=ISTIO)


def test_account_of_the_policys_namespace() -> None:
    """A bare name is one in the policy's own namespace; for a root policy that is the root namespace."""
    rule = source(serviceAccounts=["web"])
    assert matches(rule, request(peer=WEB), namespace="prod")
    assert not matches(rule, request(peer=WEB), namespace="istio-system")
    assert matches(rule, request(peer=ID.format("istio-system", "web")), namespace="istio-system")


TD1: Final = MeshConfig(trust_domain="td1")
OLD: Final = MeshConfig(trust_domain="new-td", trust_domain_aliases=("old-td", "foo"))

# Mesh, value of principals, trust domain of the peer, whether it matches ns/prod/sa/web there.
ALIASES: Final = [
    (TD1, "cluster.local/ns/prod/sa/web", "td1", True),
    (TD1, "cluster.local/ns/prod/sa/web", "cluster.local", False),
    (TD1, "td1/ns/prod/sa/web", "td1", True),
    (TD1, "other/ns/prod/sa/web", "other", True),
    (TD1, "other/ns/prod/sa/web", "td1", False),
    (TD1, "*/ns/prod/sa/web", "anything", True),
    (TD1, "cluster.local/ns/prod/sa/*", "td1", True),
    (TD1, "cluster.local/ns/prod/*", "td1", False),
    (TD1, "td1/ns/prod*", "td1", True),
    (OLD, "old-td/ns/prod/sa/web", "new-td", True),
    (OLD, "old-td/ns/prod/sa/web", "foo", True),
    (OLD, "cluster.local/ns/prod/sa/web", "old-td", True),
    (OLD, "*-td/ns/prod/sa/web", "new-td", True),
    (OLD, "*-td/ns/prod/sa/web", "foo", True),
    (OLD, "*-td/ns/prod/sa/web", "third-td", True),
    (OLD, "f*/ns/prod/sa/web", "old-td", True),
    (OLD, "f*/ns/prod/sa/web", "far", False),
    (OLD, "*x/ns/prod/sa/web", "new-td", False),
]


@pytest.mark.parametrize(("mesh", "value", "domain", "expected"), ALIASES)
def test_trust_domain_aliases(mesh: MeshConfig, value: str, domain: str, expected: bool) -> None:
    """One of the mesh's own domains, or ``cluster.local``, is replaced by all of them; others are kept."""
    peer = request(peer=f"spiffe://{domain}/ns/prod/sa/web")
    assert both(source(principals=[value]), peer, config=mesh) is expected
    assert both(source(notPrincipals=[value]), peer, config=mesh) is not expected
    assert both(when("source.principal", value), peer, config=mesh) is expected


@pytest.mark.parametrize(
    ("mesh", "value", "domain", "expected"),
    [
        (OLD, "old-td", "new-td", True),
        (OLD, "foo", "old-td", True),
        (OLD, "cluster.local", "new-td", False),
        (OLD, "cluster.local", "cluster.local", True),
        (OLD, "*-td", "foo", False),
        (OLD, "third", "new-td", False),
    ],
)
def test_aliases_in_trust_domains(mesh: MeshConfig, value: str, domain: str, expected: bool) -> None:
    """Here only an exact element of the list expands, and ``cluster.local`` is not magic."""
    peer = request(peer=f"spiffe://{domain}/ns/prod/sa/web")
    assert both(source(trustDomains=[value]), peer, config=mesh) is expected


# Value, claims that match, claims that do not.
PRINCIPALS: Final[list[tuple[str, dict[str, Any] | None, dict[str, Any] | None]]] = [
    ("*", {"iss": "i", "sub": "s"}, {"iss": "i"}),
    ("*", {"iss": "i", "sub": "s"}, {"iss": "", "sub": "s"}),
    ("*", {"iss": "i", "sub": "s"}, None),
    ("i/s", {"iss": "i", "sub": "s"}, {"iss": "i", "sub": "t"}),
    ("i/s", {"iss": "i", "sub": "s"}, {"iss": "j", "sub": "s"}),
    ("i/*", {"iss": "i", "sub": "s"}, {"iss": "i", "sub": ""}),
    ("i/*", {"iss": "i", "sub": "s"}, {"iss": "i2", "sub": "s"}),
    ("i/p*", {"iss": "i", "sub": "p1"}, {"iss": "i", "sub": "1p"}),
    ("p*", {"iss": "p1", "sub": "s"}, {"iss": "1p", "sub": "s"}),
    ("p*", {"iss": "p1", "sub": "s"}, {"iss": "p1"}),
    ("*s", {"iss": "i", "sub": "xs"}, {"iss": "i", "sub": "sx"}),
    ("*s", {"iss": "i", "sub": "xs"}, {"sub": "xs"}),
    ("*P/s", {"iss": "xP", "sub": "s"}, {"iss": "Px", "sub": "s"}),
    ("*P/s", {"iss": "xP", "sub": "s"}, {"iss": "xP", "sub": "xs"}),
    ("*/s", {"iss": "i", "sub": "s"}, {"iss": "", "sub": "s"}),
    ("https://a.example/s", {"iss": "https://a.example", "sub": "s"}, {"iss": "https://b.example", "sub": "s"}),
    ("https://a.example/*", {"iss": "https://a.example", "sub": "s"}, {"iss": "https://a.example/x", "sub": "s"}),
    ("i/a/b", {"iss": "i/a", "sub": "b"}, {"iss": "i", "sub": "a/b"}),
]


@pytest.mark.parametrize(("value", "good", "bad"), PRINCIPALS)
def test_request_principals(value: str, good: dict[str, Any] | None, bad: dict[str, Any] | None) -> None:
    """Issuer and subject are matched apart, split at the last slash."""
    for claims, expected in ((good, True), (bad, False)):
        asked = request(claims=claims)
        assert both(source(requestPrincipals=[value]), asked) is expected
        assert both(source(notRequestPrincipals=[value]), asked) is not expected
        assert both(when("request.auth.principal", value), asked) is expected


@pytest.mark.parametrize("value", ["a.example/*", "*a.example"])
def test_half_an_issuer(value: str) -> None:
    """These look right and match nothing, as in Istio."""
    assert not both(source(requestPrincipals=[value]), request(claims={"iss": "https://a.example", "sub": "s"}))


@pytest.mark.parametrize(
    ("value", "issuer", "subject"),
    [("https://a.example*", "https:/", "a.example.org"), ("https://*", "https:/", "s"), ("x", "x", "")],
)
def test_split_where_nobody_means_it(value: str, issuer: str, subject: str) -> None:
    """Istio's split, which leaves these no token that there is: so they are refused when a policy is loaded."""
    pattern = RequestPrincipalPattern.parse(value)
    assert pattern.matches(issuer, subject)
    assert not pattern.matches("https://a.example", "s")


@pytest.mark.parametrize("claims", [{"iss": "i", "sub": 7}, {"iss": ["i"], "sub": "s"}, {"iss": "i", "sub": None}])
def test_principals_are_text(claims: dict[str, Any]) -> None:
    """A claim that is no text is no principal."""
    assert not both(source(requestPrincipals=["*"]), request(claims=claims))


@pytest.mark.parametrize(
    ("block", "good", "bad"),
    [
        ("10.0.0.0/8", "10.1.2.3", "11.1.2.3"),
        ("10.1.2.3", "10.1.2.3", "10.1.2.4"),
        ("10.1.2.3/8", "10.255.0.0", "9.0.0.0"),
        ("2001:db8::/32", "2001:db8::1", "2001:db9::1"),
        ("10.0.0.0/8", "10.1.2.3", "::ffff:10.1.2.3"),
        ("::/0", "::1", "10.0.0.1"),
    ],
)
@pytest.mark.parametrize(
    ("field", "key", "fact"),
    [("ipBlocks", "source.ip", "source_ip"), ("remoteIpBlocks", "remote.ip", "source_ip"),
     (None, "destination.ip", "destination_ip")],
)  # fmt: skip
def test_addresses(field: str | None, key: str, fact: str, block: str, good: str, bad: str) -> None:
    """Blocks of the directly connected peer (``remote.ip`` too, where no header says more), and our own address."""
    for address, expected in ((good, True), (bad, False)):
        asked = request(**{fact: address})
        assert both(when(key, block), asked) is expected
        assert both(when(key, notValues=[block]), asked) is not expected
        if field:
            assert both(source(**{field: [block]}), asked) is expected
            assert both(source(**{"not" + field[0].upper() + field[1:]: [block]}), asked) is not expected


def test_forwarded_for_closes_doors_and_opens_none() -> None:
    """A client cannot choose its address; and what Istio's sidecar would refuse for that header is refused."""
    block = source(remoteIpBlocks=["192.0.2.1"])
    claimed = request(source_ip="10.0.0.1", headers=[("x-forwarded-for", "192.0.2.1")])
    hidden = request(source_ip="192.0.2.1", headers=[("x-forwarded-for", "10.0.0.1")])
    for asked in (claimed, hidden):
        assert not compiled(policy(block)).evaluate(asked).allowed
        assert not compiled(policy(block, action="DENY")).evaluate(asked).allowed
        assert not compiled(policy(source(notRemoteIpBlocks=["192.0.2.1"]))).evaluate(asked).allowed
    sure = request(source_ip="192.0.2.1", headers=[("x-forwarded-for", "192.0.2.1")])
    assert compiled(policy(block)).evaluate(sure).allowed
