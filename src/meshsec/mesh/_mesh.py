"""Mesh: wires sources, policy, naming and tls together; what a user constructs.

Everything that is decided is decided in :mod:`meshsec.policy`; here it only gets its clock, its keys and its
snapshots. Background threads keep those fresh, one each for policy and identity, so that neither waits for what the
other has to wait for; they start on first use, and again after a fork.
"""

from __future__ import annotations

import logging
import os
import ssl
import threading
import time
import weakref
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

from .. import tls
from ..attributes import AuthContext, Connection, HttpRequest
from ..decision import Decision
from ..errors import ConfigError
from ..middleware import Transport
from ..naming import SecureNaming
from ..policy import Remembered, RequestLine, Wanted, WorkloadPolicy
from ..resources import MeshConfig, Resource, Workload
from ..sources import (
    Authorizers,
    Dialled,
    Driver,
    IdentityKeeper,
    IdentitySource,
    KeyStore,
    PolicyKeeper,
    PolicyVersion,
    Provider,
    believed,
    configured_identity,
    kept_identity,
    read_settled,
)
from ._evidence import Evidence
from ._tls_contexts import Authorize, TlsContexts

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication
    from starlette.types import ASGIApp

    from ..middleware.asgi import MeshMiddleware as AsgiMiddleware
    from ..middleware.wsgi import MeshMiddleware as WsgiMiddleware

__all__ = ["Mesh"]

_Function = TypeVar("_Function", bound=Provider)

_log: Final = logging.getLogger("meshsec")
_POLL_SECONDS: Final = 1.0

_meshes: weakref.WeakSet[Mesh] = weakref.WeakSet()


