"""FACTS: the attributes a policy can speak of, frozen, and the one path normalizer.

Belongs here: what a connection and a request *are*. Must not know: what a policy makes of them.
"""

from ._attributes import Attributes, Bound, freeze_claims
from ._client_cert import ClientCertFormat, read_client_cert, read_client_cert_chain
from ._facts import AuthContext, Connection, HttpRequest, PeerIdentity, RequestPrincipal
from ._path import Target, plain_path, read_target
from ._refusal import Refusal
from ._request import RequestFacts, are_clean_lines, read_line, read_request

__all__ = [
    "Attributes",
    "AuthContext",
    "Bound",
    "ClientCertFormat",
    "Connection",
    "HttpRequest",
    "PeerIdentity",
    "Refusal",
    "RequestFacts",
    "RequestPrincipal",
    "Target",
    "are_clean_lines",
    "freeze_claims",
    "plain_path",
    "read_client_cert",
    "read_client_cert_chain",
    "read_line",
    "read_request",
    "read_target",
]
