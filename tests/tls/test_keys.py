"""The private key goes into a context from memory; each way does, and none leaves anything behind."""

from __future__ import annotations

import os
import ssl
import tempfile
from pathlib import Path
from typing import Any, BinaryIO, Final

import pytest

from meshsec.spiffe import X509Svid
from meshsec.tls import _keys as keys
from meshsec.tls import authorize_any, client_context
from pki import Kind, TestCA
from wire import material, shake_hands, svid, wired

CA: Final = TestCA("td.example")


def serves(context: ssl.SSLContext, item: X509Svid) -> bool:
    """Whether a handshake shows that SVID."""
    server, client = wired(context, client_context(material(CA), authorize=authorize_any()))
    shake_hands(server, client)
    return client.getpeercert(True) == item.chain[0]


def refuse(*_arguments: object) -> Any:
    """What a sandbox answers."""
    raise OSError(38, "Function not implemented")


@pytest.mark.parametrize("missing", [0, 1, 2])
@pytest.mark.parametrize("kind", ["p256", "rsa", "ed25519"])
def test_each_way_loads_the_pair(kind: Kind, missing: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sealed memory file, the unnamed file in shared memory, and the encrypted file."""
    ways = [*[refuse] * missing, *keys._UNNAMED_FILES[missing:]]
    monkeypatch.setattr(keys, "_UNNAMED_FILES", tuple(ways))
    item = svid(CA.intermediate(), key=kind)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    keys.load_svid(context, item)
    assert serves(context, item)


@pytest.mark.parametrize("name", ["memfd_create", "O_TMPFILE"])
def test_a_platform_without_them_is_no_error(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are Linux's."""
    monkeypatch.delattr(os, name)
    item = svid(CA)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    keys.load_svid(context, item)
    assert serves(context, item)


@pytest.mark.parametrize("make", keys._UNNAMED_FILES)
def test_an_unnamed_file_is_ours_alone(make: Any) -> None:
    """Nobody else may read it, it has no name in any folder, and no child process inherits it."""
    with make(b"not a key") as file:
        status = os.fstat(file.fileno())
        assert status.st_mode & 0o777 == 0o600
        assert status.st_nlink == 0
        assert not os.get_inheritable(file.fileno())
        assert Path(f"/proc/self/fd/{file.fileno()}").read_bytes() == b"not a key"


def test_the_memory_file_is_sealed() -> None:
    """Once written, nobody changes it between our writing and OpenSSL's reading."""
    file: BinaryIO
    with keys._sealed_memory(b"not a key") as file:
        with pytest.raises(PermissionError):
            os.write(file.fileno(), b"x")
        with pytest.raises(PermissionError):
            os.ftruncate(file.fileno(), 0)


def test_the_last_way_puts_no_plaintext_on_a_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What lies in the folder while OpenSSL reads it is encrypted, private, and gone afterwards."""
    monkeypatch.setattr(keys, "_UNNAMED_FILES", ())
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    item = svid(CA)
    looked: list[bool] = []

    class Context(ssl.SSLContext):
        def load_cert_chain(self, certfile: Any, keyfile: Any = None, password: Any = None) -> None:
            text = Path(certfile).read_bytes()
            looked.append(b"BEGIN ENCRYPTED PRIVATE KEY" in text and b"BEGIN PRIVATE KEY" not in text)
            looked.append(Path(certfile).stat().st_mode & 0o777 == 0o600)
            looked.append(Path(certfile).parent.stat().st_mode & 0o777 == 0o700)
            super().load_cert_chain(certfile, keyfile, password)

    context = Context(ssl.PROTOCOL_TLS_SERVER)
    keys.load_svid(context, item)
    assert looked == [True, True, True]
    assert list(tmp_path.iterdir()) == []
    assert serves(context, item)


def test_what_openssl_refuses_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """No other way is tried, and no file stays open."""
    monkeypatch.setattr(keys, "_load_encrypted", refuse)
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    with pytest.raises(ssl.SSLError):
        keys.load_svid(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), svid(CA, key="rsa1024"))
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


def test_no_file_stays_open() -> None:
    """A rotation a minute for a year must not run out of descriptors."""
    item = svid(CA)
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    for _ in range(5):
        keys.load_svid(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), item)
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
