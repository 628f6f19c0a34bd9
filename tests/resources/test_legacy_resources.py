"""The legacy kinds, Kubernetes' Service, ConfigMaps and lists: what is accepted, and where things stand."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from meshsec.errors import ConfigError
from meshsec.matching import Regex
from meshsec.resources import (
    Foreign,
    KubernetesService,
    MeshPolicy,
    Policy,
    PrincipalBinding,
    StringMatch,
    load,
    parse,
)
from resources.judged import judge
from sweeping import sweep

GOOD = {path.stem: path.read_text(encoding="utf-8") for path in (Path(__file__).parent / "good").glob("*.yaml")}


def legacy(spec: str, *, name: str = "default", kind: str = "Policy") -> Any:
    """The one resource of a document with this spec, in flow style."""
    head = f"apiVersion: authentication.istio.io/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}}}\n"
    (found,) = parse(f"{head}spec: {spec}\n")
    return found


def problem(spec: str, **about: str) -> str:
    """The one problem of such a document."""
    with pytest.raises(ConfigError) as caught:
        legacy(spec, **about)
    (found,) = caught.value.problems
    return f"{found.field}: {found.message}"


# ------------------------------------------------------------------ 5.1, the schema


@pytest.mark.parametrize("spelling", ["camelCase", "snake_case"])
def test_both_spellings_say_the_same(spelling: str) -> None:
    """Every field, as protobuf's JSON writes it and as the proto itself."""
    text = GOOD["legacy"].replace("trigger_rules", "triggerRules").replace("cluded_paths", "cludedPaths")
    if spelling == "snake_case":
        text = re.sub(r"\b([a-z]+)([A-Z][a-z]+)((?:[A-Z][a-z]+)?):", snake, text).replace("api_version", "apiVersion")
        assert "principal_binding" in text
    (policy,) = parse(text)
    assert isinstance(policy, Policy)
    spec, (first, second) = policy.spec, (origin.jwt for origin in policy.spec.origins)
    assert policy.id == "prod/reviews"
    assert [(target.name, [(port.number, port.name) for port in target.ports]) for target in spec.targets] == [
        ("reviews", [(80, None), (None, "http")])
    ]
    assert ([peer.mtls.mode for peer in spec.peers], spec.peer_is_optional) == (["PERMISSIVE"], True)
    assert (first.issuer, first.audiences, first.jwks_uri) == (
        "https://issuer.example", ("shop",), "https://issuer.example/jwks")  # fmt: skip
    assert (first.jwt_headers, first.jwt_params) == (("x-token",), ("token",))
    (rule,) = first.trigger_rules
    assert [match.exact for match in rule.excluded_paths] == ["/health"]
    assert [(match.prefix, match.suffix) for match in rule.included_paths] == [("/api/", None), (None, ".json")]
    assert (second.trigger_rules, spec.origin_is_optional) == ((), False)
    assert spec.principal_binding is PrincipalBinding.USE_ORIGIN


def snake(match: re.Match[str]) -> str:
    """One key in snake_case."""
    return "_".join(re.findall("[A-Z]?[a-z]+", match[0])).lower() + ":"


@pytest.mark.parametrize(
    ("spec", "modes"),
    [
        ("{peers: [{mtls: {}}]}", ["STRICT"]),
        ("{peers: [{mtls: }]}", ["STRICT"]),
        ("{peers: [{mtls: null}]}", ["STRICT"]),
        ("{peers: [{mtls: {mode: STRICT}}]}", ["STRICT"]),
        ("{peers: [{mtls: {allowTls: false}}]}", ["STRICT"]),
        ("{peers: [{mtls: {mode: PERMISSIVE}}, {mtls: {}}]}", ["PERMISSIVE", "STRICT"]),
        ("{peers: []}", []),
        ("{}", []),
    ],
)
def test_mtls_is_strict_unless_it_says_otherwise(spec: str, modes: list[str]) -> None:
    """An empty mapping and nothing at all mean STRICT."""
    assert [peer.mtls.mode for peer in legacy(spec).spec.peers] == modes


def test_what_is_not_said_has_istios_default() -> None:
    """Nothing is optional, and the peer is the principal."""
    spec = legacy("{}").spec
    assert (spec.targets, spec.peers, spec.origins) == ((), (), ())
    assert (spec.peer_is_optional, spec.origin_is_optional) == (False, False)
    assert spec.principal_binding is PrincipalBinding.USE_PEER


