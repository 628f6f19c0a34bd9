"""At every request: does the peer of this connection still hold?"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, Final

import pytest

from meshsec.errors import SvidError
from meshsec.spiffe import X509BundleSet
from meshsec.tls import (
    StaticMaterial,
    TlsMaterial,
    VerifiedPeer,
    authorize_any,
    client_context,
    recheck,
    server_context,
    verified_peer,
)
from meshsec.tls import _material as materials
from meshsec.tls import _peer as peers
from pki import LIFETIME, NOW, TestCA
from wire import bundles, careless, material, shake_hands, svid, wired

CA: Final = TestCA("td.example")
NEXT: Final = TestCA("td.example")


def admitted(source: StaticMaterial, ca: TestCA = CA, **options: Any) -> VerifiedPeer:
    """The peer of a fresh connection."""
    server, client = wired(server_context(source), careless("client", ca.leaf(**options)))
    shake_hands(server, client)
    peer = verified_peer(server)
    assert peer is not None
    return peer


def code(peer: VerifiedPeer, source: StaticMaterial, now: float = NOW) -> str | None:
    """What a recheck says: a code, or None where the peer still holds."""
    try:
        assert recheck(peer, source, now=now).id == peer.id
    except SvidError as error:
        return error.code
    return None


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The verifications that were made."""
    made: list[object] = []
    original = peers.verify_x509_svid

    def counting(*arguments: Any, **options: Any) -> Any:
        made.append(arguments)
        return original(*arguments, **options)

    monkeypatch.setattr(peers, "verify_x509_svid", counting)
    return made


@pytest.mark.parametrize(
    ("later", "expected"),
    [
        (0, None),
        (LIFETIME, None),
        (LIFETIME + 1, "peer_expired"),
        (math.inf, "peer_expired"),
        (math.nan, "peer_expired"),
    ],
)
def test_a_certificate_ends_while_its_connection_is_open(later: float, expected: str | None) -> None:
    """The last second of validity still counts."""
    source = material(CA)
    assert code(admitted(source), source, NOW + later) == expected


def test_an_issuer_ends_while_the_connection_is_open() -> None:
    """The first certificate of the path to end ends it all."""
    source = material(CA)
    peer = admitted(source, CA.intermediate(not_after=NOW + 600))
    assert peer.not_after == NOW + 600
    assert (code(peer, source, NOW + 600), code(peer, source, NOW + 601)) == (None, "peer_expired")


def test_another_source_does_not_know_the_peer() -> None:
    """A listener of one mesh in front of another's application: whom the one trusted, the other does not thereby."""
    older, older_next = material(CA), material(NEXT)
    peer = admitted(material(CA))
    assert [code(peer, source) for source in (older, material(CA))] == [None, None]
    assert [code(peer, source) for source in (older_next, material(NEXT))] == ["peer_distrusted"] * 2


def test_nothing_is_verified_while_no_bundle_changes(counted: list[object]) -> None:
    """A renewed certificate of our own is no reason."""
    source = material(CA)
    peer = admitted(source)
    source.replace(svid=svid(CA))
    assert recheck(peer, source, now=NOW) is peer
    assert counted == []


@pytest.mark.parametrize(
    ("trust", "expected"),
    [
        (bundles(CA, NEXT), None),
        (bundles(CA, TestCA("partner.example")), None),
        (bundles(NEXT), "peer_distrusted"),
        (bundles(TestCA("partner.example")), "peer_distrusted"),
        (bundles(), "peer_distrusted"),
        (bundles(TestCA("partner.example", name=CA.name, key=CA.key), NEXT), "peer_distrusted"),
    ],
)
def test_a_change_of_trust_is_felt_on_an_open_connection(trust: X509BundleSet, expected: str | None) -> None:
    """It holds as long as an authority of its own trust domain still vouches for it."""
    source = material(CA)
    peer = admitted(source)
    source.replace(bundles=trust)
    assert code(peer, source) == expected


def test_a_peer_that_holds_costs_no_verification(counted: list[object]) -> None:
    """The path verified in the handshake is enough where its authority is still there."""
    source = material(CA)
    peer = admitted(source)
    source.replace(bundles=bundles(CA, NEXT))
    marked = recheck(peer, source, now=NOW)
    assert marked == replace(peer, generation=source.current().generation)
    assert counted == []


def test_a_peer_with_another_path_is_verified_once_for_each_change(counted: list[object]) -> None:
    """Its root is replaced by a cross-signed one with the same key; the answer is remembered with the snapshot."""
    renewed = TestCA("td.example", name=CA.name, key=CA.key)
    source = material(CA)
    peer = admitted(source)
    for turn, trust in enumerate((bundles(renewed), bundles(renewed, NEXT)), 1):
        source.replace(bundles=trust)
        for _ in range(3):
            assert code(peer, source) is None
        assert len(counted) == turn


@pytest.mark.parametrize("role", ["client", "server"])
def test_a_peer_is_held_to_what_it_was_in_its_handshake(role: str) -> None:
    """Also when it is verified anew: a server need not be fit to be a client, nor the other way round."""
    source, chain = material(CA), CA.leaf(eku=[role])
    theirs = careless(role, chain)
    if role == "client":
        server, client = wired(server_context(source), theirs)
    else:
        server, client = wired(theirs, client_context(source, authorize=authorize_any()))
    shake_hands(server, client)
    peer = verified_peer(server if role == "client" else client)
    assert peer is not None
    source.replace(bundles=bundles(TestCA("td.example", name=CA.name, key=CA.key)))
    assert code(peer, source) is None


def test_the_memory_of_a_snapshot_is_bounded(counted: list[object], monkeypatch: pytest.MonkeyPatch) -> None:
    """Forgetting costs a verification, nothing else."""
    monkeypatch.setattr(materials, "_MAX_RECALLED", 2)
    source = material(CA)
    several = [admitted(source) for _ in range(4)]
    source.replace(bundles=bundles(TestCA("td.example", name=CA.name, key=CA.key)))
    for peer in several:
        assert code(peer, source) is None
        assert len(source.current()._recalled) <= 2
    assert len(counted) == 4


def test_a_distrusted_peer_is_not_remembered_as_good() -> None:
    """It stays refused however often it asks, and holds again once its authority is back."""
    source = material(CA)
    peer = admitted(source)
    source.replace(bundles=bundles(NEXT))
    assert [code(peer, source) for _ in range(3)] == ["peer_distrusted"] * 3
    source.replace(bundles=bundles(CA))
    assert code(peer, source) is None


class _Nothing:
    """A source whose agent is gone."""

    def current(self) -> TlsMaterial:
        raise SvidError("the agent is gone", code="no_svid")


def test_a_source_without_anything_cannot_vouch() -> None:
    """What cannot be told is refused."""
    peer = admitted(material(CA))
    with pytest.raises(SvidError, match="the agent is gone"):
        recheck(peer, _Nothing(), now=NOW)
