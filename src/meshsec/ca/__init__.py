"""ISSUE: the embedded certificate authority, Citadel's part: a root, SVIDs, rotation, revocation, files.

Belongs here: making certificates that any verifier accepts, the strictest included, writing them down safely, and
replacing them in time. Must not know: who asks for an identity and why it is his, TLS, policies. Verifying is
:mod:`meshsec.spiffe`'s part.
"""

from ._authority import CertificateAuthority
from ._folder import AuthorityFolder
from ._keys import KEY_TYPES, KeyType
from ._layout import read_signer
from ._lifetime import renewal_time
from ._record import Issuance
from ._request import new_request
from ._rotator import Issuing, Rotator, Sweep
from ._signer import Signer
from ._state import AuthorityState, Phase
from ._store import write_chain, write_identity
from ._stores import FolderStore, MemoryStore, StoredIdentity, SvidStore

__all__ = [
    "KEY_TYPES",
    "AuthorityFolder",
    "AuthorityState",
    "CertificateAuthority",
    "FolderStore",
    "Issuance",
    "Issuing",
    "KeyType",
    "MemoryStore",
    "Phase",
    "Rotator",
    "Signer",
    "StoredIdentity",
    "SvidStore",
    "Sweep",
    "new_request",
    "read_signer",
    "renewal_time",
    "write_chain",
    "write_identity",
]
