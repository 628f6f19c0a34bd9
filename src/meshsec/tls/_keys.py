"""Putting our certificate and private key into an SSL context, from memory.

Python's ``load_cert_chain`` wants a file. The plaintext key never gets a name and never touches a disk; where the
platform offers no such file, it is encrypted first. This file must not know which context it fills, nor when.
"""

from __future__ import annotations

import os
import secrets
import ssl
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Final

from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

from ..spiffe import X509Svid

__all__ = ["load_svid"]


def load_svid(context: ssl.SSLContext, svid: X509Svid) -> None:
    """Load chain and key into a context that nobody uses yet.

    Never call it on a context that serves: that is a race that CPython loses, and a failure leaves it without a key.

    Raises:
        ssl.SSLError: OpenSSL refuses the pair (an unsupported curve, a key too small).
        OSError: no way of handing it over works here.
    """
    pem = svid.key_pem() + svid.chain_pem()
    if not any(_load_unnamed(context, pem, make) for make in _UNNAMED_FILES):
        _load_encrypted(context, svid)


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


def _load_encrypted(context: ssl.SSLContext, svid: X509Svid) -> None:
    password = secrets.token_hex(32)
    encryption = BestAvailableEncryption(password.encode())
    key = svid.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
    with tempfile.TemporaryDirectory(prefix="meshsec-") as folder:  # made with mode 0700
        path = Path(folder, "svid.pem")
        path.touch(mode=0o600)
        path.write_bytes(key + svid.chain_pem())
        context.load_cert_chain(path, password=password)
