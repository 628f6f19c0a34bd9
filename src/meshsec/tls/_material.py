"""What the contexts serve and trust at one moment: an immutable snapshot, and the interface of whoever publishes it.

A reader takes one reference and works with that; nothing here is ever changed in place. This file must not know TLS
contexts, nor where a snapshot was read from.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import count
from types import EllipsisType
from typing import Final, Protocol

from ..spiffe import X509BundleSet, X509Svid
from ._revocation import Revocations

__all__ = ["MaterialSource", "StaticMaterial", "TlsMaterial"]

_MAX_RECALLED: Final = 4096
# One count for all sources: a connection that began under another source's bundles is never taken for one of ours.
_generations: Final = count(1)


@dataclass(frozen=True, slots=True)
class TlsMaterial:
    """One snapshot.

    Attributes:
        svid: our own identity; None while there is none, and then no handshake succeeds.
        bundles: whom we trust, per trust domain.
        generation: rises whenever ``bundles`` or ``revoked`` changes; a renewed ``svid`` alone does not raise it. No
            two sources in a process have one in common.
        revoked: certificates that count no more, of peers and of the authorities between.
    """

    svid: X509Svid | None = None
    bundles: X509BundleSet = field(default_factory=X509BundleSet)
    generation: int = 0
    revoked: Revocations = field(default_factory=Revocations)
    # Peers of older connections that were verified against these bundles; it dies with the snapshot.
    _recalled: set[bytes] = field(default_factory=set, repr=False, compare=False)

    def recalls(self, peer: bytes) -> bool:
        """Whether that peer was verified against these bundles before."""
        return peer in self._recalled

    def remember(self, peer: bytes) -> None:
        """Note that it was; forgets everything at a bound, which costs a verification and nothing else."""
        if len(self._recalled) >= _MAX_RECALLED:
            self._recalled.clear()
        self._recalled.add(peer)


class MaterialSource(Protocol):
    """Whoever publishes snapshots."""

    def current(self) -> TlsMaterial:
        """The newest snapshot: one attribute read, the same object until something changes.

        Raises:
            SvidError: there is nothing to serve yet; then handshakes fail with its message.
        """
        ...


class StaticMaterial:
    """A source that serves what it was last given: what a mesh publishes into, and what tests hold.

    Args:
        svid: our identity; None for none yet.
        bundles: whom we trust.
    """

    def __init__(self, svid: X509Svid | None = None, bundles: X509BundleSet | None = None) -> None:
        self._material = TlsMaterial(svid, bundles if bundles is not None else X509BundleSet(), next(_generations))

    def current(self) -> TlsMaterial:
        """The newest snapshot; empty at first, so it never raises."""
        return self._material

    def replace(
        self,
        *,
        svid: X509Svid | EllipsisType | None = ...,
        bundles: X509BundleSet | EllipsisType = ...,
        revoked: Revocations | EllipsisType = ...,
    ) -> None:
        """Publish a new snapshot by one reference; what is not given stays. For one writer at a time.

        A certificate and a key that do not fit together cannot come here: no such :class:`X509Svid` exists.
        """
        old = self._material
        new_svid = old.svid if isinstance(svid, EllipsisType) else svid
        new_bundles = old.bundles if isinstance(bundles, EllipsisType) else bundles
        new_revoked = old.revoked if isinstance(revoked, EllipsisType) else revoked
        changed = new_bundles != old.bundles or new_revoked != old.revoked
        generation = next(_generations) if changed else old.generation
        self._material = TlsMaterial(new_svid, new_bundles, generation, new_revoked)
