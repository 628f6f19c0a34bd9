"""Mesh: wires sources, policy, naming and tls together; what a user constructs.

Everything that is decided is decided in :mod:`meshsec.policy`; here it only gets its clock, its keys and its
snapshots. One background thread per process keeps those fresh; it starts on first use, and again after a fork.
"""

from __future__ import annotations

import logging
import os
import ssl
import threading
import time
import weakref
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from . import tls
from .attributes import AuthContext, Connection, HttpRequest, PeerIdentity
from .ca import CertificateAuthority
from .decision import Decision, Outcome, Reason
from .errors import ConfigError, KeysUnavailableError, MeshsecError, SvidError
from .middleware import Transport
from .naming import SecureNaming
from .policy import NeedKeys, WorkloadPolicy
from .resources import Foreign, MeshConfig, MtlsMode, Resource, Workload, load_mesh, load_policies
from .sources import AuthorityIdentity, FileIdentity, IdentityKeeper, IdentitySource, KeyStore
from .spiffe import SpiffeId, TrustDomain, X509Bundle

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication
    from starlette.types import ASGIApp

    from .middleware.asgi import MeshMiddleware as AsgiMiddleware
    from .middleware.wsgi import MeshMiddleware as WsgiMiddleware

__all__ = ["Authorize", "Mesh"]

Authorize = str | SpiffeId | TrustDomain | Collection[str | SpiffeId] | Callable[[SpiffeId, str | None], None]
"""Who may answer: an ID, a set of them, a whole trust domain, or a function that raises SvidError."""

_log: Final = logging.getLogger("meshsec")
_POLL_SECONDS: Final = 1.0
_INTERNAL_ERROR: Final = Decision(Outcome.DENY, Reason.INTERNAL_ERROR, "Internal Server Error", status=500)

_meshes: weakref.WeakSet[Mesh] = weakref.WeakSet()