@pytest.mark.parametrize(
    ("kind", "name", "spec", "refused"),
    [
        ("Policy", "default", "{}", None),
        ("Policy", "default", "{targets: [{name: a}]}", "spec.targets: the policy named default"),
        ("Policy", "other", "{targets: [{name: a}]}", None),
        ("Policy", "other", "{}", "spec.targets: a policy without targets"),
        ("MeshPolicy", "default", "{}", None),
        ("MeshPolicy", "other", "{}", "metadata.name: a MeshPolicy is named default"),
        ("MeshPolicy", "default", "{targets: [{name: a}]}", "spec.targets: a MeshPolicy is for the whole mesh"),
    ],
)
def test_names_and_targets_go_together(kind: str, name: str, spec: str, refused: str | None) -> None:
    """``default`` is for all of a namespace or of the mesh, and every other name for some services."""
    if refused is None:
        assert legacy(spec, name=name, kind=kind).name == name
    else:
        assert problem(spec, name=name, kind=kind).startswith(refused)


def test_a_mesh_policy_is_in_no_namespace() -> None:
    """There is one in the whole mesh, whatever namespace a chart writes into it; Kubernetes drops it too."""
    (found,) = parse(GOOD["mesh-wide"].replace("name: default", "name: default, namespace: istio-system"))
    assert isinstance(found, MeshPolicy)
    assert found.id == "default"
    with pytest.raises(ConfigError, match="stands at <string>:1 already"):
        parse(f"{GOOD['mesh-wide']}---\n{GOOD['mesh-wide']}")


def test_a_policy_without_a_spec_is_judged_too() -> None:
    """It has no targets, so it must be named default."""
    text = "apiVersion: authentication.istio.io/v1alpha1\nkind: Policy\nmetadata: {name: reviews}\n"
    with pytest.raises(ConfigError, match="must be named default"):
        parse(text)
    assert parse(text.replace("reviews", "default"))


@pytest.mark.parametrize("group", ["kyverno.io/v1", "policy.example/v1", "serving.knative.dev/v1"])
@pytest.mark.parametrize("kind", ["Policy", "Service", "MeshPolicy"])
def test_the_names_of_these_kinds_are_not_ours_alone(group: str, kind: str) -> None:
    """In another group they are somebody else's."""
    (found,) = parse(f"apiVersion: {group}\nkind: {kind}\nmetadata: {{name: a}}\nspec: {{validate: []}}\n")
    assert isinstance(found, Foreign)


def test_built_in_python() -> None:
    """The same checks, and either spelling."""
    policy = Policy(metadata={"name": "default"}, spec={"peers": [{"mtls": None}], "origin_is_optional": True})
    assert policy.spec.peers[0].mtls.mode == "STRICT"
    assert policy.spec.origin_is_optional
    with pytest.raises(ConfigError, match="must be named default"):
        Policy(metadata={"name": "a"})


# ------------------------------------------------------------------ regex


class _BadExpressionError(Exception):
    pass


def _stand_in(**changes: Any) -> Any:
    """What meshsec uses of google-re2, played by Python's own expressions."""

    def compiled(text: str, _: object) -> re.Pattern[str]:
        try:
            return re.compile(text)
        except re.error as error:
            raise _BadExpressionError(str(error).encode()) from None

    return SimpleNamespace(Options=SimpleNamespace, compile=compiled, error=_BadExpressionError, **changes)


def test_regex_is_refused_by_name_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """No backtracking engine ever matches an expression from a file."""
    monkeypatch.setitem(sys.modules, "re2", None)
    text = GOOD["legacy"].replace("exact: /health", "regex: /health.*")
    with pytest.raises(ConfigError, match=r"install meshsec\[re2\]") as caught:
        parse(text)
    (found,) = caught.value.problems
    assert found.field == "spec.origins[0].jwt.trigger_rules[0].excluded_paths[0].regex"
    assert found.line == 22


def test_regex_with_the_extra_matches_the_whole_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the beginning nor the end is enough."""
    monkeypatch.setitem(sys.modules, "re2", _stand_in())
    parse(GOOD["legacy"].replace("exact: /health", "regex: /health.*"))
    pattern = StringMatch(regex="/a[0-9]").pattern
    assert isinstance(pattern, Regex)
    assert [pattern.matches(path) for path in ("/a1", "/a12", "x/a1")] == [True, False, False]
    assert str(pattern) == "/a[0-9]"


@pytest.mark.parametrize("text", ["(", "a" * 1025])
def test_what_is_no_expression_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Malformed, or longer than any that is meant."""
    monkeypatch.setitem(sys.modules, "re2", _stand_in())
    with pytest.raises(ConfigError, match="regular expression"):
        StringMatch(regex=text)


# ------------------------------------------------------------------ Kubernetes' Service


