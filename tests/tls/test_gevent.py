"""The guards hold on gevent's sockets too, from which ours are derived where gevent has patched Python first."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).parent
MODULES: Final = ("test_guards.py", "test_permissive.py")
# What is about sockets; event loops bring their own TLS to nobody who uses gevent.
CHOSEN: Final = "not object and not objects and not event_loop"
RUN: Final = """
import gevent.monkey, sys
gevent.monkey.patch_all()
import pytest
sys.exit(pytest.main(sys.argv[1:]))
"""


def test_the_same_tests_pass_on_gevents_sockets() -> None:
    """In a process of its own, which nothing of meshsec has been imported into before."""
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-W", "ignore", "-k", CHOSEN]
    root = HERE.parents[1]
    paths = (str(root / "src"), str(root / "tests"), str(root), os.environ.get("PYTHONPATH", ""))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-c", RUN, *options, *(str(HERE / module) for module in MODULES)]
    found = subprocess.run(command, check=False, cwd=root, env=environment, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout[-3000:] + found.stderr[-3000:]
    assert " passed" in found.stdout