class Mesh:
    """One workload's part of the mesh.

    Args:
        workload: the workload this process is.
        resources: the policies of the mesh.
        config: the mesh-wide settings.
        identity: where our SVID comes from; without one only the TLS contexts fail.

    Raises:
        ConfigError: a policy cannot be enforced, or none applies to the workload.

    It may be used as a context manager; :meth:`close` stops its thread.
    """

    def __init__(
        self,
        *,
        workload: Workload,
        resources: Sequence[Resource] = (),
        config: MeshConfig | None = None,
        identity: IdentitySource | None = None,
    ) -> None:
        self.workload = workload
        self.config = config or MeshConfig()
        self._policy = WorkloadPolicy.compile(resources, workload, self.config)
        self._foreign = tuple(f"{item.kind} {item.id}" for item in resources if isinstance(item, Foreign))
        self.naming = SecureNaming(self.config.services, self.config)
        self._keys = KeyStore(self._policy.sources, self.config.keys)
        self._identity = None if identity is None else self._keep(identity)
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._running = False
        if self.config.compatibility == "istio":
            _log.warning("compatibility: istio turns every safer reading of ours back to Istio's")
        _meshes.add(self)

    @classmethod
    def load(cls, path: str | os.PathLike[str] | None = None, *, workload: str | None = None) -> Self:
        """Load a central folder (or its mesh.yaml).

        Args:
            path: the folder or file; by default ``$MESHSEC_CONFIG``.
            workload: which of its workloads this process is; by default ``$MESHSEC_WORKLOAD``, else the only one.

        Raises:
            ConfigError: with every problem of every file.
        """
        found = path or os.environ.get("MESHSEC_CONFIG")
        if not found:
            raise ConfigError("name the mesh's folder, or set MESHSEC_CONFIG", code="no_folder")
        file = load_mesh(found)
        chosen = file.workload(workload or os.environ.get("MESHSEC_WORKLOAD"))
        identity = _identity_source(chosen, file.config, file.folder)
        return cls(workload=chosen, resources=load_policies(file), config=file.config, identity=identity)

    # ---------------------------------------------------------------- deciding

    def connection(self, transport: Transport | None) -> Connection:
        """The facts about a connection, its peer re-checked: dates now, and trust after every change of a bundle."""
        if transport is None:
            return Connection()
        verified = None if transport.tls is None else tls.verified_peer(transport.tls)
        peer, rejected = self._recheck(verified)
        return Connection(
            source_ip=transport.source_ip,
            destination_ip=transport.destination_ip,
            destination_port=transport.destination_port,
            peer=peer,
            sni=verified.sni if verified else None,
            tls=transport.tls is not None,
            rejected=rejected,
        )

    def judge(self, connection: Connection, request: HttpRequest) -> AuthContext:
        """Say who calls and whether they may. Waits in this thread for at most one fetch of keys."""
        self.start()
        answer = self._judge(connection, request)
        if isinstance(answer, NeedKeys):
            self._keys.wait(answer)
            answer = self._judge(connection, request, (answer,))
        return _final(answer)

    async def judge_async(self, connection: Connection, request: HttpRequest) -> AuthContext:
        """As :meth:`judge`, without blocking the event loop."""
        self.start()
        answer = self._judge(connection, request)
        if isinstance(answer, NeedKeys):
            await self._keys.wait_async(answer)
            answer = self._judge(connection, request, (answer,))
        return _final(answer)

    def decide(self, connection: Connection, request: HttpRequest) -> Decision:
        """Decide one request. Waits in this thread for at most one fetch of keys."""
        return self.judge(connection, request).decision

    async def decide_async(self, connection: Connection, request: HttpRequest) -> Decision:
        """As :meth:`decide`, without blocking the event loop."""
        return (await self.judge_async(connection, request)).decision

    def _judge(
        self, connection: Connection, request: HttpRequest, answers: Sequence[NeedKeys] = ()
    ) -> AuthContext | NeedKeys:
        try:
            return self._policy.judge(connection, request, self._keys.snapshot(), now=time.time(), answers=answers)
        except Exception:  # noqa: BLE001 - whatever breaks in here, the door stays shut
            # The traceback goes to the log and never to the caller.
            _log.exception("a request could not be judged and was refused")
            return AuthContext(None, None, _INTERNAL_ERROR)

    def _recheck(self, peer: tls.VerifiedPeer | None) -> tuple[PeerIdentity | None, Reason | None]:
        if peer is None or self._identity is None:
            return None, None
        try:
            peer = tls.recheck(peer, self._identity.material, now=time.time())
        except SvidError as error:
            return None, Reason.PEER_EXPIRED if error.code == Reason.PEER_EXPIRED else Reason.PEER_DISTRUSTED
        return PeerIdentity(peer.id, peer.certificate_sha256, peer.not_after), None

    # ---------------------------------------------------------------- wrapping

    def asgi(self, app: ASGIApp) -> AsgiMiddleware:
        """Protect an ASGI application."""
        from .middleware.asgi import MeshMiddleware

        return MeshMiddleware(app, self)

    def wsgi(self, app: WSGIApplication) -> WsgiMiddleware:
        """Protect a WSGI application."""
        from .middleware.wsgi import MeshMiddleware

        return MeshMiddleware(app, self)

    # ---------------------------------------------------------------- TLS

    def server_context(self, port: int | None = None) -> ssl.SSLContext:
        """An SSL context that rotates, demands a client SVID and verifies it.

        Args:
            port: the port it will listen on, for PeerAuthentication's ``portLevelMtls``.

        Raises:
            ConfigError: the workload has no identity, or PeerAuthentication says DISABLE for the port.
        """
        if self._policy.modes.mode(port) is MtlsMode.DISABLE:
            raise ConfigError(f"PeerAuthentication disables TLS on port {port}: serve it without a context")
        self.start()
        return tls.server_context(self._material())

    def client_context(self, authorize: Authorize | None = None) -> ssl.SSLContext:
        """An SSL context that rotates, presents our SVID and checks who answers before a byte is sent.

        Args:
            authorize: who may answer; by default secure naming: the IDs that the mesh names for the host.

        Raises:
            ConfigError: the workload has no identity.
        """
        self.start()
        return tls.client_context(self._material(), authorize=self._authorizer(authorize))

    def _material(self) -> tls.MaterialSource:
        if self._identity is None:
            raise ConfigError(f"workload {self.workload.name} has no identity: it cannot use mutual TLS")
        return self._identity.material

    def _authorizer(self, authorize: Authorize | None) -> tls.Authorizer:
        if authorize is None:
            return self.naming.authorize
        if isinstance(authorize, TrustDomain):
            return tls.authorize_member_of(authorize)
        if isinstance(authorize, str | SpiffeId):
            return tls.authorize_id(_spiffe_id(authorize))
        if callable(authorize):
            return authorize
        return tls.authorize_one_of([_spiffe_id(item) for item in authorize])

    def _keep(self, source: IdentitySource) -> IdentityKeeper:
        keeper = IdentityKeeper(
            source,
            expected=self.workload.spiffe_id(self.config.trust_domain),
            aliases=self.config.trust_domain_aliases,
            foreign=_foreign_bundles(self.config),
        )
        try:
            keeper.load(time.time())
        except SvidError as error:
            if error.code == "wrong_identity":
                raise ConfigError(str(error), code=error.code) from error
            keeper.refresh(time.time())
        except (MeshsecError, OSError):
            # Not there yet, as at the start of a pod: handshakes fail until it is. Logged by the keeper.
            keeper.refresh(time.time())
        return keeper

    # ---------------------------------------------------------------- living

    def start(self) -> None:
        """Start the background thread, once per process. Called on first use; calling it early fails early."""
        if self._running:
            return
        with self._lock:
            if self._running:
                return
            self._stop.clear()
            self._keys.start()
            threading.Thread(target=self._live, args=(self._stop,), name="meshsec", daemon=True).start()
            self._running = True

    def close(self) -> None:
        """Stop the background thread. The mesh decides on with what it last knew."""
        with self._lock:
            self._stop.set()
            self._keys.close()
            self._running = False

    def _live(self, stop: threading.Event) -> None:
        while not stop.wait(_POLL_SECONDS):
            if self._identity is not None:
                self._identity.refresh(time.time())

    def _after_fork(self) -> None:
        """Threads and held locks do not survive a fork: begin anew, lazily."""
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._running = False

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def status(self) -> dict[str, Any]:
        """What is loaded, how old it is, what last failed; plain data without secrets."""
        return {
            "workload": f"{self.workload.namespace}/{self.workload.name}",
            "policies": list(self._policy.applied),
            "foreign": list(self._foreign),
            "identity": self._identity.status() if self._identity else None,
            "keys": self._keys.status(),
        }


