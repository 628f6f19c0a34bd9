"""PeerAuthentication: which of several objects counts, and the mode of each port."""

from __future__ import annotations

from typing import Any

import pytest

from meshsec.authn import PeerModes, compile_peer_authentication
from meshsec.resources import MeshConfig, MtlsMode, PeerAuthentication, Workload

WORKLOAD = Workload(name="web", namespace="prod", labels={"app": "web", "v": "1"})
ROOT = "istio-system"
STRICT, PERMISSIVE, DISABLE, UNSET = "STRICT", "PERMISSIVE", "DISABLE", "UNSET"
WEB = {"app": "web"}


def peer(
    name: str,
    namespace: str,
    mode: str | None = None,
    labels: dict[str, str] | None = None,
    ports: dict[int, str] | None = None,
    created: str | None = None,
) -> PeerAuthentication:
    """One object."""
    spec: dict[str, Any] = {}
    if mode is not None:
        spec["mtls"] = {"mode": mode}
    if labels is not None:
        spec["selector"] = {"match_labels": labels}
    if ports:
        spec["port_level_mtls"] = {port: {"mode": value} for port, value in ports.items()}
    metadata = {"name": name, "namespace": namespace} | ({"creation_timestamp": created} if created else {})
    return PeerAuthentication(metadata=metadata, spec=spec)


def modes(*resources: PeerAuthentication, workload: Workload = WORKLOAD) -> PeerModes:
    """What they mean for the workload, in whatever order they come."""
    config = MeshConfig()
    found = compile_peer_authentication(resources, workload, config)
    assert compile_peer_authentication(resources[::-1], workload, config) == found
    return found


def test_without_any_object_istios_default_holds() -> None:
    """PERMISSIVE, and nobody declared it."""
    assert modes() == PeerModes(MtlsMode.PERMISSIVE, declared=False)
    assert modes(peer("a", "other", STRICT)) == modes()


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        ([peer("m", ROOT, STRICT)], STRICT),
        ([peer("m", ROOT, UNSET)], PERMISSIVE),
        ([peer("m", ROOT)], PERMISSIVE),
        ([peer("m", ROOT, STRICT, {})], STRICT),
        ([peer("m", ROOT, STRICT), peer("n", "prod", PERMISSIVE)], PERMISSIVE),
        ([peer("m", ROOT, STRICT), peer("n", "prod", UNSET)], STRICT),
        ([peer("m", ROOT, STRICT), peer("n", "prod")], STRICT),
        ([peer("m", ROOT, STRICT), peer("n", "prod"), peer("w", "prod", DISABLE, WEB)], DISABLE),
        ([peer("n", "prod", STRICT), peer("w", "prod", UNSET, WEB)], STRICT),
        ([peer("n", "prod", STRICT), peer("w", "prod", DISABLE, {"app": "db"})], STRICT),
        ([peer("n", "prod", STRICT), peer("w", "prod", DISABLE, {"app": "web", "v": "2"})], STRICT),
        ([peer("n", "prod", STRICT), peer("w", "other", DISABLE, WEB)], STRICT),
        ([peer("n", "prod", STRICT), peer("w", ROOT, DISABLE, WEB)], STRICT),
        ([peer("a", "prod", STRICT), peer("b", "prod", DISABLE)], STRICT),
        ([peer("a", "prod"), peer("b", "prod", DISABLE)], PERMISSIVE),
        (
            [
                peer("a", "prod", DISABLE, created="2024-01-02T00:00:00Z"),
                peer("b", "prod", STRICT, created="2024-01-01T00:00:00Z"),
            ],
            STRICT,
        ),
        ([peer("a", "prod", DISABLE, created="2024-01-02T00:00:00Z"), peer("b", "prod", STRICT)], STRICT),
        ([peer("a", ROOT, STRICT), peer("b", ROOT, DISABLE)], STRICT),
        ([peer("a", "prod", STRICT, WEB), peer("b", "prod", DISABLE, WEB)], STRICT),
    ],
)
def test_scopes_inherit_and_the_oldest_of_a_scope_counts(resources: list[PeerAuthentication], expected: str) -> None:
    """Mesh, namespace, workload; UNSET takes the wider mode; the younger objects of a scope are as if absent."""
    found = modes(*resources)
    assert found.mode(8080) == expected
    assert found.declared


def test_in_the_root_namespace_the_mesh_object_is_the_only_one() -> None:
    """A workload there has no namespace scope of its own, and a selector there never counts."""
    workload = Workload(name="gw", namespace=ROOT, labels=WEB)
    assert modes(peer("m", ROOT, STRICT), peer("w", ROOT, DISABLE, WEB), workload=workload).mode(1) == STRICT


def test_ports_have_their_own_modes() -> None:
    """UNSET takes the workload's; other ports have it too; an unknown port is held to the strictest."""
    ports = {8080: DISABLE, 8081: UNSET, 8443: STRICT}
    found = modes(peer("n", "prod", STRICT), peer("w", "prod", PERMISSIVE, WEB, ports))
    assert [found.mode(port) for port in (8080, 8081, 8443, 9000)] == [DISABLE, PERMISSIVE, STRICT, PERMISSIVE]
    assert found.mode(None) is MtlsMode.STRICT
    assert modes(peer("w", "prod", DISABLE, WEB, {1: PERMISSIVE})).mode(None) is MtlsMode.PERMISSIVE


def test_ports_come_from_the_winning_workload_object_alone() -> None:
    """The maps of two objects are not merged."""
    found = modes(peer("a", "prod", STRICT, WEB, {1: DISABLE}), peer("b", "prod", STRICT, WEB, {2: DISABLE}))
    assert (found.mode(1), found.mode(2)) == (DISABLE, STRICT)
    assert modes(peer("a", "prod", STRICT, WEB), peer("b", "prod", STRICT, WEB, {2: DISABLE})).mode(2) == STRICT
