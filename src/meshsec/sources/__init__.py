"""LIVE: identities, bundles and keys as they change, published as immutable snapshots.

Belongs here: whatever reads files, dials or waits in the background. Must not know: servers, requests. A bad update
never replaces a good snapshot.
"""

from ._identity import AuthorityIdentity, FileIdentity, Identity, IdentityKeeper, IdentitySource, StaticIdentity
from ._keys import KeyStore

__all__ = [
    "AuthorityIdentity",
    "FileIdentity",
    "Identity",
    "IdentityKeeper",
    "IdentitySource",
    "KeyStore",
    "StaticIdentity",
]
