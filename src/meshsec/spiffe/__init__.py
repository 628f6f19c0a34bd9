"""WHO: SPIFFE names and documents. Pure: no socket, no file, no clock.

Belongs here: IDs, X.509-SVIDs, JWT-SVIDs, bundles, the one leaf profile, chain verification per trust domain. Must
not know: TLS connections, policies, where a certificate is stored.
"""

from ._bundle import X509Bundle, X509BundleSet, namesakes
from ._bundle_format import BundleDocument, read_bundle, read_jwt_bundle, write_bundle
from ._id import SpiffeId, TrustDomain
from ._jwt_svid import JwtSvid, verify_jwt_svid
from ._leaf import check_leaf
from ._svid import PrivateKey, X509Svid
from ._verify import Role, verify_x509_svid

__all__ = [
    "BundleDocument",
    "JwtSvid",
    "PrivateKey",
    "Role",
    "SpiffeId",
    "TrustDomain",
    "X509Bundle",
    "X509BundleSet",
    "X509Svid",
    "check_leaf",
    "namesakes",
    "read_bundle",
    "read_jwt_bundle",
    "verify_jwt_svid",
    "verify_x509_svid",
    "write_bundle",
]
