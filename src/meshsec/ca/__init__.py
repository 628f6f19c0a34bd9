"""ISSUE: the embedded certificate authority, Citadel's part: a root, SVIDs, rotation, files.

Belongs here: making certificates that any verifier accepts, the strictest included, and writing them down safely.
Must not know: who asks for an identity and why it is his, TLS, policies. Verifying is :mod:`meshsec.spiffe`'s part.
"""

from ._authority import CertificateAuthority
from ._store import write_identity

__all__ = ["CertificateAuthority", "write_identity"]
