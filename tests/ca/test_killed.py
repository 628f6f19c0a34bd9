"""kill -9 at any instruction: the next process finds everything whole, or puts it right."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path


def test_a_process_may_die_at_any_instruction(tmp_path: Path, rounds: int) -> None:
    """Ten kills, two hundred under MESHSEC_FULL=1; the seed is in the message."""
    seed = random.randrange(1 << 32)
    program = Path(__file__).with_name("killed.py")
    command = [sys.executable, str(program), str(tmp_path), str(rounds), str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"seed {seed}: {done.stderr}"
    assert done.stdout.startswith(f"{rounds} kills")
