"""Programs out of Debian packages, unpacked beside the environment: nothing is installed, nobody has to be root."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Final

__all__ = ["program"]

CACHE: Final = Path(sys.prefix) / "debian"


@cache
def program(name: str, *packages: str, version: str = "--version") -> list[str] | None:
    """How a program is called: the installed one, else the one in the packages; None, and said so, without either.

    Args:
        name: as it is called.
        packages: its own, and those of libraries that a small system has not.
        version: the option by which it shows that it starts.
    """
    if found := shutil.which(name):
        return [found]
    folder = CACHE / "+".join(packages)
    try:
        if not folder.exists():
            _unpack(packages, folder)
        [path] = folder.glob(f"usr/*bin/{name}")
        libraries = os.pathsep.join(str(item) for item in folder.glob("usr/lib/*-linux-*"))
        command = ["env", f"LD_LIBRARY_PATH={libraries}", str(path)]
        subprocess.run([*command, version], check=True, capture_output=True)
    except (OSError, ValueError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", b"").decode(errors="replace").strip()[-300:]
        sys.stderr.write(f"WITHOUT {name}: Debian's {', '.join(packages)} cannot be had here ({said or error})\n")
        return None
    return command


def _unpack(packages: Sequence[str], folder: Path) -> None:
    """Whole or not at all, whoever else does the same at this moment."""
    CACHE.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as name:
        work = Path(name)
        subprocess.run(["apt-get", "download", *packages], cwd=work, check=True, capture_output=True)
        for archive in work.glob("*.deb"):
            subprocess.run(["dpkg", "-x", archive.name, "files"], cwd=work, check=True, capture_output=True)
        with suppress(OSError):
            (work / "files").rename(folder)
