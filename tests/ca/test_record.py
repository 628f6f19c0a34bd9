"""The record of what was issued: whole lines, on the disk before anything is handed out."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from meshsec.ca import AuthorityFolder, CertificateAuthority, Issuance, _record
from meshsec.ca._record import Journal
from meshsec.errors import ConfigError, IssuanceError
from pki import NOW

ID = "spiffe://td.example/ns/prod/sa/web"


@pytest.fixture
def folder(tmp_path: Path) -> AuthorityFolder:
    """A new authority."""
    authority = CertificateAuthority.create("td.example", now=NOW)
    return AuthorityFolder.create(tmp_path / "ca", authority, clock=lambda: NOW)


def test_every_certificate_and_token_is_in_the_record(folder: AuthorityFolder) -> None:
    """Serial number, ID, times and requester; read back by another process."""
    svid = folder.authority.issue_x509_svid(ID, ttl=60, requester="alice")
    folder.authority.issue_jwt_svid(ID, ["shop"], requester="bob")
    first, second = AuthorityFolder(folder.folder).issued()
    key = folder.authority.state.signer.key_id
    assert first == Issuance("x509", f"{svid.serial:x}", ID, key, NOW, NOW - 120, NOW + 60, "alice")
    assert (second.kind, second.requester, second.not_after) == ("jwt", "bob", NOW + 300)
    assert (folder.folder / "issued.jsonl").stat().st_mode & 0o777 == 0o600


def test_a_batch_is_recorded_by_one_write(folder: AuthorityFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hundreds cost one wait for the disk."""
    real, calls = os.fdatasync, []
    monkeypatch.setattr(os, "fdatasync", lambda handle: (calls.append(handle), real(handle)))
    with folder.batch() as authority:
        svids = [authority.issue_x509_svid(f"{ID}{number}") for number in range(50)]
        assert list(folder.issued()) == []
    assert [item.serial for item in folder.issued()] == [f"{svid.serial:x}" for svid in svids]
    assert len(calls) == 1


def test_what_cannot_be_recorded_is_not_issued(folder: AuthorityFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk in the middle of a line: nothing counts, nothing is torn, and it recovers by itself."""
    folder.authority.issue_x509_svid(ID)
    real = os.pwrite

    def full(handle: int, data: Any, offset: int) -> int:
        if offset % 7:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(handle, bytes(data)[: 7 - offset % 7 + 10], offset)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        for _ in range(3):
            with pytest.raises(OSError, match="No space"):
                folder.authority.issue_x509_svid(ID)
    assert len(list(folder.issued())) == 1
    folder.authority.issue_x509_svid(ID)
    assert len(list(folder.issued())) == 2


@pytest.mark.parametrize("torn", [b"{", b'{"serial":"1"}', b"\0" * 100, b"x" * 70_000])
def test_half_a_line_is_cut_off(tmp_path: Path, torn: bytes) -> None:
    """A power cut leaves any beginning of the last line; the next line does not continue it."""
    journal = Journal(tmp_path / "record.jsonl")
    journal.append([{"number": 1}])
    with journal.path.open("ab") as file:
        file.write(torn)
    assert list(journal) == [{"number": 1}]
    journal.append([{"number": 2}, {"number": 3}])
    assert [entry["number"] for entry in journal] == [1, 2, 3]
    assert len(journal) == 3


def test_a_first_line_that_is_torn_is_cut_off_too(tmp_path: Path) -> None:
    """There may be no whole line at all."""
    journal = Journal(tmp_path / "record.jsonl")
    assert (list(journal), len(journal)) == ([], 0)
    journal.path.write_bytes(b"half")
    journal.append([{"number": 1}])
    assert list(journal) == [{"number": 1}]


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    """Whole lines are never passed over in silence."""
    journal = Journal(tmp_path / "record.jsonl")
    journal.path.write_bytes(b'{"a":1}\n{"a":1,"a":2}\n')
    with pytest.raises(ConfigError, match="damaged"):
        list(journal)


def test_many_writers_lose_nothing(folder: AuthorityFolder) -> None:
    """Threads with handles of their own, as processes have: every line whole and there."""

    def issue() -> None:
        authority = AuthorityFolder(folder.folder, clock=lambda: NOW).authority
        for _ in range(10):
            authority.issue_x509_svid(ID)

    threads = [threading.Thread(target=issue) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({item.serial for item in folder.issued()}) == 60


def test_a_full_file_is_put_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No line is lost, their order stays, and each file is bounded; strangers' names are passed over."""
    monkeypatch.setattr(_record, "MAX_SIZE", 100)
    journal = Journal(tmp_path / "issued.jsonl")
    for name in ("issued-notes.jsonl", "issued-2026-\u0661.jsonl"):
        (tmp_path / name).write_text("{")
    for number in range(100):
        journal.append([{"number": number}])
        assert journal.path.stat().st_size < 120
    assert [entry["number"] for entry in Journal(journal.path)] == list(range(100))
    assert len(journal) == 100
    aside = sorted(tmp_path.glob("issued-2*-0*.jsonl"))
    assert len(aside) > 10
    aside[0].unlink()  # its keeper has moved it away
    assert [entry["number"] for entry in journal][-1] == 99


def test_a_reader_loses_nothing_while_files_are_put_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever was appended before somebody began to read is read, once."""
    monkeypatch.setattr(_record, "MAX_SIZE", 60)
    journal, over = Journal(tmp_path / "issued.jsonl"), threading.Event()
    done = [0]

    def write() -> None:
        for number in range(300):
            journal.append([{"number": number}])
            done[0] = number + 1
        over.set()

    thread = threading.Thread(target=write)
    thread.start()
    while not over.is_set():
        before = done[0]
        found = [entry["number"] for entry in journal]
        assert found == list(range(len(found)))
        assert len(found) >= before
    thread.join()


def test_a_file_that_cannot_be_put_aside_grows_on(folder: AuthorityFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record that is too large is better than none."""
    monkeypatch.setattr(_record, "MAX_SIZE", 1)

    def refuse(*_arguments: object) -> None:
        raise PermissionError(errno.EPERM, "no")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", refuse)
        for _ in range(3):
            folder.authority.issue_x509_svid(ID)
    assert (len(list(folder.issued())), list(folder.folder.glob("issued-*"))) == (3, [])
    folder.authority.issue_x509_svid(ID)
    assert (len(list(folder.issued())), len(list(folder.folder.glob("issued-*")))) == (4, 1)


def test_what_was_put_aside_still_counts(folder: AuthorityFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """It can be revoked, and its root is not retired under it."""
    monkeypatch.setattr(_record, "MAX_SIZE", 1)
    svid = folder.authority.issue_x509_svid(ID)
    folder.publish_root()
    folder.activate_root(settle=0)
    folder.authority.issue_x509_svid(ID)
    assert folder.status()["issued"] == 2
    with pytest.raises(IssuanceError, match="still valid"):
        folder.retire_old_roots()
    folder.revoke(f"{svid.serial:x}")


def test_a_record_that_cannot_be_opened_stops_issuing(folder: AuthorityFolder) -> None:
    """No record, no certificate."""
    (folder.folder / "issued.jsonl").mkdir()
    with pytest.raises(OSError, match=r"issued\.jsonl"):
        folder.authority.issue_x509_svid(ID)


def test_a_serial_that_was_never_issued_cannot_be_revoked(folder: AuthorityFolder) -> None:
    """The record decides."""
    with pytest.raises(IssuanceError) as caught:
        folder.revoke("abc")
    assert caught.value.code == "unknown_serial"
