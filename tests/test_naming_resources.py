"""Secure naming as it follows from ServiceEntries, Kubernetes' manifests and DestinationRules."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from meshsec import Mesh
from meshsec.cli import main
from meshsec.errors import ConfigError, SvidError
from meshsec.naming import SecureNaming
from meshsec.resources import MeshConfig, Service, Workload, load_mesh, parse

FULL = "reviews.prod.svc.cluster.local"

SERVICE = """
apiVersion: v1
kind: Service
metadata: {name: reviews, namespace: prod}
spec: {selector: {app: reviews}, ports: [{port: 80}]}
"""
DEPLOYMENT = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: reviews-v1, namespace: prod}
spec: {replicas: 2, template: {metadata: {labels: {app: reviews, v: one}}, spec: {serviceAccountName: reviews}}}
"""
POD = """
apiVersion: v1
kind: Pod
metadata: {name: reviews-x, namespace: prod, labels: {app: reviews}}
spec: {containers: []}
"""
ENTRY = """
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: legacy, namespace: prod}
spec:
  hosts: [Legacy.example, "*.old.example"]
  ports: [{number: 443, name: tls, targetPort: 9443}, {number: 80, name: http}]
  endpoints:
  - {address: 10.0.0.1, serviceAccount: legacy}
  - {address: 10.0.0.2, serviceAccount: spare, ports: {http: 8080}}
  subjectAltNames: ["spiffe://partner.example/x", legacy.example]
"""
RULE = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: rule, namespace: prod}
spec:
  host: reviews
  trafficPolicy: {tls: {mode: ISTIO_MUTUAL, subjectAltNames: ["spiffe://cluster.local/ns/prod/sa/chosen"]}}
"""


def naming(
    *texts: str, namespace: str = "prod", services: dict[str, Service] | None = None, **config: object
) -> SecureNaming:
    """What follows from these resources for a client in a namespace."""
    client = Workload(name="web", namespace=namespace, labels={"app": "web"})
    resources = parse("\n---\n".join(texts))
    return SecureNaming(services or {}, MeshConfig(**config), resources=resources, workload=client)  # type: ignore[arg-type]


def accounts(found: SecureNaming, host: str = FULL) -> set[str]:
    """The last parts of the IDs that may answer for a host."""
    return {str(item).removeprefix("spiffe://cluster.local/ns/prod/sa/") for item in found.ids(host)}


@pytest.mark.parametrize("host", [FULL, "reviews.prod.svc", "reviews.prod", "reviews", "REVIEWS.prod."])
def test_a_kubernetes_service_has_all_its_names(host: str) -> None:
    """The short one too, for a client of its namespace."""
    assert accounts(naming(SERVICE, DEPLOYMENT), host) == {"reviews"}


def test_a_short_name_is_completed_by_the_clients_namespace() -> None:
    """To a client elsewhere it is another service's name, or nobody's."""
    found = naming(SERVICE, DEPLOYMENT, namespace="test")
    assert found.knows("reviews.prod")
    with pytest.raises(SvidError, match=r"no service 'reviews'; near it are: reviews\.prod"):
        found.ids("reviews")


def test_the_accounts_of_all_workloads_may_answer() -> None:
    """Istio names a service, not an endpoint; a pod without an account runs as default."""
    assert accounts(naming(SERVICE, DEPLOYMENT, POD)) == {"reviews", "default"}


@pytest.mark.parametrize(
    "change",
    [
        ("namespace: prod}\nspec: {replicas", "namespace: test}\nspec: {replicas"),
        ("app: reviews, v", "app: other, v"),
    ],
    ids=["namespace", "label"],
)
def test_a_workload_that_is_not_selected_may_not_answer(change: tuple[str, str]) -> None:
    """Another namespace or another label; then nobody is left, and nobody may answer."""
    with pytest.raises(SvidError) as caught:
        naming(SERVICE, DEPLOYMENT.replace(*change)).ids(FULL)
    assert caught.value.code == "no_identity_named"


def test_the_two_annotations_declare_accounts() -> None:
    """Whole identities, and names of accounts in the service's namespace."""
    noted = SERVICE.replace(
        "namespace: prod}",
        "namespace: prod, annotations: {alpha.istio.io/kubernetes-serviceaccounts: 'a, b',"
        " alpha.istio.io/canonical-serviceaccounts: 'spiffe://partner.example/ns/x/sa/y'}}",
    )
    assert accounts(naming(noted)) == {"a", "b", "spiffe://partner.example/ns/x/sa/y"}


