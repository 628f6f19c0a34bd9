"""Other people's verifiers judge what the authority issues: OpenSSL's command; in full Envoy, Go and GnuTLS, too.

Certificates of every kind of root, of an intermediate, through a rotation, and the lists of what is revoked. Go is
asked where it is installed; GnuTLS's certtool comes out of a Debian package where it is not.
"""

from __future__ import annotations

import http.client
import os
import shutil
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import pytest

from interop.debian import program
from meshsec.ca import AuthorityFolder, CertificateAuthority, KeyType, write_identity
from meshsec.spiffe import X509Bundle, X509Svid
from pki import TestCA, key_pem

TD: Final = "cluster.local"
ID: Final = f"spiffe://{TD}/ns/prod/sa/web"
FULL: Final = bool(os.environ.get("MESHSEC_FULL"))
HERE: Final = Path(__file__).parent
KEY_TYPES: Final = ("ec-p256", "ec-p384", "rsa-2048", "plugged in")

# Each says yes or no to the roots, the lists and the chain in a folder.
Verifier = Callable[[Path], bool]


def _ran(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _openssl(folder: Path) -> bool:
    chain, roots, lists = (str(folder / name) for name in ("cert-chain.pem", "root-cert.pem", "ca-crl.pem"))
    command = program("openssl", "openssl") or []
    common = [*command, "verify", "-x509_strict", "-CAfile", roots, "-untrusted", chain]
    purposes = all(_ran(*common, "-purpose", purpose, chain) for purpose in ("sslserver", "sslclient"))
    return purposes and _ran(*common, "-crl_check_all", "-CRLfile", lists, chain)


@cache
def _go_program() -> str:
    path = str(Path(tempfile.mkdtemp()) / "verify")
    subprocess.run(["go", "build", "-o", path, str(HERE / "verify.go")], check=True)
    return path


def _go(folder: Path) -> bool:
    names = ("root-cert.pem", "cert-chain.pem", "ca-crl.pem")
    return _ran(_go_program(), *(str(folder / name) for name in names))


def _gnutls(folder: Path) -> bool:
    command = program("certtool", "gnutls-bin") or []
    roots = ("--load-ca-certificate", str(folder / "root-cert.pem"))
    lists = ("--load-crl", str(folder / "ca-crl.pem"))
    return _ran(*command, "--verify", *roots, *lists, "--infile", str(folder / "cert-chain.pem"))


def _envoy(folder: Path) -> bool:
    """As a server with the certificate, the roots and the lists, to a client of ``ssl`` that shows the same one."""
    from interop.sidecar import listening_with

    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.load_verify_locations(folder / "root-cert.pem")
    client.load_cert_chain(folder / "cert-chain.pem", folder / "key.pem")
    with listening_with(folder) as port:
        connection = http.client.HTTPSConnection("127.0.0.1", port, context=client, timeout=10)
        with closing(connection), suppress(OSError, http.client.HTTPException):
            connection.request("GET", "/")
            return connection.getresponse().status == 200
    return False


def _verifiers() -> Iterator[tuple[str, Verifier]]:
    if program("openssl", "openssl"):
        yield "openssl", _openssl
    if FULL and shutil.which("go"):
        yield "go", _go
    elif FULL:
        sys.stderr.write("WITHOUT Go: it is not installed, and its verifier is not asked\n")
    if FULL and find_spec("envoy"):
        yield "envoy", _envoy
    if FULL and program("certtool", "gnutls-bin"):
        yield "certtool", _gnutls


VERIFIERS: Final = dict(_verifiers())


def _intermediate(folder: Path) -> tuple[CertificateAuthority, bytes]:
    """A CA below another authority's root, and that one's list."""
    root, above = TestCA(TD), folder / "above"
    middle = root.intermediate()
    for place, ca in ((above, root), (folder / "plugged", middle)):
        place.mkdir()
        for name, content in {"ca-cert": ca.pem, "ca-key": key_pem(ca.key), "root-cert": root.pem}.items():
            (place / f"{name}.pem").write_bytes(content)
    lists = AuthorityFolder.create(folder / "root", CertificateAuthority.load(above, trust_domain=TD))
    authority = CertificateAuthority.load(folder / "plugged", trust_domain=TD)
    return authority, (lists.folder / "ca-crl.pem").read_bytes()


def _authority(folder: Path, key_type: KeyType) -> AuthorityFolder:
    if key_type not in ("ec-p256", "ec-p384", "rsa-2048"):
        made, lists = _intermediate(folder)
        return AuthorityFolder.create(folder / "ca", made, crls=lists)
    return AuthorityFolder.create(folder / "ca", CertificateAuthority.create(TD, key_type=key_type))


def _write(folder: Path, authority: AuthorityFolder, svid: X509Svid, bundle: X509Bundle | None = None) -> Path:
    lists = (authority.folder / "ca-crl.pem").read_bytes()
    write_identity(folder, svid, bundle or authority.authority.bundle, crl=lists)
    return folder


@pytest.mark.parametrize("verifier", VERIFIERS.values(), ids=VERIFIERS.keys())
@pytest.mark.parametrize("key_type", KEY_TYPES)
def test_foreign_verifiers_agree(tmp_path: Path, verifier: Verifier, key_type: KeyType) -> None:
    """Yes under its own root, also after that was renewed and replaced; no under another's, and once revoked."""
    authority, out = _authority(tmp_path, key_type), tmp_path / "out"
    svid, other = (authority.authority.issue_x509_svid(ID, dns_names=["web.prod"]) for _ in range(2))
    assert verifier(_write(out, authority, svid))
    if authority.authority.state.signer.renews_itself:
        authority.renew_root()
        assert verifier(_write(out, authority, svid))
    authority.publish_root()
    assert verifier(_write(out, authority, svid))
    authority.activate_root(settle=0)
    assert verifier(_write(out, authority, authority.authority.issue_x509_svid(ID)))
    assert not verifier(_write(out, authority, svid, CertificateAuthority.create(TD).bundle))
    authority.revoke(f"{svid.serial:x}")
    assert not verifier(_write(out, authority, svid))
    assert verifier(_write(out, authority, other))
