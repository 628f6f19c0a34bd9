"""Who is at the other end: from a verified TLS chain to a SPIFFE ID, and whether that still holds later.

OpenSSL has built a path to *some* authority we trust; here it becomes a path to an authority of the peer's own trust
domain, which is the difference that SPIFFE makes. This file must not know sockets: it asks a finished TLS object for
its chain and nothing else.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from hashlib import sha256
from typing import TYPE_CHECKING, Final, Protocol

from cryptography import x509

from ..errors import SvidError
from ..spiffe import Role, SpiffeId, TrustDomain, X509Bundle, check_leaf, verify_x509_svid
from ._material import MaterialSource, TlsMaterial

if TYPE_CHECKING:
    import ssl

__all__ = [
    "Authorizer",
    "Gate",
    "VerifiedPeer",
    "authorize_any",
    "authorize_id",
    "authorize_member_of",
    "authorize_one_of",
    "recheck",
    "verify_presented",
]

Authorizer = Callable[[SpiffeId, str | None], None]
"""Called with the peer's ID and the TLS server name; returns, or raises SvidError."""

# The leaf, eight intermediates, and the root that OpenSSL's clients send along: as in verify_x509_svid.
_MAX_CHAIN: Final = 10
_RECALLED: Final = 1024
_REMEMBERED_SECONDS: Final = 60
_ENCODING_DER: Final = 2  # _ssl.ENCODING_DER


@dataclass(frozen=True, slots=True)
class VerifiedPeer:
    """The peer of one connection, verified in its handshake.

    Attributes:
        id: its SPIFFE ID.
        chain: the certificates it presented, DER, leaf first.
        path: the path that was verified, DER, leaf first and an authority of its trust domain somewhere after;
            empty where only :func:`verify_x509_svid` found one.
        role: what the peer was in the handshake.
        certificate_sha256: SHA-256 of the leaf's DER, 32 bytes.
        not_after: when the first certificate of the path ends, normally the leaf; POSIX seconds.
        generation: of the bundles it was verified against.
        sni: the TLS server name that the client sent or meant; None where there was none.
    """

    id: SpiffeId
    chain: tuple[bytes, ...] = field(repr=False)
    path: tuple[bytes, ...] = field(repr=False)
    role: Role
    certificate_sha256: bytes = field(repr=False)
    not_after: float
    generation: int
    sni: str | None = None


@dataclass(frozen=True, slots=True)
class Gate:
    """How the peers of one context are judged.

    Attributes:
        role: the peer's: "client" at a server.
        source: always asked for its newest snapshot, also when a connection began under an older one.
        authorize: None where any SVID of a trust domain that has a bundle will do.
    """

    role: Role
    source: MaterialSource
    authorize: Authorizer | None = None

    def admit(self, tls_object: ssl.SSLSocket | ssl.SSLObject, server_name: str | None) -> VerifiedPeer:
        """Judge the peer of a finished handshake. Raises SvidError, and whatever an authorizer may raise."""
        peer = _identify(tls_object, self.role, self.source.current(), server_name)
        if self.authorize is not None:
            self.authorize(peer.id, server_name)
        return peer


def recheck(peer: VerifiedPeer, source: MaterialSource, *, now: float) -> VerifiedPeer:
    """Check at a later request that a connection's peer still holds; connections outlive certificates and trust.

    Free while no bundle has changed since the handshake. After a change the stored path must still contain an
    authority of the peer's trust domain, or else its chain is verified anew, once for each change.

    NOT checked: the authorizer, which was asked in the handshake.

    Args:
        now: POSIX seconds.

    Returns:
        The peer, marked with the generation it holds under.

    Raises:
        SvidError: ``peer_expired`` or ``peer_distrusted``; or the source has nothing to compare with.
    """
    if not now <= peer.not_after:  # written so that a clock of NaN is refused
        raise SvidError(f"the certificate of {peer.id} has expired since the handshake", code="peer_expired")
    material = source.current()
    if material.generation == peer.generation:
        return peer
    bundle = material.bundles.get(peer.id.trust_domain)
    try:
        material.revoked.check(peer.path or peer.chain, bundle.x509_authorities if bundle else ())
    except SvidError as error:
        raise SvidError(f"{peer.id} is trusted no longer: {error}", code="peer_distrusted") from error
    if bundle is None or not _anchored(peer.path, bundle):
        _verify_anew(peer, material, now)
    return replace(peer, generation=material.generation)


def verify_presented(chain: tuple[bytes, ...], source: MaterialSource, *, now: float) -> VerifiedPeer:
    """Verify a client's chain that did not come out of our contexts: somebody else's TLS took it.

    Asked at every request, so a chain that held is remembered: with the bundles that it held against, until one of
    its certificates ends, and for a minute at most, because authorities end, too.

    NOT checked: that the client holds the key; whoever terminated TLS has seen that, whatever else it looked at.

    Args:
        chain: DER, leaf first.
        now: POSIX seconds.

    Raises:
        SvidError: as :func:`meshsec.spiffe.verify_x509_svid` says.
    """
    material = source.current()
    key = _presented_key(chain, now)
    if not (material.recalls(key) and now <= min(map(_not_after, chain))):
        spiffe_id = verify_x509_svid(chain, material.bundles, now=now, role="client")
        bundle = material.bundles.get(spiffe_id.trust_domain)
        material.revoked.check(chain, bundle.x509_authorities if bundle else ())
        material.remember(key)
    spiffe_id, digest = _named(chain[0])
    return VerifiedPeer(spiffe_id, chain, (), "client", digest, _not_after(chain[0]), material.generation)