def test_an_annotation_that_is_no_identity_is_a_config_error() -> None:
    """With the service and its place."""
    noted = SERVICE.replace(
        "namespace: prod}",
        "namespace: prod, annotations: {alpha.istio.io/canonical-serviceaccounts: 'spiffe://a/../b'}}",
    )
    with pytest.raises(ConfigError, match="<string>:2: Service prod/reviews"):
        naming(noted)


def test_a_service_entry_names_endpoints_and_identities() -> None:
    """DNS names among its subjectAltNames name nobody here."""
    found = naming(ENTRY)
    assert accounts(found, "legacy.example") == {"legacy", "spare", "spiffe://partner.example/x"}
    assert found.endpoints("legacy.example", 443) == (("10.0.0.1", 9443), ("10.0.0.2", 9443))
    assert found.endpoints("legacy.example", 80) == (("10.0.0.1", 80), ("10.0.0.2", 8080))
    assert found.endpoints("legacy.example", 81) == (("legacy.example", 81),)


@pytest.mark.parametrize(
    ("host", "known"),
    [("a.old.example", True), ("a.b.old.example", True), ("old.example", False), ("aold.example", False)],
)
def test_a_wildcard_host_is_every_name_below(host: str, known: bool) -> None:
    """Not the name itself, and not one that only ends alike."""
    assert naming(ENTRY).knows(host) is known


def test_a_workload_selector_finds_workload_entries_and_pods() -> None:
    """In the ServiceEntry's own namespace; an entry without an account adds an address only."""
    selecting = ENTRY.partition("  endpoints:")[0] + "  workloadSelector: {labels: {app: reviews}}\n"
    outside = """
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: vm, namespace: prod}
spec: {address: 10.0.0.9, labels: {app: reviews}, serviceAccount: vm}
"""
    found = naming(selecting, outside, POD, outside.replace("vm", "elsewhere").replace("prod", "test"))
    assert accounts(found, "legacy.example") == {"vm", "default"}
    assert found.endpoints("legacy.example", 443) == (("10.0.0.9", 9443),)


@pytest.mark.parametrize(
    ("labels", "chosen"),
    [
        ("app: reviews, v: one", True),
        ("app: reviews, v: one, more: x", True),
        ("app: reviews", False),
        ("app: other, v: one", False),
        ("v: one", False),
    ],
)
def test_a_workload_selector_asks_for_all_of_its_labels(labels: str, chosen: bool) -> None:
    """A workload with some of them is another one, and may not answer."""
    selecting = ENTRY.partition("  endpoints:")[0] + "  workloadSelector: {labels: {app: reviews, v: one}}\n"
    outside = f"""
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {{name: vm, namespace: prod}}
spec: {{address: 10.0.0.9, labels: {{{labels}}}, serviceAccount: vm}}
"""
    pod = POD.replace("labels: {app: reviews}", f"labels: {{{labels}}}")
    known = DEPLOYMENT.replace("serviceAccountName: reviews", "serviceAccountName: known")
    found = naming(selecting, outside, pod, known)
    assert accounts(found, "legacy.example") == ({"vm", "default", "known"} if chosen else {"known"})
    assert found.endpoints("legacy.example", 443) == ((("10.0.0.9", 9443),) if chosen else (("legacy.example", 443),))


def test_an_endpoint_without_an_account_or_an_address_gives_what_it_has() -> None:
    """Nobody runs as the default account outside Kubernetes; a socket of another machine is not dialled."""
    start, _, _ = ENTRY.partition("  - {address")
    entry = start + "  - {address: 10.0.0.3}\n  - {address: 'unix:///run/x', serviceAccount: near}\n"
    found = naming(entry.replace("ports: [{number: 443, name: tls, targetPort: 9443}, ", "ports: ["))
    assert accounts(found, "legacy.example") == {"near"}
    assert found.endpoints("legacy.example", 80) == (("10.0.0.3", 80),)


@pytest.mark.parametrize(
    ("export", "seen"), [("['.']", False), ("['*']", True), ("[test]", True), ("[x, '~']", False)]
)
def test_export_to_hides_an_entry(export: str, seen: bool) -> None:
    """A client in another namespace does not see it."""
    found = naming(ENTRY + f"  exportTo: {export}\n", namespace="test")
    assert found.knows("legacy.example") is seen


