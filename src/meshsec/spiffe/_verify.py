"""Is this chain an X.509-SVID of a trust domain we know? (X509-SVID section 5.)

The one place where a path is validated, and the one place that says with which extension policy. This file must not
know TLS, sessions, or who may talk to whom: it says who the peer is, not whether it is welcome.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Final, Literal

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import Criticality, ExtensionPolicy, Policy, PolicyBuilder

from ..errors import SvidError
from ._bundle import X509Bundle, X509BundleSet
from ._id import SpiffeId
from ._leaf import check_leaf, find_extension
from ._pem import read_der

__all__ = ["Role", "verify_x509_svid"]

Role = Literal["client", "server"]

MAX_INTERMEDIATES: Final = 8
# The leaf, the intermediates, and the root that many servers send along.
MAX_CHAIN: Final = MAX_INTERMEDIATES + 2

_PURPOSE: Final = {"client": ExtendedKeyUsageOID.CLIENT_AUTH, "server": ExtendedKeyUsageOID.SERVER_AUTH}


def verify_x509_svid(
    chain: Sequence[bytes], bundles: X509BundleSet | X509Bundle, *, now: float, role: Role
) -> SpiffeId:
    """Verify a peer's certificate chain and say which workload it is.

    First the leaf profile (:func:`check_leaf`), then the bundle of the leaf's own trust domain, then path validation
    (RFC 5280 section 6) against that bundle and no other, so that one trust domain can never vouch for another's
    workloads. An anchor may be an intermediate; the root need not be sent. Nothing is asked for that only the Web PKI
    demands: a leaf may lack the AKI and a root the SKI, roots may share a name, a CA may have no keyUsage, or a
    basicConstraints that is not critical.

    Refused although SPIFFE permits it, because the path validation below cannot do it: a CA with an Ed25519 or Ed448
    key (leaves may have one), an issuer with an empty name, SHA-1 signatures and RSA keys under 2048 bits of CAs, and
    a URI name constraint anywhere above the leaf, matching or not.

    NOT checked: revocation, DNS names, possession of the private key (the handshake's part) and whether this
    workload may talk to us (the authorizer's).

    Args:
        chain: DER certificates as presented, the leaf first; the order of the others does not matter.
        bundles: what is trusted, by trust domain.
        now: POSIX seconds.
        role: what the **peer** was in the handshake; where there is an extended key usage, it must allow that.

    Raises:
        SvidError: ``malformed``, ``chain_too_long``, what :func:`check_leaf` says, ``leaf_extended_key_usage``,
            ``unknown_trust_domain``, ``not_yet_valid``, ``expired`` or ``untrusted_chain``.
    """
    leaf, *intermediates = _parse(chain)
    spiffe_id = check_leaf(leaf)
    _check_purpose(leaf, spiffe_id, role)
    bundle = bundles.get(spiffe_id.trust_domain)
    if bundle is None:
        raise SvidError(f"no bundle for the trust domain of {spiffe_id}", code="unknown_trust_domain")
    _check_validity(leaf, spiffe_id, now)
    try:
        _validate_path(leaf, intermediates, bundle, now, role)
    except Exception as error:  # what the library raises has no common base; all of it refuses
        reason = f"{str(error)[:300]!a}"
        raise SvidError(f"no trusted path for {spiffe_id}: {reason}", code="untrusted_chain") from error
    return spiffe_id


def _parse(chain: Sequence[bytes]) -> list[x509.Certificate]:
    if not chain:
        raise SvidError("the peer presented no certificate", code="malformed")
    if len(chain) > MAX_CHAIN:
        raise SvidError(f"a chain of {len(chain)} certificates, more than {MAX_CHAIN}", code="chain_too_long")
    try:
        return [read_der(der) for der in chain]
    except ValueError as error:
        raise SvidError(str(error), code="malformed") from error


def _check_purpose(leaf: x509.Certificate, spiffe_id: SpiffeId, role: Role) -> None:
    usage = find_extension(leaf, x509.ExtendedKeyUsage)
    if usage is not None and _PURPOSE[role] not in usage:
        raise SvidError(
            f"the extended key usage of {spiffe_id} does not allow it to be a {role}", code="leaf_extended_key_usage"
        )


def _check_validity(leaf: x509.Certificate, spiffe_id: SpiffeId, now: float) -> None:
    if now < leaf.not_valid_before_utc.timestamp():
        raise SvidError(f"the certificate of {spiffe_id} is not yet valid", code="not_yet_valid")
    if not now <= leaf.not_valid_after_utc.timestamp():  # written so that a clock of NaN is refused
        raise SvidError(f"the certificate of {spiffe_id} has expired", code="expired")


def _validate_path(
    leaf: x509.Certificate, intermediates: list[x509.Certificate], bundle: X509Bundle, now: float, role: Role
) -> None:
    if bundle._store is None:
        raise ValueError("the bundle is empty")
    builder = PolicyBuilder().store(bundle._store).time(datetime.fromtimestamp(now, UTC))
    builder = builder.max_chain_depth(MAX_INTERMEDIATES)
    builder = builder.extension_policies(ca_policy=_CA_POLICY[role], ee_policy=_LEAF_POLICY)
    # "Client" in the library's words: no DNS name is asked of the leaf, which is right for both roles here.
    builder.build_client_verifier().verify(leaf, intermediates)


def _must_be_ca(_policy: Policy, _certificate: x509.Certificate, constraints: x509.BasicConstraints) -> None:
    if not constraints.ca:
        raise ValueError("an issuer is not a CA")


def _may_sign_certificates(_policy: Policy, _certificate: x509.Certificate, usage: x509.KeyUsage | None) -> None:
    if usage is not None and not usage.key_cert_sign:
        raise ValueError("an issuer's keyUsage does not allow it to sign certificates")


def _may_issue_for(role: Role) -> Callable[[Policy, x509.Certificate, x509.ExtendedKeyUsage | None], None]:
    allowed = {_PURPOSE[role], ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE}

    def check(_policy: Policy, _certificate: x509.Certificate, usage: x509.ExtendedKeyUsage | None) -> None:
        if usage is not None and allowed.isdisjoint(usage):
            raise ValueError(f"an issuer's extended key usage does not allow {role} certificates")

    return check


def _ca_policy(role: Role) -> ExtensionPolicy:
    # Starts from "anything goes" and adds what RFC 5280 6.1.4 asks of a CA; path length and name constraints are
    # always judged by the library, and an unknown critical extension is always refused by it.
    return (
        ExtensionPolicy.permit_all()
        .require_present(x509.BasicConstraints, Criticality.AGNOSTIC, _must_be_ca)
        .may_be_present(x509.KeyUsage, Criticality.AGNOSTIC, _may_sign_certificates)
        .may_be_present(x509.ExtendedKeyUsage, Criticality.AGNOSTIC, _may_issue_for(role))
    )


_CA_POLICY: Final = {"client": _ca_policy("client"), "server": _ca_policy("server")}
# The leaf has been judged by check_leaf before the path is.
_LEAF_POLICY: Final = ExtensionPolicy.permit_all()
