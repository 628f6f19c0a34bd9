"""The whole product in one run: ``make demo``, or ``make demo KEEP=1`` to leave it running.

An authority, an OpenID issuer and two services are started; then they are called from outside in every way that
should work or should not, and their certificates and trust root are replaced while requests go on.
The exit status is 1 if anything came out other than expected.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from .calls import CALLS, Result, make
from .rotation import CALLS as LOAD_CALLS
from .rotation import Load, Rotation, rotate_under_load
from .tokens import mint
from .world import SERVERS, DemoError, World, world

WIDTH: Final = 180  # where the output is not a terminal


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m examples.demo", description=__doc__)
    parser.add_argument("--keep", action="store_true", help="leave everything running until Ctrl-C")
    parser.add_argument("--rotations", type=int, default=1, help="how often the root is replaced")
    given = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, _interrupt)
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    started = time.monotonic()
    ok: bool | None = None
    try:
        with world() as made:
            ok = _run(console, made, given.rotations)
            console.print(f"[dim]{time.monotonic() - started:.1f} s[/]")
            if given.keep:
                _keep(console, made)
    except KeyboardInterrupt:
        return 130 if ok is None else _status(ok)
    except (DemoError, TimeoutError) as error:
        console.print(Text(f"The demo could not be carried out: {error}", style="red"))
        return 1
    return _status(ok)


def _status(ok: bool) -> int:  # noqa: FBT001
    return 0 if ok else 1


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def _run(console: Console, made: World, rotations: int) -> bool:
    with _telling(console) as tell:
        tell("starting an OpenID issuer, productpage (uvicorn) and reviews (gunicorn)")
        made.start_issuer()
        made.start_services()
        made.wait_until_ready()
        tokens = mint(made)
        results = []
        for number, call in enumerate(CALLS, 1):
            tell(f"call {number} of {len(CALLS)}: {call.caller} asks {call.service} for {call.path}")
            results.append(make(made, call, tokens))
        replaced = []
        for number in range(1, rotations + 1):
            tell(f"{LOAD_CALLS} calls while certificates and trust root are replaced, {number} of {rotations}")
            replaced.append(rotate_under_load(made, Load(made, made.token("alice"))))
    console.print(_table(results, wide=console.width >= WIDTH))
    mismatches = [result for result in results if not result.as_expected]
    console.print(f"{len(results)} calls, {len(mismatches)} not as expected\n", highlight=False)
    for rotation in replaced:
        _print_rotation(console, rotation)
    return not mismatches and all(rotation.ok for rotation in replaced)


@contextmanager
def _telling(console: Console) -> Iterator[Callable[[str], None]]:
    """What is being done: one line that changes, or where there is no terminal, a line for each thing."""
    if not console.is_terminal:
        yield lambda text: console.print(text, highlight=False, markup=False)
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("")
        yield lambda text: progress.update(task, description=text)


def _table(results: Sequence[Result], *, wide: bool) -> Table:
    table = Table(title="Calls from outside", title_justify="left")
    table.add_column("#", no_wrap=True, justify="right")
    for column in ("who asks whom", "for", "token"):
        table.add_column(column, no_wrap=wide)
    for column in ("expected", "came"):
        table.add_column(column, max_width=24)
    table.add_column("why", overflow="fold")
    for number, result in enumerate(results, 1):
        call = result.call
        cells = (f"{call.caller} → {call.service}", call.path, call.token or "-", call.expected)
        came = Text(result.came, style="green" if result.as_expected else "bold red")
        table.add_row(str(number), *map(Text, cells), came, Text(result.why))
    return table


def _print_rotation(console: Console, rotation: Rotation) -> None:
    table = Table(title="Certificates and trust root replaced under load", title_justify="left")
    for column in ("service", "serial before", "serial after"):
        table.add_column(column, no_wrap=True)
    for name in SERVERS:
        table.add_row(name, rotation.before[name], rotation.after[name])
    console.print(table)
    total = rotation.fresh + rotation.kept + len(rotation.failed)
    kinds = f"{rotation.fresh} on new connections, {rotation.kept} on kept ones"
    text = f"{total} calls ({kinds}), {len(rotation.failed)} failed"
    console.print(Text(text, style="green" if rotation.ok else "bold red"))
    for line in rotation.failed[:5]:
        console.print(Text(f"  {line}", style="red"))


def _keep(console: Console, made: World) -> None:
    curl = "curl --cacert root-cert.pem --cert cert-chain.pem --key key.pem"
    page = f"https://localhost:{made.ports.productpage}"
    token = '-H "Authorization: Bearer $TOKEN"'
    console.print("\nEverything is still running; Ctrl-C ends it. Paste these:")
    for meaning, command in {
        "the ingress's certificate": f"cd {made.identity('ingress')}",
        "alice's token": f"TOKEN={made.token('alice')}",
        "ada's token": f"ADMIN={made.token('ada')}",
        "200, by way of reviews": f"{curl} {token} {page}/reviews/1",
        "200 for an admin": f'{curl} -H "Authorization: Bearer $ADMIN" {page}/admin',
        "403 for anybody else": f"{curl} {token} {page}/admin",
        "401 without a token": f"{curl} {page}/reviews/1",
        "200 without a token": f"{curl} {page}/health",
        "403 past productpage": f"{curl} {token} https://localhost:{made.ports.reviews}/reviews/1",
        "no answer without a certificate": f"curl --cacert root-cert.pem {page}/health",
    }.items():
        console.print(Text(f"\n{meaning}:", style="dim"))
        console.print(command, soft_wrap=True, highlight=False, markup=False)
    console.print(f"\nCentral folder: {made.mesh}   Logs: {made.folder}/*.log", soft_wrap=True, highlight=False)
    while True:
        signal.pause()


if __name__ == "__main__":
    sys.exit(main())
