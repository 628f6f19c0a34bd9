"""A legacy policy by itself: it refuses whom it must, whoever asks it and whatever was checked before."""

from __future__ import annotations

import json
from typing import Any

import pytest

from meshsec.attributes import PeerIdentity
from meshsec.authn import LegacyRefusal, LegacyResult, compile_legacy
from meshsec.decision import Reason
from meshsec.resources import MeshConfig, MtlsMode, Workload, parse
from tokens import NOW, jwks, mint, request_facts, signing_key

WEB = Workload(name="web", namespace="prod", ports={"http": 8080, "other": 9090})
PEER = PeerIdentity.of("spiffe://cluster.local/ns/prod/sa/ingress")
STRANGER = PeerIdentity.of("spiffe://partner.example/ns/prod/sa/ingress")
STRICT, PERMISSIVE = {"mtls": {}}, {"mtls": {"mode": "PERMISSIVE"}}


def asked(
    spec: dict[str, Any], peer: PeerIdentity | None = None, port: int | None = 8080, **more: Any
) -> LegacyResult | LegacyRefusal:
    """What the namespace's default Policy, and another for one port, say of a request."""
    documents = [("default", spec), *more.items()]
    text = "\n---\n".join(
        json.dumps(
            {
                "apiVersion": "authentication.istio.io/v1alpha1",
                "kind": "Policy",
                "metadata": {"name": name, "namespace": "prod"},
                "spec": spec,
            }
        )
        for name, spec in documents
    )
    compiled = compile_legacy(iter(parse(text)), WEB, MeshConfig())
    assert compiled is not None
    facts = request_facts("/", ("authorization", f"Bearer {mint()}"))
    found = compiled.authenticate(port, peer, facts, {}, now=NOW, ask=False)
    assert isinstance(found, LegacyResult | LegacyRefusal)
    return found


@pytest.mark.parametrize(
    ("peers", "optional", "peer", "expected"),
    [
        ([STRICT], False, None, Reason.PEER_REQUIRED),
        ([STRICT], False, STRANGER, Reason.PEER_DISTRUSTED),
        ([PERMISSIVE], False, STRANGER, Reason.PEER_DISTRUSTED),
        ([STRICT], False, PEER, PEER),
        ([STRICT], True, None, None),
        ([STRICT], True, STRANGER, None),
        ([PERMISSIVE], False, None, None),
        ([PERMISSIVE], False, PEER, PEER),
        ([], False, PEER, None),
    ],
)
def test_a_peer_that_must_be_there_is_missed(
    peers: list[Any], optional: bool, peer: PeerIdentity | None, expected: Reason | PeerIdentity | None
) -> None:
    """The connection's fault is told as that; a peer that was not asked for is nobody."""
    found = asked({"peers": peers, "peerIsOptional": optional}, peer)
    if isinstance(expected, Reason):
        assert isinstance(found, LegacyRefusal)
        assert (found.reason, found.is_of_peer) == (expected, True)
    else:
        assert isinstance(found, LegacyResult)
        assert found.peer == expected


def test_a_tokens_fault_is_not_the_connections() -> None:
    """So that a client is told which it is."""
    found = asked({"origins": [{"jwt": {"issuer": "https://other.example", "jwks": jwks(signing_key())}}]})
    assert isinstance(found, LegacyRefusal)
    assert (found.reason, found.is_of_peer) == (Reason.JWT_ISSUER, False)


def test_a_service_that_comes_later_leads_to_its_policy_too() -> None:
    """Resources are gone through more than once, and may come but once."""
    service = """
apiVersion: v1
kind: Service
metadata: {name: front, namespace: prod}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
"""
    policy = """
apiVersion: authentication.istio.io/v1alpha1
kind: Policy
metadata: {name: front, namespace: prod}
spec: {targets: [{name: front}], peers: [{mtls: {}}]}
"""
    workload = Workload(name="web-v2", namespace="prod", labels={"app": "web"})
    compiled = compile_legacy(iter(parse(f"{policy}---{service}")), workload, MeshConfig())
    assert compiled is not None
    assert compiled.modes.mode(8080) is MtlsMode.STRICT


@pytest.mark.parametrize(("port", "refused"), [(8080, False), (9090, True), (9091, False), (None, True)])
def test_a_port_of_its_own_and_one_that_is_not_known(port: int | None, refused: bool) -> None:
    """Where policies differ by port and the port is not known, none of them is taken for the one."""
    target = {"targets": [{"name": "web", "ports": [{"number": 9090}]}], "peers": [STRICT]}
    found = asked({"peers": [PERMISSIVE]}, port=port, one=target)
    assert isinstance(found, LegacyRefusal) is refused
    if port is None:
        assert isinstance(found, LegacyRefusal)
        assert found.reason is Reason.PORT_UNKNOWN


@pytest.mark.parametrize(
    ("peers", "optional", "mode"),
    [
        ([], False, MtlsMode.DISABLE),
        ([], True, MtlsMode.DISABLE),
        ([STRICT], False, MtlsMode.STRICT),
        ([STRICT], True, MtlsMode.PERMISSIVE),
        ([STRICT, PERMISSIVE], False, MtlsMode.PERMISSIVE),
        ([PERMISSIVE], False, MtlsMode.PERMISSIVE),
    ],
)
def test_a_listener_takes_what_the_policy_does(peers: list[Any], optional: bool, mode: MtlsMode) -> None:
    """Plaintext only where a request without a peer may pass."""
    document = {
        "apiVersion": "authentication.istio.io/v1alpha1",
        "kind": "MeshPolicy",
        "metadata": {"name": "default"},
        "spec": {"peers": peers, "peerIsOptional": optional},
    }
    compiled = compile_legacy(parse(json.dumps(document)), WEB, MeshConfig())
    assert compiled is not None
    assert compiled.modes.mode(8080) is compiled.modes.mode(None) is mode
