"""Files that are swapped all at once, as the kubelet does it.

The names a reader knows are links to ``..data/<name>``, and ``..data`` is a link to a hidden folder with one
generation of files. A new generation is written beside the old one and becomes the current one by the renaming of a
single link: whoever reads sees the old set or the new one, and so does the machine after a crash.
This file must not know what is in the files.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from ssl import DER_cert_to_PEM_cert
from typing import Final

from ..spiffe import X509Bundle, X509Svid

__all__ = [
    "PRIVATE",
    "PUBLIC",
    "current_folder",
    "current_generation",
    "swap_files",
    "sync_folder",
    "write_chain",
    "write_file",
    "write_identity",
]

PRIVATE: Final = 0o600
PUBLIC: Final = 0o644

_CURRENT: Final = "..data"
_NEXT: Final = "..data_tmp"
_GENERATION: Final = re.compile(r"\.\.[0-9]{4}(?:_[0-9]{2}){5}\.[0-9a-f]{8}")


def write_identity(folder: Path, svid: X509Svid, bundle: X509Bundle, *, crl: bytes = b"") -> None:
    """Write what a workload needs, in Istio's layout: cert-chain.pem, key.pem (mode 0600) and root-cert.pem.

    Args:
        folder: made where it does not exist; an identity in it is replaced in one step.
        crl: PEM lists of what is revoked, for ca-crl.pem; without any there is no such file.

    Raises:
        OSError: the folder cannot be written; what was there before is still there.
    """
    files = {
        "cert-chain.pem": (svid.chain_pem(), PUBLIC),
        "key.pem": (svid.key_pem(), PRIVATE),
        "root-cert.pem": (bundle.to_pem(), PUBLIC),
    }
    swap_files(folder, files | {"ca-crl.pem": (crl, PUBLIC)} if crl else files)


def write_chain(folder: Path, chain: Sequence[bytes], bundle: X509Bundle) -> None:
    """As :func:`write_identity`, for a key that stays with its owner: cert-chain.pem and root-cert.pem.

    Args:
        chain: DER, leaf first.
    """
    pem = "".join(map(DER_cert_to_PEM_cert, chain)).encode()
    swap_files(folder, {"cert-chain.pem": (pem, PUBLIC), "root-cert.pem": (bundle.to_pem(), PUBLIC)})


def current_folder(folder: Path) -> Path:
    """Where the current generation is, resolved once so that all files are read from the same one."""
    current = folder / _CURRENT
    return current.resolve() if current.is_symlink() else folder


def current_generation(folder: Path) -> str | None:
    """A name that changes with every swap; None where nothing was swapped yet."""
    try:
        return (folder / _CURRENT).readlink().name
    except OSError:
        return None


def swap_files(folder: Path, files: Mapping[str, tuple[bytes, int]]) -> None:
    """Replace all the files (name to content and mode) of a folder in one step; writers wait for each other."""
    _make_folder(folder)
    with _alone_in(folder) as handle:
        generation = folder / f"..{datetime.now(UTC):%Y_%m_%d_%H_%M_%S}.{secrets.token_hex(4)}"
        try:
            _write_generation(generation, files)
            _point(folder, _CURRENT, generation.name)
            for name in files:
                _point(folder, name, f"{_CURRENT}/{name}")
            os.fsync(handle)
        finally:
            _remove_unused(folder)


def write_file(path: Path, content: bytes, mode: int) -> None:
    """Replace one file in one step; durable when this returns."""
    spare = path.with_name(f"{path.name}.tmp")
    spare.unlink(missing_ok=True)
    _write(spare, content, mode)
    spare.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make durable which names a folder holds."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _alone_in(folder: Path) -> Iterator[int]:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield handle
    finally:
        os.close(handle)


def _make_folder(folder: Path) -> None:
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in missing:
        sync_folder(path.parent)


def _write_generation(generation: Path, files: Mapping[str, tuple[bytes, int]]) -> None:
    generation.mkdir()
    for name, (content, mode) in files.items():
        _write(generation / name, content, mode)
    sync_folder(generation)


def _write(path: Path, content: bytes, mode: int) -> None:
    # Never readable by more than the mode says, not even while it is being written.
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE)
    with os.fdopen(handle, "wb") as file:
        file.write(content)
        file.flush()
        os.fchmod(handle, mode)
        os.fsync(handle)


def _point(folder: Path, name: str, target: str) -> None:
    link, spare = folder / name, folder / _NEXT
    if link.is_symlink() and link.readlink() == Path(target):
        return
    spare.unlink(missing_ok=True)
    spare.symlink_to(target)
    spare.replace(link)


def _remove_unused(folder: Path) -> None:
    """Remove the generation that was, the one that failed, and what a crash may have left: they hold private keys."""
    current = folder / _CURRENT
    used = current.readlink().name if current.is_symlink() else ""
    for entry in folder.iterdir():
        if entry.name != used and _GENERATION.fullmatch(entry.name):
            shutil.rmtree(entry, ignore_errors=True)
        elif _is_dangling(entry):
            entry.unlink()


def _is_dangling(entry: Path) -> bool:
    """Whether it is a link of ours to a file that the current generation no longer has."""
    return entry.is_symlink() and entry.readlink() == Path(_CURRENT, entry.name) and not entry.exists()
