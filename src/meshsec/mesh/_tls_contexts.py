"""The SSL contexts of one mesh: whom each lets in or answers to, by the policy and naming in force at each handshake.

Must not know: how a handshake is verified, or what becomes of a request.
"""

from __future__ import annotations

import ssl
import threading
import weakref
from collections.abc import Callable, Collection

from .. import tls
from ..errors import ConfigError
from ..resources import MtlsMode
from ..sources import PolicyKeeper
from ..spiffe import SpiffeId, TrustDomain

__all__ = ["Authorize", "TlsContexts"]

Authorize = str | SpiffeId | TrustDomain | Collection[str | SpiffeId] | Callable[[SpiffeId, str | None], None]
"""Who may answer: an ID, a set of them, a whole trust domain, or a function that raises SvidError."""


class TlsContexts:
    """Makes contexts, and builds them anew when a certificate or an authority has changed.

    Args:
        policies: the version in force.
        material: our own SVID and whom we trust; None: the workload has no identity, and no context can be made.
    """

    def __init__(self, policies: PolicyKeeper, material: tls.MaterialSource | None) -> None:
        self._policies = policies
        self._known = material
        self._lock = threading.Lock()
        self._made: weakref.WeakSet[tls.MeshSSLContext] = weakref.WeakSet()

    def server(self, port: int | None) -> ssl.SSLContext:
        """For a listener. Raises ConfigError."""
        if self._policies.current.policy.modes.mode(port) is MtlsMode.DISABLE:
            raise ConfigError(f"the workload's policy disables TLS on port {port}: serve it without a context")
        minimum = self._policies.current.config.min_tls_version
        return self._followed(
            tls.server_context(self._material(), plaintext=lambda: self._takes_plaintext(port), minimum=minimum)
        )

    def client(self, authorize: Authorize | None) -> tls.MeshSSLContext:
        """For outgoing connections. Raises ConfigError."""
        minimum = self._policies.current.config.min_tls_version
        return self._followed(
            tls.client_context(self._material(), authorize=self.authorizer(authorize), minimum=minimum)
        )

    def prepare(self) -> None:
        """Build anew what has changed: by our own thread, so that no event loop has to."""
        with self._lock:
            contexts = list(self._made)
        for context in contexts:
            context.prepare()

    def authorizer(self, authorize: Authorize | None) -> tls.Authorizer:
        """Who may answer, as a function."""
        if authorize is None:
            return self._authorize_by_name
        if isinstance(authorize, TrustDomain):
            return tls.authorize_member_of(authorize)
        if callable(authorize):
            return authorize
        ids = [authorize] if isinstance(authorize, str | SpiffeId) else authorize
        return tls.authorize_one_of([SpiffeId.parse(item) if isinstance(item, str) else item for item in ids])

    def after_fork(self) -> None:
        """A lock that another thread held is held for ever."""
        self._lock = threading.Lock()

    def _authorize_by_name(self, peer: SpiffeId, server_hostname: str | None) -> None:
        """By the naming in force at each handshake, not by the one a context was made under."""
        self._policies.current.naming.authorize(peer, server_hostname)

    def _takes_plaintext(self, port: int | None) -> bool:
        modes = self._policies.current.policy.modes
        return port is not None and modes.declared and modes.mode(port) is MtlsMode.PERMISSIVE

    def _material(self) -> tls.MaterialSource:
        if self._known is None:
            name = self._policies.current.workload.name
            raise ConfigError(
                f"workload {name} has no identity in mesh.yaml or MESHSEC_IDENTITY_…: it cannot use mutual TLS"
            )
        return self._known

    def _followed(self, context: tls.MeshSSLContext) -> tls.MeshSSLContext:
        with self._lock:
            self._made.add(context)
        return context
