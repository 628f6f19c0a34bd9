"""Certificates of every right and wrong kind, made with ``cryptography`` alone.

An oracle independent of ``meshsec.ca`` and ``meshsec.spiffe``: it knows no profile, checks nothing, and builds
whatever it is told to. ``openssl_accepts`` asks a real TLS handshake what OpenSSL thinks of a chain.
"""

from __future__ import annotations

import ssl
import tempfile
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final, Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

__all__ = ["LIFETIME", "NOW", "TestCA", "key_of", "key_pem", "openssl_accepts", "pem"]

NOW: Final = float(int(time.time()))
"""The moment at which everything made here is valid unless told otherwise: now, for OpenSSL has no other clock."""

HOUR: Final = 3600.0
LIFETIME: Final = 24 * HOUR
"""After NOW, of what is made here and not told otherwise: longer than the longest run of any test."""
EKU: Final = {
    "client": ExtendedKeyUsageOID.CLIENT_AUTH,
    "server": ExtendedKeyUsageOID.SERVER_AUTH,
    "any": ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE,
    "code": ExtendedKeyUsageOID.CODE_SIGNING,
}
USAGES: Final = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey
Kind = Literal["p256", "p384", "rsa", "rsa1024", "rsa8676", "ed25519"]


@cache
def _rsa(bits: int) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, bits)  # slow, so that one of each size must do


@cache
def _enormous() -> rsa.RSAPrivateKey:
    """Of 8676 bits, without the minutes that it takes to find primes: Mersenne's are known."""
    p, q, e = (1 << 4253) - 1, (1 << 4423) - 1, 65537
    d = pow(e, -1, (p - 1) * (q - 1))
    numbers = rsa.RSAPrivateNumbers(p, q, d, d % (p - 1), d % (q - 1), pow(q, -1, p), rsa.RSAPublicNumbers(e, p * q))
    return numbers.private_key(unsafe_skip_rsa_key_validation=True)


def key_of(kind: Kind = "p256") -> Key:
    """A private key; RSA keys are shared within a process."""
    match kind:
        case "p256":
            return ec.generate_private_key(ec.SECP256R1())
        case "p384":
            return ec.generate_private_key(ec.SECP384R1())
        case "ed25519":
            return ed25519.Ed25519PrivateKey.generate()
        case "rsa":
            return _rsa(2048)
        case "rsa1024":
            return _rsa(1024)
        case "rsa8676":
            return _enormous()


def common_name(text: str) -> x509.Name:
    """A name of one part, or the empty name."""
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)] if text else [])


