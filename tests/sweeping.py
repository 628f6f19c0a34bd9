"""Sweeps: one test over many values, each of which is tried and named where it fails."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any

import pytest

__all__ = ["sweep"]

Test = Callable[..., None]


def sweep(name: str, values: Iterable[Any] = range(256)) -> Callable[[Test], Test]:
    """As ``parametrize`` does it, but as one test: to start thousands of them costs more than what they do."""

    def decorate(test: Test) -> Test:
        signature, tried = inspect.signature(test), tuple(values)
        if not tried:
            raise ValueError("a sweep over nothing shows nothing")

        @wraps(test)
        def swept(**fixtures: Any) -> None:
            failed: list[BaseException] = []
            for value in tried:
                try:
                    test(**fixtures, **{name: value})
                except (Exception, pytest.fail.Exception) as error:  # noqa: BLE001 - all of them are told of
                    error.add_note(f"where {name} is {value!r}")
                    failed.append(error)
            if failed:
                raise BaseExceptionGroup(f"{len(failed)} of {len(tried)} values of {name} fail", failed)

        others = [parameter for parameter in signature.parameters.values() if parameter.name != name]
        swept.__signature__ = signature.replace(parameters=others)  # type: ignore[attr-defined]
        return swept

    return decorate
