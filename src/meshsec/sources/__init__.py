"""LIVE: identities, bundles, keys and policies as they change, published as immutable snapshots.

Belongs here: whatever reads files, dials or waits in the background. Must not know: servers, requests. A bad update
never replaces a good snapshot.
"""

from ._check import Authorizers, Dialled, Provider
from ._cluster import ClusterAccounts
from ._configured import configured_identity, kept_identity
from ._csr import CsrIdentity, CsrServer
from ._csr_endpoint import CsrAnswer, CsrEndpoint, Requester, account_of
from ._csr_wire import endpoint_id
from ._driver import Driver
from ._federation import Federation
from ._forwarded import believed
from ._identity import AuthorityIdentity, FileIdentity, Identity, IdentityKeeper, IdentitySource, StaticIdentity
from ._keys import KeyStore
from ._policies import PolicyKeeper, PolicyVersion, read_settled
from ._workload_api import WorkloadApi, WorkloadApiIdentity
from ._x509_source import X509SourceIdentity

__all__ = [
    "AuthorityIdentity",
    "Authorizers",
    "ClusterAccounts",
    "CsrAnswer",
    "CsrEndpoint",
    "CsrIdentity",
    "CsrServer",
    "Dialled",
    "Driver",
    "Federation",
    "FileIdentity",
    "Identity",
    "IdentityKeeper",
    "IdentitySource",
    "KeyStore",
    "PolicyKeeper",
    "PolicyVersion",
    "Provider",
    "Requester",
    "StaticIdentity",
    "WorkloadApi",
    "WorkloadApiIdentity",
    "X509SourceIdentity",
    "account_of",
    "believed",
    "configured_identity",
    "endpoint_id",
    "kept_identity",
    "read_settled",
]
