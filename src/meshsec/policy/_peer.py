"""Whether a connection may carry requests at all: the mode of its port, its peer's dates and trust domain.

Must not know: HTTP, tokens, or how a certificate was verified.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet

from ..attributes import Connection
from ..authn import PeerModes
from ..decision import Decision, Reason
from ..resources import MtlsMode
from ._decisions import peer_refusal

__all__ = ["refuse_peer"]


def refuse_peer(
    modes: PeerModes, trust_domains: AbstractSet[str], connection: Connection, now: float
) -> Decision | None:
    """Why every request on this connection is refused; None where none is for its peer's sake."""
    peer = connection.peer
    if connection.rejected is not None:
        return peer_refusal(connection.rejected, "the certificate this connection began with no longer holds")
    if peer is not None and peer.not_after is not None and not now < peer.not_after:
        return peer_refusal(Reason.PEER_EXPIRED, f"the certificate of {peer.id} has expired")
    if peer is not None and peer.id.trust_domain.name not in trust_domains:
        return peer_refusal(Reason.PEER_DISTRUSTED, f"{peer.id} is of a trust domain that is not trusted here")
    mode = modes.mode(connection.destination_port)
    if mode is MtlsMode.DISABLE:
        if connection.tls or peer is not None:
            return peer_refusal(Reason.TLS_NOT_EXPECTED, "TLS is disabled on this port")
    elif peer is None and (mode is MtlsMode.STRICT or connection.tls):
        return peer_refusal(Reason.PEER_REQUIRED, f"no verified peer, and this port is {mode}")
    return None
