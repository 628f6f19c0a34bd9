"""What the certificate authority costs here, beside the raw library, OpenSSL's command and trustme: ratios.

``python -m benchmarks.ca`` (``ACCOUNTS=n`` changes the size of the second half). Nothing fails on a slow machine.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import timeit
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtensionOID, NameOID

from meshsec.ca import AuthorityFolder, CertificateAuthority, FolderStore, MemoryStore, Rotator, SvidStore
from meshsec.spiffe import SpiffeId

TRUST_DOMAIN: Final = "cluster.local"
WEB: Final = SpiffeId.for_service_account(TRUST_DOMAIN, "prod", "web")
ACCOUNTS: Final = int(os.environ.get("ACCOUNTS", "10000"))
ROUNDS: Final = 9


def best(action: Callable[[], object], calls: int) -> float:
    """Microseconds for one call, in the best of nine rounds."""
    return min(timeit.repeat(action, number=calls, repeat=ROUNDS)) / calls * 1e6


def raw_issuer() -> Callable[[], object]:
    """Key generation and signing of the same certificate with ``cryptography`` alone, everything else prepared."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "raw")])
    start = datetime.now(UTC)
    leaf = CertificateAuthority.create(TRUST_DOMAIN).issue_x509_svid(WEB).leaf
    fixed = [item for item in leaf.extensions if item.oid != ExtensionOID.SUBJECT_KEY_IDENTIFIER]

    def issue() -> x509.Certificate:
        public = ec.generate_private_key(ec.SECP256R1()).public_key()
        identifier = x509.SubjectKeyIdentifier.from_public_key(public)
        extensions = [*fixed, x509.Extension(identifier.oid, critical=False, value=identifier)]
        serial, end = x509.random_serial_number(), start + timedelta(days=1)
        builder = x509.CertificateBuilder(name, x509.Name([]), public, serial, start, end, extensions)
        return builder.sign(key, SHA256())

    return issue


def trustme_issuer() -> Callable[[], object] | None:
    """A fresh leaf of trustme's, where it is installed."""
    try:
        import trustme  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        return None
    ca = trustme.CA()
    return lambda: ca.issue_cert("web.prod")


@contextmanager
def openssl_issuer(folder: Path) -> Iterator[Callable[[], object] | None]:
    """``openssl x509 -req`` on a request that is there already."""
    if not shutil.which("openssl"):
        yield None
        return
    authority = CertificateAuthority.create(TRUST_DOMAIN)
    authority.save(folder)
    request = x509.CertificateSigningRequestBuilder(x509.Name([])).sign(
        ec.generate_private_key(ec.SECP256R1()), SHA256()
    )
    (folder / "web.csr").write_bytes(request.public_bytes(Encoding.PEM))
    (folder / "names").write_text(f"subjectAltName=critical,URI:{WEB}\n")
    command = ["openssl", "x509", "-req", "-in", "web.csr", "-CA", "ca-cert.pem", "-CAkey", "ca-key.pem"]
    command += ["-extfile", "names", "-days", "1"]
    yield lambda: subprocess.run(command, cwd=folder, check=True, capture_output=True)


def issuing(folder: Path) -> None:
    """One line for each way to issue; the ratio is to the raw library."""
    memory = CertificateAuthority.create(TRUST_DOMAIN)
    durable = AuthorityFolder.create(folder / "ca", memory)

    def batch() -> None:
        with durable.batch() as authority:
            for _ in range(500):
                authority.issue_x509_svid(WEB)

    (folder / "openssl").mkdir()
    with openssl_issuer(folder / "openssl") as openssl:
        trustme = trustme_issuer()
        costs = {
            "cryptography alone: key and signature": best(raw_issuer(), 1000),
            "meshsec, in memory": best(lambda: memory.issue_x509_svid(WEB), 1000),
            "meshsec, recorded durably, 500 at a time": best(batch, 2) / 500,
            "meshsec, recorded durably one by one": best(lambda: durable.authority.issue_x509_svid(WEB), 50),
            "trustme": best(trustme, 100) if trustme else None,
            "openssl x509 -req, one process each": best(openssl, 10) if openssl else None,
        }
    raw = costs["cryptography alone: key and signature"] or 1.0
    for name, cost in costs.items():
        if cost is None:
            print(f"{'-':>10}     {'-':>7}     {'-':>9}     {name} (not installed)")
        else:
            print(f"{cost:10.1f} µs  {cost / raw:7.2f} x  {1e6 / cost:9.0f} /s  {name}")


def rotating(name: str, store: SvidStore, folder: Path) -> None:
    """How long it takes until every account has its first identity, and what watching them costs from then on."""
    authority = AuthorityFolder.create(folder, CertificateAuthority.create(TRUST_DOMAIN))
    accounts = [
        SpiffeId.for_service_account(TRUST_DOMAIN, f"ns{number % 50}", f"a{number}") for number in range(ACCOUNTS)
    ]
    show = sys.stderr.isatty()

    def progress(done: int, total: int) -> None:
        if show:
            print(f"\r{done} of {total}", end="\r", file=sys.stderr, flush=True)

    rotator = Rotator(authority, store, lambda: accounts, progress=progress)
    start, cpu = time.perf_counter(), time.process_time()
    sweep = rotator.sweep()
    first, first_cpu = time.perf_counter() - start, time.process_time() - cpu
    cpu = time.process_time()
    for _ in range(3):
        rotator.sweep()
    steady = (time.process_time() - cpu) / 3
    print(f"\n{len(sweep.issued)} accounts, {name}:")
    print(f"{first:10.1f} s   until all have their first identity ({first_cpu:.1f} s of CPU)")
    print(f"{steady * 1e3:10.1f} ms  of CPU for a look at all of them: {steady / 5:.1%} of a core, every 5 seconds")
    print(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:10.0f} MiB at most, so far")


def main() -> None:
    """Both halves."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        issuing(folder)
        rotating("in memory", MemoryStore(), folder / "first")
        rotating("in a folder, each set durable", FolderStore(folder / "store"), folder / "second")


if __name__ == "__main__":
    main()