def test_another_namespace_cannot_answer_for_a_kubernetes_service() -> None:
    """A ServiceEntry that claims its host is passed over."""
    claim = ENTRY.replace("Legacy.example", FULL).replace("namespace: prod", "namespace: evil")
    assert accounts(naming(claim, SERVICE, DEPLOYMENT, namespace="test")) == {"reviews"}
    assert accounts(naming(claim, SERVICE, DEPLOYMENT, namespace="prod")) == {"reviews"}
    ours = {f"spiffe://cluster.local/ns/evil/sa/{name}" for name in ("legacy", "spare")}
    assert accounts(naming(claim, SERVICE, DEPLOYMENT, namespace="evil")) == {*ours, "spiffe://partner.example/x"}


def test_of_two_namespaces_that_claim_a_host_the_older_entry_has_it() -> None:
    """Whoever comes later does not take it over, but for clients of its own namespace."""
    older = ENTRY.replace("namespace: prod", "namespace: zz, creationTimestamp: 2024-01-01T00:00:00Z")
    later = ENTRY.replace("namespace: prod", "namespace: aa, creationTimestamp: 2025-01-01T00:00:00Z")
    for client, owner in (("test", "zz"), ("zz", "zz"), ("aa", "aa")):
        found = naming(later, older, namespace=client).ids("legacy.example")
        assert {one.namespace for one in found if one.trust_domain.name == "cluster.local"} == {owner}


def test_a_service_entry_cannot_take_a_short_name_over() -> None:
    """What Kubernetes' DNS would resolve to the service means the service."""
    for name in ("reviews.prod", "reviews.prod.svc", "reviews"):
        assert accounts(naming(SERVICE, DEPLOYMENT, ENTRY.replace("Legacy.example", name)), name) == {"reviews"}


def test_the_short_form_wins() -> None:
    """What mesh.yaml says of a name is all that holds for that name."""
    services = {"reviews.prod": Service(ids=("spiffe://cluster.local/ns/prod/sa/mine",))}
    found = naming(SERVICE, DEPLOYMENT, services=services)
    assert accounts(found, "reviews.prod") == {"mine"}
    assert accounts(found) == {"reviews"}


def test_aliases_are_expanded() -> None:
    """For computed accounts as for the short form."""
    found = naming(SERVICE, DEPLOYMENT, trust_domain_aliases=("old.local",))
    assert accounts(found) == {"reviews", "spiffe://old.local/ns/prod/sa/reviews"}


# ---------------------------------------------------------------- DestinationRules


def test_a_destination_rule_replaces_the_list() -> None:
    """And its list has no twins."""
    assert accounts(naming(SERVICE, DEPLOYMENT, RULE, trust_domain_aliases=("old.local",))) == {"chosen"}


@pytest.mark.parametrize(
    "change",
    [
        ("host: reviews", "host: ratings"),
        ("host: reviews", "host: reviews.prod"),
        ("host: reviews", "host: '*.test.svc.cluster.local'"),
        ("namespace: prod", "namespace: elsewhere"),
        ("host: reviews", "host: reviews\n  workloadSelector: {matchLabels: {app: other}}"),
        (", subjectAltNames: [", ", ca_crl: null}}\n  subsets: []\n#"),
    ],
    ids=["other host", "literal", "other pattern", "other namespace", "other client", "no names"],
)
def test_a_rule_for_somebody_else_changes_nothing(change: tuple[str, str]) -> None:
    """A host with a dot is a full name; a rule's namespace completes a short one."""
    assert accounts(naming(SERVICE, DEPLOYMENT, RULE.replace(*change).replace(", ca_crl: null", ""))) == {"reviews"}


@pytest.mark.parametrize(
    ("client", "rules", "expected"),
    [
        ("prod", {"prod": FULL, "istio-system": FULL}, "prod"),
        ("test", {"test": "'*.cluster.local'", "prod": FULL}, "test"),
        ("test", {"prod": "'*'", "istio-system": FULL}, "prod"),
        ("test", {"istio-system": FULL}, "istio-system"),
        ("test", {"test": "'*'", "istio-system": FULL}, "test"),
    ],
)
def test_the_first_namespace_that_has_a_rule_decides(client: str, rules: dict[str, str], expected: str) -> None:
    """The client's own, the service's, the root namespace: however specific the others are."""
    texts = [
        RULE.replace("namespace: prod", f"namespace: {name}")
        .replace("host: reviews", f"host: {host}")
        .replace("/chosen", f"/{name}")
        for name, host in rules.items()
    ]
    assert accounts(naming(SERVICE, DEPLOYMENT, *texts, namespace=client)) == {expected}


