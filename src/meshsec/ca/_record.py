"""The durable record: one JSON object a line, appended and never changed.

A line counts once it is on the disk; half a line, left by a full disk or a power cut, never counted and is cut off
before the next. A file that is full gets another name, and a new one is begun. This file must not know what the
lines mean to the authority.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal

from ..errors import ConfigError, Problem
from ..jose import read_json_object
from ._store import PRIVATE, sync_folder

__all__ = ["Issuance", "Journal"]

MAX_SIZE: Final = 1 << 26  # 64 MiB: about a quarter of a million certificates
_TAIL: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class Issuance:
    """One certificate or token that was issued.

    Attributes:
        kind: ``x509`` or ``jwt``.
        serial: the certificate's serial number, or the token's ``jti``, in hexadecimal.
        id: the SPIFFE ID.
        issuer: the signing key's name.
        issued_at: POSIX seconds, as are the next two.
        not_before: valid from.
        not_after: valid until.
        requester: who asked for it, in the caller's words.
    """

    kind: Literal["x509", "jwt"]
    serial: str
    id: str
    issuer: str
    issued_at: float
    not_before: float
    not_after: float
    requester: str = ""

    def line(self) -> dict[str, Any]:
        """The JSON object."""
        return asdict(self)


class Journal:
    """A file of JSON lines, and beside it those that grew too large: ``issued-2026-11-22-000001.jsonl`` and so on.

    One process appends at a time: the caller holds the folder's lock. Anybody may read at any time. What was put
    aside may be moved away; nothing here does that.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, entries: Iterable[dict[str, Any]]) -> None:
        """Append all, durably: when this returns they survive a power cut.

        Raises:
            OSError: not all could be written; none counts.
        """
        data = b"".join(json.dumps(entry, separators=(",", ":")).encode() + b"\n" for entry in entries)
        self._put_aside()
        new = not self.path.exists()
        handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE)
        try:
            _append(handle, data, _whole_lines(handle))
        finally:
            os.close(handle)
        if new:
            sync_folder(self.path.parent)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """The entries, oldest first; half a line at the end is passed over."""
        with ExitStack() as stack:
            for file in self._files(stack):
                for line in file:
                    if line.endswith(b"\n"):
                        yield self._read(line)

    def __len__(self) -> int:
        """How many lines there are, without reading them."""
        with ExitStack() as stack:
            return sum(_count_lines(file) for file in self._files(stack))

    def __bool__(self) -> bool:
        """A record is one even while it is empty."""
        return True

    def _put_aside(self) -> None:
        """A file that is full gets another name, in one step; one that cannot be renamed now grows on."""
        with suppress(OSError):
            found = self.path.stat()
            if found.st_size >= MAX_SIZE:
                number = max((number for number, _ in self._aside()), default=0) + 1
                day = datetime.fromtimestamp(found.st_mtime, UTC)
                self.path.rename(self.path.with_stem(f"{self.path.stem}-{day:%Y-%m-%d}-{number:06}"))

    def _aside(self) -> list[tuple[int, Path]]:
        """The files that were put aside, by number."""
        names = self.path.parent.glob(f"{self.path.stem}-*{self.path.suffix}")
        numbers = ((path.stem.rpartition("-")[2], path) for path in names)
        return sorted((int(number), path) for number, path in numbers if number.isascii() and number.isdecimal())

    def _files(self, stack: ExitStack) -> Iterator[BinaryIO]:
        """Oldest first. The newest is opened before the others are listed: so it is read even if it is put aside."""
        newest = _opened(self.path, stack)
        for _, path in self._aside():
            file = _opened(path, stack)
            if file and newest and os.path.sameopenfile(file.fileno(), newest.fileno()):
                break
            if file:
                yield file
        if newest:
            yield newest

    def _read(self, line: bytes) -> dict[str, Any]:
        try:
            return read_json_object(line)
        except ValueError as error:
            raise ConfigError(Problem(f"a damaged line: {error}", str(self.path)), code="record_damaged") from error


def _opened(path: Path, stack: ExitStack) -> BinaryIO | None:
    try:
        return stack.enter_context(path.open("rb"))
    except FileNotFoundError:
        return None


def _count_lines(file: BinaryIO) -> int:
    return sum(piece.count(b"\n") for piece in iter(lambda: file.read(_TAIL), b""))


def _append(handle: int, data: bytes, end: int) -> None:
    view, offset = memoryview(data), end
    try:
        while view:
            written = os.pwrite(handle, view, offset)
            view, offset = view[written:], offset + written
        os.fdatasync(handle)
    except OSError:
        # What cannot be cut off now is cut off by the next append, as after a power cut.
        os.ftruncate(handle, end)
        raise


def _whole_lines(handle: int) -> int:
    """Where the last whole line ends; what comes after it is cut off."""
    size = end = os.fstat(handle).st_size
    while end:
        start = max(end - _TAIL, 0)
        newline = os.pread(handle, end - start, start).rfind(b"\n")
        if newline >= 0:
            end = start + newline + 1
            break
        end = start
    if end != size:
        os.ftruncate(handle, end)
    return end
