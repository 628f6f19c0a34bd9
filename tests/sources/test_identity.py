"""Identities from files: what is taken, and from where. What goes wrong with them is test_identity_faults's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from meshsec.ca import CertificateAuthority, write_identity
from meshsec.errors import SvidError
from meshsec.resources import MeshConfig, Workload
from meshsec.sources import AuthorityIdentity, FileIdentity, IdentityKeeper, configured_identity
from meshsec.sources._identity import DEFAULT_FOLDERS
from meshsec.spiffe import SpiffeId, X509Bundle
from pki import TestCA

NOW = 1_800_000_000.0
DAY = 86_400.0
ID = SpiffeId.for_service_account("cluster.local", "prod", "web")


@pytest.fixture
def authority() -> CertificateAuthority:
    """A fresh root of cluster.local."""
    return CertificateAuthority.create("cluster.local", now=NOW)


@pytest.fixture
def folder(tmp_path: Path, authority: CertificateAuthority) -> Path:
    """A folder with a good identity, as the kubelet would mount it."""
    write_identity(tmp_path, authority.issue_x509_svid(ID, now=NOW), authority.bundle)
    return tmp_path


@pytest.fixture
def keeper(folder: Path) -> IdentityKeeper:
    """A keeper that has published the good identity."""
    keeper = IdentityKeeper(FileIdentity(folder, "cluster.local"), expected=ID)
    keeper.load(NOW)
    return keeper


def serial(keeper: IdentityKeeper) -> int:
    """The serial number that is published."""
    svid = keeper.material.current().svid
    if svid is None:
        raise LookupError("nothing is published")
    return svid.serial


def test_new_identity_is_published(keeper: IdentityKeeper, folder: Path, authority: CertificateAuthority) -> None:
    """A swapped folder is taken at the next look."""
    fresh = authority.issue_x509_svid(ID, now=NOW)
    write_identity(folder, fresh, authority.bundle)
    keeper.refresh(NOW)
    assert serial(keeper) == fresh.serial


def test_a_generation_that_goes_while_its_name_is_read_is_no_failure(
    folder: Path, authority: CertificateAuthority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The link said where the files are; before we are there they are elsewhere, and the old place is gone."""
    fresh, readlink = authority.issue_x509_svid(ID, now=NOW), os.readlink

    def too_late(path: os.PathLike[str], *, dir_fd: int | None = None) -> str:
        found = readlink(path, dir_fd=dir_fd)
        monkeypatch.undo()
        write_identity(folder, fresh, authority.bundle)
        assert not (folder / found).exists()
        return found

    monkeypatch.setattr(os, "readlink", too_late)
    assert FileIdentity(folder, "cluster.local").read(NOW).svid.serial == fresh.serial


def test_a_link_to_nowhere_that_stays_is_a_failure(folder: Path) -> None:
    """The twin: nothing is there, however often one looks."""
    (folder / "..data").unlink()
    (folder / "..data").symlink_to("..gone")
    with pytest.raises(FileNotFoundError, match=r"\.\.gone"):
        FileIdentity(folder, "cluster.local").read(NOW)


def test_unchanged_identity_keeps_the_generation(keeper: IdentityKeeper) -> None:
    """Reading the same files again publishes nothing, so no connection is re-verified for it."""
    before = keeper.material.current()
    keeper.refresh(NOW)
    assert keeper.material.current() is before


def test_plain_files_are_read_too(tmp_path: Path, authority: CertificateAuthority) -> None:
    """A folder without Kubernetes' links holds the same three files."""
    svid = authority.issue_x509_svid(ID, now=NOW)
    (tmp_path / "cert-chain.pem").write_bytes(svid.chain_pem())
    (tmp_path / "key.pem").write_bytes(svid.key_pem())
    (tmp_path / "root-cert.pem").write_bytes(authority.bundle.to_pem())
    keeper = IdentityKeeper(FileIdentity(tmp_path, "cluster.local"), expected=ID)
    keeper.load(NOW)
    assert serial(keeper) == svid.serial


def test_plain_files_that_are_being_written_are_waited_for(tmp_path: Path, authority: CertificateAuthority) -> None:
    """The first of two roots alone would be a bundle, and ours; each change counts when it is found again."""
    svid = authority.issue_x509_svid(ID, now=NOW)
    (tmp_path / "cert-chain.pem").write_bytes(svid.chain_pem())
    (tmp_path / "key.pem").write_bytes(svid.key_pem())
    roots = tmp_path / "root-cert.pem"
    both = X509Bundle("cluster.local", [*authority.bundle.x509_authorities, TestCA("cluster.local").certificate])
    roots.write_bytes(both.to_pem())
    source = FileIdentity(tmp_path, "cluster.local")
    first = source.read(NOW)
    assert first.bundle == both
    roots.write_bytes(authority.bundle.to_pem())
    assert source.read(NOW) is first
    roots.write_bytes(both.to_pem())
    assert source.read(NOW) is source.read(NOW) is first
    roots.write_bytes(authority.bundle.to_pem())
    assert source.read(NOW) is first
    assert source.read(NOW).bundle == authority.bundle