def test_the_most_specific_host_decides_within_a_namespace() -> None:
    """A name before a pattern, a long pattern before a short one."""
    wide = RULE.replace("name: rule", "name: wide").replace("host: reviews", "host: '*.cluster.local'")
    wide = wide.replace("chosen", "wide")
    assert accounts(naming(SERVICE, DEPLOYMENT, wide, RULE)) == {"chosen"}


def test_of_two_rules_for_one_host_the_oldest_decides() -> None:
    """As Istio merges them."""
    older = RULE.replace("name: rule", "name: zz").replace("chosen", "older")
    younger = RULE.replace("namespace: prod}", "namespace: prod, creationTimestamp: 2024-01-01T00:00:00Z}")
    assert accounts(naming(SERVICE, DEPLOYMENT, younger, older)) == {"older"}


def test_a_rule_that_selects_its_clients_comes_first() -> None:
    """Before an older one for everybody, whoever stands first in the files."""
    selecting = RULE.replace("host: reviews", "host: reviews\n  workloadSelector: {matchLabels: {app: web}}")
    selecting = selecting.replace("name: rule", "name: zz").replace("chosen", "selecting")
    for texts in ((RULE, selecting), (selecting, RULE)):
        assert accounts(naming(SERVICE, DEPLOYMENT, *texts)) == {"selecting"}


def test_a_rule_without_a_policy_leaves_it_to_the_next_one() -> None:
    """As Istio merges the rules for one host: the first policy there is counts."""
    older = RULE[: RULE.index("trafficPolicy")].replace("name: rule", "name: aa") + "subsets: [{name: v1}]\n"
    assert accounts(naming(SERVICE, DEPLOYMENT, older, RULE)) == {"chosen"}


@pytest.mark.parametrize(
    ("host", "plain"),
    [("a.old.example", True), ("a.b.old.example", True), ("aold.example", False), ("old.example", False)],
)
def test_a_rule_for_a_pattern_is_for_what_is_below_it(host: str, plain: bool) -> None:
    """Not for a name that only ends alike."""
    entry = ENTRY.replace('Legacy.example, "*.old.example"', f'"{host}"')
    rule = OFF.replace("host: reviews", "host: '*.old.example'")
    assert naming(entry, rule).is_plaintext(host) is plain


@pytest.mark.parametrize("mode", ["SIMPLE", "MUTUAL"])
def test_a_host_with_the_webs_tls_is_refused(mode: str) -> None:
    """No identity of a mesh is shown there."""
    with pytest.raises(SvidError) as caught:
        naming(SERVICE, DEPLOYMENT, RULE.replace("ISTIO_MUTUAL", mode)).ids(FULL)
    assert caught.value.code == "foreign_tls"


PEER = """
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: p, namespace: %s}
spec: {%smtls: {mode: %s}}
"""


OLDER = PEER.replace("name: p", "name: a")
OFF = RULE.replace("ISTIO_MUTUAL", "DISABLE")
ALL_OFF = OFF.replace("name: rule", "name: all").replace("host: reviews", "host: '*.prod.svc.cluster.local'")


