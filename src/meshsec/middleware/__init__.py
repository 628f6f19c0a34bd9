"""ENFORCE: the thin adapters between a server's interface and the core.

Belongs here: reading a request as ASGI or WSGI hand it over, applying a decision, rendering a refusal. Must not know:
policies, keys, certificates. The two middleware classes are imported from their modules, so that a WSGI program does
not need ASGI's packages: ``meshsec.middleware.asgi`` and ``meshsec.middleware.wsgi``.
"""

from ._current import CURRENT, current_context
from ._enforcer import Enforcer
from ._log import log_refusal
from ._render import Response, render
from ._transport import TRANSPORT_KEY, Transport

__all__ = [
    "CURRENT",
    "TRANSPORT_KEY",
    "Enforcer",
    "Response",
    "Transport",
    "current_context",
    "log_refusal",
    "render",
]
