"""The pytest plugin: fixtures for the tests of an application that meshsec protects. Loaded by pytest itself.

::

    def test_reviews(mesh_client, mesh_peer, mesh_token):
        web = mesh_peer("spiffe://cluster.local/ns/prod/sa/web")
        client = mesh_client(app, peer=web, token=mesh_token(sub="alice"))
        assert_allowed(client.get("/reviews/1"))

Belongs here: the fixtures alone. Whatever they need is imported when a test asks for them, so that a test run without
them costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from ..attributes import PeerIdentity
    from ._client import Answer, MeshClient
    from ._issuer import TestIssuer

__all__ = ["mesh_client", "mesh_issuer", "mesh_peer", "mesh_token"]


@pytest.fixture(scope="session")
def mesh_issuer() -> TestIssuer:
    """An issuer of end users' tokens, ``https://issuer.example``. Override it for your policies' own."""
    from ._issuer import TestIssuer

    return TestIssuer()


@pytest.fixture
def mesh_token(mesh_issuer: TestIssuer) -> Callable[..., str]:
    """A function that makes a signed token: ``mesh_token(sub="alice", aud="shop")``."""
    return mesh_issuer.token


@pytest.fixture(scope="session")
def mesh_peer() -> Callable[[str], PeerIdentity]:
    """A function that makes a peer with a certificate of its own: ``mesh_peer("spiffe://cluster.local/ns/…")``."""
    from ._peer import TestPeers

    return TestPeers().peer


@pytest.fixture
def mesh_client(mesh_issuer: TestIssuer) -> Callable[..., MeshClient]:
    """A function that makes a test client for a protected application.

    ``mesh_client(app, peer=…, token=…, port=…, source_ip=…, issuers=…, providers=…)``: all but the application may be
    left out. The keys of ``mesh_issuer``, or of ``issuers``, are what a JWTRule finds at its ``jwksUri``;
    ``providers={"opa": False}`` is what an external authorizer answers.
    """
    from ..attributes import Connection
    from ._client import MeshClient

    def client(
        app: Any,
        *,
        peer: PeerIdentity | None = None,
        token: str | None = None,
        port: int | None = None,
        source_ip: str | None = "127.0.0.1",
        issuers: Iterable[TestIssuer] = (),
        providers: Mapping[str, Answer] | None = None,
    ) -> MeshClient:
        connection = Connection(source_ip=source_ip, destination_port=port, peer=peer, tls=peer is not None)
        return MeshClient(app, connection, (mesh_issuer, *issuers), token, providers)

    return client