class Mesh:
    """One workload's part of the mesh.

    Args:
        workload: the workload this process is.
        resources: the policies of the mesh.
        config: the mesh-wide settings.
        identity: where our SVID comes from; without one only the TLS contexts fail.
        providers: external authorizers in this process, by the name that CUSTOM policies call them.

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
        providers: Mapping[str, Provider] | None = None,
    ) -> None:
        first = PolicyVersion.compile(resources, workload, config or MeshConfig(), providers=providers or ())
        self._authorizers = Authorizers(providers or {}, self._dial)
        self._keys = KeyStore(first.policy.sources, first.config.keys, issuers=first.config.issuers)
        self._policies = PolicyKeeper(first, self._keys)
        self._driver = Driver(self._policies, self._keys, self._authorizers, begin=self.start)
        self._outgoing: tls.MeshSSLContext | None = None
        self._identity = None if identity is None else kept_identity(identity, workload, first.config)
        material = None if self._identity is None else self._identity.material
        self._evidence = Evidence(material)
        self._contexts = TlsContexts(self._policies, material)
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._running = False
        if self.config.compatibility == "istio":
            _log.warning("compatibility: istio turns every safer reading of ours back to Istio's")
        _meshes.add(self)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str] | None = None,
        *,
        workload: str | None = None,
        providers: Mapping[str, Provider] | None = None,
    ) -> Self:
        """Load a central folder (or its mesh.yaml), and look there for newer policies as long as the mesh runs.

        Args:
            path: the folder or file; by default ``$MESHSEC_CONFIG``.
            workload: which of its workloads this process is; by default ``$MESHSEC_WORKLOAD``, else the only one.
            providers: external authorizers in this process, by name.

        Raises:
            ConfigError: with every problem of every file.
        """
        found = path or os.environ.get("MESHSEC_CONFIG")
        if not found:
            raise ConfigError("name the mesh's folder, or set MESHSEC_CONFIG", code="no_folder")
        text = read_settled(found)
        chosen = text.mesh.workload(workload or os.environ.get("MESHSEC_WORKLOAD"))
        identity = configured_identity(chosen, text.mesh.config, text.mesh.folder)
        resources, config = text.resources(), text.mesh.config
        mesh = cls(workload=chosen, resources=resources, config=config, identity=identity, providers=providers)
        mesh._policies.watch(found, text)
        return mesh

    @property
    def workload(self) -> Workload:
        """The workload this process is."""
        return self._policies.current.workload

    @property
    def config(self) -> MeshConfig:
        """The mesh-wide settings in force."""
        return self._policies.current.config

    @property
    def policy(self) -> WorkloadPolicy:
        """The policy in force now; pure, and the same object until a newer one is loaded."""
        return self._policies.current.policy

    @property
    def naming(self) -> SecureNaming:
        """Secure naming in force: who may answer for which host, and where it is dialled."""
        return self._policies.current.naming

    # ---------------------------------------------------------------- deciding

    def connection(self, transport: Transport | None) -> Connection:
        """The facts about a connection, its peer re-checked: dates now, and trust after every change of a bundle."""
        return self._evidence.connection(transport)

    def recall(
        self, connection: Connection, line: RequestLine, names: tuple[Any, ...], values: Sequence[Any]
    ) -> Remembered | Wanted | None:
        """What is remembered of a request: see :meth:`meshsec.policy.DecisionMemo.recall`."""
        if not self._running:
            with suppress(RuntimeError):  # judging it refuses it
                self.start()
        callers = self._policies.current.policy.callers
        if callers is None or not self._running:
            return None
        try:
            return callers.memo.recall(connection, line, names, values, self._keys.snapshot(), time.time())
        except (TypeError, ValueError):
            return None  # neither text nor bytes: judging it says what that means

    def holds(self, found: Remembered, known: object) -> bool:
        """Whether what was remembered holds for the same request, on a connection of which ``known`` was found."""
        callers, now = self._policies.current.policy.callers, time.time()
        return (
            callers is not None
            and self._running
            and callers.memo.holds(found, self._keys.snapshot(), now)
            and self._evidence.holds(known, now)
        )

    def judge_line(self, request: HttpRequest, wanted: Wanted) -> Remembered | None:
        """Decide by the request line alone, whose caller is known: see :meth:`meshsec.policy.Callers.judge_line`."""
        return self._driver.judge_line(request, wanted)

    def judge(self, connection: Connection, request: HttpRequest, wanted: Wanted | None = None) -> AuthContext:
        """Say who calls and whether they may. Waits in this thread for one fetch of keys, and for authorizers."""
        return self._driver.judge(self._as_forwarded(connection, request), request, wanted)

    def judge_soon(
        self, connection: Connection, request: HttpRequest, wanted: Wanted | None = None
    ) -> AuthContext | Coroutine[Any, Any, AuthContext]:
        """As :meth:`judge`, but where something must be asked first, that is to be awaited."""
        return self._driver.judge_soon(self._as_forwarded(connection, request), request, wanted)

    async def judge_async(self, connection: Connection, request: HttpRequest) -> AuthContext:
        """As :meth:`judge`, without blocking the event loop."""
        found = self.judge_soon(connection, request)
        return found if isinstance(found, AuthContext) else await found

    def decide(self, connection: Connection, request: HttpRequest) -> Decision:
        """Decide one request. Waits in this thread, as :meth:`judge` does."""
        return self.judge(connection, request).decision

    async def decide_async(self, connection: Connection, request: HttpRequest) -> Decision:
        """As :meth:`decide`, without blocking the event loop."""
        return (await self.judge_async(connection, request)).decision

    def _as_forwarded(self, connection: Connection, request: HttpRequest) -> Connection:
        config = self._policies.current.config
        if config.forwarded_identity is None and not config.num_trusted_proxies:
            return connection
        return believed(connection, request, config, self._evidence.material, now=time.time())

    # ---------------------------------------------------------------- external authorizers

    @property
    def providers(self) -> Mapping[str, Provider]:
        """The external authorizers in this process, by name."""
        return MappingProxyType(self._authorizers.providers)

    def provider(self, name: str) -> Callable[[_Function], _Function]:
        """Register a function as the external authorizer of that name: a decorator.

        Args:
            name: one of ``meshConfig.extensionProviders``; the function is asked in place of what is set there.

        Raises:
            ConfigError: ``unknown_provider``: there is none of that name.
        """
        known = self.config.extension_providers
        if name not in known:
            names = ", ".join(sorted(known)) or "none"
            raise ConfigError(
                f"no provider {name[:80]!a} in meshConfig.extensionProviders; it has: {names}",
                code="unknown_provider",
            )

        def register(function: _Function) -> _Function:
            self._authorizers.providers[name] = function
            return function

        return register

    def _dial(self, host: str, port: int) -> Dialled:
        """An authorizer that the mesh names is asked over mutual TLS, as any other service."""
        if not self.naming.knows(host):
            return Dialled(((host, port),))
        if self._outgoing is None:
            self._outgoing = self.client_context()
        naming, context = self.naming, self._outgoing
        return Dialled(naming.endpoints(host, port), context, (naming.ids(host), context.snapshot()))

    # ---------------------------------------------------------------- wrapping

    def asgi(self, app: ASGIApp) -> AsgiMiddleware:
        """Protect an ASGI application."""
        from ..middleware.asgi import MeshMiddleware

        return MeshMiddleware(app, self)

    def wsgi(self, app: WSGIApplication) -> WsgiMiddleware:
        """Protect a WSGI application."""
        from ..middleware.wsgi import MeshMiddleware

        return MeshMiddleware(app, self)

    # ---------------------------------------------------------------- TLS

    def server_context(self, port: int | None = None) -> ssl.SSLContext:
        """An SSL context that rotates, demands a client SVID and verifies it.

        Only where a PeerAuthentication says PERMISSIVE for the port, a connection may be plaintext instead, which its
        first byte tells; asked anew for each connection.

        Args:
            port: the port it will listen on, for PeerAuthentication's ``portLevelMtls``; without it, TLS always.

        Raises:
            ConfigError: the workload has no identity, or PeerAuthentication says DISABLE for the port.
        """
        context = self._contexts.server(port)
        self.start()
        return context

    def client_context(self, authorize: Authorize | None = None) -> tls.MeshSSLContext:
        """An SSL context that rotates, presents our SVID and checks who answers before a byte is sent.

        Args:
            authorize: who may answer; by default secure naming: the IDs that the mesh names for the host.

        Raises:
            ConfigError: the workload has no identity.
        """
        context = self._contexts.client(authorize)
        self.start()
        return context

    # ---------------------------------------------------------------- living

    def start(self) -> None:
        """Start the background threads, once per process. Called on first use; calling it early fails early.

        Raises:
            RuntimeError: no thread can begin; requests are refused until one can.
        """
        if self._running:
            return
        with self._lock:
            if self._running:
                return
            stop = self._stop = threading.Event()  # what an earlier start left behind keeps the one it was given
            try:
                self._keys.start()
                _keep(self._policies.refresh, stop, "meshsec")
                if self._identity is not None:
                    _keep(partial(self._renew, self._identity, stop), stop, "meshsec-identity")
            except BaseException:
                stop.set()
                raise
            self._running = True

    def close(self) -> None:
        """Stop the background threads. The mesh decides on with what it last knew."""
        with self._lock:
            self._stop.set()
            self._keys.close()
            self._authorizers.close()
            if self._identity is not None:
                self._identity.close()
            self._running = False

    def _renew(self, identity: IdentityKeeper, stop: threading.Event) -> None:
        identity.refresh(time.time())
        if stop.is_set():  # closed meanwhile: what this turn may have opened again is closed again
            identity.close()
        self._contexts.prepare()

    def _after_fork(self) -> None:
        """Threads and held locks do not survive a fork: begin anew, lazily."""
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._running = False
        self._authorizers.after_fork()
        self._contexts.after_fork()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def status(self) -> dict[str, Any]:
        """What is loaded, how old it is, what last failed; plain data without secrets."""
        version = self._policies.current
        return {
            "workload": f"{version.workload.namespace}/{version.workload.name}",
            "policies": list(version.policy.applied),
            "foreign": list(version.foreign),
            "reload": self._policies.status(),
            "identity": self._identity.status() if self._identity else None,
            "keys": self._keys.status(),
            "providers": self._authorizers.status(version.config.extension_providers),
        }


def _keep(step: Callable[[], object], stop: threading.Event, name: str) -> None:
    """What waits for others (an agent, an authority) has a thread of its own: it delays no policy."""
    threading.Thread(target=_live, args=(step, stop), name=name, daemon=True).start()


def _live(step: Callable[[], object], stop: threading.Event) -> None:
    while not stop.wait(_POLL_SECONDS):
        try:
            step()
        except Exception:  # noqa: BLE001 - one bad turn must not end the rotation of everything
            _log.exception("a turn of the background thread failed; the next one comes")


def _forget_threads() -> None:
    for mesh in list(_meshes):
        mesh._after_fork()


os.register_at_fork(after_in_child=_forget_threads)
