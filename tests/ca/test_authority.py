"""The embedded authority: what it issues, what it refuses, how its root is replaced."""

from __future__ import annotations

import math
import ssl
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.verification import DNSName, PolicyBuilder, Store
from hypothesis import given, settings
from hypothesis import strategies as st

from meshsec.ca import CertificateAuthority, Issuance, KeyType
from meshsec.errors import IssuanceError, MeshsecError, SpiffeIdError, SvidError
from meshsec.spiffe import Role, SpiffeId, TrustDomain, X509Bundle, X509Svid, verify_x509_svid
from pki import NOW, TestCA, openssl_accepts

DAY = 86_400
ID = "spiffe://td.example/ns/prod/sa/web"
CA = CertificateAuthority.create("td.example", now=NOW)
STRICT = ssl.VerifyFlags.VERIFY_X509_STRICT
ROLES: tuple[Role, ...] = ("client", "server")


def extension(certificate: x509.Certificate, kind: Any) -> x509.Extension[Any]:
    """One extension, with its criticality."""
    return certificate.extensions.get_extension_for_class(kind)


@pytest.mark.parametrize("role", ROLES)
def test_an_issued_svid_is_good_for_both_roles(role: Role) -> None:
    """Our own verifier takes it, and so does OpenSSL at its strictest."""
    svid = CA.issue_x509_svid(ID, dns_names=["localhost"], now=NOW)
    assert svid.id == SpiffeId.parse(ID)
    assert verify_x509_svid(svid.chain, CA.bundle, now=NOW, role=role) == svid.id
    for flags in (STRICT, STRICT | ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN, ssl.VerifyFlags.VERIFY_DEFAULT):
        assert openssl_accepts(svid.chain, svid.private_key, CA.bundle.der, role, flags)
    assert not openssl_accepts(svid.chain, svid.private_key, [TestCA().der], role, STRICT)


def test_an_issued_svid_passes_the_web_pki_policy() -> None:
    """The default policies of ``cryptography``, as a client and as the server ``localhost``."""
    svid = CA.issue_x509_svid(ID, dns_names=["localhost"], now=NOW)
    policy = PolicyBuilder().store(Store([CA.certificate])).time(datetime.fromtimestamp(NOW, UTC))
    assert policy.build_client_verifier().verify(svid.leaf, []).chain == [svid.leaf, CA.certificate]
    assert policy.build_server_verifier(DNSName("localhost")).verify(svid.leaf, [])


def test_the_leaf_is_as_the_standard_wants_it() -> None:
    """X509-SVID sections 2 to 4: names, usages, constraints, and which of them are critical."""
    leaf = CA.issue_x509_svid(ID, dns_names=["localhost", "web.prod"], now=NOW).leaf
    names = extension(leaf, x509.SubjectAlternativeName)
    assert (list(leaf.subject), names.critical) == ([], True)
    assert names.value.get_values_for_type(x509.UniformResourceIdentifier) == [ID]
    assert names.value.get_values_for_type(x509.DNSName) == ["localhost", "web.prod"]
    usage = extension(leaf, x509.KeyUsage)
    assert usage.critical
    assert usage.value.digital_signature
    assert not usage.value.key_cert_sign
    assert not usage.value.crl_sign
    assert extension(leaf, x509.BasicConstraints).critical
    assert not extension(leaf, x509.BasicConstraints).value.ca
    assert len(extension(leaf, x509.ExtendedKeyUsage).value) == 2
    authority = extension(leaf, x509.AuthorityKeyIdentifier).value.key_identifier
    assert authority == extension(CA.certificate, x509.SubjectKeyIdentifier).value.digest


