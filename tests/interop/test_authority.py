"""Other people's verifiers judge what the authority issues: OpenSSL's command; under MESHSEC_FULL=1 Go and GnuTLS.

Each where it is installed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Final

import pytest

from meshsec.ca import AuthorityFolder, CertificateAuthority, KeyType, write_identity
from meshsec.spiffe import X509Bundle
from pki import TestCA, key_pem

TD: Final = "cluster.local"
ID: Final = f"spiffe://{TD}/ns/prod/sa/web"
FULL: Final = bool(os.environ.get("MESHSEC_FULL"))
HERE: Final = Path(__file__).parent

# Each says yes or no to the roots (and lists) and the chain in a folder.
Verifier = Callable[[Path], bool]


def _ran(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _openssl(folder: Path) -> bool:
    chain, roots, lists = (str(folder / name) for name in ("cert-chain.pem", "root-cert.pem", "ca-crl.pem"))
    common = ["openssl", "verify", "-x509_strict", "-CAfile", roots, "-untrusted", chain]
    plain = all(_ran(*common, "-purpose", purpose, chain) for purpose in ("sslserver", "sslclient"))
    return plain and _ran(*common, "-crl_check", "-CRLfile", lists, chain)


@cache
def _go_program() -> str:
    program = str(Path(tempfile.mkdtemp()) / "verify")
    subprocess.run(["go", "build", "-o", program, str(HERE / "verify.go")], check=True)
    return program


def _go(folder: Path) -> bool:
    return _ran(_go_program(), str(folder / "root-cert.pem"), str(folder / "cert-chain.pem"))


def _gnutls(folder: Path) -> bool:
    roots, chain = str(folder / "root-cert.pem"), str(folder / "cert-chain.pem")
    return _ran("certtool", "--verify", "--load-ca-certificate", roots, "--infile", chain)


VERIFIERS: Final[dict[str, Verifier]] = {
    name: verifier
    for name, verifier in {"openssl": _openssl, "go": _go, "certtool": _gnutls}.items()
    if shutil.which(name) and (FULL or name == "openssl")
}


def _intermediate(folder: Path) -> CertificateAuthority:
    root = TestCA(TD)
    middle = root.intermediate()
    folder.mkdir()
    for name, content in {"ca-cert": middle.pem, "ca-key": key_pem(middle.key), "root-cert": root.pem}.items():
        (folder / f"{name}.pem").write_bytes(content)
    return CertificateAuthority.load(folder, trust_domain=TD)


@pytest.mark.parametrize("verifier", VERIFIERS.values(), ids=VERIFIERS.keys())
@pytest.mark.parametrize("key_type", ["ec-p256", "ec-p384", "rsa-2048", "plugged in"])
def test_foreign_verifiers_agree(tmp_path: Path, verifier: Verifier, key_type: KeyType) -> None:
    """They take it under its own root, also after the root was renewed and replaced, and under no other."""
    made = (
        _intermediate(tmp_path / "plugged")
        if key_type not in ("ec-p256", "ec-p384", "rsa-2048")
        else CertificateAuthority.create(TD, key_type=key_type)
    )
    authority = AuthorityFolder.create(tmp_path / "ca", made)
    out = tmp_path / "out"
    svid = authority.authority.issue_x509_svid(ID, dns_names=["web.prod"])

    def accepted(bundle: X509Bundle) -> bool:
        write_identity(out, svid, bundle, crl=(authority.folder / "ca-crl.pem").read_bytes())
        return verifier(out)

    assert accepted(authority.authority.bundle)
    if authority.authority.state.signer.renews_itself:
        assert accepted(authority.renew_root().bundle)
    assert accepted(authority.publish_root().bundle)
    assert not accepted(CertificateAuthority.create(TD).bundle)