def test_a_service_says_which_workloads_it_selects() -> None:
    """Those of its namespace with all of its labels; without a selector none."""
    (service,) = parse(GOOD["service"])
    assert isinstance(service, KubernetesService)
    assert [(port.port, port.name, port.target_port) for port in service.spec.ports] == [
        (80, "http", 8080), (81, "admin", "admin")]  # fmt: skip
    assert service.selects("prod", {"app": "reviews", "version": "v1"})
    assert not service.selects("test", {"app": "reviews"})
    assert not service.selects("prod", {"app": "ratings"})
    assert not KubernetesService(metadata={"name": "a", "namespace": "prod"}).selects("prod", {})


def test_a_service_as_kubectl_writes_it() -> None:
    """Every field that Kubernetes fills in is accepted by name."""
    text = """
apiVersion: v1
kind: Service
metadata: {name: a, uid: 1, creationTimestamp: "2024-05-01T12:00:00Z", resourceVersion: "1", annotations: {a: b}}
spec:
  clusterIP: None
  clusterIPs: [None]
  externalIPs: []
  externalName: x
  externalTrafficPolicy: Cluster
  healthCheckNodePort: 1
  internalTrafficPolicy: Cluster
  ipFamilies: [IPv4]
  ipFamilyPolicy: SingleStack
  allocateLoadBalancerNodePorts: true
  loadBalancerIP: x
  loadBalancerClass: x
  loadBalancerSourceRanges: []
  publishNotReadyAddresses: true
  sessionAffinity: None
  sessionAffinityConfig: {}
  trafficDistribution: x
  type: ClusterIP
  ports: [{port: 80, protocol: TCP, nodePort: 30000, appProtocol: http}]
status: {loadBalancer: {}}
"""
    (service,) = parse(text)
    assert isinstance(service, KubernetesService)
    assert (service.spec.ports[0].target_port, service.spec.ports[0].name) == (None, "")


# ------------------------------------------------------------------ lists and ConfigMaps


def test_lists_hold_legacy_kinds_and_services() -> None:
    """As ``kubectl get policies.authentication.istio.io -o yaml`` writes them, with the lines of their items."""
    items = "".join(
        "- " + GOOD[name].replace("\n", "\n  ").rstrip(" ") for name in ("legacy", "mesh-wide", "service")
    )
    for kind in ("List", "PolicyList"):
        found = parse(f"apiVersion: v1\nkind: {kind}\nitems:\n{items}")
        assert [type(item) for item in found] == [Policy, MeshPolicy, KubernetesService]
        assert [item.location for item in found] == ["<string>:4", "<string>:32", "<string>:37"]


def test_a_config_map_holds_resources(tmp_path: Path) -> None:
    """Blocks and quoted texts; what is not about policies is left alone; lines are those of the file."""
    (tmp_path / "a.yaml").write_text(GOOD["config-map"], encoding="utf-8")
    found = load(tmp_path)
    assert [(item.kind, item.name) for item in found] == [
        ("AuthorizationPolicy", "viewers"), ("Secret", ""), ("PeerAuthentication", "web")]  # fmt: skip
    assert [item.location.rpartition(":")[2] for item in found] == ["8", "13", "15"]


def test_a_config_map_without_policies_is_somebody_elses() -> None:
    """Whatever it holds, as long as it names no group of ours and is no Kubernetes object."""
    for value in ("{", "server {\n", "a: b", "apiVersion: 1", "[apiVersion]", "kind: x\napiVersion: y: z"):
        document = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"key": value}}
        (found,) = parse(yaml.safe_dump(document))
        assert isinstance(found, Foreign)


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ("|\n    apiVersion: security.istio.io/v1\n    kind: X", (7, 11)),
        ("|-  # mine\n\n      apiVersion: security.istio.io/v1\n      kind: X", (8, 13)),
        ("|1\n   apiVersion: security.istio.io/v1\n   kind: X", (7, 10)),
        ("|\r\n    apiVersion: security.istio.io/v1\r\n    kind: X\r", (7, 11)),
        (">\n    apiVersion: security.istio.io/v1\n\n    kind: X", (5, 3)),
        ('"apiVersion: security.istio.io/v1\\nkind: X"', (5, 3)),
        ("'{apiVersion: security.istio.io/v1, kind: X}'", (5, 3)),
    ],
)
def test_problems_in_a_config_map_have_their_place(value: str, place: tuple[int, int]) -> None:
    """In a block the very place, elsewhere that of the key."""
    with pytest.raises(ConfigError, match="unknown kind 'X'") as caught:
        parse(f"apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: a}}\ndata:\n  key: {value}\n")
    (found,) = caught.value.problems
    assert (found.line, found.column) == place


