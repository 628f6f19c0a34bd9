"""CONFIG: Istio's API objects and mesh.yaml, typed and strictly read.

Belongs here: parsing, every check that needs one document only, file:line:column. Must not know: which workload a
resource applies to, or how it is enforced.
"""

from ._accounts import ServiceAccount, load_service_accounts
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
from ._extension_providers import ExtAuthzHttp
from ._host import host_key, host_pattern
from ._issuers import IssuerConfig
from ._kubernetes import KubernetesService, ServicePort, ServiceSpec
from ._legacy import (
    Jwt,
    LegacyMutualTls,
    MeshPolicy,
    OriginAuthenticationMethod,
    PeerAuthenticationMethod,
    Policy,
    PolicySpec,
    PortSelector,
    PrincipalBinding,
    StringMatch,
    TargetSelector,
    TriggerRule,
)
from ._load import Resource, load, parse
from ._mesh import (
    AmbiguousPaths,
    Compatibility,
    ForwardedIdentity,
    IdentityConfig,
    KeysConfig,
    MeshConfig,
    PathNormalization,
    Service,
    Workload,
)
from ._mesh_file import MeshFile, MeshText, load_mesh, load_policies, read_mesh
from ._networking import (
    ClientTls,
    DestinationRule,
    DestinationRuleSpec,
    EntryEndpoint,
    EntryPort,
    ServiceEntry,
    ServiceEntrySpec,
    TlsMode,
    TrafficPolicy,
    WorkloadEntry,
)
from ._peer_authentication import MtlsMode, MutualTls, PeerAuthentication, PeerAuthenticationSpec
from ._pods import Pod, PodMaker
from ._protected_resource import ProtectedResource
from ._request_authentication import (
    ClaimToHeader,
    JWTHeader,
    JWTRule,
    Presence,
    RequestAuthentication,
    RequestAuthenticationSpec,
)
from ._resource import Foreign, Metadata, TargetReference, WorkloadSelector
from ._trust_bundles import TrustBundle
from ._values import METHODS
from ._workload_api import workload_api_address

__all__ = [
    "METHODS",
    "Action",
    "AmbiguousPaths",
    "AuthorizationPolicy",
    "AuthorizationPolicySpec",
    "ClaimToHeader",
    "ClientTls",
    "Compatibility",
    "Condition",
    "DestinationRule",
    "DestinationRuleSpec",
    "EntryEndpoint",
    "EntryPort",
    "ExtAuthzHttp",
    "ExtensionProvider",
    "Foreign",
    "ForwardedIdentity",
    "From",
    "IdentityConfig",
    "IssuerConfig",
    "JWTHeader",
    "JWTRule",
    "Jwt",
    "KeysConfig",
    "KubernetesService",
    "LegacyMutualTls",
    "MeshConfig",
    "MeshFile",
    "MeshPolicy",
    "MeshText",
    "Metadata",
    "MtlsMode",
    "MutualTls",
    "Operation",
    "OriginAuthenticationMethod",
    "PathNormalization",
    "PeerAuthentication",
    "PeerAuthenticationMethod",
    "PeerAuthenticationSpec",
    "Pod",
    "PodMaker",
    "Policy",
    "PolicySpec",
    "PortSelector",
    "Presence",
    "PrincipalBinding",
    "ProtectedResource",
    "RequestAuthentication",
    "RequestAuthenticationSpec",
    "Resource",
    "Rule",
    "Service",
    "ServiceAccount",
    "ServiceEntry",
    "ServiceEntrySpec",
    "ServicePort",
    "ServiceSpec",
    "Source",
    "StringMatch",
    "TargetReference",
    "TargetSelector",
    "TlsMode",
    "To",
    "TrafficPolicy",
    "TriggerRule",
    "TrustBundle",
    "Workload",
    "WorkloadEntry",
    "WorkloadSelector",
    "host_key",
    "host_pattern",
    "load",
    "load_mesh",
    "load_policies",
    "load_service_accounts",
    "parse",
    "read_mesh",
    "workload_api_address",
]