@pytest.mark.parametrize(
    ("texts", "plain"),
    [
        ((), False),
        ((OFF,), True),
        ((OFF.replace("host: reviews", f"host: x{FULL}"),), False),
        ((ALL_OFF,), True),
        ((ALL_OFF, RULE), False),
        ((PEER % ("prod", "", "DISABLE"),), True),
        ((PEER % ("istio-system", "", "DISABLE"),), True),
        ((PEER % ("istio-system", "", "DISABLE"), PEER % ("prod", "", "STRICT")), False),
        ((PEER % ("prod", "selector: {matchLabels: {app: reviews}}, ", "DISABLE"),), False),
        ((PEER % ("prod", "selector: {matchLabels: {}}, ", "DISABLE"),), True),
        ((PEER % ("prod", "selector: {}, ", "DISABLE"),), True),
        ((OLDER % ("prod", "", "DISABLE"), PEER % ("prod", "", "STRICT")), True),
        ((OLDER % ("prod", "", "UNSET"), PEER % ("prod", "", "DISABLE")), False),
        ((OLDER % ("prod", "", "UNSET"), PEER % ("istio-system", "", "DISABLE")), True),
        ((PEER % ("prod", "", "DISABLE"), RULE), False),
    ],
    ids=[
        "nothing",
        "rule",
        "other",
        "pattern",
        "rule over pattern",
        "namespace",
        "mesh",
        "namespace over mesh",
        "workload",
        "no labels",
        "no selection",
        "oldest",
        "oldest unset",
        "unset inherits",
        "rule over namespace",
    ],
)
def test_plaintext_only_where_it_is_said(texts: tuple[str, ...], plain: bool) -> None:
    """By a rule, or for a whole namespace; what holds for one workload does not tell a client anything."""
    assert naming(SERVICE, DEPLOYMENT, *texts).is_plaintext(FULL) is plain


def test_what_mesh_yaml_names_is_in_nobodys_namespace() -> None:
    """No PeerAuthentication takes the TLS off it, also not the mesh's; a DestinationRule for its name does."""
    services = {"reviews.mesh": Service(ids=("spiffe://cluster.local/ns/prod/sa/mine",))}
    disabled = PEER % ("istio-system", "", "DISABLE")
    assert not naming(disabled, services=services).is_plaintext("reviews.mesh")
    assert naming(disabled, SERVICE, DEPLOYMENT, services=services).is_plaintext(FULL)
    rule = OFF.replace("host: reviews", "host: reviews.mesh")
    assert naming(disabled, rule, services=services).is_plaintext("reviews.mesh")


@pytest.mark.parametrize(
    ("export", "own", "other"),
    [
        ("['.']", True, False),
        ("['*']", True, True),
        ("[prod]", True, False),
        ("[test]", False, True),
        ("['.', test]", True, True),
        ("[elsewhere]", False, False),
        ("['~']", False, False),
    ],
)
def test_export_to_says_whose_a_rule_is(export: str, own: bool, other: bool) -> None:
    """Its own namespace's, too, only where it says so; with a selector it is for its own alone, whatever it says."""
    rule = OFF.replace("host: reviews", f"host: {FULL}\n  exportTo: {export}")
    for namespace, plain, with_selector in (("prod", own, True), ("test", other, False)):
        assert naming(SERVICE, DEPLOYMENT, rule, namespace=namespace).is_plaintext(FULL) is plain
        chosen = rule.replace("exportTo", "workloadSelector: {matchLabels: {app: web}}\n  exportTo")
        assert naming(SERVICE, DEPLOYMENT, chosen, namespace=namespace).is_plaintext(FULL) is with_selector


@pytest.mark.parametrize(
    ("export", "texts", "plain"),
    [("", (), True), ("", (RULE,), False), ("exportTo: ['.']", (RULE,), True), ("exportTo: [prod]", (), False)],
)
def test_in_the_root_namespace_a_rule_for_all_is_the_last_that_is_asked(
    export: str, texts: tuple[str, ...], plain: bool
) -> None:
    """A gateway there calls a service as its owner wants it; unless the rule is for that namespace alone."""
    everybody = ALL_OFF.replace("namespace: prod", "namespace: istio-system").replace("spec:", f"spec:\n  {export}")
    assert naming(SERVICE, DEPLOYMENT, everybody, *texts, namespace="istio-system").is_plaintext(FULL) is plain


@pytest.mark.parametrize(
    ("client", "closer"),
    [("prod", "workloadSelector: {matchLabels: {app: other}}"), ("test", "exportTo: [elsewhere]")],
)
def test_a_closer_rule_for_others_hides_a_wider_one(client: str, closer: str) -> None:
    """The host is chosen first, as in Istio: a wide rule takes the TLS off no host that has a rule of its own."""
    hidden = RULE.replace("host: reviews", f"host: reviews\n  {closer}")
    assert naming(SERVICE, DEPLOYMENT, ALL_OFF, namespace=client).is_plaintext(FULL)
    assert not naming(SERVICE, DEPLOYMENT, ALL_OFF, hidden, namespace=client).is_plaintext(FULL)
    for_another_host = hidden.replace("host: reviews", "host: ratings")
    assert naming(SERVICE, DEPLOYMENT, ALL_OFF, for_another_host, namespace=client).is_plaintext(FULL)


