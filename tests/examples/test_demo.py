"""The demo, from its command line: the test of the whole product.

``python tests/examples/test_demo.py`` puts the table that the demo prints into the README.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from examples.demo import __main__ as demo
from examples.demo.calls import CALLS, Call, Result
from examples.demo.rotation import Rotation
from examples.demo.tokens import TOKENS
from examples.demo.world import SERVERS

ROOT: Final = Path(__file__).parents[2]
KEPT: Final = "Everything is still running"
ROTATIONS: Final = 20 if os.environ.get("MESHSEC_FULL") else 1


@dataclass(frozen=True)
class Run:
    """What one run of the demo printed and left behind."""

    output: str
    status: int
    folder: Path


@pytest.fixture(scope="module")
def run() -> Run:
    """One run with --keep, interrupted as soon as it has done its work."""
    command = [sys.executable, "-m", "examples.demo", "--keep", "--rotations", str(ROTATIONS)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as child:
        lines: list[str] = []
        for line in child.stdout or ():
            lines.append(line)
            if line.startswith("Central folder:"):
                child.send_signal(signal.SIGTERM)
        status = child.wait(60)
    output = "".join(lines)
    assert KEPT in output, output
    found = re.search(r"^Central folder: (\S+)/mesh ", output, flags=re.MULTILINE)
    assert found is not None
    return Run(output, status, Path(found[1]))


def test_everything_comes_out_as_expected(run: Run) -> None:
    """Every call of the table, and the root replaced, once (in full 20 times), without one failed call."""
    assert run.status == 0, run.output
    assert f"{len(CALLS)} calls, 0 not as expected" in run.output
    unharmed = re.findall(r"\(\d+ on new connections, \d+ on kept ones\), 0 failed", run.output)
    assert len(unharmed) == ROTATIONS


def test_nothing_is_left_behind(run: Run) -> None:
    """The run folder is gone, and with it whatever was started from it."""
    assert not run.folder.exists()
    left = [path for path in Path("/proc").glob("[0-9]*/environ") if str(run.folder).encode() in _environment(path)]
    assert left == []


def _environment(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_the_readme_shows_what_the_demo_prints(run: Run) -> None:
    """The table in the README is the demo's own, but for this run's port numbers."""
    printed = _table(run.output)
    assert len(printed) > len(CALLS)
    assert _table((ROOT / "README.md").read_text(encoding="utf-8")) == printed


def _table(text: str) -> list[str]:
    """The first table in a text, with one port number for all runs."""
    rows = [line.strip() for line in text.splitlines() if re.match(r"[┏┃┡│├└]", line)]
    end = next((number for number, row in enumerate(rows, 1) if row.startswith("└")), 0)
    return [re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:29000", row) for row in rows[:end]]


def _into_the_readme(output: str) -> None:
    readme = ROOT / "README.md"
    before, fence, rest = readme.read_text(encoding="utf-8").partition("```text\n")
    after = rest.partition("\n```\n")[2]
    readme.write_text(before + fence + "\n".join(_table(output)) + "\n```\n" + after, encoding="utf-8")


def test_every_token_of_the_table_can_be_minted() -> None:
    """The table names only tokens that exist, and uses all of them."""
    assert {call.token for call in CALLS} - {""} == set(TOKENS)


def test_a_row_that_came_out_otherwise_is_a_mismatch() -> None:
    """The same row holds, and does not hold, by one change in what came."""
    call = Call("ingress", "productpage", "/health", "", "200")
    assert Result(call, "200", "").as_expected
    assert not Result(call, "403 deny_rule", "").as_expected


def test_one_failed_call_is_a_failed_rotation() -> None:
    """And so are a certificate that stayed, and too few calls."""
    before, after = dict.fromkeys(SERVERS, "1"), dict.fromkeys(SERVERS, "2")
    assert Rotation(before, after, 200, 200, []).ok
    assert not Rotation(before, after, 200, 200, ["status 401"]).ok
    assert not Rotation(before, after | {"reviews": "1"}, 200, 200, []).ok
    assert not Rotation(before, after, 100, 100, []).ok


@pytest.mark.parametrize(("ok", "status"), [(True, 0), (False, 1)])
def test_a_mismatch_is_the_exit_status(monkeypatch: pytest.MonkeyPatch, *, ok: bool, status: int) -> None:
    """0 if everything was as expected, else 1."""
    monkeypatch.setattr(demo, "_run", lambda *_: ok)
    handler = signal.getsignal(signal.SIGTERM)
    try:
        assert demo.main([]) == status
    finally:
        signal.signal(signal.SIGTERM, handler)


if __name__ == "__main__":
    command = [sys.executable, "-m", "examples.demo"]
    _into_the_readme(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout)
