"""The resources as Python values: what a user constructs, and what a file turns into."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from meshsec.errors import ConfigError
from meshsec.resources import (
    Action,
    AuthorizationPolicy,
    AuthorizationPolicySpec,
    ClaimToHeader,
    Condition,
    Foreign,
    From,
    JWTHeader,
    JWTRule,
    Metadata,
    MtlsMode,
    MutualTls,
    Operation,
    PeerAuthentication,
    Presence,
    RequestAuthentication,
    Rule,
    Source,
    TargetReference,
    To,
    WorkloadSelector,
    load,
    parse,
    workload_api_address,
)

GOOD = Path(__file__).parent / "good"
KEYS = '{"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}'


def one(name: str) -> Any:
    """The resource in one of the good files."""
    return load(GOOD / f"{name}.yaml")[0]


def test_an_authorization_policy_holds_what_the_file_says() -> None:
    """Every field of the file arrives, lists as tuples."""
    assert one("policy") == AuthorizationPolicy(
        metadata=Metadata(
            name="viewers",
            namespace="prod",
            labels={"team": "web"},
            annotations={"istio.io/dry-run": "false"},
            creation_timestamp="2024-05-01T12:00:00Z",
        ),
        spec=AuthorizationPolicySpec(
            selector=WorkloadSelector(match_labels={"app": "web"}),
            action=Action.DENY,
            rules=(
                Rule(
                    from_=(
                        From(
                            source=Source(
                                principals=("cluster.local/ns/prod/sa/web", "*"),
                                not_namespaces=("bad",),
                                ip_blocks=("10.0.0.0/8",),
                                remote_ip_blocks=("::1",),
                                trust_domains=("*.example",),
                            )
                        ),
                        From(source=Source(service_accounts=("prod/web",))),
                    ),
                    to=(
                        To(
                            operation=Operation(
                                hosts=("example.com",),
                                ports=("8443",),
                                methods=("GET",),
                                paths=("/a/*", "/v1/{*}"),
                            )
                        ),
                    ),
                    when=(
                        Condition(key="request.headers[x-team]", values=("a",)),
                        Condition(key="source.ip", not_values=("10.1.0.0/16",)),
                    ),
                ),
            ),
        ),
    )


def test_a_request_authentication_holds_what_the_file_says() -> None:
    """Every field of a JWTRule arrives; durations are seconds."""
    resource = one("request")
    assert resource.spec.jwt_rules == (
        JWTRule(
            issuer="https://issuer.example",
            audiences=("bookinfo",),
            jwks_uri="https://issuer.example/keys",
            from_headers=(JWTHeader(name="x-token", prefix="Bearer "),),
            from_params=("token",),
            from_cookies=("session",),
            output_payload_to_header="x-payload",
            output_claim_to_headers=(ClaimToHeader(header="x-sub", claim="sub"),),
            forward_original_token=True,
            timeout="90s",
            presence=Presence.REQUIRED,
            space_delimited_claims=("roles",),
        ),
    )
    assert resource.spec.jwt_rules[0].timeout == 90.0
    assert (resource.id, resource.exclude_paths, resource.include_paths) == (
        "default/users",
        ("/health", "/static/*"),
        (),
    )


def test_a_peer_authentication_holds_what_the_file_says() -> None:
    """Ports are numbers."""
    spec = one("peer").spec
    assert spec.mtls.mode is MtlsMode.STRICT
    assert spec.port_level_mtls == {8443: MutualTls(mode="PERMISSIVE")}


@pytest.mark.parametrize("port", [8443, "8443"])
def test_a_port_is_a_number_however_its_key_is_written(port: object) -> None:
    """JSON's keys always have quotes, YAML's may."""
    spec = {"selector": {"matchLabels": {"app": "web"}}, "portLevelMtls": {port: {"mode": "STRICT"}}}
    assert set(PeerAuthentication(metadata={"name": "a"}, spec=spec).spec.port_level_mtls) == {8443}


def test_a_kind_of_another_group_is_foreign() -> None:
    """It keeps its name and nothing else, whatever stands in it."""
    assert one("foreign") == Foreign(api_version="v1", kind="ConfigMap", metadata={"name": "web"})


@pytest.mark.parametrize("metadata", ["", "metadata: 7", "metadata: {name: 7}", "metadata: {name: A_b:c, x: y}"])
def test_a_foreign_kind_may_have_any_metadata(metadata: str) -> None:
    """What is not ours is not ours to judge."""
    (resource,) = parse(f"apiVersion: example.org/v1\nkind: AuthorizationPolicyX\n{metadata}\n")
    assert isinstance(resource, Foreign)


# ------------------------------------------------------------------ spellings


@pytest.mark.parametrize(
    ("camel", "snake"),
    [
        ({"jwtRules": [{"issuer": "i", "jwksUri": "https://a"}]}, {"jwt_rules": [{"issuer": "i", "jwks_uri": "https://a"}]}),
        ({"targetRefs": [{"kind": "Gateway", "name": "g"}]}, {"target_refs": [{"kind": "Gateway", "name": "g"}]}),
        ({"selector": {"matchLabels": {"a": "b"}}}, {"selector": {"match_labels": {"a": "b"}}}),
    ],
)  # fmt: skip
def test_both_spellings_of_a_field_mean_the_same(camel: dict[str, Any], snake: dict[str, Any]) -> None:
    """Istio's parser takes camelCase and the proto's snake_case."""
    made = [RequestAuthentication(metadata={"name": "a"}, spec=spec) for spec in (camel, snake)]
    assert made[0] == made[1]


def test_lists_and_mappings_make_the_same_as_tuples_and_models() -> None:
    """The constructor is as lenient as a file."""
    loose = AuthorizationPolicy(
        metadata={"name": "x", "namespace": "prod"}, spec={"rules": [{"from": [{"source": {"principals": ["*"]}}]}]}
    )
    strict = AuthorizationPolicy(
        metadata=Metadata(name="x", namespace="prod"),
        spec=AuthorizationPolicySpec(rules=(Rule(from_=(From(source=Source(principals=("*",))),)),)),
    )
    assert loose == strict
    assert (loose.name, loose.namespace, loose.id, loose.location) == ("x", "prod", "prod/x", "<python>")


@pytest.mark.parametrize(
    ("spec", "rules"),
    [({}, None), ({"rules": None}, None), ({"rules": []}, ()), ({"rules": [{}]}, (Rule(),))],
)
def test_no_rule_and_a_rule_without_conditions_stay_apart(spec: dict[str, Any], rules: object) -> None:
    """The first allows nobody, the second everybody."""
    assert AuthorizationPolicySpec(**spec).rules == rules


@pytest.mark.parametrize("spec", ["", "spec: {}"])
def test_a_resource_without_a_spec_has_the_empty_one(spec: str) -> None:
    """An AuthorizationPolicy like this is Istio's allow-nothing."""
    (resource,) = parse(f"apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: a}}\n{spec}")
    assert isinstance(resource, AuthorizationPolicy)
    assert (resource.spec.action, resource.spec.rules) == (Action.ALLOW, None)


