"""Files swapped all at once: identities and the authority's own."""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from meshsec.ca import CertificateAuthority, write_identity
from meshsec.errors import ConfigError
from meshsec.spiffe import SpiffeId, X509Bundle, X509Svid, verify_x509_svid
from pki import NOW, TestCA, key_of, key_pem, pem

ID = "spiffe://td.example/ns/prod/sa/web"
CA = CertificateAuthority.create("td.example", now=NOW)
NAMES = {"cert-chain.pem", "key.pem", "root-cert.pem"}


def issue() -> X509Svid:
    """A fresh SVID."""
    return CA.issue_x509_svid(ID, now=NOW)


def read(folder: Path) -> X509Svid:
    """What a workload reads."""
    return X509Svid.from_pem((folder / "cert-chain.pem").read_bytes(), (folder / "key.pem").read_bytes())


def generations(folder: Path) -> list[str]:
    """The hidden folders."""
    return [entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.is_symlink()]


def test_an_identity_is_written_in_istios_layout(tmp_path: Path) -> None:
    """Three names, as links through ``..data`` to one hidden folder, as the kubelet does it."""
    folder, svid = tmp_path / "a" / "b", issue()
    write_identity(folder, svid, CA.bundle)
    assert read(folder) == svid
    assert X509Bundle.from_pem("td.example", (folder / "root-cert.pem").read_bytes()) == CA.bundle
    [generation] = generations(folder)
    assert {entry.name for entry in folder.iterdir()} == {*NAMES, "..data", generation}
    assert (folder / "..data").readlink() == Path(generation)
    assert {(folder / name).readlink() for name in NAMES} == {Path("..data", name) for name in NAMES}


def test_the_key_is_for_its_owner_only(tmp_path: Path) -> None:
    """Mode 0600 whatever the umask; certificates may be read by all."""
    before = os.umask(0)
    try:
        write_identity(tmp_path, issue(), CA.bundle)
        CA.save(tmp_path / "ca")
    finally:
        os.umask(before)
    modes = {path: path.stat().st_mode & 0o777 for path in [*tmp_path.glob("*.pem"), *tmp_path.glob("ca/*.pem")]}
    private = {path.name for path, mode in modes.items() if mode == 0o600}
    assert private == {"key.pem", "ca-key.pem", "jwt-key.pem"}
    assert set(modes.values()) == {0o600, 0o644}


def test_a_new_identity_replaces_the_old_and_leaves_nothing_behind(tmp_path: Path) -> None:
    """One generation stays; the old private key is gone."""
    write_identity(tmp_path, issue(), CA.bundle)
    [old] = generations(tmp_path)
    newer = issue()
    write_identity(tmp_path, newer, CA.rotate_root(now=NOW).bundle)
    [new] = generations(tmp_path)
    assert old != new
    assert read(tmp_path) == newer
    assert (tmp_path / "root-cert.pem").read_bytes().count(b"BEGIN") == 2


def test_plain_files_of_an_older_layout_are_replaced(tmp_path: Path) -> None:
    """A folder that was filled file by file becomes one that is swapped."""
    chain, key = TestCA("td.example").leaf()
    (tmp_path / "cert-chain.pem").write_bytes(pem(chain))
    (tmp_path / "key.pem").write_bytes(key_pem(key))
    (tmp_path / "unrelated.txt").write_text("stays", encoding="ascii")
    svid = issue()
    write_identity(tmp_path, svid, CA.bundle)
    assert read(tmp_path) == svid
    assert (tmp_path / "key.pem").is_symlink()
    assert (tmp_path / "unrelated.txt").read_text(encoding="ascii") == "stays"


def test_what_a_crash_left_is_cleared_away(tmp_path: Path) -> None:
    """A half-written generation holds a private key that nobody will ever use."""
    write_identity(tmp_path, issue(), CA.bundle)
    debris = tmp_path / "..2020_01_01_00_00_00.0123abcd"
    debris.mkdir()
    (debris / "key.pem").write_bytes(b"half")
    (tmp_path / "..data_tmp").symlink_to(debris.name)
    foreign = tmp_path / "..somebody-elses"
    foreign.mkdir()
    svid = issue()
    write_identity(tmp_path, svid, CA.bundle)
    assert read(tmp_path) == svid
    assert not debris.exists()
    assert not (tmp_path / "..data_tmp").is_symlink()
    assert foreign.exists()


