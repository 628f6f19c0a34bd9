"""X.509 bundles: what becomes an anchor, and for whom."""

from __future__ import annotations

import pytest
from cryptography import x509
from hypothesis import given, settings
from hypothesis import strategies as st

from meshsec.errors import ConfigError, MeshsecError
from meshsec.spiffe import TrustDomain, X509Bundle, X509BundleSet
from pki import TestCA, key_pem, pem

ONE, TWO = TestCA("td.example"), TestCA("td.example")
TD = TrustDomain("td.example")


def test_a_bundle_holds_authorities_in_order() -> None:
    """Parsed certificates, their DER, and the trust domain they speak for."""
    bundle = X509Bundle(TD, [ONE.certificate, TWO.certificate])
    assert bundle.trust_domain == TD
    assert bundle.x509_authorities == (ONE.certificate, TWO.certificate)
    assert bundle.der == {ONE.der, TWO.der}
    assert X509Bundle("td.example", (ONE.der, TWO.der)) == bundle


def test_pem_comes_back_as_it_went() -> None:
    """Writing and reading keeps certificates and order."""
    bundle = X509Bundle(TD, [TWO.certificate, ONE.certificate])
    assert bundle.to_pem() == TWO.pem + ONE.pem
    assert X509Bundle.from_pem(TD, bundle.to_pem()).x509_authorities == bundle.x509_authorities


def test_equality_is_by_content_in_any_order_and_agrees_with_the_hash() -> None:
    """The same authorities of the same trust domain are the same bundle; of another they are not."""
    bundle, turned = X509Bundle(TD, [ONE.der, TWO.der]), X509Bundle(TD, [TWO.der, ONE.der])
    assert bundle == turned
    assert hash(bundle) == hash(turned)
    assert bundle != X509Bundle(TD, [ONE.der])
    assert bundle != X509Bundle("other.example", [ONE.der, TWO.der])


def test_a_certificate_that_comes_twice_counts_once() -> None:
    """Istio's agent writes the root twice where the CA is the root."""
    assert X509Bundle.from_pem(TD, ONE.pem + ONE.pem).x509_authorities == (ONE.certificate,)


def test_text_between_the_blocks_is_ignored() -> None:
    """``openssl x509 -text`` and comments may stand there, and CRLF line ends."""
    data = b"# the roots\n" + ONE.pem.replace(b"\n", b"\r\n") + b"\nCertificate:\n  Data: ...\n" + TWO.pem + b"\n\n"
    assert X509Bundle.from_pem(TD, data) == X509Bundle(TD, [ONE.der, TWO.der])


def test_an_empty_bundle_is_legal_but_not_from_a_file() -> None:
    """No authorities means that all are revoked; an empty file means that something went wrong."""
    assert X509Bundle(TD, []).x509_authorities == ()
    with pytest.raises(ConfigError, match="no PEM certificate"):
        X509Bundle.from_pem(TD, b"")


LEAF, LEAF_KEY = ONE.leaf()
BAD_PEM = {
    "empty": b"",
    "blank": b" \n\n",
    "garbage": b"\0\xff not a certificate",
    "key": key_pem(LEAF_KEY),
    "der": ONE.der,
    "leaf": pem(LEAF),
    "root and leaf": ONE.pem + pem(LEAF),
    "ca without basicConstraints": TestCA(ca=None).pem,
    "cut off": ONE.pem[:-40],
    "second cut off": ONE.pem + TWO.pem[:-40],
    "second cut off in its first line": ONE.pem + TWO.pem[:60],
    "second without end line": ONE.pem + TWO.pem.replace(b"-----END CERTIFICATE-----", b""),
    "base64 damaged": ONE.pem.replace(b"MII", b"M!I", 1),
    "der damaged": pem([ONE.der[:-20]]),
    "trailing bytes in the block": pem([ONE.der + b"\0"]),
    "second damaged": ONE.pem + pem([TWO.der[:50]]),
    "empty block": ONE.pem + b"-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n",
    "one block inside another": ONE.pem[:100] + b"\n" + TWO.pem,
}