def test_the_single_target_is_one_of_the_targets() -> None:
    """A policy for a gateway must not be read as one for the whole namespace, however it is written."""
    spec = AuthorizationPolicySpec(targetRef={"kind": "Gateway", "name": "g"})
    assert spec.target_refs == (TargetReference(kind="Gateway", name="g"),)


# ------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("make", "fields"),
    [
        (lambda: JWTRule(issuer="issuer"), ["jwks"]),
        (lambda: JWTRule(jwks=KEYS), ["jwks"]),
        (lambda: JWTRule(issuer="i", jwks="x", timeout=5, isuer=""), ["jwks", "timeout", "isuer"]),
        (lambda: JWTRule(issuer=b"i", jwks=KEYS), ["issuer"]),
        (Source, [None]),
        (lambda: Operation(paths=["/a"], ports=[80, "80", "x"]), ["ports[0]", "ports[2]"]),
        (lambda: Condition(key="source.ip", values=["x", "1.1.1.1", "y"]), ["values[0]", "values[2]"]),
        (lambda: Rule(from_=[], to={}), ["from_", "to"]),
        (lambda: PeerAuthentication(metadata={"name": "a"}, spec={"mtls": None}), ["spec.mtls"]),
        (
            lambda: PeerAuthentication(
                metadata={"name": "a"},
                spec={"selector": {"matchLabels": {"a": "b"}}, "portLevelMtls": {80: {}, "80": {}}},
            ),
            ["spec.portLevelMtls"],
        ),
        (lambda: AuthorizationPolicy(spec={}), ["metadata"]),
        (lambda: AuthorizationPolicy(metadata={}, kind="Policy"), ["metadata.name", "kind"]),
        (lambda: AuthorizationPolicySpec(action="Deny", provider={"name": "x"}), ["action"]),
        (lambda: AuthorizationPolicySpec(rules=[{}] * 513), ["rules"]),
        (lambda: Rule(from_=[{"source": {"principals": ["*"]}}] * 513), ["from_"]),
    ],
)
def test_a_wrong_value_is_a_config_error_with_every_field(make: Callable[[], object], fields: list[str]) -> None:
    """Never pydantic's own error, and never one problem at a time."""
    with pytest.raises(ConfigError) as caught:
        make()
    assert sorted(map(str, (item.field for item in caught.value.problems))) == sorted(map(str, fields))


