"""One signing key with its place under a root, and what comes of it: the material of an authority.

This file must not know files, rotation, nor who asks for a certificate.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from ..errors import IssuanceError, MeshsecError
from ..spiffe import SpiffeId, TrustDomain, X509Bundle, X509Svid, verify_x509_svid
from ._jwt import JwtKey
from ._keys import AuthorityKey, KeyType, generate_key
from ._lifetime import BACKDATE, MAX_ROOT_LIFETIME, ROOT_LIFETIME, check_lifetime
from ._profile import Issuer, Validity, leaf_certificate, root_certificate

__all__ = ["Signer", "trust_domain_of"]

MAX_PATH: Final = 9  # certificates from the signer to the root; verifiers take eight below the root


@dataclass(frozen=True, slots=True, eq=False)
class Signer:
    """A CA certificate, its key, and the path from it to the root; proven by issuing a first leaf with it.

    Attributes:
        certificate: whose key signs.
        chain: what goes with every leaf: the certificates from the signer's up to below the root; empty where the
            signer is the root.
        root: what relying parties hold.
        jwt_key: signs JWT-SVIDs; a key of its own, so that no token can be taken for a certificate.
        validity: when the whole path holds.
        key_id: the signing key's name in the record, in hexadecimal.

    Raises:
        ValueError: what it would issue would be refused.
    """

    certificate: x509.Certificate
    chain: tuple[x509.Certificate, ...]
    root: x509.Certificate
    key: AuthorityKey = field(repr=False)
    jwt_key: JwtKey | None = field(default=None, repr=False)
    validity: Validity = field(init=False)
    issuer: Issuer = field(init=False, repr=False)
    key_id: str = field(init=False)

    def __post_init__(self) -> None:
        path = (self.certificate, *self.chain, self.root)
        start = max(item.not_valid_before_utc.timestamp() for item in path)
        end = min(item.not_valid_after_utc.timestamp() for item in path)
        identifier = x509.SubjectKeyIdentifier.from_public_key(self.key.public_key()).digest.hex()
        object.__setattr__(self, "validity", Validity(start, end))
        object.__setattr__(self, "issuer", Issuer.of(self.certificate, self.key))
        object.__setattr__(self, "key_id", identifier)
        self._prove()

    @classmethod
    def self_signed(
        cls,
        trust_domain: TrustDomain,
        *,
        now: float,
        lifetime: float = ROOT_LIFETIME,
        key_type: KeyType = "ec-p256",
    ) -> Signer:
        """A fresh key and root. Raises IssuanceError: ``lifetime_invalid`` or ``key_unsupported``."""
        check_lifetime(lifetime, MAX_ROOT_LIFETIME)
        key = generate_key(key_type)
        root = root_certificate(trust_domain, key, Validity(now - BACKDATE, now + lifetime))
        return cls(root, (), root, key, JwtKey.generate())

    @classmethod
    def plugged_in(
        cls,
        certificates: Sequence[x509.Certificate],
        roots: Sequence[x509.Certificate],
        key: AuthorityKey,
        jwt_key: JwtKey | None = None,
    ) -> Signer:
        """Find the path from somebody else's CA certificate to one of the roots, and prove that it can issue.

        Args:
            certificates: the signer's first, then intermediates in any order, a root among them or not.
            roots: any of them may be an intermediate.

        Raises:
            ValueError: the key is not the first certificate's, no path leads to a root, or what would be issued
                would not be accepted.
        """
        signer = certificates[0]
        if signer.public_key() != key.public_key():
            raise ValueError("the private key is not the CA certificate's")
        path = _path(signer, certificates[1:], roots)
        return cls(signer, tuple(path[:-1]), path[-1], key, jwt_key)

    @property
    def is_root(self) -> bool:
        """Whether the signer's own certificate is what relying parties hold."""
        return not self.chain

    @property
    def renews_itself(self) -> bool:
        """Whether the root is self-signed with this very key."""
        return self.is_root and self.certificate.issuer == self.certificate.subject

    def with_jwt_key(self) -> Signer:
        """The same, with a fresh key for JWT-SVIDs where there is none."""
        return self if self.jwt_key else replace(self, jwt_key=JwtKey.generate())

    def renewed(self, trust_domain: TrustDomain, *, now: float, lifetime: float = ROOT_LIFETIME) -> Signer:
        """The same key under a new self-signed root of the same name. Raises IssuanceError (``root_not_ours``)."""
        if not self.renews_itself:
            reason = "the root is not this authority's own: renew it where it came from"
            raise IssuanceError(reason, code="root_not_ours")
        check_lifetime(lifetime, MAX_ROOT_LIFETIME)
        validity = Validity(now - BACKDATE, now + lifetime)
        root = root_certificate(trust_domain, self.key, validity, name=self.certificate.subject)
        return Signer(root, (), root, self.key, self.jwt_key)

    def _prove(self) -> None:
        """Issue a leaf that nobody gets and verify it: path lengths, usages and name constraints in one question."""
        domain = TrustDomain("probe.invalid")
        key = ec.generate_private_key(ec.SECP256R1())
        names = [x509.UniformResourceIdentifier(str(SpiffeId(domain, "/probe")))]
        leaf = leaf_certificate(names, key.public_key(), self.validity, self.issuer)
        try:
            svid = X509Svid([leaf, *self.chain], key)
            verify_x509_svid(svid.chain, X509Bundle(domain, [self.root]), now=self.validity.not_before, role="client")
        except MeshsecError as error:
            raise ValueError(f"what it would issue would be refused: {str(error)[:300]}") from error


def trust_domain_of(certificates: Iterable[x509.Certificate]) -> TrustDomain:
    """The trust domain that the first certificate with a URI SAN says it is for. Raises ValueError for none."""
    for certificate in certificates:
        try:
            names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except x509.ExtensionNotFound:
            continue
        if uris := names.get_values_for_type(x509.UniformResourceIdentifier):
            return _only_trust_domain(uris)
    raise ValueError("the certificates do not say for which trust domain they are: name it")


def _only_trust_domain(uris: Sequence[str]) -> TrustDomain:
    try:
        [uri] = uris
        return TrustDomain.parse(uri)
    except (ValueError, MeshsecError) as error:
        raise ValueError("a CA certificate's one URI SAN is a trust domain (a SPIFFE ID without a path)") from error


def _path(
    signer: x509.Certificate, others: Sequence[x509.Certificate], roots: Sequence[x509.Certificate]
) -> list[x509.Certificate]:
    path = [signer]
    while path[-1] not in roots:
        issuers = (item for item in (*roots, *others) if item not in path and _issued(path[-1], item))
        issuer = next(issuers, None)
        if issuer is None or len(path) == MAX_PATH:
            raise ValueError("no path leads from the CA certificate through the chain to a root")
        path.append(issuer)
    return path


def _issued(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    if certificate.issuer != issuer.subject:
        return False
    try:
        certificate.verify_directly_issued_by(issuer)
    except Exception:  # noqa: BLE001 - a wrong signature and an unknown algorithm are both a no
        return False
    return True
