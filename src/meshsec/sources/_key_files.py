"""Good key sets on disk, so that a restart while an issuer is down still serves: public keys and nothing else.

What is read back decides who may call, so it counts only where nobody but us can have written it, and only as long as
its age by the wall clock allows. Everything else in the folder is passed over with a line in the log. This file must
not know how keys are fetched.
"""

from __future__ import annotations

import json
import logging
import math
import os
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from secrets import token_hex
from typing import Any, Final

from ..authn import KeySource
from ..errors import KeysUnavailableError
from ..jose import KeySet, read_json_object

__all__ = ["KeptKeys", "KeyFiles"]

_log: Final = logging.getLogger("meshsec.keys")

_MOST_BYTES: Final = 1 << 21
_SKEW: Final = 60.0  # seconds that a clock may have been set back by meanwhile
_OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH


@dataclass(frozen=True, slots=True)
class KeptKeys:
    """A set that was read back, and for how many seconds it has been on disk."""

    keys: KeySet
    age: float


class KeyFiles:
    """A folder with one file for each source. It is made when it is first written to, for its owner alone.

    Args:
        folder: below it everything is ours.
        clock: wall clock, POSIX seconds: ages outlive the process.
    """

    def __init__(self, folder: str | os.PathLike[str], *, clock: Callable[[], float] = time.time) -> None:
        self._folder = Path(folder)
        self._clock = clock
        self._failing = False

    def read(self, source: KeySource, *, max_age: float) -> KeptKeys | None:
        """What an earlier process kept; None where there is nothing, or nothing that counts."""
        path = self._path(source)
        try:
            _check_owner(self._folder.stat(), "the folder")
            kept = self._parse(_read(path), source)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeysUnavailableError) as error:
            _log.warning("the kept keys of %s in %s do not count: %s", source.issuer, path, _told(error))
            return None
        return kept if kept.age < max_age else None

    def write(self, source: KeySource, keys: KeySet) -> None:
        """Replace what is kept of a source in one step. A disk that is full or broken is logged, once."""
        data = json.dumps(
            {**_name(source), "fetched": self._clock(), "keys": [key.public_jwk() for key in keys.keys]}
        )
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            _replace(self._path(source), data.encode())
        except OSError as error:
            if not self._failing:
                _log.warning("keys cannot be kept in %s: %s", self._folder, _told(error))
            self._failing = True
        else:
            self._failing = False

    def _path(self, source: KeySource) -> Path:
        named = json.dumps(_name(source), sort_keys=True)
        # Not .json: the folder may stand in the mesh's own, where that would be a policy.
        return self._folder / f"{sha256(named.encode()).hexdigest()}.jwks"

    def _parse(self, data: bytes, source: KeySource) -> KeptKeys:
        """Raises ValueError or KeysUnavailableError."""
        document = read_json_object(data)
        if {name: document.get(name) for name in _name(source)} != _name(source):
            raise ValueError("it is another issuer's")
        fetched = document.get("fetched")
        if isinstance(fetched, bool) or not isinstance(fetched, int | float) or not math.isfinite(fetched):
            raise ValueError("it does not say when it was fetched")
        age = self._clock() - fetched
        if age < -_SKEW:
            raise ValueError("it comes from the future")
        return KeptKeys(KeySet.parse({"keys": document.get("keys")}), max(age, 0.0))


def _name(source: KeySource) -> dict[str, str | None]:
    return {"issuer": source.issuer, "jwksUri": source.jwks_uri}


def _read(path: Path) -> bytes:
    """Raises OSError, and ValueError for a file that another may have written."""
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(handle, "rb") as file:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            raise ValueError("it is no file")
        _check_owner(found, "it")
        data = file.read(_MOST_BYTES + 1)
    if len(data) > _MOST_BYTES:
        raise ValueError(f"it has more than {_MOST_BYTES} bytes")
    return data


def _check_owner(found: os.stat_result, what: str) -> None:
    if found.st_uid not in (0, os.geteuid()) or found.st_mode & _OTHERS_WRITE:
        raise ValueError(f"{what} may be written by others")


def _replace(path: Path, data: bytes) -> None:
    spare = path.with_name(f".{path.name}.{token_hex(8)}")
    handle = os.open(spare, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(handle)
        spare.replace(path)
    except OSError:
        spare.unlink(missing_ok=True)
        raise


def _told(error: Exception) -> str:
    detail: Any = error.strerror if isinstance(error, OSError) else error
    return f"{type(error).__name__}: {detail}"[:200]