def test_the_root_is_as_the_standard_wants_it() -> None:
    """X509-SVID 3.1 and 4: a CA that may sign certificates and CRLs, and whose SPIFFE ID has no path."""
    root = CA.certificate
    assert root.issuer == root.subject
    assert extension(root, x509.BasicConstraints).value.ca
    assert extension(root, x509.BasicConstraints).critical
    usage = extension(root, x509.KeyUsage)
    assert usage.critical
    assert usage.value.key_cert_sign
    assert usage.value.crl_sign
    assert not usage.value.digital_signature
    names = extension(root, x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == ["spiffe://td.example"]
    assert CA.trust_domain == TrustDomain("td.example")
    assert CA.bundle == X509Bundle("td.example", [root])


def test_no_two_roots_share_a_name() -> None:
    """OpenSSL tries only the first root of a name."""
    assert len({CertificateAuthority.create("td.example").certificate.subject for _ in range(5)}) == 5


def test_a_long_trust_domain_has_an_authority_too() -> None:
    """255 characters do not fit into a name's part; the SPIFFE ID holds them all."""
    authority = CertificateAuthority.create("a" * 255, now=NOW)
    svid = authority.issue_x509_svid(f"spiffe://{'a' * 255}/x", now=NOW)
    assert openssl_accepts(svid.chain, svid.private_key, authority.bundle.der, "client", STRICT)


def test_every_svid_has_its_own_key_and_serial() -> None:
    """At least 64 random bits of serial number, and never a key twice."""
    svids = [CA.issue_x509_svid(ID, now=NOW) for _ in range(20)]
    assert len({svid.key_pem() for svid in svids}) == 20
    assert len({svid.serial for svid in svids}) == 20
    assert max(svid.serial for svid in svids).bit_length() > 128
    assert isinstance(svids[0].private_key.public_key(), ec.EllipticCurvePublicKey)


def test_lifetimes() -> None:
    """A day by default, from two minutes before; a root lives ten years."""
    svid = CA.issue_x509_svid(ID, now=NOW)
    assert (svid.not_before, svid.not_after) == (NOW - 120, NOW + DAY)
    for default in (0, -1, -math.inf):
        assert CA.issue_x509_svid(ID, ttl=default, now=NOW).not_after == NOW + DAY
    assert CA.issue_x509_svid(ID, ttl=5, now=NOW).not_after == NOW + 5
    assert CA.issue_x509_svid(ID, ttl=90 * DAY, now=NOW).not_after == NOW + 90 * DAY
    assert CA.certificate.not_valid_after_utc.timestamp() == NOW + 3650 * DAY


def test_a_leaf_does_not_outlive_its_root() -> None:
    """Clamped to the signer's end; an expired signer signs no more."""
    short = CertificateAuthority.create("td.example", now=NOW, lifetime=100)
    assert short.issue_x509_svid(ID, now=NOW).not_after == NOW + 100
    assert short.issue_x509_svid(ID, now=NOW + 99).not_after == NOW + 100
    for moment, code in ((NOW + 100, "authority_expired"), (NOW - 121, "authority_not_yet_valid")):
        with pytest.raises(IssuanceError) as caught:
            short.issue_x509_svid(ID, now=moment)
        assert caught.value.code == code


def test_the_clock_is_handed_in() -> None:
    """Where ``now`` is not given, the authority's one clock tells the time."""
    authority = CertificateAuthority.create("td.example", clock=lambda: 1_000_000.0)
    assert authority.certificate.not_valid_before_utc.timestamp() == 1_000_000 - 120
    assert authority.issue_x509_svid(ID).not_after == 1_000_000 + DAY
    assert authority.rotate_root().issue_x509_svid(ID).not_after == 1_000_000 + DAY


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "another trust domain": ({"id": "spiffe://other.example/x"}, "foreign_trust_domain"),
    "a sub-domain": ({"id": "spiffe://sub.td.example/x"}, "foreign_trust_domain"),
    "no path": ({"id": "spiffe://td.example"}, "no_path"),
    "too long a lifetime": ({"ttl": 90 * DAY + 1}, "lifetime_invalid"),
    "an endless lifetime": ({"ttl": math.inf}, "lifetime_invalid"),
    "a lifetime that is no number": ({"ttl": math.nan}, "lifetime_invalid"),
    "an empty DNS name": ({"dns_names": [""]}, "dns_name_invalid"),
    "a wildcard": ({"dns_names": ["*.prod"]}, "dns_name_invalid"),
    "an upper-case DNS name": ({"dns_names": ["Localhost"]}, "dns_name_invalid"),
    "a DNS name with a newline": ({"dns_names": ["localhost\n"]}, "dns_name_invalid"),
    "a URI as DNS name": ({"dns_names": [ID]}, "dns_name_invalid"),
    "a DNS name with an empty label": ({"dns_names": ["a..b"]}, "dns_name_invalid"),
    "a label of 64": ({"dns_names": ["a" * 64]}, "dns_name_invalid"),
    "a DNS name of 254": ({"dns_names": [".".join(["a" * 49] * 5) + ".aaaa"]}, "dns_name_invalid"),
    "a foreign letter": ({"dns_names": ["b\u00fccher.example"]}, "dns_name_invalid"),
}


