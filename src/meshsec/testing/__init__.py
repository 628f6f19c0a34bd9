"""For other people's test suites: real tokens and real peers, in memory; nothing is mocked, the real policy judges.

Belongs here: what only a test needs; the fixtures of :mod:`meshsec.testing.plugin` are made of it. Must not be
imported by a running service.
"""

from ._asserts import assert_allowed, assert_denied
from ._client import MeshClient
from ._issuer import TestIssuer
from ._peer import TestPeers

__all__ = ["MeshClient", "TestIssuer", "TestPeers", "assert_allowed", "assert_denied"]
