"""A service mesh's security inside the process.

``Mesh.load("mesh/", workload="reviews")`` reads Istio's own YAML; ``mesh.asgi(app)`` and ``mesh.wsgi(app)`` protect
an application with it; ``mesh.server_context()`` and ``mesh.client_context()`` speak mutual TLS with SPIFFE
identities.
"""

from .attributes import AuthContext, Connection, HttpRequest, PeerIdentity, RequestPrincipal
from .decision import Decision, Edits, Outcome, Reason
from .errors import (
    AuthenticationError,
    ConfigError,
    IssuanceError,
    KeysUnavailableError,
    MeshsecError,
    SpiffeIdError,
    SvidError,
    TokenError,
)
from .mesh import Mesh
from .policy import WorkloadPolicy
from .resources import MeshConfig, Workload
from .spiffe import SpiffeId, TrustDomain, X509Bundle, X509Svid

__version__ = "0.1.0"

__all__ = [
    "AuthContext",
    "AuthenticationError",
    "ConfigError",
    "Connection",
    "Decision",
    "Edits",
    "HttpRequest",
    "IssuanceError",
    "KeysUnavailableError",
    "Mesh",
    "MeshConfig",
    "MeshsecError",
    "Outcome",
    "PeerIdentity",
    "Reason",
    "RequestPrincipal",
    "SpiffeId",
    "SpiffeIdError",
    "SvidError",
    "TokenError",
    "TrustDomain",
    "Workload",
    "WorkloadPolicy",
    "X509Bundle",
    "X509Svid",
]
