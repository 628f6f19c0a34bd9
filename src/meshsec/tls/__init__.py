"""SSL contexts that rotate and verify, usable wherever an ``ssl.SSLContext`` is.

Belongs here: the outer context, guarded sockets, loading of keys, the peer's chain and who it proves the peer to be.
Must not know: where an identity comes from, policies, HTTP, servers.
"""

from ._context import MeshSSLContext, client_context, server_context
from ._extension import asgi_extension
from ._keys import load_svid
from ._material import MaterialSource, StaticMaterial, TlsMaterial
from ._peer import (
    Authorizer,
    VerifiedPeer,
    authorize_any,
    authorize_id,
    authorize_member_of,
    authorize_one_of,
    recheck,
    verify_presented,
)
from ._permissive import is_plaintext
from ._refusal import PeerRefusedError
from ._revocation import Revocations
from ._sockets import verified_peer

__all__ = [
    "Authorizer",
    "MaterialSource",
    "MeshSSLContext",
    "PeerRefusedError",
    "Revocations",
    "StaticMaterial",
    "TlsMaterial",
    "VerifiedPeer",
    "asgi_extension",
    "authorize_any",
    "authorize_id",
    "authorize_member_of",
    "authorize_one_of",
    "client_context",
    "is_plaintext",
    "load_svid",
    "recheck",
    "server_context",
    "verified_peer",
    "verify_presented",
]
