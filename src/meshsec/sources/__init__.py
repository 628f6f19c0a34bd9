"""LIVE: identities, bundles, keys and policies as they change, published as immutable snapshots.

Belongs here: whatever reads files, dials or waits in the background. Must not know: servers, requests. A bad update
never replaces a good snapshot.
"""

from ._check import Authorizers, Dialled, Provider
from ._configured import configured_identity, kept_identity
from ._driver import Driver
from ._forwarded import believed
from ._identity import AuthorityIdentity, FileIdentity, Identity, IdentityKeeper, IdentitySource, StaticIdentity
from ._keys import KeyStore
from ._policies import PolicyKeeper, PolicyVersion, read_settled
from ._x509_source import X509SourceIdentity

__all__ = [
    "AuthorityIdentity",
    "Authorizers",
    "Dialled",
    "Driver",
    "FileIdentity",
    "Identity",
    "IdentityKeeper",
    "IdentitySource",
    "KeyStore",
    "PolicyKeeper",
    "PolicyVersion",
    "Provider",
    "StaticIdentity",
    "X509SourceIdentity",
    "believed",
    "configured_identity",
    "kept_identity",
    "read_settled",
]
