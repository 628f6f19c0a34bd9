"""What a connection proves, asked anew at every request: connections outlive certificates and trust.

Must not know: policies, HTTP, threads.
"""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass
from typing import Final, TypeGuard

from .. import tls
from ..attributes import Connection, PeerIdentity
from ..decision import Reason
from ..errors import SvidError
from ..middleware import Transport

__all__ = ["Evidence"]

_log: Final = logging.getLogger("meshsec")


_UNKNOWN: Final = Connection()


@dataclass(frozen=True, slots=True)
class _Known:
    """The facts about a connection, until a certificate ends or anybody's trust changes."""

    by: Evidence
    material: tls.TlsMaterial | None
    until: float
    connection: Connection


@dataclass(frozen=True, slots=True)
class Evidence:
    """Reads what a server's transport shows, by our own certificates.

    Attributes:
        material: our own SVID and whom we trust; None: this workload has no identity, and nobody proves one to it.
    """

    material: tls.MaterialSource | None

    def connection(self, transport: Transport | None) -> Connection:
        """The facts about a connection, its peer re-checked: dates now, and trust after every change of a bundle."""
        if transport is None:
            return _UNKNOWN
        known = transport.found
        if self.holds(known, time.time()):
            return known.connection
        material = None if self.material is None else self.material.current()
        verified = self._verified(transport)
        peer, rejected = self._recheck(verified)
        connection = Connection(
            source_ip=transport.source_ip,
            destination_ip=transport.destination_ip,
            destination_port=transport.destination_port,
            peer=peer,
            sni=verified.sni if verified else None,
            tls=transport.tls is not None and not tls.is_plaintext(transport.tls),
            rejected=rejected,
            unix=transport.unix,
        )
        # A certificate that was presented elsewhere is verified anew each time, with everything above it.
        if not transport.chain and rejected is None and (verified is not None or not connection.tls):
            ends = math.inf if verified is None else verified.not_after
            transport.note(_Known(self, material, ends, connection))
        return connection

    def holds(self, known: object, now: float) -> TypeGuard[_Known]:
        """Whether what was found out about a connection is what would be found out now."""
        source = self.material
        return (
            isinstance(known, _Known)
            and known.by is self
            and known.until > now
            and known.material is (None if source is None else source.current())
        )

    def _verified(self, transport: Transport) -> tls.VerifiedPeer | None:
        """Our own TLS's verdict; a certificate that another's TLS took is judged here, at every request."""
        if transport.chain and self.material is not None:
            try:
                return tls.verify_presented(transport.chain, self.material, now=time.time())
            except SvidError as error:
                _log.info("a client's certificate is not believed: %s", error)
                return None
        return tls.verified_peer(transport.tls)

    def _recheck(self, peer: tls.VerifiedPeer | None) -> tuple[PeerIdentity | None, Reason | None]:
        if peer is None or self.material is None:
            return None, None
        try:
            peer = tls.recheck(peer, self.material, now=time.time())
        except SvidError as error:
            return None, Reason.PEER_EXPIRED if error.code == Reason.PEER_EXPIRED else Reason.PEER_DISTRUSTED
        return PeerIdentity(peer.id, peer.certificate_sha256, peer.not_after), None
