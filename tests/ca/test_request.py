"""Certificate signing requests: whose key, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given, settings
from hypothesis import strategies as st

from meshsec.ca import CertificateAuthority
from meshsec.errors import IssuanceError, MeshsecError
from meshsec.spiffe import SpiffeId, X509Svid, verify_x509_svid
from pki import NOW, common_name, key_of, openssl_accepts

ID = "spiffe://td.example/ns/prod/sa/web"
CA = CertificateAuthority.create("td.example", now=NOW)
KEY = ec.generate_private_key(ec.SECP256R1())


def request(key: Any = KEY, *extensions: x509.ExtensionType, subject: str = "") -> bytes:
    """A request that asks for these extensions, as DER."""
    builder = x509.CertificateSigningRequestBuilder(common_name(subject))
    for extension in extensions:
        builder = builder.add_extension(extension, critical=True)
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey) else SHA256()
    return builder.sign(key, algorithm).public_bytes(Encoding.DER)


def refusal(data: bytes) -> str:
    """The code that a request is refused with."""
    with pytest.raises(IssuanceError) as caught:
        CA.issue_from_csr(data, ID, now=NOW)
    return caught.value.code


KEYS: dict[str, Any] = {
    "P-256": KEY,
    "P-384": ec.generate_private_key(ec.SECP384R1()),
    "P-521": ec.generate_private_key(ec.SECP521R1()),
    "RSA 2048": key_of("rsa"),
    "Ed25519": ed25519.Ed25519PrivateKey.generate(),
}


@pytest.mark.parametrize("key", KEYS.values(), ids=KEYS.keys())
def test_a_requests_key_is_certified(key: Any) -> None:
    """PEM or DER, in each kind a workload may have; OpenSSL takes the result at its strictest."""
    data = request(key)
    for form in (data, x509.load_der_x509_csr(data).public_bytes(Encoding.PEM)):
        chain = CA.issue_from_csr(form, ID, now=NOW)
        svid = X509Svid(chain, key)
        assert verify_x509_svid(chain, CA.bundle, now=NOW, role="server") == SpiffeId.parse(ID) == svid.id
    assert openssl_accepts(chain, key, CA.bundle.der, "client")


WISHES: dict[str, tuple[x509.ExtensionType, ...]] = {
    "another identity": (
        x509.SubjectAlternativeName([x509.UniformResourceIdentifier("spiffe://td.example/ns/prod/sa/admin")]),
    ),
    "two identities": (
        x509.SubjectAlternativeName([x509.UniformResourceIdentifier(f"spiffe://td.example/{n}") for n in "ab"]),
    ),
    "a DNS name": (x509.SubjectAlternativeName([x509.DNSName("bank.example")]),),
    "to be a CA": (x509.BasicConstraints(ca=True, path_length=None),),
    "another purpose": (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]),),
}


@pytest.mark.parametrize("wishes", WISHES.values(), ids=WISHES.keys())
def test_what_a_request_asks_for_is_ignored(wishes: tuple[x509.ExtensionType, ...]) -> None:
    """The authenticated identity decides; the leaf is the same as for a request without wishes."""
    leaf, plain = (
        x509.load_der_x509_certificate(CA.issue_from_csr(data, ID, now=NOW)[0])
        for data in (request(KEY, *wishes, subject="admin"), request())
    )
    assert list(leaf.extensions) == list(plain.extensions)
    assert leaf.subject == plain.subject == x509.Name([])


WEAK: dict[str, Any] = {
    "RSA 1024": key_of("rsa1024"),
    "secp256k1": ec.generate_private_key(ec.SECP256K1()),
    "Ed448": ed448.Ed448PrivateKey.generate(),
}


@pytest.mark.parametrize("key", WEAK.values(), ids=WEAK.keys())
def test_a_weak_or_odd_key_is_refused(key: Any) -> None:
    """The refusing twins."""
    assert refusal(request(key)) == "key_unsupported"


def test_the_key_must_be_the_requesters() -> None:
    """One bit of the signature: no proof that the private key is there."""
    data = bytearray(request())
    data[-1] ^= 1
    assert refusal(bytes(data)) == "request_signature"


def test_a_request_is_bounded() -> None:
    """64 KiB hold every honest request."""
    assert refusal(request() + bytes(65_536)) == "request_malformed"
    assert refusal(b"") == "request_malformed"


@pytest.mark.parametrize("position", range(0, 180, 6))
def test_each_byte_matters(position: int) -> None:
    """Every value at some places: issued for the key that signed, or refused in our words."""
    data = bytearray(request())
    for value in range(0, 256, 5):
        data[position] = value
        try:
            chain = CA.issue_from_csr(bytes(data), ID, now=NOW)
        except MeshsecError:
            continue
        assert x509.load_der_x509_certificate(chain[0]).public_key() == KEY.public_key()


@given(st.binary(max_size=300))
@settings(max_examples=60, deadline=None)
def test_anything_else_is_refused_in_our_words(data: bytes) -> None:
    """Arbitrary bytes, as DER and inside PEM."""
    for form in (data, b"-----BEGIN CERTIFICATE REQUEST-----\n" + data):
        with pytest.raises(IssuanceError):
            CA.issue_from_csr(form, ID, now=NOW)