def _half_a_key(folder: Path, authority: CertificateAuthority) -> None:
    whole = (folder / "key.pem").read_bytes()
    (folder / "key.pem").write_bytes(whole[: len(whole) // 2])


def test_repaired_set_is_taken_and_the_failure_forgotten(
    keeper: IdentityKeeper, folder: Path, authority: CertificateAuthority
) -> None:
    """Once the files fit together again they are published."""
    _half_a_key(folder, authority)
    keeper.refresh(NOW)
    fresh = authority.issue_x509_svid(ID, now=NOW)
    write_identity(folder, fresh, authority.bundle)
    keeper.refresh(NOW)
    assert serial(keeper) == fresh.serial
    assert keeper.status()["failure"] is None


def test_identity_of_another_workload_is_an_error(folder: Path) -> None:
    """An SVID whose ID is not ours is refused by name."""
    other = SpiffeId.for_service_account("cluster.local", "prod", "other")
    keeper = IdentityKeeper(FileIdentity(folder, "cluster.local"), expected=other)
    with pytest.raises(SvidError) as caught:
        keeper.load(NOW)
    assert caught.value.code == "wrong_identity"


def test_nothing_to_serve_before_the_first_identity(tmp_path: Path) -> None:
    """An empty folder is no crash: there is just nothing to serve yet."""
    keeper = IdentityKeeper(FileIdentity(tmp_path, "cluster.local"), expected=ID)
    keeper.refresh(NOW)
    assert keeper.material.current().svid is None
    assert keeper.status()["failure"]


def test_aliases_share_our_authorities(folder: Path) -> None:
    """root-cert.pem speaks for the trust domain and its aliases, and for no other."""
    keeper = IdentityKeeper(FileIdentity(folder, "cluster.local"), expected=ID, aliases=["old.local"])
    keeper.load(NOW)
    names = {bundle.trust_domain.name for bundle in keeper.material.current().bundles}
    assert names == {"cluster.local", "old.local"}


def test_development_authority_renews_at_half_life(authority: CertificateAuthority) -> None:
    """The same SVID is read until half its life is over, then a new one."""
    source = AuthorityIdentity(authority, ID)
    first = source.read(NOW).svid
    assert source.read(NOW + 0.4 * DAY).svid is first
    assert source.read(NOW + 0.6 * DAY).svid.serial != first.serial


def test_status_tells_how_long_ago_it_was_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds since the last look that succeeded."""
    keeper = IdentityKeeper(FileIdentity(folder, "cluster.local"), expected=ID)
    assert keeper.status()["age"] is None
    keeper.load(NOW)
    _half_a_key(folder, CertificateAuthority.create("cluster.local", now=NOW))
    keeper.refresh(NOW + 5)
    monkeypatch.setattr("time.time", lambda: NOW + 7)
    assert keeper.status()["age"] == 7


def test_status_holds_no_key(keeper: IdentityKeeper) -> None:
    """What is shown to an operator is plain and harmless."""
    assert "PRIVATE" not in str(keeper.status())
    assert keeper.status()["id"] == str(ID)


LAYOUTS = pytest.mark.parametrize(
    "names",
    [
        ("cert-chain.pem", "key.pem", "root-cert.pem"),
        ("tls.crt", "tls.key", "ca.crt"),
        ("certificates.pem", "private_key.pem", "ca_certificates.pem"),
    ],
    ids=["istio", "cert-manager", "google"],
)


def _laid_out(folder: Path, names: tuple[str, str, str], authority: CertificateAuthority) -> int:
    svid = authority.issue_x509_svid(ID, now=NOW)
    texts = (svid.chain_pem(), svid.key_pem(), authority.bundle.to_pem())
    for name, text in zip(names, texts, strict=True):
        (folder / name).write_bytes(text)
    return svid.serial


@LAYOUTS
def test_every_layout_is_read(tmp_path: Path, authority: CertificateAuthority, names: tuple[str, str, str]) -> None:
    """A chain may end with the root, as Istio's agent writes it."""
    expected = _laid_out(tmp_path, names, authority)
    chain = tmp_path / names[0]
    chain.write_bytes(chain.read_bytes() + authority.bundle.to_pem())
    keeper = IdentityKeeper(FileIdentity(tmp_path, "cluster.local"), expected=ID)
    keeper.load(NOW)
    assert serial(keeper) == expected


@LAYOUTS
@pytest.mark.parametrize("mounted", [[0], [1], [2], [0, 1], [1, 2]], ids=str)
def test_the_first_folder_that_holds_a_chain_is_meant(
    tmp_path: Path, authority: CertificateAuthority, names: tuple[str, str, str], mounted: list[int]
) -> None:
    """In the order in which Istio's agent looks; an empty folder is nobody's."""
    folders = [tmp_path / name for name in "abc"]
    for number, folder in enumerate(folders):
        folder.mkdir()
        if number in mounted:
            _laid_out(folder, names, authority)
    assert FileIdentity.mounted("cluster.local", folders).folder == folders[mounted[0]]


def test_without_any_chain_the_first_folder_is_waited_for(tmp_path: Path) -> None:
    """As everywhere, a mesh may start before its certificates."""
    assert FileIdentity.mounted("cluster.local", [tmp_path, tmp_path / "b"]).folder == tmp_path
    assert FileIdentity.mounted("cluster.local").folder in DEFAULT_FOLDERS


@LAYOUTS
def test_layouts_are_not_mixed(tmp_path: Path, authority: CertificateAuthority, names: tuple[str, str, str]) -> None:
    """A key of another layout does not stand in for a missing one."""
    _laid_out(tmp_path, names, authority)
    (tmp_path / names[1]).rename(tmp_path / ("key.pem" if names[1] != "key.pem" else "tls.key"))
    with pytest.raises(FileNotFoundError, match=names[1].replace(".", r"\.")):
        FileIdentity(tmp_path, "cluster.local").read(NOW)


def test_a_relative_folder_of_the_environment_begins_where_the_program_was_started(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As MESHSEC_CONFIG does; mesh.yaml's own begin at mesh.yaml."""
    monkeypatch.chdir(folder.parent)
    monkeypatch.setenv("MESHSEC_IDENTITY_FILES", folder.name)
    source = configured_identity(Workload(name="web", namespace="prod"), MeshConfig(), Path("elsewhere/mesh"))
    assert source is not None
    assert source.read(NOW).svid.id == ID