@pytest.mark.parametrize(("options", "code"), REFUSED.values(), ids=REFUSED.keys())
def test_what_it_does_not_issue(options: dict[str, Any], code: str) -> None:
    """Each refusal has a stable code."""
    with pytest.raises(IssuanceError) as caught:
        CA.issue_x509_svid(**{"id": ID, "now": NOW, **options})
    assert caught.value.code == code


@pytest.mark.parametrize("name", ["localhost", "web.prod.svc.cluster.local", "a" * 63, "1.example", "x--y"])
def test_a_dns_name_is_taken(name: str) -> None:
    """The refusals above have their accepted twins."""
    assert CA.issue_x509_svid(ID, dns_names=[name], now=NOW)


@given(st.text(max_size=20), st.floats(), st.text(max_size=12))
@settings(max_examples=80, deadline=None)
def test_any_wish_is_granted_or_refused_in_our_words(path: str, ttl: float, name: str) -> None:
    """Whatever is asked for, the answer is an SVID within the profile or a MeshsecError."""
    try:
        svid = CA.issue_x509_svid(f"spiffe://td.example/{path}", ttl=ttl, dns_names=[name], now=NOW)
    except MeshsecError:
        return
    assert verify_x509_svid(svid.chain, CA.bundle, now=NOW, role="client") == svid.id


def test_a_malformed_id_is_refused() -> None:
    """Text is parsed by the one parser."""
    with pytest.raises(SpiffeIdError):
        CA.issue_x509_svid("spiffe://td.example/a/", now=NOW)
    with pytest.raises(SpiffeIdError):
        CertificateAuthority.create("TD.example")


@pytest.mark.parametrize("lifetime", [0, -1, math.inf, math.nan, 1e12])
def test_a_root_has_a_sensible_lifetime(lifetime: float) -> None:
    """Neither none nor for ever."""
    with pytest.raises(IssuanceError) as caught:
        CertificateAuthority.create("td.example", lifetime=lifetime)
    assert caught.value.code == "lifetime_invalid"


def test_a_root_is_replaced_in_steps_without_a_gap() -> None:
    """Publish, issue, retire: at every step each workload trusts what each other one shows."""
    old = CertificateAuthority.create("td.example", now=NOW)
    before = old.issue_x509_svid(ID, now=NOW)

    new = old.rotate_root(now=NOW)
    after = new.issue_x509_svid(ID, now=NOW)
    assert new.bundle.x509_authorities == (old.certificate, new.certificate)
    for svid in (before, after):
        assert _holds(svid, new.bundle)
    assert not _holds(after, old.bundle)  # which is why the new bundle has to be everywhere first

    last = new.retire_old_roots()
    assert last.bundle.x509_authorities == (new.certificate,)
    assert _holds(last.issue_x509_svid(ID, now=NOW), last.bundle)
    assert _holds(after, last.bundle)
    assert not _holds(before, last.bundle)
    assert len(old.bundle.x509_authorities) == 1  # a value: what there was has not changed