@pytest.mark.parametrize(("namespace", "plain"), [("prod", True), ("test", False)])
def test_a_rule_with_a_selector_is_for_its_own_namespace(namespace: str, plain: bool) -> None:
    """Another namespace's owner does not take the TLS off a client by its labels."""
    chosen = OFF.replace("host: reviews", "host: reviews\n  workloadSelector: {matchLabels: {app: web}}")
    assert naming(SERVICE, DEPLOYMENT, chosen, namespace=namespace).is_plaintext(FULL) is plain


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("mode: ISTIO_MUTUAL", "mode: ISTIO_MUTUAL, sni: 'x y'"), "is no host name"),
        (("mode: ISTIO_MUTUAL", "mode: ISTIO_MUTUAL, credentialName: x"), "has no place in ISTIO_MUTUAL"),
        (("mode: ISTIO_MUTUAL", "mode: ISTIO_MUTUAL, insecureSkipVerify: true"), "who answers is always checked"),
        (('"spiffe://cluster.local/ns/prod/sa/chosen"', "reviews"), "is no SPIFFE ID"),
        (("{tls: {", "{portLevelSettings: [{port: {number: 0}, tls: {mode: DISABLE}}], tls: {"), "number"),
        (("{tls: {", "{portLevelSettings: [{tls: {mode: DISABLE}}], tls: {"), "port"),
        (("host: reviews", "host: reviews\n  subsets: [{name: a, trafficPolicy: {tls: 1}}]"), "subsets"),
        (("host: reviews", "host: 're*'"), "is no host name"),
        (("kind: DestinationRule", "kind: DestinationRules"), "did you mean DestinationRule"),
        (("networking.istio.io/v1", "networking.istio.io/v2"), "has apiVersion"),
    ],
)
def test_what_would_change_who_is_believed_is_refused_by_name(change: tuple[str, str], message: str) -> None:
    """What cannot be kept is not promised."""
    with pytest.raises(ConfigError, match=message):
        parse(RULE.replace(*change))


def by_port(*settings: str, tls: str = "mode: ISTIO_MUTUAL") -> SecureNaming:
    """reviews under a rule for all its ports, and settings of some."""
    rule = RULE.replace(RULE[RULE.index("trafficPolicy") :], "")
    more = f"trafficPolicy: {{tls: {{{tls}}}, portLevelSettings: [{', '.join(settings)}]}}"
    return naming(SERVICE, DEPLOYMENT, f"{rule}{more}\n")


CHOSEN = 'tls: {mode: ISTIO_MUTUAL, subjectAltNames: ["spiffe://cluster.local/ns/prod/sa/chosen"]}'


def test_a_ports_setting_replaces_the_rules() -> None:
    """As a whole: where it says nothing of TLS, TLS is as without the rule."""
    table = by_port(
        f"{{port: {{number: 9443}}, {CHOSEN}}}",
        "{port: {number: 80}, tls: {mode: DISABLE}}",
        "{port: {number: 81}, loadBalancer: {simple: RANDOM}}",
        "{port: {number: 82}, tls: {mode: SIMPLE}}",
        "{port: {number: 82}, tls: {mode: DISABLE}}",
        tls="mode: ISTIO_MUTUAL, sni: all.example",
    )
    usual = naming(SERVICE, DEPLOYMENT).ids(FULL)
    assert table.ids(FULL, 443) == table.ids(FULL, 81) == usual
    assert {one.service_account for one in table.ids(FULL, 9443)} == {"chosen"}
    assert [table.is_plaintext(FULL, port) for port in (443, 80, 81, 82)] == [False, True, False, False]
    assert [table.server_name(FULL, port) for port in (443, 81)] == ["all.example", FULL]
    with pytest.raises(SvidError, match="SIMPLE"):
        table.ids(FULL, 82)


def test_who_does_not_know_the_port_lets_only_those_answer_who_may_at_every_one() -> None:
    """A context that is told a name and no port never believes more than any port would."""
    apart = by_port(f"{{port: {{number: 9443}}, {CHOSEN}}}")
    with pytest.raises(SvidError, match="names no identity"):
        apart.ids(FULL)
    some = by_port("{port: {number: 9443}, tls: {mode: SIMPLE}}", "{port: {number: 80}, tls: {mode: DISABLE}}")
    assert some.ids(FULL) == some.ids(FULL, 443)
    assert not some.is_plaintext(FULL)


