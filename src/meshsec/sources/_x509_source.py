"""An identity out of py-spiffe's ``X509Source``, which keeps it fresh itself. Must not import it: methods do."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import MeshsecError, SvidError
from ..spiffe import X509Bundle, X509Svid
from ._identity import Identity

if TYPE_CHECKING:
    from cryptography import x509

__all__ = ["X509SourceIdentity"]


class _Svid(Protocol):
    @property
    def spiffe_id(self) -> Any: ...
    @property
    def cert_chain(self) -> Sequence[x509.Certificate]: ...
    @property
    def private_key(self) -> Any: ...


class _Bundle(Protocol):
    @property
    def x509_authorities(self) -> Iterable[x509.Certificate]: ...


class _Bundles(Protocol):
    def get_bundle_for_trust_domain(self, trust_domain: Any, /) -> _Bundle | None: ...


class _Context(Protocol):
    @property
    def default_svid(self) -> _Svid: ...
    @property
    def x509_bundle_set(self) -> _Bundles: ...


class _X509Source(Protocol):
    def get_x509_context(self) -> _Context: ...


@dataclass(frozen=True, slots=True)
class X509SourceIdentity:
    """For ``Mesh(identity=X509SourceIdentity(source))``: the default SVID, and the bundle of its own trust domain.

    Both are taken from one snapshot. Bundles of other trust domains come from ``trustBundles``, as ever. The source
    is its owner's to close; while it fails, the last good identity goes on.

    What an agent denies is used until it ends: py-spiffe's source goes on handing out the old SVID, which cannot be
    seen from here. ``identity: {workloadApi: …}`` stops at once.
    """

    source: _X509Source

    @property
    def origin(self) -> str:
        return type(self.source).__name__

    def read(self, now: float) -> Identity:  # noqa: ARG002 - the keeper judges dates
        """What the source holds now.

        Raises:
            SvidError: ``source_failed``: whatever the source raised, or it has no bundle of our trust domain.
        """
        try:
            context = self.source.get_x509_context()
            given = context.default_svid
            bundle = context.x509_bundle_set.get_bundle_for_trust_domain(given.spiffe_id.trust_domain)
            svid = X509Svid(given.cert_chain, given.private_key)
            authorities = () if bundle is None else tuple(bundle.x509_authorities)
        except MeshsecError:
            raise
        except Exception as error:  # its errors have no base that we could name without importing it
            raise SvidError(f"{self.origin} failed: {type(error).__name__}", code="source_failed") from error
        if not authorities:
            raise SvidError(f"{self.origin} has no bundle of {svid.id.trust_domain}", code="source_failed")
        return Identity(svid, X509Bundle(svid.id.trust_domain, authorities))
