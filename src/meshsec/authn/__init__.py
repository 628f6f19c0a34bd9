"""IS IT TRUE? Which peers a port takes, and who an end user's token says is calling.

Belongs here: PeerAuthentication and RequestAuthentication, compiled and judged purely; what is missing is asked for.
Must not know: authorization, sockets, clocks, where keys come from.
"""

from ._keys import KeySnapshot, KeySource, KeyState, NeedKeys
from ._peer import PeerModes, compile_peer_authentication
from ._request import CompiledRequestAuthentication, TokenResult, compile_request_authentication
from ._token import verify_token

__all__ = [
    "CompiledRequestAuthentication",
    "KeySnapshot",
    "KeySource",
    "KeyState",
    "NeedKeys",
    "PeerModes",
    "TokenResult",
    "compile_peer_authentication",
    "compile_request_authentication",
    "verify_token",
]