def test_the_largest_allowed_numbers_of_rules_are_accepted() -> None:
    """The twins of the two refusals above."""
    rule = {"from": [{"source": {"principals": ["*"]}}] * 512}
    assert len(AuthorizationPolicySpec(rules=[rule, *[{}] * 511]).rules or ()) == 512


def test_a_wrong_key_set_is_never_repeated() -> None:
    """It may hold a shared secret; so may the repr of a rule."""
    with pytest.raises(ConfigError) as caught:
        JWTRule(issuer="i", jwks=KEYS + "}")
    assert "c2VjcmV0" not in str(caught.value)
    assert "c2VjcmV0" not in repr(JWTRule(issuer="i", jwks=KEYS))


def test_a_deeply_nested_key_set_is_refused() -> None:
    """It must not exhaust the stack."""
    with pytest.raises(ConfigError, match="is JSON, this is not"):
        JWTRule(issuer="i", jwks="[" * 100_000)


# ------------------------------------------------------------------ values


def test_a_resource_cannot_be_changed() -> None:
    """What was compiled stays what was written."""
    with pytest.raises(ValueError, match="frozen"):
        one("policy").spec.action = Action.ALLOW


def test_a_resource_can_be_copied_with_a_change() -> None:
    """A copy is equal; with another action it is not."""
    policy = one("policy")
    assert copy.deepcopy(policy) == policy
    changed = policy.model_copy(update={"spec": policy.spec.model_copy(update={"action": Action.ALLOW})})
    assert changed != policy


def test_kinds_with_the_same_content_differ() -> None:
    """Equality is for the own type only."""
    made = [kind(metadata={"name": "a"}) for kind in (PeerAuthentication, RequestAuthentication)]
    assert made[0] != made[1]


@pytest.mark.parametrize(
    ("timestamp", "seconds"),
    [
        ("2024-05-01T12:00:00Z", 1714564800.0),
        ('"2024-05-01T14:00:00.5+02:00"', 1714564800.5),
        ("null", 0.0),
        ("0001-01-01T00:00:00+23:00", -62135679600.0),
    ],
)
def test_ages_are_instants(timestamp: str, seconds: float) -> None:
    """Quoted or not; what is not known is older than everything, as in Istio."""
    metadata = f"{{name: a, creationTimestamp: {timestamp}}}"
    (resource,) = parse(f"apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {metadata}")
    assert isinstance(resource, PeerAuthentication)
    assert resource.age == (seconds, "a", "default")


