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
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from ..spiffe import X509Bundle, X509Svid

__all__ = ["PRIVATE", "PUBLIC", "current_folder", "swap_files", "write_identity"]

PRIVATE: Final = 0o600
PUBLIC: Final = 0o644

_CURRENT: Final = "..data"
_NEXT: Final = "..data_tmp"
_GENERATION: Final = re.compile(r"\.\.[0-9]{4}(?:_[0-9]{2}){5}\.[0-9a-f]{8}")


def write_identity(folder: Path, svid: X509Svid, bundle: X509Bundle) -> None:
    """Write what a workload needs, in Istio's layout: cert-chain.pem, key.pem (mode 0600) and root-cert.pem.

    Args:
        folder: made where it does not exist; an identity in it is replaced in one step.

    Raises:
        OSError: the folder cannot be written; what was there before is still there.
    """
    swap_files(
        folder,
        {
            "cert-chain.pem": (svid.chain_pem(), PUBLIC),
            "key.pem": (svid.key_pem(), PRIVATE),
            "root-cert.pem": (bundle.to_pem(), PUBLIC),
        },
    )


def current_folder(folder: Path) -> Path:
    """Where the current generation is, resolved once so that all files are read from the same one."""
    current = folder / _CURRENT
    return current.resolve() if current.is_symlink() else folder


def swap_files(folder: Path, files: Mapping[str, tuple[bytes, int]]) -> None:
    """Replace all the files (name to content and mode) of a folder in one step; writers wait for each other."""
    folder.mkdir(parents=True, exist_ok=True)
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


@contextmanager
def _alone_in(folder: Path) -> Iterator[int]:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield handle
    finally:
        os.close(handle)


def _write_generation(generation: Path, files: Mapping[str, tuple[bytes, int]]) -> None:
    generation.mkdir()
    for name, (content, mode) in files.items():
        # Never readable by more than the mode says, not even while it is being written.
        handle = os.open(generation / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fchmod(handle, mode)
            os.fsync(handle)
    handle = os.open(generation, os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(handle)
    os.close(handle)


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
