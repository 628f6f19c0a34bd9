"""Where there is no Envoy for the platform, it cannot be asked; the other peers can."""

from __future__ import annotations

from importlib.util import find_spec

collect_ignore_glob = [] if find_spec("envoy") else ["test_envoy.py", "test_differences.py", "test_tokens.py"]
