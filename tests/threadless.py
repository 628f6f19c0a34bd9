"""A process at its limit of threads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread
from unittest import mock

__all__ = ["no_more_threads"]


@contextmanager
def no_more_threads() -> Iterator[list[Thread]]:
    """No thread begins meanwhile; those that were to."""
    refused: list[Thread] = []

    def refuse(thread: Thread) -> None:
        refused.append(thread)
        raise RuntimeError("can't start new thread")

    with mock.patch.object(Thread, "start", refuse):
        yield refused
