"""Putting our certificate and private key into an SSL context, from memory.

Python's ``load_cert_chain`` wants a file. The plaintext key never gets a name and never touches a disk; where the
platform offers no such file, it is encrypted first. This file must not know which context it fills, nor when.
"""

from __future__ import annotations

import os
import secrets
import ssl
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO, Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

from ..spiffe import X509Svid

__all__ = ["load_svid"]


def load_svid(context: ssl.SSLContext, svid: X509Svid, authorities: Iterable[x509.Certificate] = ()) -> None:
    """Load chain and key into a context that nobody uses yet.

    Never call it on a context that serves: that is a race that CPython loses, and a failure leaves it without a key.

    Args:
        authorities: those among which the issuers of an SVID of one certificate are; they are sent along. OpenSSL
            does so by itself with what the context trusts, but looks for them and verifies our own certificate at
            every handshake, which is a tenth of its cost.

    Raises:
        ssl.SSLError: OpenSSL refuses the pair (an unsupported curve, a key too small).
        OSError: no way of handing it over works here.
    """
    issuers = _issuers(svid, authorities)
    chain = svid.chain_pem() + b"".join(issuer.public_bytes(Encoding.PEM) for issuer in issuers)
    if not any(_load_unnamed(context, svid.key_pem() + chain, make) for make in _UNNAMED_FILES):
        _load_encrypted(context, svid, chain)


def _issuers(svid: X509Svid, authorities: Iterable[x509.Certificate]) -> list[x509.Certificate]:
    """From the one that issued the leaf up to a root, as far as they are known; none above intermediates."""
    found: list[x509.Certificate] = []
    left, last = list(authorities), svid.certificates[-1]
    while len(svid.certificates) == 1 and last.issuer != last.subject:
        candidates = [authority for authority in left if _issued(authority, last)]
        if not candidates:
            break
        last = max(candidates, key=lambda candidate: candidate.not_valid_after_utc)
        left.remove(last)
        found.append(last)
    return found


def _issued(authority: x509.Certificate, certificate: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except Exception:  # noqa: BLE001 - what the library raises has no common base; OpenSSL then looks for itself
        return False
    return True


def _load_unnamed(context: ssl.SSLContext, pem: bytes, make: Callable[[bytes], BinaryIO]) -> bool:
    """Whether it worked; False where the platform, the kernel or a sandbox does not offer this kind of file."""
    try:
        with make(pem) as file:
            context.load_cert_chain(f"/proc/self/fd/{file.fileno()}")
    except ssl.SSLError:
        raise  # an OSError too, but one that every other way would repeat
    except (AttributeError, ImportError, OSError):
        return False
    return True


def _sealed_memory(pem: bytes) -> BinaryIO:
    import fcntl

    file = os.fdopen(os.memfd_create("meshsec", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING), "wb")
    _fill(file, pem)
    seals = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
    fcntl.fcntl(file, fcntl.F_ADD_SEALS, seals)
    return file


def _unnamed_shared_memory(pem: bytes) -> BinaryIO:
    flags = os.O_TMPFILE | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC  # O_EXCL: it can never be given a name
    file = os.fdopen(os.open("/dev/shm", flags, 0o600), "wb")  # noqa: S108 - a tmpfs, and the file has no name
    _fill(file, pem)
    return file


def _fill(file: BinaryIO, pem: bytes) -> None:
    os.fchmod(file.fileno(), 0o600)
    file.write(pem)
    file.flush()


_UNNAMED_FILES: Final = (_sealed_memory, _unnamed_shared_memory)


def _load_encrypted(context: ssl.SSLContext, svid: X509Svid, chain: bytes) -> None:
    password = secrets.token_hex(32)
    encryption = BestAvailableEncryption(password.encode())
    key = svid.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
    with tempfile.TemporaryDirectory(prefix="meshsec-") as folder:  # made with mode 0700
        path = Path(folder, "svid.pem")
        path.touch(mode=0o600)
        path.write_bytes(key + chain)
        context.load_cert_chain(path, password=password)