@pytest.mark.parametrize("data", BAD_PEM.values(), ids=BAD_PEM.keys())
def test_a_file_is_read_whole_or_not_at_all(data: bytes) -> None:
    """One bad certificate refuses the file, and the error names it."""
    with pytest.raises(ConfigError) as caught:
        X509Bundle.from_pem(TD, data, source="roots.pem")
    assert caught.value.code == "bundle_invalid"
    assert caught.value.problems[0].source == "roots.pem"
    assert "BEGIN" not in str(caught.value)


def test_every_cut_is_noticed() -> None:
    """Wherever a file of two roots ends too early, it is refused, save after a whole certificate."""
    data = ONE.pem + TWO.pem
    whole = {len(ONE.pem) - 1, len(ONE.pem), len(data) - 1}
    for length in range(0, len(data), 7):
        if length not in whole:
            with pytest.raises(ConfigError):
                X509Bundle.from_pem(TD, data[:length])


@given(st.binary(max_size=200) | st.binary(max_size=100).map(lambda junk: ONE.pem + junk))
@settings(max_examples=100, deadline=None)
def test_any_bytes_are_a_bundle_or_a_refusal(data: bytes) -> None:
    """Nothing else comes out of the PEM reader."""
    try:
        X509Bundle.from_pem(TD, data)
    except MeshsecError:
        return


def test_a_leaf_never_becomes_an_anchor() -> None:
    """An anchor may be an intermediate, so a leaf among the anchors would vouch for itself."""
    with pytest.raises(ConfigError, match=r"certificate 2 .*not a CA"):
        X509Bundle(TD, [ONE.der, LEAF[0]])
    assert X509Bundle(TD, [ONE.der, ONE.intermediate().der])


def test_a_certificate_object_with_malformed_extensions_is_refused() -> None:
    """Certificates are parsed lazily; a bundle looks at them at once."""
    broken = x509.UnrecognizedExtension(x509.ExtensionOID.SUBJECT_ALTERNATIVE_NAME, b"\x30\x05\x00")
    certificate = TestCA(extensions=[(broken, False)]).certificate
    with pytest.raises(ConfigError) as caught:
        X509Bundle(TD, [certificate])
    assert caught.value.code == "bundle_invalid"


def test_a_set_gives_each_trust_domain_its_own_bundle() -> None:
    """The lookup is exact: no suffixes, no defaults."""
    mine, theirs = X509Bundle(TD, [ONE.der]), X509Bundle("other.example", [TWO.der])
    bundles = X509BundleSet([mine, theirs])
    assert bundles.get(TD) is mine
    assert bundles.get(TrustDomain("other.example")) is theirs
    assert bundles.get(TrustDomain("example")) is None
    assert bundles.get(TrustDomain("sub.td.example")) is None
    assert list(bundles) == [mine, theirs]
    assert len(bundles) == 2


def test_a_single_bundle_serves_as_a_set_of_one() -> None:
    """It answers for its own trust domain only."""
    bundle = X509Bundle(TD, [ONE.der])
    assert bundle.get(TD) is bundle
    assert bundle.get(TrustDomain("other.example")) is None


def test_two_bundles_of_one_trust_domain_are_an_error() -> None:
    """Which of the two would count must not depend on the order."""
    with pytest.raises(ConfigError) as caught:
        X509BundleSet([X509Bundle(TD, [ONE.der]), X509Bundle(TD, [TWO.der])])
    assert caught.value.code == "bundle_duplicate"


def test_sets_are_equal_by_content_and_agree_with_the_hash() -> None:
    """A reload that found the same can be told from one that did not."""
    mine, theirs = X509Bundle(TD, [ONE.der]), X509Bundle("other.example", [TWO.der])
    assert X509BundleSet([mine, theirs]) == X509BundleSet([theirs, mine])
    assert hash(X509BundleSet([mine, theirs])) == hash(X509BundleSet([theirs, mine]))
    assert X509BundleSet([mine]) != X509BundleSet([mine, theirs])
    assert X509BundleSet([mine]) != [mine]
    assert "td.example" in repr(X509BundleSet([mine]))
