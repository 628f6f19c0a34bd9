"""One at a time, over processes and threads: a lock that the operating system gives back when its holder dies.

This file must not know what is done under the lock.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import IssuanceError

__all__ = ["hold"]


@contextmanager
def hold(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold the lock on a file, which is made where it does not exist and stays empty.

    Raises:
        OSError: the file cannot be opened.
        IssuanceError: ``locked``: somebody else holds it, and ``wait`` is not set.
    """
    # Opened anew each time: two handles exclude each other within one process, too.
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _take(handle, path, wait=wait)
        yield
    finally:
        os.close(handle)


def _take(handle: int, path: Path, *, wait: bool) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno != errno.EWOULDBLOCK:
            raise
        raise IssuanceError(f"another process holds {path}", code="locked") from None