def _presented_key(chain: tuple[bytes, ...], now: float) -> bytes:
    """A chain in one minute. Each certificate's own digest, so that no two chains are one text."""
    digests = (sha256(der).digest() for der in chain)
    return sha256(b"".join(digests) + int(now // _REMEMBERED_SECONDS).to_bytes(8, "big", signed=True)).digest()


def _verify_anew(peer: VerifiedPeer, material: TlsMaterial, now: float) -> None:
    key = peer.certificate_sha256 + peer.role.encode()
    if material.recalls(key):
        return
    try:
        verify_x509_svid(peer.chain, material.bundles, now=now, role=peer.role)
    except SvidError as error:
        raise SvidError(f"{peer.id} is trusted no longer: {error}", code="peer_distrusted") from error
    material.remember(key)


def _identify(
    tls_object: ssl.SSLSocket | ssl.SSLObject, role: Role, material: TlsMaterial, server_name: str | None
) -> VerifiedPeer:
    path, chain = _chains(tls_object)
    resumed = not path and tls_object.session_reused and bool(chain)
    if not path and not resumed:
        raise SvidError("the handshake verified no certificate chain", code="not_verified")
    longest = max(len(chain), len(path))  # some clients send the root along, in the path it always is
    if longest > _MAX_CHAIN:
        raise SvidError(f"a chain of {longest} certificates, more than {_MAX_CHAIN}", code="chain_too_long")
    spiffe_id, digest = _named(chain[0] if resumed else path[0])
    bundle = material.bundles.get(spiffe_id.trust_domain)
    if bundle is None:
        raise SvidError(f"no bundle for the trust domain of {spiffe_id}", code="unknown_trust_domain")
    if resumed or not _anchored(path, bundle):
        # A resumed session (TLS 1.2) brings its old certificate along, at which nobody has looked this time.
        # And OpenSSL stops at the first authority it finds; where trust domains cross-sign, that may be another's.
        verify_x509_svid(chain, material.bundles, now=time.time(), role=role)
        path = ()
    material.revoked.check(path or chain, bundle.x509_authorities)
    not_after = _first_end(path or chain[:1])
    return VerifiedPeer(spiffe_id, chain, path, role, digest, not_after, material.generation, server_name)


def _anchored(path: tuple[bytes, ...], bundle: X509Bundle) -> bool:
    """Whether an authority of that trust domain, and not merely of some other, vouches in this verified path."""
    return not bundle.der.isdisjoint(path[1:])


# What a certificate says depends on its bytes alone; whom to believe is not remembered here.
@lru_cache(_RECALLED)
def _named(der: bytes) -> tuple[SpiffeId, bytes]:
    return check_leaf(x509.load_der_x509_certificate(der)), sha256(der).digest()


@lru_cache(_RECALLED)
def _first_end(chain: tuple[bytes, ...]) -> float:
    return min(map(_not_after, chain))


@lru_cache(_RECALLED)
def _not_after(der: bytes) -> float:
    return x509.load_der_x509_certificate(der).not_valid_after_utc.timestamp()


def _chains(tls_object: ssl.SSLSocket | ssl.SSLObject) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
    """The verified and the presented chain, DER, leaf first: public since Python 3.13, private names before."""
    if sys.version_info >= (3, 13):
        return tuple(tls_object.get_verified_chain()), tuple(tls_object.get_unverified_chain())
    private = vars(tls_object)["_sslobj"]
    path, chain = _der(private.get_verified_chain()), _der(private.get_unverified_chain())
    # Mostly the one begins with the other, and is kept once. Their objects are not compared: OpenSSL would parse the
    # extensions of certificates at which it has not looked yet, which costs more than all the rest of this.
    return path, path[: len(chain)] if path[: len(chain)] == chain else chain


def _der(chain: Iterable[_Certificate] | None) -> tuple[bytes, ...]:
    return tuple([certificate.public_bytes(_ENCODING_DER) for certificate in chain or ()])


class _Certificate(Protocol):
    """The ssl module's own certificate object, which is private before Python 3.13."""

    def public_bytes(self, encoding: int) -> bytes: ...


def authorize_any() -> Authorizer:
    """Whoever holds an SVID of a trust domain that has a bundle."""
    return lambda _peer, _server_name: None


def authorize_id(spiffe_id: SpiffeId | str) -> Authorizer:
    """Exactly one workload."""
    return authorize_one_of([spiffe_id])


def authorize_one_of(spiffe_ids: Iterable[SpiffeId | str]) -> Authorizer:
    """Any of these workloads; of none, nobody."""
    expected = frozenset(map(SpiffeId.of, spiffe_ids))
    names = ", ".join(sorted(map(str, expected))) or "nobody"

    def authorize(peer: SpiffeId, _server_name: str | None) -> None:
        if peer not in expected:
            raise SvidError(f"the peer is {peer}, expected is {names}", code="peer_not_authorized")

    return authorize


def authorize_member_of(trust_domain: TrustDomain | str) -> Authorizer:
    """Every workload of one trust domain."""
    expected = TrustDomain.of(trust_domain)

    def authorize(peer: SpiffeId, _server_name: str | None) -> None:
        if peer.trust_domain != expected:
            raise SvidError(f"the peer is {peer}, expected is trust domain {expected}", code="peer_not_authorized")

    return authorize
