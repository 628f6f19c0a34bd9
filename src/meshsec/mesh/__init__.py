"""What a user constructs: sources, policy, naming and tls, for one workload.

Belongs here: the clock, threads and snapshots that the rooms below are handed.
Must not know: how anything is decided, verified or fetched.
"""

from ._mesh import Mesh
from ._tls_contexts import Authorize

__all__ = ["Authorize", "Mesh"]