def test_a_policy_in_a_config_map_that_is_not_yaml_is_a_problem() -> None:
    """It names our group, so it means to be one."""
    text = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata:\n  key: |\n    security.istio.io: [\n"
    with pytest.raises(ConfigError, match="not YAML") as caught:
        parse(text)
    assert caught.value.problems[0].line == 7


def test_a_config_map_in_a_config_map_is_refused() -> None:
    """Kubernetes would not look into it either; without a policy inside it is somebody else's."""
    inner = GOOD["config-map"]
    document = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"key": inner}}
    with pytest.raises(ConfigError, match="inside a ConfigMap is not read"):
        parse(yaml.safe_dump(document))
    document["data"] = {"key": yaml.safe_dump({**document, "data": {"a": "b"}})}
    assert [type(item) for item in parse(yaml.safe_dump(document))] == [Foreign]


def test_two_of_one_name_are_refused_in_a_config_map_too() -> None:
    """With the line of the second and of the first."""
    text = GOOD["config-map"] + "---\n" + GOOD["config-map"]
    with pytest.raises(ConfigError, match="viewers: stands at <string>:8 already") as caught:
        parse(text)
    assert [item.line for item in caught.value.problems] == [24, 31]


def test_aliases_do_not_multiply_a_config_map() -> None:
    """A value that stands for many is read as often as the limit allows, and no more."""
    big = "# security.istio.io" + "x" * 2**20
    values = "".join(f"  k{number}: *big\n" for number in range(40))
    text = f"apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: a}}\ndata:\n  k: &big '{big}'\n{values}"
    with pytest.raises(ConfigError, match="with more than 16777216 characters is not read"):
        parse(text)


# ------------------------------------------------------------------ any text


names = st.sampled_from(
    [
        *("metadata", "name", "namespace", "targets", "ports", "number", "peers", "mtls", "mode", "allowTls", "jwt"),
        *("origins", "issuer", "jwks", "jwksUri", "jwt_headers", "jwtParams", "triggerRules", "trigger_rules"),
        *("excludedPaths", "included_paths", "exact", "prefix", "suffix", "regex", "principalBinding", "selector"),
        *("peerIsOptional", "origin_is_optional", "targetPort", "port", "data", "items", "spec", "kind"),
    ]
)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-1, 70000),
    st.text(max_size=8),
    st.sampled_from(["default", "/a", "USE_PEER"]),
)
trees = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names | st.text(max_size=3), inner, max_size=4),
)
kinds = st.sampled_from(
    [
        *(("authentication.istio.io/v1alpha1", kind) for kind in ("Policy", "MeshPolicy", "PolicyList", "Polcy")),
        *(("v1", kind) for kind in ("Service", "ConfigMap", "List")),
    ]
)


@given(kinds, trees, trees, trees)
@settings(max_examples=300)
def test_any_tree_is_resources_or_a_config_error(kind: tuple[str, str], metadata: Any, spec: Any, data: Any) -> None:
    """Well-formed YAML of any shape."""
    document = {
        "apiVersion": kind[0],
        "kind": kind[1],
        "metadata": metadata,
        "spec": spec,
        "data": data,
        "items": data,
    }
    judge(yaml.safe_dump({name: value for name, value in document.items() if value is not None}))


@given(st.text(max_size=60) | st.lists(st.sampled_from([*"{}[]|>&*!:-,'\" \n\r\t", "a", "kind: "])).map("".join))
@settings(max_examples=300)
def test_any_text_inside_a_config_map_is_resources_or_a_config_error(text: str) -> None:
    """In a value that names our group, quoted and as a block."""
    document = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"k": text}}
    document["data"] = {"k": f"# security.istio.io\n{text}"}
    judge(yaml.safe_dump(document))
    lines = "".join(f"\n    {line}" for line in text.split("\n"))
    judge(f"apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: a}}\ndata:\n  k: |\n    # security.istio.io{lines}\n")


@sweep("code")
def test_every_character_anywhere_in_a_value(code: int) -> None:
    """In names, paths, issuers, modes, headers, and inside a ConfigMap."""
    character = chr(code)
    for old, new in [
        ("name: http", f"name: ht{character}tp"),
        ("exact: /health", f"exact: /heal{character}th"),
        ("issuer: https://issuer", f"issuer: https://iss{character}uer"),
        ("[x-token]", f"[x-to{character}ken]"),
        ("PERMISSIVE", f"PERM{character}SSIVE"),
        ("- name: reviews", f"- name: rev{character}iews"),
    ]:
        judge(GOOD["legacy"].replace(old, new))
    judge(GOOD["service"].replace("app: reviews", f"app: rev{character}iews"))
    judge(GOOD["config-map"].replace("name: viewers", f"name: view{character}ers"))
