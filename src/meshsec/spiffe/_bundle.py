"""What is trusted, per trust domain: the X.509 authorities that may vouch for its workloads, and for no other's.

Bundles are never pooled (SPIFFE Federation, section 6): whoever verifies picks one by the peer's trust domain. This
file must not know peers, nor where a bundle comes from.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.verification import Store

from ..errors import ConfigError, Problem
from ._id import TrustDomain
from ._leaf import is_ca
from ._pem import read_der, read_pem, split_der, write_pem

__all__ = ["X509Bundle", "X509BundleSet", "namesakes"]

_SUBJECT_KEY_ID: Final = x509.SubjectKeyIdentifier.oid


@dataclass(frozen=True, slots=True, init=False)
class X509Bundle:
    """The X.509 authorities of one trust domain. Equality is by content, in any order.

    Args:
        trust_domain: whose workloads they vouch for; text is parsed.
        authorities: CA certificates, parsed or as DER; self-signed or not. A certificate that comes twice counts
            once. None at all is legal and means that nobody of the trust domain is trusted any more.

    Attributes:
        x509_authorities: the certificates, in the order given.
        der: the same as a set of DER.

    Raises:
        ConfigError: ``bundle_invalid``: a certificate is malformed, or not a CA's. Because an anchor may be an
            intermediate, a leaf let in here would vouch for itself.
    """

    trust_domain: TrustDomain
    x509_authorities: tuple[x509.Certificate, ...] = field(compare=False)
    der: frozenset[bytes] = field(repr=False)
    _store: Store | None = field(repr=False, compare=False)

    def __init__(self, trust_domain: TrustDomain | str, authorities: Iterable[x509.Certificate | bytes] = ()) -> None:
        domain = TrustDomain.of(trust_domain)
        by_der = _authorities(domain, authorities)
        certificates = tuple(by_der.values())
        object.__setattr__(self, "trust_domain", domain)
        object.__setattr__(self, "x509_authorities", certificates)
        object.__setattr__(self, "der", frozenset(by_der))
        object.__setattr__(self, "_store", Store(list(certificates)) if certificates else None)

    @classmethod
    def from_pem(cls, trust_domain: TrustDomain | str, data: bytes, source: str = "<pem>") -> X509Bundle:
        """Read a file of PEM certificates, all or nothing.

        Args:
            source: the file's name, for the error.

        Raises:
            ConfigError: ``bundle_invalid``: no certificate, one cut off or malformed, or one that is not a CA's.
        """
        try:
            certificates = read_pem(data)
        except ValueError as error:
            raise ConfigError(Problem(str(error), source=source), code="bundle_invalid") from error
        try:
            return cls(trust_domain, certificates)
        except ConfigError as error:
            problems = (Problem(problem.message, source=source) for problem in error.problems)
            raise ConfigError(problems, code=error.code) from error

    @classmethod
    def from_der(cls, trust_domain: TrustDomain | str, data: bytes) -> X509Bundle:
        """Read DER certificates one after the other, as the Workload API hands them out.

        Raises:
            ConfigError: ``bundle_invalid``, as :meth:`from_pem`.
        """
        try:
            certificates = split_der(data)
        except ValueError as error:
            raise ConfigError(f"the bundle of {trust_domain}: {error}", code="bundle_invalid") from error
        return cls(trust_domain, certificates)

    def to_pem(self) -> bytes:
        """The authorities as PEM blocks, in order."""
        return write_pem(self.x509_authorities)

    def get(self, trust_domain: TrustDomain) -> X509Bundle | None:
        """This bundle, if it is that trust domain's: one bundle serves wherever a set of them does."""
        return self if trust_domain == self.trust_domain else None


def _authorities(
    trust_domain: TrustDomain, authorities: Iterable[x509.Certificate | bytes]
) -> dict[bytes, x509.Certificate]:
    by_der: dict[bytes, x509.Certificate] = {}
    for position, given in enumerate(authorities, 1):
        try:
            certificate = read_der(given) if isinstance(given, bytes) else given
            may_issue = is_ca(certificate)
        except Exception as error:  # a certificate object may still hide malformed extensions
            raise _refused(trust_domain, position, str(error)[:200]) from error
        if not may_issue:
            raise _refused(trust_domain, position, "not a CA certificate (basicConstraints does not say cA)")
        by_der[certificate.public_bytes(Encoding.DER)] = certificate
    return by_der


def _refused(trust_domain: TrustDomain, position: int, reason: str) -> ConfigError:
    return ConfigError(f"certificate {position} of the bundle of {trust_domain}: {reason}", code="bundle_invalid")


class X509BundleSet:
    """Bundles by trust domain, one each; immutable, equal by content.

    Raises:
        ConfigError: ``bundle_duplicate``: two bundles are of the same trust domain.
    """

    __slots__ = ("_by_trust_domain",)

    def __init__(self, bundles: Iterable[X509Bundle] = ()) -> None:
        self._by_trust_domain: dict[TrustDomain, X509Bundle] = {}
        for bundle in bundles:
            if bundle.trust_domain in self._by_trust_domain:
                raise ConfigError(f"there are two bundles of {bundle.trust_domain}", code="bundle_duplicate")
            self._by_trust_domain[bundle.trust_domain] = bundle

    def get(self, trust_domain: TrustDomain) -> X509Bundle | None:
        """The bundle of exactly that trust domain, or None: then nobody of it is trusted."""
        return self._by_trust_domain.get(trust_domain)

    def __iter__(self) -> Iterator[X509Bundle]:
        return iter(self._by_trust_domain.values())

    def __len__(self) -> int:
        return len(self._by_trust_domain)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, X509BundleSet) and self._by_trust_domain == other._by_trust_domain

    def __hash__(self) -> int:
        return hash(frozenset(self))

    def __repr__(self) -> str:
        return f"X509BundleSet({list(self)!r})"


def namesakes(bundles: X509BundleSet) -> tuple[str, ...]:
    """The names that several authorities share without a key identifier to tell them apart (RFC 4514 text).

    OpenSSL tries only the first of them, and refuses good peers of the others.
    """
    nameless: dict[x509.Name, set[bytes]] = {}
    for bundle in bundles:
        for certificate in bundle.x509_authorities:
            if not any(extension.oid == _SUBJECT_KEY_ID for extension in certificate.extensions):
                nameless.setdefault(certificate.subject, set()).add(certificate.public_bytes(Encoding.DER))
    return tuple(sorted(name.rfc4514_string() for name, found in nameless.items() if len(found) > 1))
