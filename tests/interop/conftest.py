"""Where there is no Envoy for the platform, it cannot be asked; the other peers can.

What needs more than Python packages is for ``make interop`` alone.
"""

from __future__ import annotations

import os
from importlib.util import find_spec

_OF_ENVOY = [
    "test_authorizers.py",
    "test_both_ways.py",
    "test_differences.py",
    "test_envoy.py",
    "test_peers.py",
    "test_remote_keys.py",
    "test_tokens.py",
]
_LARGE = ["test_fronts.py", "test_provider.py", "test_spire.py", "test_tls_clients.py"]

collect_ignore_glob = [
    *([] if find_spec("envoy") else _OF_ENVOY),
    *([] if os.environ.get("MESHSEC_FULL") else _LARGE),
]
