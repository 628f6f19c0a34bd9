"""CONFIG: Istio's API objects and mesh.yaml, typed and strictly read.

Belongs here: parsing, every check that needs one document only, file:line:column. Must not know: which workload a
resource applies to, or how it is enforced.
"""

from ._authorization_policy import (
    Action,
    AuthorizationPolicy,
    AuthorizationPolicySpec,
    Condition,
    ExtensionProvider,
    From,
    Operation,
    Rule,
    Source,
    To,
)
from ._load import Resource, load, parse
from ._mesh import (
    AmbiguousPaths,
    Compatibility,
    IdentityConfig,
    KeysConfig,
    MeshConfig,
    PathNormalization,
    Service,
    Workload,
    host_key,
)
from ._mesh_file import MeshFile, load_mesh, load_policies
from ._peer_authentication import MtlsMode, MutualTls, PeerAuthentication, PeerAuthenticationSpec
from ._request_authentication import (
    ClaimToHeader,
    JWTHeader,
    JWTRule,
    Presence,
    RequestAuthentication,
    RequestAuthenticationSpec,
)
from ._resource import Foreign, Metadata, TargetReference, WorkloadSelector

__all__ = [
    "Action",
    "AmbiguousPaths",
    "AuthorizationPolicy",
    "AuthorizationPolicySpec",
    "ClaimToHeader",
    "Compatibility",
    "Condition",
    "ExtensionProvider",
    "Foreign",
    "From",
    "IdentityConfig",
    "JWTHeader",
    "JWTRule",
    "KeysConfig",
    "MeshConfig",
    "MeshFile",
    "Metadata",
    "MtlsMode",
    "MutualTls",
    "Operation",
    "PathNormalization",
    "PeerAuthentication",
    "PeerAuthenticationSpec",
    "Presence",
    "RequestAuthentication",
    "RequestAuthenticationSpec",
    "Resource",
    "Rule",
    "Service",
    "Source",
    "TargetReference",
    "To",
    "Workload",
    "WorkloadSelector",
    "host_key",
    "load",
    "load_mesh",
    "load_policies",
    "parse",
]