class Crash(BaseException):
    """The machine stops here."""


@pytest.mark.parametrize(
    ("owner", "function"), [(os, "fsync"), (os, "fchmod"), (Path, "replace"), (Path, "symlink_to")]
)
def test_a_failure_leaves_the_old_identity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, function: str
) -> None:
    """Whichever call fails first, the old set is whole and the half-written one is gone."""
    svid = issue()
    write_identity(tmp_path, svid, CA.bundle)

    def fail(*_arguments: object) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(owner, function, fail)
        with pytest.raises(OSError, match="no space"):
            write_identity(tmp_path, issue(), CA.bundle)
    assert read(tmp_path) == svid
    assert len(generations(tmp_path)) == 1


def test_a_crash_at_any_moment_leaves_a_whole_identity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped before its first, second, third ... durable step, a reader finds the old pair or the new one."""
    known = [issue()]
    write_identity(tmp_path, known[0], CA.bundle)
    crashes = 0
    for step in range(20):
        known.append(issue())
        with monkeypatch.context() as patch:
            _crash_at(patch, step)
            try:
                write_identity(tmp_path, known[-1], CA.bundle)
            except Crash:
                crashes += 1
        assert read(tmp_path) in known[-2:]
        known = [read(tmp_path)]
    assert crashes > 4


def _crash_at(patch: pytest.MonkeyPatch, step: int) -> None:
    calls = iter(range(1000))

    def before(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            if next(calls) == step:
                raise Crash
            return real(*arguments, **named)

        return call

    patch.setattr(os, "fsync", before(os.fsync))
    patch.setattr(Path, "replace", before(Path.replace))
    patch.setattr(Path, "symlink_to", before(Path.symlink_to))
    # A machine that stops clears nothing away.
    patch.setattr("meshsec.ca._store.shutil.rmtree", lambda *_arguments, **_named: None)


def test_a_reader_never_sees_a_mixed_pair(tmp_path: Path) -> None:
    """Read through ``..data``, resolved once, the files are always of one generation, or a moment too late."""
    svids = [issue() for _ in range(4)]
    write_identity(tmp_path, svids[0], CA.bundle)
    writer = threading.Thread(target=lambda: [write_identity(tmp_path, svids[n % 4], CA.bundle) for n in range(40)])
    writer.start()
    seen = 0
    while writer.is_alive() or not seen:
        try:
            assert read((tmp_path / "..data").resolve(strict=True)) in svids
            seen += 1
        except FileNotFoundError:
            continue
    writer.join()


def test_writers_wait_for_each_other(tmp_path: Path) -> None:
    """While one writer holds the folder another does nothing; then it does all of its work."""
    svid, newer = issue(), issue()
    write_identity(tmp_path, svid, CA.bundle)
    writer = threading.Thread(target=write_identity, args=(tmp_path, newer, CA.bundle))
    handle = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        writer.start()
        writer.join(0.05)
        assert writer.is_alive()
        assert read(tmp_path) == svid
    finally:
        os.close(handle)
    writer.join()
    assert read(tmp_path) == newer


def test_an_authority_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    """Certificate, published roots and key; what it then issues is trusted by who trusted it before."""
    authority = CertificateAuthority.create("td.example", now=NOW).rotate_root(now=NOW)
    authority.save(tmp_path)
    loaded = CertificateAuthority.load(tmp_path)
    assert loaded.trust_domain == authority.trust_domain
    assert loaded.certificate == authority.certificate
    assert loaded.bundle == authority.bundle
    svid = loaded.issue_x509_svid(ID, now=NOW)
    assert verify_x509_svid(svid.chain, authority.bundle, now=NOW, role="server") == SpiffeId.parse(ID)


def test_an_authority_is_saved_over_itself(tmp_path: Path) -> None:
    """Rotation is made durable by saving again; the old key leaves the disk."""
    authority = CertificateAuthority.create("td.example", now=NOW)
    authority.save(str(tmp_path))
    authority.rotate_root(now=NOW).save(tmp_path)
    assert len(CertificateAuthority.load(str(tmp_path)).bundle.x509_authorities) == 2
    assert len(generations(tmp_path)) == 1


def test_plain_files_are_an_authority_too(tmp_path: Path) -> None:
    """Whoever made the files, as long as they belong together and the root says which trust domain it is for."""
    ca = TestCA("td.example", uris=["spiffe://td.example"])
    (tmp_path / "ca-cert.pem").write_bytes(ca.pem)
    (tmp_path / "ca-key.pem").write_bytes(key_pem(ca.key))
    (tmp_path / "root-cert.pem").write_bytes(ca.pem)
    svid = CertificateAuthority.load(tmp_path).issue_x509_svid(ID, now=NOW)
    assert verify_x509_svid(svid.chain, X509Bundle("td.example", [ca.der]), now=NOW, role="client")


ROOT = TestCA("td.example", uris=["spiffe://td.example"])
WORKLOAD_CA = TestCA("td.example", uris=["spiffe://td.example/ns/x/sa/y"])
BAD_FILES = {
    "empty certificate": {"ca-cert.pem": b""},
    "garbage for a certificate": {"ca-cert.pem": b"\0\xff"},
    "a root that names no trust domain": {"ca-cert.pem": TestCA(key=ROOT.key).pem},
    "a root that names a workload": {
        "ca-cert.pem": TestCA(key=ROOT.key, uris=["spiffe://td.example/x"]).pem,
    },
    "a root that names two": {
        "ca-cert.pem": TestCA(key=ROOT.key, uris=["spiffe://td.example", "spiffe://other.example"]).pem,
    },
    "a leaf": {"ca-cert.pem": pem(ROOT.leaf(key=ROOT.key)[0]), "root-cert.pem": pem(ROOT.leaf(key=ROOT.key)[0])},
    "another key": {"ca-key.pem": key_pem(key_of())},
    "a key of another kind": {"ca-key.pem": key_pem(key_of("rsa"))},
    "an empty key": {"ca-key.pem": b""},
    "a key cut off": {"ca-key.pem": key_pem(ROOT.key)[:-40]},
    "another root published": {"root-cert.pem": TestCA("td.example").pem},
    "no root published": {"root-cert.pem": b""},
    "published roots cut off": {"root-cert.pem": ROOT.pem + ROOT.pem[:-40]},
}


@pytest.mark.parametrize("changes", BAD_FILES.values(), ids=BAD_FILES.keys())
def test_files_that_do_not_belong_together_are_refused(tmp_path: Path, changes: dict[str, bytes]) -> None:
    """The error names the file and shows nothing of the key."""
    good = {"ca-cert.pem": ROOT.pem, "ca-key.pem": key_pem(ROOT.key), "root-cert.pem": ROOT.pem}
    for name, content in {**good, **changes}.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        CertificateAuthority.load(tmp_path)
    assert str(tmp_path) in caught.value.problems[0].source
    assert "BEGIN" not in str(caught.value)


def test_a_partial_set_is_refused(tmp_path: Path) -> None:
    """A missing file is the operating system's error, and names the file."""
    CA.save(tmp_path)
    (tmp_path / "..data" / "ca-key.pem").unlink()
    with pytest.raises(FileNotFoundError, match=r"ca-key\.pem"):
        CertificateAuthority.load(tmp_path)


def test_the_saved_key_is_the_certificates(tmp_path: Path) -> None:
    """Read back by the library below, without our loader."""
    CA.save(tmp_path)
    key = load_pem_private_key((tmp_path / "ca-key.pem").read_bytes(), password=None)
    certificate = x509.load_pem_x509_certificate((tmp_path / "ca-cert.pem").read_bytes())
    assert key.public_key() == certificate.public_key()