SUBSETS = [
    # the host's own, and what a subset asks for: a whole policy
    ("tls: {mode: ISTIO_MUTUAL}", "tls: {mode: ISTIO_MUTUAL}", ""),
    ("", "tls: {mode: ISTIO_MUTUAL}", ""),
    ("", "loadBalancer: {simple: RANDOM}", ""),
    ("tls: {mode: DISABLE}", "tls: {}", ""),
    (CHOSEN, CHOSEN, ""),
    ("", "portLevelSettings: [{port: {number: 80}, tls: {mode: ISTIO_MUTUAL}}]", ""),
    ("portLevelSettings: [{port: {number: 80}, tls: {}}]", "portLevelSettings: [{port: {number: 80}, tls: {}}]", ""),
    ("", "tls: {}", "tls"),
    (CHOSEN, "tls: {mode: ISTIO_MUTUAL}", "tls"),
    ("tls: {mode: ISTIO_MUTUAL}", CHOSEN, "tls"),
    ("tls: {mode: ISTIO_MUTUAL}", "tls: {mode: SIMPLE}", "tls"),
    ("tls: {mode: ISTIO_MUTUAL}", "tls: {mode: ISTIO_MUTUAL, sni: other.example}", "tls"),
    ("portLevelSettings: [{port: {number: 80}, tls: {}}]", "tls: {mode: ISTIO_MUTUAL}", "tls"),
    ("", "portLevelSettings: [{port: {number: 80}, tls: {}}]", "portLevelSettings[0].tls"),
]


@pytest.mark.parametrize(("host", "subset", "wrong"), SUBSETS)
def test_a_subset_may_ask_for_what_its_host_is_under_anyway(host: str, subset: str, wrong: str) -> None:
    """Port by port; for something else only a VirtualService could lead to it, and none is followed."""
    rule = RULE.replace(RULE[RULE.index("trafficPolicy") :], "")
    text = f"{rule}trafficPolicy: {{{host}}}\n  subsets: [{{name: v0}}, {{name: v1, trafficPolicy: {{{subset}}}}}]\n"
    if not wrong:
        without = naming(SERVICE, DEPLOYMENT, text.partition("  subsets")[0])
        assert list(naming(SERVICE, DEPLOYMENT, text).entries()) == list(without.entries())
        return
    with pytest.raises(ConfigError, match="only a VirtualService leads to a subset") as error:
        naming(SERVICE, DEPLOYMENT, text)
    (problem,) = error.value.problems
    assert (problem.resource, problem.field) == (
        "DestinationRule prod/rule",
        f"spec.subsets[1].trafficPolicy.{wrong}",
    )


def test_a_subset_of_another_rule_for_the_host_counts_too() -> None:
    """Istio takes the subsets of all of them; a rule that other clients are under is theirs."""
    more = RULE[: RULE.index("trafficPolicy")] + "subsets: [{name: a, trafficPolicy: {tls: {}}}]\n"
    other = more.replace("name: rule", "name: zz")
    with pytest.raises(ConfigError, match=r"prod/zz.*only a VirtualService"):
        naming(SERVICE, DEPLOYMENT, RULE, other)
    assert naming(
        SERVICE, DEPLOYMENT, RULE, other.replace("spec:", "spec:\n  workloadSelector: {matchLabels: {app: other}}")
    )


def test_what_only_routes_is_accepted() -> None:
    """A rule that also balances has its effect on names all the same."""
    more = "host: reviews\n  subsets: [{name: v1, labels: {v: one}, trafficPolicy: {loadBalancer: {simple: RANDOM}}}]"
    assert accounts(naming(SERVICE, DEPLOYMENT, RULE.replace("host: reviews", more))) == {"chosen"}
    assert parse(RULE.partition("spec")[0].replace("DestinationRule", "VirtualService"))


