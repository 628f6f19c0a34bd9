"""For other people's test suites: real tokens and real peers, in memory; nothing is mocked, the real policy judges.

Belongs here: what only a test needs. Must not be imported by a running service.
"""

from ._issuer import TestIssuer

__all__ = ["TestIssuer"]
