"""Which legacy Policy is for which port: istio.md 5.2, sentence by sentence."""

from __future__ import annotations

from typing import Any

import pytest

from meshsec.authn import compile_legacy
from meshsec.authn._legacy_select import Choice, select_legacy
from meshsec.errors import ConfigError
from meshsec.resources import KubernetesService, MeshConfig, MeshPolicy, MtlsMode, Policy, Workload

LABELS = {"app": "reviews"}
REVIEWS = Workload(name="reviews-v1", namespace="prod", labels=LABELS, ports={"http": 8080, "admin": 9090})
BARE = Workload(name="reviews", namespace="prod", ports={"http": 8080, "admin": 9090})


def policy(name: str, *targets: Any, namespace: str = "prod", born: int = 2020, **spec: Any) -> Policy:
    """A policy for these services."""
    metadata = {"name": name, "namespace": namespace, "creationTimestamp": f"{born}-01-01T00:00:00Z"}
    return Policy(metadata=metadata, spec={"targets": [*targets], **spec})


def service(name: str = "reviews", *ports: dict[str, Any], **changes: Any) -> KubernetesService:
    """A service that selects the workload; port 80 leads to 8080 and 81 to the port called admin."""
    given = ports or (
        {"port": 80, "name": "http", "targetPort": 8080},
        {"port": 81, "name": "adm", "targetPort": "admin"},
    )
    metadata = {"name": name, "namespace": changes.get("namespace", "prod")}
    return KubernetesService(metadata=metadata, spec={"selector": changes.get("selector", LABELS), "ports": [*given]})


def on(name: str = "reviews", *ports: int | str) -> dict[str, Any]:
    """A target: a service, and ports of it."""
    return {"name": name, "ports": [{"number" if isinstance(port, int) else "name": port} for port in ports]}


MESH = MeshPolicy(metadata={"name": "default"})
NAMESPACE = policy("default")
WIDE = policy("wide", on())
PORT = policy("port", on("reviews", 80))
NAMED = policy("named", on("reviews", "adm"))


def names(
    *resources: Policy | MeshPolicy | KubernetesService, workload: Workload = REVIEWS
) -> dict[int | str, str | None] | None:
    """Port to the policy's name; ``other`` for every other port."""
    policies = [item for item in resources if isinstance(item, Policy | MeshPolicy)]
    found = select_legacy(policies, [item for item in resources if isinstance(item, KubernetesService)], workload)
    return found and {"other": name_of(found.other), **{port: name_of(item) for port, item in found.ports.items()}}


def name_of(choice: Choice) -> str | None:
    """What a policy is called here."""
    return choice and (choice.name if choice.kind == "Policy" else "mesh")


# ------------------------------------------------------------------ exactly one, the nearest first


@pytest.mark.parametrize(
    ("policies", "expected"),
    [
        ([MESH, NAMESPACE, WIDE, PORT], {"other": "wide", 8080: "port", 9090: "wide"}),
        ([MESH, NAMESPACE, WIDE], {"other": "wide", 8080: "wide", 9090: "wide"}),
        ([MESH, NAMESPACE, PORT], {"other": "default", 8080: "port", 9090: "default"}),
        ([MESH, NAMESPACE], {"other": "default", 8080: "default", 9090: "default"}),
        ([MESH], {"other": "mesh", 8080: "mesh", 9090: "mesh"}),
        ([PORT], {"other": None, 8080: "port", 9090: None}),
        ([NAMED, PORT], {"other": None, 8080: "port", 9090: "named"}),
        ([policy("both", on("reviews", 80, "adm"))], {"other": None, 8080: "both", 9090: "both"}),
        ([policy("two", on("reviews", 80), on("ratings"))], {"other": None, 8080: "two", 9090: None}),
        ([], None),
    ],
)
def test_the_nearest_policy_counts_alone(policies: list[Policy | MeshPolicy], expected: Any) -> None:
    """For the service and port, for the service, for the namespace, for the mesh, none; whatever their order."""
    assert names(service(), *policies) == expected
    assert names(*reversed(policies), service()) == expected


@pytest.mark.parametrize(
    "other",
    [
        policy("wide", on(), namespace="test"),
        policy("default", namespace="test"),
        policy("ratings", on("ratings")),
        policy("default", namespace="istio-system"),
    ],
)
def test_a_policy_of_another_service_or_namespace_is_for_nobody_here(other: Policy) -> None:
    """The root namespace is nothing special to these kinds."""
    assert names(service(), other) is None


def test_among_equals_the_oldest_counts() -> None:
    """By creation time; without one, by name."""
    old, young = policy("z", on(), born=2019), policy("a", on(), born=2021)
    assert names(service(), young, old) == {"other": "z", 8080: "z", 9090: "z"}
    unknown = [Policy(metadata={"name": name, "namespace": "prod"}, spec={"targets": [on()]}) for name in "ba"]
    assert names(service(), *unknown) == {"other": "a", 8080: "a", 9090: "a"}


# ------------------------------------------------------------------ services and their ports


def test_a_port_is_the_services_and_not_the_workloads() -> None:
    """8080 is no port of the service; without targetPort both numbers are one."""
    assert names(service("reviews", {"port": 8443}), policy("p", on("reviews", 8443))) == {"other": None, 8443: "p"}
    with pytest.raises(ConfigError, match="Service reviews has no port 8080"):
        names(service(), policy("p", on("reviews", 8080)))


