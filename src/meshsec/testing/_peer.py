"""Peers in memory: real certificates, verified as a handshake would verify them."""

from __future__ import annotations

import time
from hashlib import sha256

from ..attributes import PeerIdentity
from ..ca import CertificateAuthority
from ..spiffe import SpiffeId, TrustDomain, verify_x509_svid

__all__ = ["TestPeers"]


class TestPeers:
    """Makes peers of any trust domain, each of which gets an authority of its own."""

    __test__ = False  # pytest collects classes whose name begins like this

    def __init__(self) -> None:
        self._authorities: dict[TrustDomain, CertificateAuthority] = {}

    def peer(self, spiffe_id: str) -> PeerIdentity:
        """A peer with a fresh certificate. Raises SpiffeIdError."""
        wanted = SpiffeId.parse(spiffe_id)
        domain = wanted.trust_domain
        authority = self._authorities.setdefault(domain, CertificateAuthority.create(domain))
        svid = authority.issue_x509_svid(wanted)
        verified = verify_x509_svid(svid.chain, authority.bundle, now=time.time(), role="client")
        return PeerIdentity(verified, sha256(svid.chain[0]).digest(), svid.not_after)