def _forget_threads() -> None:
    for mesh in list(_meshes):
        mesh._after_fork()


os.register_at_fork(after_in_child=_forget_threads)


def _final(answer: AuthContext | NeedKeys) -> AuthContext:
    """A second call always decides; were it ever to ask again, that is a refusal."""
    if isinstance(answer, NeedKeys):
        raise KeysUnavailableError("the policy asked for keys twice")
    return answer


def _spiffe_id(value: str | SpiffeId) -> SpiffeId:
    return SpiffeId.parse(value) if isinstance(value, str) else value


def _identity_source(workload: Workload, config: MeshConfig, folder: Path) -> IdentitySource | None:
    """``$MESHSEC_IDENTITY_FILES`` first: where certificates are mounted is the machine's affair, not the mesh's."""
    files = os.environ.get("MESHSEC_IDENTITY_FILES") or (workload.identity and workload.identity.files)
    if files:
        return FileIdentity(folder / files, config.trust_domain)
    authority = workload.identity and workload.identity.development_authority
    if authority:
        _log.warning("developmentAuthority puts a signing key into this process: for tests and laptops only")
        return AuthorityIdentity(
            CertificateAuthority.load(folder / authority), workload.spiffe_id(config.trust_domain)
        )
    return None


def _foreign_bundles(config: MeshConfig) -> list[X509Bundle]:
    return [
        X509Bundle.from_pem(name, Path(path).read_bytes(), source=path) for name, path in config.trust_bundles.items()
    ]