def test_the_oldest_is_the_smallest_age() -> None:
    """Time, then name, then namespace."""
    made = [
        PeerAuthentication(metadata={"name": name, "namespace": space, "creationTimestamp": f"{day}T00:00:00Z"})
        for day, name, space in [
            ("2024-01-01", "a", "a"),
            ("2023-01-01", "b", "b"),
            ("2023-01-01", "b", "a"),
            ("2023-01-01", "a", "c"),
        ]
    ]
    assert [item.id for item in sorted(made, key=lambda item: item.age)] == ["c/a", "a/b", "b/b", "a/a"]


@pytest.mark.parametrize(
    ("labels", "selected"),
    [({"app": "web"}, True), ({"app": "web", "b": "c"}, True), ({"app": "api"}, False), ({}, False)],
)
def test_a_selector_needs_every_label(labels: dict[str, str], selected: bool) -> None:
    """An empty selector selects everything."""
    assert WorkloadSelector(match_labels={"app": "web"}).matches(labels) is selected
    assert WorkloadSelector().matches(labels)


@pytest.mark.parametrize(
    ("text", "patterns"),
    [
        ("/a", ("/a",)),
        (" /a , /b* ,\n*c\r\n/v/{*}\n\n", ("/a", "/b*", "*c", "/v/{*}")),
        ("/a%20b", ("/a%20b",)),
    ],
)
def test_path_annotations_are_lists(text: str, patterns: tuple[str, ...]) -> None:
    """Separated by commas or lines; the space around a pattern does not count."""
    resource = RequestAuthentication(metadata={"name": "a", "annotations": {"meshsec.dev/include-paths": text}})
    assert (resource.include_paths, resource.exclude_paths) == (patterns, ())


@pytest.mark.parametrize("kind", [AuthorizationPolicy, PeerAuthentication])
def test_path_annotations_belong_to_request_authentication(kind: type[Any]) -> None:
    """Elsewhere they would have no effect."""
    with pytest.raises(ConfigError, match="unknown annotation"):
        kind(metadata={"name": "a", "annotations": {"meshsec.dev/include-paths": "/a"}})


ADDRESSES = [
    ("unix:///run/spire/agent.sock", "/run/spire/agent.sock"),
    ("unix:/run/spire/agent.sock", "/run/spire/agent.sock"),
    ("tcp://127.0.0.1:8081", ("127.0.0.1", 8081)),
    ("tcp://[::1]:65535", ("::1", 65535)),
]


@pytest.mark.parametrize(("text", "expected"), ADDRESSES)
def test_a_workload_api_address_is_read(text: str, expected: object) -> None:
    """Both forms of the standard."""
    assert workload_api_address(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "unix:",
        "unix:///",
        "unix://run/agent.sock",
        "unix:run/agent.sock",
        "unix:////agent.sock",
        "unix:///agent.sock?x",
        "unix:///agent.sock#x",
        "unix:///agent%2Esock",
        "unix:///agent.sock\n",
        "unix:///" + "a" * 107,
        "UNIX:///agent.sock",
        "http://127.0.0.1:8081",
        "tcp://localhost:8081",
        "tcp://127.0.0.1",
        "tcp://127.0.0.1:0",
        "tcp://127.0.0.1:65536",
        "tcp://127.0.0.1:8081/",
        "tcp://user@127.0.0.1:8081",
        "tcp://999.0.0.1:8081",
        "tcp://::1:8081",
        "tcp://[127.0.0.1]:8081x",
        "tcp://[::1%eth0]:8081",
        "127.0.0.1:8081",
    ],
)
def test_anything_else_is_no_workload_api_address(text: str) -> None:
    """No name, no path after a port, no authority before a path (Workload Endpoint, section 4)."""
    with pytest.raises(ValueError):
        workload_api_address(text)


def test_every_character_in_a_workload_api_address() -> None:
    """Of a path: what can be seen and means nothing to a URI."""
    accepted = set()
    for code in range(256):
        try:
            workload_api_address(f"unix:///a{chr(code)}b")
        except ValueError:
            continue
        accepted.add(chr(code))
    assert accepted == {chr(code) for code in range(0x21, 0x7F)} - set("#%?")