@pytest.mark.parametrize("changes", [{"namespace": "test"}, {"selector": {"app": "ratings"}}, {"selector": {}}])
def test_a_service_that_does_not_select_the_workload_is_not_its_own(changes: dict[str, Any]) -> None:
    """Another namespace, other labels, or no selector at all."""
    assert names(service(**changes), WIDE) is None
    assert names(service(), WIDE) is not None


def test_without_a_service_the_workload_is_one_by_its_own_name() -> None:
    """Its ports are then the service's; with a Service, the name is no service's."""
    assert names(WIDE, workload=BARE) == {"other": "wide", 8080: "wide", 9090: "wide"}
    expected = {"other": None, 8080: "p", 9090: "p"}
    assert names(policy("p", on("reviews", 8080, "admin")), workload=BARE) == expected
    assert names(policy("p", on("reviews-v1"))) == {"other": "p", 8080: "p", 9090: "p"}
    assert names(service(), policy("p", on("reviews-v1"))) is None


@pytest.mark.parametrize(
    ("resources", "workload", "words"),
    [
        ([service(), policy("p", on("reviews", 82))], REVIEWS, "Service reviews has no port 82"),
        ([service(), policy("p", on("reviews", "grpc"))], REVIEWS, "Service reviews has no port grpc"),
        ([policy("p", on("reviews", 80))], BARE, "no Service selects the workload reviews, which has no port 80"),
        (
            [service("reviews", {"port": 80, "targetPort": "web"}), policy("p", on("reviews", 80))],
            REVIEWS,
            "leads to a named port that the workload does not have",
        ),
    ],
)
def test_a_port_that_cannot_be_found_is_refused(resources: list[Any], workload: Workload, words: str) -> None:
    """Such a policy would silently not hold; the problem says where it stands."""
    with pytest.raises(ConfigError, match=words) as caught:
        names(*resources, workload=workload)
    (found,) = caught.value.problems
    assert (found.resource, found.field) == ("Policy prod/p", "spec.targets[0].ports[0]")


def test_a_named_port_that_nobody_knows_matters_only_to_a_policy_for_it() -> None:
    """The policy for the whole service is for that port too."""
    unknown = service("reviews", {"port": 80, "targetPort": "web"})
    assert names(unknown, WIDE) == {"other": "wide"}


def test_two_services_may_lead_to_one_workload() -> None:
    """Each port has its service's policy; what neither leads to has the namespace's."""
    services = service("a", {"port": 80, "targetPort": 1}), service("b", {"port": 80, "targetPort": 2})
    policies = policy("pa", on("a")), policy("pb", on("b"))
    assert names(*services, *policies) == {"other": None, 1: "pa", 2: "pb"}
    assert names(*services, *policies, NAMESPACE) == {"other": "default", 1: "pa", 2: "pb"}
    assert names(*services, policy("p", on("a"), on("b"))) == {"other": "p", 1: "p", 2: "p"}


def test_one_port_behind_two_policies_is_refused() -> None:
    """Istio took the one it met first."""
    services = service("a", {"port": 80, "targetPort": 1}), service("b", {"port": 81, "targetPort": 1})
    with pytest.raises(ConfigError, match=r"services a and b both lead to port 1.*Policy prod/pa.*no policy"):
        names(*services, policy("pa", on("a")))
    assert names(*services, policy("p", on("a"), on("b"))) == {"other": "p", 1: "p"}


# ------------------------------------------------------------------ what a port takes on the wire


def mtls(mode: str) -> dict[str, Any]:
    """A peer."""
    return {"mtls": {"mode": mode}}


@pytest.mark.parametrize(
    ("spec", "mode"),
    [
        ({}, MtlsMode.DISABLE),
        ({"peers": [{"mtls": {}}]}, MtlsMode.STRICT),
        ({"peers": [mtls("PERMISSIVE")]}, MtlsMode.PERMISSIVE),
        ({"peers": [mtls("STRICT"), mtls("PERMISSIVE")]}, MtlsMode.PERMISSIVE),
        ({"peers": [mtls("STRICT")], "peerIsOptional": True}, MtlsMode.PERMISSIVE),
        ({"peerIsOptional": True}, MtlsMode.DISABLE),
    ],
)
def test_peers_say_what_the_port_takes(spec: dict[str, Any], mode: MtlsMode) -> None:
    """A policy without an mtls peer disables mutual TLS, and so does none at all, on that port alone."""
    compiled = compile_legacy([service(), policy("p", on("reviews", 80), **spec)], REVIEWS, MeshConfig())
    assert compiled is not None
    assert compiled.modes.declared
    assert [compiled.modes.mode(port) for port in (8080, 9090, 1)] == [mode, MtlsMode.DISABLE, MtlsMode.DISABLE]


def test_only_what_counts_is_compiled() -> None:
    """A policy that another one replaces is not even asked whether its keys are any good."""
    useless = {"issuer": "i", "jwks": '{"keys": [{"kty": "oct"}]}'}
    bad = policy("default", origins=[{"jwt": useless}])
    compiled = compile_legacy([service(), WIDE, bad], REVIEWS, MeshConfig())
    assert compiled is not None
    assert [item.name for item in compiled.applied] == ["wide"]
    with pytest.raises(ConfigError) as caught:
        compile_legacy([service(), bad], REVIEWS, MeshConfig())
    assert caught.value.problems[0].field == "spec.origins[0].jwt.jwks"
    assert compile_legacy([service(), MESH], Workload(name="x", namespace="y"), MeshConfig()) is not None
    assert compile_legacy([service(), WIDE], Workload(name="x", namespace="y"), MeshConfig()) is None
