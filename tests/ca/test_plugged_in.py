"""A CA that somebody else made: Istio's and cert-manager's files."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path

import pytest

from meshsec.ca import AuthorityFolder, CertificateAuthority, Phase, read_signer
from meshsec.errors import ConfigError, IssuanceError
from meshsec.spiffe import SpiffeId, X509Bundle, verify_x509_svid
from pki import NOW, TestCA, key_of, key_pem, openssl_accepts, pem

ID = "spiffe://cluster.local/ns/prod/sa/web"
ROOT = TestCA("cluster.local")
MIDDLE = ROOT.intermediate()
LOWER = MIDDLE.intermediate()


def istio(folder: Path, ca: TestCA = LOWER, **changes: bytes) -> Path:
    """Istio's four files; a change replaces one."""
    folder.mkdir(exist_ok=True)
    files = {
        "ca-cert": ca.pem,
        "ca-key": key_pem(ca.key),
        "cert-chain": pem([*ca.path, ROOT.der]),
        "root-cert": ROOT.pem,
        **changes,
    }
    for name, content in files.items():
        (folder / f"{name}.pem").write_bytes(content)
    return folder


def cert_manager(folder: Path) -> Path:
    """cert-manager's three: the chain is in tls.crt."""
    for name, content in {"tls.crt": pem(LOWER.path), "tls.key": key_pem(LOWER.key), "ca.crt": ROOT.pem}.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize("layout", [istio, cert_manager])
def test_it_issues_under_somebody_elses_root(tmp_path: Path, layout: Callable[[Path], Path]) -> None:
    """Leaves come with both intermediates and without the root; peers need the root only."""
    authority = CertificateAuthority.load(layout(tmp_path), trust_domain="cluster.local")
    assert authority.bundle == X509Bundle("cluster.local", [ROOT.der])
    svid = authority.issue_x509_svid(ID, now=NOW)
    assert list(svid.chain[1:]) == LOWER.path
    assert verify_x509_svid(svid.chain, authority.bundle, now=NOW, role="client") == SpiffeId.parse(ID)
    assert openssl_accepts(svid.chain, svid.private_key, [ROOT.der], "server", ssl.VerifyFlags.VERIFY_X509_STRICT)


def test_the_chain_file_may_be_absent_where_none_is_needed(tmp_path: Path) -> None:
    """An intermediate right under the root."""
    folder = istio(tmp_path, MIDDLE)
    (folder / "cert-chain.pem").unlink()
    assert (
        len(CertificateAuthority.load(folder, trust_domain="cluster.local").issue_x509_svid(ID, now=NOW).chain) == 2
    )


def test_a_leaf_does_not_outlive_any_certificate_above_it(tmp_path: Path) -> None:
    """Clamped to the shortest of the path."""
    short = ROOT.intermediate(not_after=NOW + 600)
    below = short.intermediate(not_after=NOW + 3000)
    authority = CertificateAuthority.load(istio(tmp_path, below), trust_domain="cluster.local")
    assert authority.issue_x509_svid(ID, now=NOW).not_after == NOW + 600
    assert authority.warning(now=NOW)


BAD = {
    "another key": {"ca-key": key_pem(key_of())},
    "a key cut off": {"ca-key": key_pem(LOWER.key)[:-30]},
    "no intermediate": {"cert-chain": LOWER.pem},
    "another root": {"root-cert": TestCA("cluster.local").pem},
    "a root of the same name": {"root-cert": TestCA("cluster.local", name=ROOT.name).pem},
    "a leaf for a CA": {"ca-cert": pem(LOWER.leaf(key=LOWER.key)[0][:1])},
    "an empty chain": {"cert-chain": b""},
}


@pytest.mark.parametrize("changes", BAD.values(), ids=BAD.keys())
def test_what_does_not_fit_together_is_refused(tmp_path: Path, changes: dict[str, bytes]) -> None:
    """The error names the folder and shows nothing of the key."""
    with pytest.raises(ConfigError) as caught:
        CertificateAuthority.load(istio(tmp_path, **changes), trust_domain="cluster.local")
    assert str(tmp_path) in caught.value.problems[0].source
    assert "BEGIN" not in str(caught.value)


def test_a_ca_whose_certificates_would_be_refused_is_refused(tmp_path: Path) -> None:
    """Found by issuing one, not by the first workload that is turned away."""
    tight = ROOT.intermediate(path_length=0)
    for number, ca in enumerate([tight.intermediate(), ROOT.intermediate(key_usage=("crl_sign",))]):
        with pytest.raises(ConfigError, match="would be refused"):
            CertificateAuthority.load(istio(tmp_path / str(number), ca), trust_domain="cluster.local")
    CertificateAuthority.load(istio(tmp_path / "good", tight), trust_domain="cluster.local")


@pytest.mark.parametrize("missing", ["ca-cert.pem", "ca-key.pem", "root-cert.pem"])
def test_a_partial_set_is_refused(tmp_path: Path, missing: str) -> None:
    """The operating system says which file."""
    (istio(tmp_path) / missing).unlink()
    with pytest.raises(FileNotFoundError, match=missing):
        CertificateAuthority.load(tmp_path, trust_domain="cluster.local")


def test_the_trust_domain_must_be_known(tmp_path: Path) -> None:
    """Other tools' certificates do not say for whom they are."""
    with pytest.raises(ConfigError, match="name it"):
        CertificateAuthority.load(istio(tmp_path))


def test_a_plugged_in_ca_is_taken_into_a_folder_and_replaced_by_another(tmp_path: Path) -> None:
    """The folder remembers the trust domain; the next CA goes through the same three steps."""
    plugged = CertificateAuthority.load(istio(tmp_path / "first"), trust_domain="cluster.local")
    folder = AuthorityFolder.create(tmp_path / "ca", plugged, clock=lambda: NOW)
    before = folder.authority.issue_x509_svid(ID)
    assert folder.authority.issue_jwt_svid(ID, ["x"])
    assert list(before.chain[1:]) == LOWER.path
    with pytest.raises(IssuanceError, match="renew it where it came from"):
        folder.renew_root()

    other = TestCA("cluster.local")
    files = {"ca-cert": other.pem, "ca-key": key_pem(other.key), "cert-chain": other.pem, "root-cert": other.pem}
    folder.publish_root(read_signer(istio(tmp_path / "second", **files)))
    folder.activate_root(settle=0)
    again = AuthorityFolder(tmp_path / "ca", clock=lambda: NOW)
    assert again.authority.state.phase is Phase.ACTIVATED
    after = again.authority.issue_x509_svid(ID)
    for svid in (before, after):
        assert verify_x509_svid(svid.chain, again.authority.bundle, now=NOW, role="client")
    assert after.chain[1:] == ()
