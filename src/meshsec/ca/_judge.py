"""Is a stored identity still what its account should have? Pure.

This file must not know where it is stored, nor what is done about it.
"""

from __future__ import annotations

from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from ..errors import SvidError
from ..spiffe import SpiffeId, X509Bundle, X509Svid, verify_x509_svid
from ._lifetime import renewal_time
from ._signer import Signer
from ._stores import StoredIdentity

__all__ = ["Standard"]


@dataclass(frozen=True, slots=True)
class Standard:
    """What every stored identity is held to; two are equal where nothing has to be judged again.

    Attributes:
        issuer: the identifier of the key that issues now.
        chain: what goes with every leaf.
        bundle: what is published.
        crl: what is published beside it.
        revoked: serial numbers, in hexadecimal.
        grace: the part of its life with which an SVID is renewed.
        jitter: by how much that part may differ, up or down.
    """

    issuer: x509.ExtensionType
    chain: tuple[bytes, ...]
    bundle: X509Bundle
    crl: bytes
    revoked: frozenset[str]
    grace: float
    jitter: float

    @classmethod
    def of(
        cls,
        signer: Signer,
        bundle: X509Bundle,
        crl: bytes,
        revoked: frozenset[str],
        *,
        grace: float,
        jitter: float,
    ) -> Standard:
        """The standard that a signer sets."""
        identifier = signer.issuer.key_identifier.value
        chain = tuple(item.public_bytes(Encoding.DER) for item in signer.chain)
        return cls(identifier, chain, bundle, crl, revoked, grace, jitter)

    def complete(self, svid: X509Svid) -> StoredIdentity:
        """What a workload with this SVID is to be given."""
        return StoredIdentity(svid, self.bundle, self.crl)

    def flaw(self, spiffe_id: SpiffeId, svid: X509Svid, now: float) -> str | None:
        """Why a new one is needed; None where the SVID will do."""
        if svid.id != spiffe_id:
            return f"it is that of {svid.id}"
        if f"{svid.serial:x}" in self.revoked:
            return "it was revoked"
        if _issuer(svid) != self.issuer or svid.chain[1:] != self.chain:
            return "it is of a superseded authority"
        try:
            verify_x509_svid(svid.chain, self.bundle, now=now, role="client")
        except SvidError as error:
            return f"it does not hold ({error.code})"
        return "it is due" if now >= self.renewal(svid) else None

    def renewal(self, svid: X509Svid) -> float:
        """When it is due, POSIX seconds."""
        return renewal_time(svid, grace=self.grace, jitter=self.jitter)


def _issuer(svid: X509Svid) -> x509.ExtensionType | None:
    try:
        return svid.leaf.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    except x509.ExtensionNotFound:
        return None