def test_old_and_new_roots_work_side_by_side_in_openssl() -> None:
    """The same, asked of a real handshake with both roots in one store."""
    old = CertificateAuthority.create("td.example", now=NOW)
    new = old.rotate_root(now=NOW).rotate_root(now=NOW)
    assert len(new.bundle.x509_authorities) == 3
    for authority in (old, new):
        svid = authority.issue_x509_svid(ID, now=NOW)
        assert openssl_accepts(svid.chain, svid.private_key, new.bundle.der, "client", STRICT)


def test_the_key_is_never_shown() -> None:
    """Neither an authority nor its refusals show the key."""
    key = CA.state.signer.key
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    shown = repr(CA)
    assert str(key.private_numbers().private_value) not in shown
    assert "PRIVATE" not in shown
    assert "PrivateKey" not in shown
    assert "SigningKey" not in shown
    assert "td.example" in repr(CA)


def _holds(svid: X509Svid, bundle: X509Bundle) -> bool:
    try:
        verify_x509_svid(svid.chain, bundle, now=NOW, role="client")
    except SvidError:
        return False
    return True


@pytest.mark.parametrize("key_type", ["ec-p384", "rsa-2048"])
def test_other_keys_by_choice(key_type: KeyType) -> None:
    """The root's kind is a choice; what it issues passes OpenSSL at its strictest and our own verifier."""
    authority = CertificateAuthority.create("td.example", now=NOW, key_type=key_type)
    svid = authority.issue_x509_svid(ID, now=NOW)
    assert _holds(svid, authority.bundle)
    assert openssl_accepts(svid.chain, svid.private_key, authority.bundle.der, "client", STRICT)


def test_an_unknown_kind_of_key_is_refused() -> None:
    """The refusing twin."""
    with pytest.raises(IssuanceError) as caught:
        CertificateAuthority.create("td.example", key_type="rsa-1024")  # type: ignore[arg-type]
    assert caught.value.code == "key_unsupported"


def test_everything_issued_is_recorded_before_it_is_handed_out() -> None:
    """What the record refuses is not issued."""
    seen: list[Issuance] = []
    recorded = CA.recorded_by(lambda _signer, issuance: seen.append(issuance))
    svid = recorded.issue_x509_svid(ID, now=NOW, requester="me")
    assert seen == [
        Issuance("x509", f"{svid.serial:x}", ID, CA.state.signer.key_id, NOW, NOW - 120, NOW + DAY, requester="me")
    ]

    def full(_signer: object, _issuance: object) -> None:
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space"):
        CA.recorded_by(full).issue_x509_svid(ID, now=NOW)


@pytest.mark.parametrize(("life", "warned"), [(6 * DAY, False), (6 * DAY - 1, True), (3650 * DAY, False)])
def test_an_authority_that_ends_too_soon_is_warned_about(life: float, warned: bool) -> None:
    """At least six lifetimes of its leaves, as SPIRE asks."""
    authority = CertificateAuthority.create("td.example", now=NOW, lifetime=life)
    assert bool(authority.warning(now=NOW)) == warned


@given(
    st.from_regex(r"(/[a-z0-9._-]{1,8}){1,4}", fullmatch=True), st.lists(st.sampled_from(["a", "b.c"]), max_size=2)
)
@settings(max_examples=60, deadline=None)
def test_what_is_issued_would_pass_every_check(path: str, names: list[str]) -> None:
    """The authority does not check its own leaves one by one: whoever reads them does, and finds nothing."""
    try:
        svid = CA.issue_x509_svid(f"spiffe://td.example{path}", dns_names=names, now=NOW)
    except SpiffeIdError:
        return
    again = X509Svid(svid.chain, svid.private_key)
    assert (again, again.id, again.serial) == (svid, svid.id, svid.serial)
    assert again.certificates == svid.certificates
