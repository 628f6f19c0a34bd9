"""IS IT TRUE? Which peers a port takes, and who an end user's token says is calling.

Belongs here: PeerAuthentication, RequestAuthentication and the legacy kinds, compiled and judged purely; what is
missing is asked for.
Must not know: authorization, sockets, clocks, where keys come from.
"""

from ._binding import check_binding
from ._cache import TokenCache
from ._digest import secret_digest
from ._keys import KeySnapshot, KeySource, KeyState, NeedKeys
from ._legacy import CompiledLegacy, compile_legacy
from ._legacy_policy import LegacyRefusal, LegacyResult
from ._peer import PeerModes, compile_peer_authentication
from ._request import CompiledRequestAuthentication, TokenResult, compile_request_authentication, is_preflight_head
from ._token import jwt_svid_keys, verify_token

__all__ = [
    "CompiledLegacy",
    "CompiledRequestAuthentication",
    "KeySnapshot",
    "KeySource",
    "KeyState",
    "LegacyRefusal",
    "LegacyResult",
    "NeedKeys",
    "PeerModes",
    "TokenCache",
    "TokenResult",
    "check_binding",
    "compile_legacy",
    "compile_peer_authentication",
    "compile_request_authentication",
    "is_preflight_head",
    "jwt_svid_keys",
    "secret_digest",
    "verify_token",
]
