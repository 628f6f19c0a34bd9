"""How the ``ca`` commands print: JSON for programs, a table for people; with rich where it is installed."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final

import click

__all__ = ["format_option", "show"]

_MOMENTS: Final = frozenset({"since", "notAfter", "standbyUsedUntil", "nextRenewal", "firstExpiry"})

format_option: Final = click.option(
    "--format", "output", type=click.Choice(["text", "json"]), default="text", show_default=True
)


def show(data: Mapping[str, Any], output: str, *, text: str = "") -> None:
    """Print one object; moments are POSIX seconds in JSON, and dates in a table.

    Args:
        text: what people are shown instead of the table.
    """
    if output == "json" or text:
        click.echo(json.dumps(data) if output == "json" else text)
        return
    rows = [(name, value) for name, value in _rows(data) if value]
    if sys.stdout.isatty() and _print_with_rich(rows):
        return
    width = max((len(name) for name, _ in rows), default=0)
    for name, value in rows:
        click.echo(f"{name:<{width}}  {value}")


def _rows(data: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in data.items():
        if isinstance(value, Mapping):
            yield from _rows(value, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}", _text(name, value)


def _text(name: str, value: Any) -> str:
    if value is None:
        return ""
    if name in _MOMENTS:
        return f"{datetime.fromtimestamp(value, UTC):%Y-%m-%d %H:%M:%S} UTC"
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _print_with_rich(rows: list[tuple[str, str]]) -> bool:
    """Whether rich is there and has printed them."""
    try:
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        return False
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column()
    for name, value in rows:
        table.add_row(name, value)
    Console().print(table, markup=False)
    return True
