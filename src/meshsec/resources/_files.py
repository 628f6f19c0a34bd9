"""Which files a folder of policies holds, and their text.

Kubernetes mounts a ConfigMap as links into a folder ``..data`` that is swapped as a whole: links are followed, names
that begin with a dot are not. Must not know: what is written in a file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG
from typing import Final

from ..errors import ConfigError, Problem
from ._yaml import MAX_BYTES

__all__ = ["FileText", "find_mesh_file", "policy_files", "read_policies", "read_text"]

MESH_FILE: Final = "mesh.yaml"
_SUFFIXES: Final = frozenset({".yaml", ".yml", ".json"})


@dataclass(frozen=True, slots=True)
class FileText:
    """One file at one moment.

    Attributes:
        source: its name.
        text: what is in it; empty where it could not be read.
        problems: why it could not.
    """

    source: str
    text: str = ""
    problems: tuple[Problem, ...] = ()


def read_policies(paths: Iterable[Path], *, leave_out: Path | None = None) -> dict[Path, tuple[FileText, ...]]:
    """For each path, its files, each file once however many paths lead to it. What cannot be read holds problems."""
    done = {leave_out.resolve()} if leave_out else set()
    return {path: tuple(_read_each(path, done)) for path in paths}


def _read_each(path: Path, done: set[Path]) -> Iterator[FileText]:
    try:
        files = policy_files(path)
    except ConfigError as error:
        yield FileText(str(path), problems=error.problems)
        return
    for file in files:
        try:
            text = read_text(file)
            if (real := file.resolve()) not in done:
                done.add(real)
                yield FileText(str(file), text)
        except ConfigError as error:
            yield FileText(str(file), problems=error.problems)


def policy_files(path: Path) -> list[Path]:
    """A file itself; of a folder, every policy file in it and in the folders below, in the order of their names.

    Raises:
        ConfigError: there is no such file or folder, or a folder cannot be listed.
    """
    with _readable(path):
        if path.is_dir():
            return list(_walk(path, set()))
        path.lstat()
        return [path]


def find_mesh_file(path: Path) -> Path | None:
    """A file itself, or a folder's mesh.yaml; None where the folder has none. Raises ConfigError for no folder."""
    with _readable(path):
        if path.is_dir():
            return next((entry for entry in path.iterdir() if entry.name == MESH_FILE), None)
        return path


def _walk(folder: Path, seen: set[Path]) -> Iterator[Path]:
    """Links to folders are followed, each folder once: links may lead in rings."""
    seen.add(folder.resolve())
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith(".") or entry.name == MESH_FILE:
            continue
        if entry.is_dir():
            if entry.resolve() not in seen:
                yield from _walk(entry, seen)
        elif entry.suffix.lower() in _SUFFIXES:
            yield entry


def read_text(path: Path) -> str:
    """A file's text, which is UTF-8.

    Raises:
        ConfigError: it is no regular file, cannot be read, is too long, or holds other bytes.
    """
    with _readable(path):
        if not S_ISREG(path.stat().st_mode):
            raise ConfigError(Problem("not a regular file", source=str(path)))
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ConfigError(Problem(f"longer than the {MAX_BYTES} bytes allowed", source=str(path)))
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = error.object[: error.start]
        line, column = before.count(b"\n") + 1, error.start - before.rfind(b"\n")
        raise ConfigError(Problem("this byte is not UTF-8", str(path), line, column)) from error


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (
        OSError,
        ValueError,
        RuntimeError,
    ) as error:  # ValueError: a NUL in the name; RuntimeError: a ring of links
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "no usable name"
        source = getattr(error, "filename", None) or path
        raise ConfigError(Problem(f"cannot be read: {reason}", source=str(source)), code="not_found") from error
