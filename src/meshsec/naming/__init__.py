"""WHO SHOULD IT BE? Secure naming: a host → where it is dialled, and the SPIFFE IDs that may answer for it.

Belongs here: what Istio computes from services and their accounts, and trust domain aliases for it. Must not know:
sockets, TLS, DNS, or who the caller is.
"""

from ._entry import Entry
from ._table import SecureNaming

__all__ = ["Entry", "SecureNaming"]