def certificate(
    *,
    subject: str,
    issuer: str,
    public_key: Any,
    issuer_key: Key,
    issuer_public_key: Any = None,
    uris: Iterable[str] = (),
    dns: Iterable[str] = (),
    ips: Iterable[str] = (),
    san_critical: bool | None = None,
    ca: bool | None = False,
    path_length: int | None = None,
    bc_critical: bool = True,
    key_usage: Iterable[str] | None = ("digital_signature",),
    ku_critical: bool = True,
    eku: Iterable[str] | None = ("server", "client"),
    eku_critical: bool = False,
    ski: bool = True,
    aki: bool = True,
    not_before: float = NOW - HOUR,
    not_after: float = NOW + LIFETIME,
    serial: int | None = None,
    extensions: Iterable[tuple[x509.ExtensionType, bool]] = (),
) -> x509.Certificate:
    """One certificate. None leaves an extension out; ``extensions`` adds any others with their criticality."""
    names: list[x509.GeneralName] = [
        *map(x509.UniformResourceIdentifier, uris),
        *map(x509.DNSName, dns),
        *(x509.IPAddress(ip_address(ip)) for ip in ips),
    ]
    builder = x509.CertificateBuilder(
        subject_name=common_name(subject),
        issuer_name=common_name(issuer),
        public_key=public_key,
        serial_number=serial or x509.random_serial_number(),
        not_valid_before=datetime.fromtimestamp(not_before, UTC),
        not_valid_after=datetime.fromtimestamp(not_after, UTC),
    )
    if names:
        critical = not subject if san_critical is None else san_critical
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical)
    if ca is not None:
        builder = builder.add_extension(x509.BasicConstraints(ca, path_length), bc_critical)
    if key_usage is not None:
        usage = x509.KeyUsage(**{**dict.fromkeys(USAGES, False), **dict.fromkeys(key_usage, True)})
        builder = builder.add_extension(usage, ku_critical)
    if eku is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage([EKU[name] for name in eku]), eku_critical)
    if ski:
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), False)
    if aki:
        identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_public_key or issuer_key.public_key())
        builder = builder.add_extension(identifier, False)
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    algorithm = None if isinstance(issuer_key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(issuer_key, algorithm)


class TestCA:
    """A root or, with a parent, an intermediate, for one trust domain.

    Args:
        trust_domain: what its leaves are named after by default.
        name: the common name; by default ``CA of <trust domain>`` and a number, "" for an empty name.
        key: the private key, or its kind.
        parent: who signs it; itself by default.
        options: as for :func:`certificate`.
    """

    __test__ = False
    _count = 0

    def __init__(
        self,
        trust_domain: str = "td.example",
        *,
        name: str | None = None,
        key: Key | Kind = "p256",
        parent: TestCA | None = None,
        **options: Any,
    ) -> None:
        TestCA._count += 1
        self.trust_domain = trust_domain
        self.name = f"CA of {trust_domain} {TestCA._count}"[:64] if name is None else name
        self.key = key_of(key) if isinstance(key, str) else key
        self.parent = parent
        signer = parent or self
        defaults: dict[str, Any] = {"ca": True, "key_usage": ("key_cert_sign", "crl_sign"), "eku": None}
        self.certificate = certificate(
            subject=self.name,
            issuer=signer.name,
            public_key=self.key.public_key(),
            issuer_key=signer.key,
            **{**defaults, **options},
        )

    @property
    def der(self) -> bytes:
        """The CA's certificate."""
        return self.certificate.public_bytes(Encoding.DER)

    @property
    def pem(self) -> bytes:
        """The CA's certificate."""
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def path(self) -> list[bytes]:
        """What a leaf's owner sends along: this certificate and those above it, without the root."""
        return [self.der, *self.parent.path] if self.parent else []

    def intermediate(self, **options: Any) -> TestCA:
        """A CA under this one, of the same trust domain."""
        return TestCA(self.trust_domain, parent=self, **options)

    def leaf(
        self,
        path: str = "/ns/prod/sa/web",
        *,
        uris: Sequence[str] | None = None,
        subject: str = "",
        key: Key | Kind = "p256",
        **options: Any,
    ) -> tuple[list[bytes], Key]:
        """A leaf and its key. The chain is DER, leaf first, then the intermediates; the root is not in it."""
        private_key = key_of(key) if isinstance(key, str) else key
        made = certificate(
            subject=subject,
            issuer=self.name,
            public_key=private_key.public_key(),
            issuer_key=self.key,
            uris=[f"spiffe://{self.trust_domain}{path}"] if uris is None else uris,
            **options,
        )
        return [made.public_bytes(Encoding.DER), *self.path], private_key

    def crl(self, *serials: int) -> bytes:
        """A list of what this CA has revoked, DER."""
        moment = datetime.fromtimestamp(NOW, UTC)
        builder = x509.CertificateRevocationListBuilder().issuer_name(self.certificate.subject).last_update(moment)
        builder = builder.next_update(moment + timedelta(seconds=LIFETIME))
        for serial in serials:
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(moment).build()
            builder = builder.add_revoked_certificate(entry)
        return builder.sign(self.key, hashes.SHA256()).public_bytes(Encoding.DER)  # type: ignore[arg-type]


def pem(chain: Iterable[bytes]) -> bytes:
    """DER certificates as PEM."""
    return "".join(map(ssl.DER_cert_to_PEM_cert, chain)).encode()


def key_pem(key: Any) -> bytes:
    """A private key as PKCS#8."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def openssl_accepts(
    chain: Sequence[bytes],
    key: Key,
    anchors: Iterable[bytes],
    role: Literal["client", "server"],
    flags: ssl.VerifyFlags = ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN,
) -> bool:
    """Whether a real TLS handshake takes the chain from a peer in that role; there is no SPIFFE in this answer."""
    ours = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT if role == "server" else ssl.PROTOCOL_TLS_SERVER)
    theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if role == "server" else ssl.PROTOCOL_TLS_CLIENT)
    if role == "client":
        theirs.check_hostname, theirs.verify_mode = False, ssl.CERT_NONE
        _load_pair(ours, *TestCA("host.example").leaf())
    ours.check_hostname, ours.verify_mode = False, ssl.CERT_REQUIRED
    ours.verify_flags = flags
    ours.load_verify_locations(cadata=b"".join(anchors))
    _load_pair(theirs, chain, key)
    return _handshake(ours, theirs, we_serve=role == "client")


def _load_pair(context: ssl.SSLContext, chain: Sequence[bytes], key: Key) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "pair.pem")
        file.write_bytes(key_pem(key) + pem(chain))
        context.load_cert_chain(file)


def _handshake(ours: ssl.SSLContext, theirs: ssl.SSLContext, *, we_serve: bool) -> bool:
    to_us, to_them = ssl.MemoryBIO(), ssl.MemoryBIO()
    we = ours.wrap_bio(to_us, to_them, server_side=we_serve)
    they = theirs.wrap_bio(to_them, to_us, server_side=not we_serve)
    for _ in range(6):
        for side in (they, we):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLCertVerificationError:
                return False
            if side is we:
                return True
    raise RuntimeError("the handshake does not end")