@pytest.mark.parametrize(
    ("text", "change", "message"),
    [
        (DEPLOYMENT, ("serviceAccountName", "serviceAccountNam"), "did you mean serviceAccountName"),
        (DEPLOYMENT, ("serviceAccountName: reviews", "serviceAccountName: 'a/b'"), "is no service account"),
        (DEPLOYMENT, ("replicas", "replica"), "unknown field 'replica'"),
        (ENTRY, ("serviceAccount: legacy", "serviceAccount: A"), "is no service account"),
        (ENTRY, ("  subjectAltNames", "  workloadSelector: {}\n  subjectAltNames"), "exclude each other"),
    ],
)
def test_a_misspelt_workload_is_refused(text: str, change: tuple[str, str], message: str) -> None:
    """Else another account would be named."""
    with pytest.raises(ConfigError, match=message):
        parse(text.replace(*change))


# ---------------------------------------------------------------- the table


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A mesh with one workload in prod."""
    (tmp_path / "mesh.yaml").write_text(
        "workloads: {web: {namespace: prod}}\nservices: {api.example: {ids: ['spiffe://cluster.local/a']}}\n"
        "allowNoPolicy: true\n"
    )
    (tmp_path / "reviews.yaml").write_text(f"{SERVICE}---{DEPLOYMENT}---{ENTRY}")
    return tmp_path


def test_the_table_says_from_which_file_each_line_follows(folder: Path) -> None:
    """``meshsec naming`` prints it."""
    result = CliRunner().invoke(main, ["naming", str(folder)], catch_exceptions=False)
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert "reviews.prod.svc.cluster.local (reviews.prod.svc, reviews.prod, reviews)" in lines
    origin = f"Deployment prod/reviews-v1 ({folder}/reviews.yaml:7)"
    assert f"  spiffe://cluster.local/ns/prod/sa/reviews  from {origin}" in lines
    assert "  spiffe://cluster.local/a  from services of mesh.yaml" in lines


def test_a_list_alone_says_who_may_answer(tmp_path: Path) -> None:
    """The short form in ``mesh.yaml`` is the same as with ``ids``; what is no ID is refused with its place."""
    named = "services: {reviews.prod: %s}\n"
    short, long = "[spiffe://cluster.local/ns/prod/sa/r]", "{ids: [spiffe://cluster.local/ns/prod/sa/r]}"
    found = []
    for form in (short, long):
        (tmp_path / "mesh.yaml").write_text(named % form)
        found.append(load_mesh(tmp_path).config.services)
    assert found[0] == found[1]
    (tmp_path / "mesh.yaml").write_text(named % "[http://r]")
    with pytest.raises(ConfigError, match=r"mesh\.yaml:1:26: .*ids\[0\]"):
        load_mesh(tmp_path)


def test_the_table_is_there_for_programs(folder: Path) -> None:
    """``--format json``: the same facts."""
    result = CliRunner().invoke(main, ["naming", str(folder), "--format", "json"], catch_exceptions=False)
    entries = {entry["host"]: entry for entry in json.loads(result.output)}
    assert entries["reviews.prod.svc.cluster.local"] == {
        "host": "reviews.prod.svc.cluster.local",
        "names": ["reviews.prod.svc.cluster.local", "reviews.prod.svc", "reviews.prod", "reviews"],
        "mode": "ISTIO_MUTUAL",
        "ids": {
            "spiffe://cluster.local/ns/prod/sa/reviews": [f"Deployment prod/reviews-v1 ({folder}/reviews.yaml:7)"]
        },
    }


def test_a_mesh_names_what_its_folder_says_and_follows_it(folder: Path) -> None:
    """A changed file becomes the running mesh's naming."""
    mesh = Mesh.load(folder)
    assert accounts(mesh.naming) == {"reviews"}
    text = (folder / "reviews.yaml").read_text()
    (folder / "reviews.yaml").write_text(text.replace("serviceAccountName: reviews", "serviceAccountName: other"))
    mesh._policies.refresh()
    mesh._policies.refresh()
    assert accounts(mesh.naming) == {"other"}


def test_check_tells_what_is_wrong_with_naming(folder: Path) -> None:
    """Before any workload runs."""
    wrong = SERVICE.replace("namespace: prod}", "namespace: prod, annotations: {%s: 'spiffe://a/../b'}}")
    (folder / "reviews.yaml").write_text(wrong % "alpha.istio.io/canonical-serviceaccounts")
    result = CliRunner().invoke(main, ["check", str(folder)])
    assert result.exit_code == 1
    assert "Service prod/reviews" in result.output
