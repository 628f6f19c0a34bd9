"""One workload's effective policy: select, compile, decide.

Composes authentication and authorization, which never see each other. The decision path is pure: no socket, no file,
no clock (``now`` is handed in), and what it lacks it asks for by returning a question. This module must not know
servers, threads, or where keys and files come from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, Self, TypeVar
from urllib.parse import unquote_to_bytes

from .attributes import (
    Attributes,
    AuthContext,
    Connection,
    HttpRequest,
    Refusal,
    RequestFacts,
    RequestPrincipal,
    read_request,
)
from .authn import (
    CompiledRequestAuthentication,
    KeySnapshot,
    KeySource,
    NeedKeys,
    PeerModes,
    TokenResult,
    compile_peer_authentication,
    compile_request_authentication,
)
from .authz import CompiledAuthorization, Verdict, compile_authorization
from .decision import Decision, Edits, Outcome, Reason
from .errors import ConfigError, Problem, TokenError
from .resources import (
    AuthorizationPolicy,
    MeshConfig,
    MtlsMode,
    PeerAuthentication,
    RequestAuthentication,
    Resource,
    Workload,
)

__all__ = ["NeedKeys", "WorkloadPolicy"]

_Selectable = TypeVar("_Selectable", AuthorizationPolicy, RequestAuthentication)

_CLOSE: Final = Edits(response_headers=(("connection", "close"),))
_PEER_FAILED: Final = "Peer authentication failed."
_DENIED: Final = "RBAC: access denied"
_REALM_PATH: Final = 256  # characters of the path that a challenge repeats, as Istio's proxy does


@dataclass(frozen=True, slots=True)
class WorkloadPolicy:
    """Everything that applies to one workload, compiled and frozen; safe to share between threads.

    Build one with :meth:`compile`.

    Attributes:
        workload: who is protected.
        config: the mesh-wide settings.
        modes: PeerAuthentication, by port.
        tokens: RequestAuthentication.
        rules: AuthorizationPolicy.
        trust_domains: whose peers may be here at all.
        applied: what was selected, as ``Kind namespace/name``.
    """

    workload: Workload
    config: MeshConfig
    modes: PeerModes
    tokens: CompiledRequestAuthentication
    rules: CompiledAuthorization
    trust_domains: frozenset[str]
    applied: tuple[str, ...]

    @classmethod
    def compile(cls, resources: Iterable[Resource], workload: Workload, config: MeshConfig | None = None) -> Self:
        """Select what applies to ``workload`` and compile it.

        Args:
            resources: all resources of the mesh, as :func:`meshsec.resources.load` returns them.
            workload: the workload to protect.
            config: the mesh-wide settings.

        Raises:
            ConfigError: a selected resource cannot be enforced, or none applies and ``allow_no_policy`` is off.
        """
        config = config or MeshConfig()
        resources = tuple(resources)
        peers = [item for item in resources if isinstance(item, PeerAuthentication)]
        _refuse_root_selectors(peers, config)
        requests = _select(resources, RequestAuthentication, workload, config)
        policies = _select(resources, AuthorizationPolicy, workload, config)
        modes = compile_peer_authentication(peers, workload, config)
        if not (modes.declared or requests or policies or config.allow_no_policy):
            raise ConfigError(
                f"no policy applies to workload {workload.name} (namespace {workload.namespace}); "
                "set allowNoPolicy: true in mesh.yaml if that is meant",
                code="no_policy",
            )
        return cls(
            workload,
            config,
            modes,
            compile_request_authentication(requests, compatibility=config.compatibility),
            compile_authorization(policies, config=config),
            frozenset({config.trust_domain, *config.trust_domain_aliases, *config.trust_bundles}),
            tuple(f"{type(item).__name__} {item.id}" for item in (*peers, *requests, *policies)),
        )

    @property
    def sources(self) -> tuple[KeySource, ...]:
        """The key sets that the rules need and that are not written into them."""
        return self.tokens.sources

    def decide(
        self,
        connection: Connection,
        request: HttpRequest,
        keys: KeySnapshot,
        *,
        now: float,
        answers: Sequence[NeedKeys] = (),
    ) -> Decision | NeedKeys:
        """Decide one request, or ask for what is missing. See :meth:`judge`, which also tells who the caller is."""
        answer = self.judge(connection, request, keys, now=now, answers=answers)
        return answer.decision if isinstance(answer, AuthContext) else answer

    def judge(
        self,
        connection: Connection,
        request: HttpRequest,
        keys: KeySnapshot,
        *,
        now: float,
        answers: Sequence[NeedKeys] = (),
    ) -> AuthContext | NeedKeys:
        """Authenticate and authorize one request.

        Args:
            connection: what the transport knows; its peer is taken as verified.
            request: the request's head as it came from the wire.
            keys: the key sets at hand.
            now: wall clock, POSIX seconds.
            answers: the questions that were already answered; with one, this call always decides.

        Returns:
            The caller and the decision, or a question.

        Does not check that the peer's certificate is genuine: only its dates and its trust domain's name.
        """
        refused = self._peer_refusal(connection, now)
        if refused is not None:
            return AuthContext(None, None, refused)
        facts = read_request(request, self.config.path_normalization, self.config.ambiguous_paths)
        if isinstance(facts, Refusal):
            return AuthContext(connection.peer, None, _bad_request(facts))
        if request.mount and not _inside(facts.target.path, request.mount):
            outside = Refusal(Reason.TARGET_OUTSIDE_MOUNT, "the path leaves its mount")
            return AuthContext(connection.peer, None, _bad_request(outside))
        token = self.tokens.authenticate(facts, keys, now=now, ask=not answers)
        if isinstance(token, NeedKeys):
            return token
        if token.error is not None:
            return AuthContext(connection.peer, None, _token_refusal(token.error, facts))
        decision = self._authorize(connection, request, facts, token)
        return AuthContext(connection.peer, token.principal, decision)

    def _peer_refusal(self, connection: Connection, now: float) -> Decision | None:
        peer = connection.peer
        if connection.rejected is not None:
            return _peer_decision(connection.rejected, "the certificate this connection began with no longer holds")
        if peer is not None and peer.not_after is not None and now >= peer.not_after:
            return _peer_decision(Reason.PEER_EXPIRED, f"the certificate of {peer.id} has expired")
        if peer is not None and peer.id.trust_domain.name not in self.trust_domains:
            return _peer_decision(Reason.PEER_DISTRUSTED, f"{peer.id} is of a trust domain that is not trusted here")
        mode = self.modes.mode(connection.destination_port)
        if mode is MtlsMode.DISABLE:
            if connection.tls or peer is not None:
                return _peer_decision(Reason.TLS_NOT_EXPECTED, "PeerAuthentication disables TLS on this port")
        elif peer is None and (mode is MtlsMode.STRICT or connection.tls):
            return _peer_decision(Reason.PEER_REQUIRED, f"no verified peer, and PeerAuthentication says {mode}")
        return None

    def _authorize(
        self, connection: Connection, request: HttpRequest, facts: RequestFacts, token: TokenResult
    ) -> Decision:
        """Judge every reading of the path; the first refusal wins, so the strictest reading does."""
        verdict, attributes = self._verdict(connection, facts, token.principal)
        details: Callable[[], str] = partial(self.rules.explain, attributes)
        if not verdict.allowed:
            return Decision(Outcome.DENY, verdict.reason, _DENIED, verdict.policy, verdict.rule, _details=details)
        raw = facts.target.raw if token.query is None else _with_query(facts.target.path, token.query)
        edits = Edits(
            target=None if raw == request.target else raw,
            remove_headers=token.remove_headers,
            add_headers=token.add_headers,
        )
        return Decision(
            Outcome.ALLOW, verdict.reason, "", verdict.policy, verdict.rule, edits=edits, _details=details
        )

    def _verdict(
        self, connection: Connection, facts: RequestFacts, principal: RequestPrincipal | None
    ) -> tuple[Verdict, Attributes]:
        first: tuple[Verdict, Attributes] | None = None
        for path in facts.target.readings:
            attributes = Attributes(connection, facts, path, principal)
            found = self.rules.evaluate(attributes), attributes
            if not found[0].allowed:
                return found
            first = first or found
        if first is None:
            raise ValueError("a target has at least one reading")
        return first


def _applies(item: AuthorizationPolicy | RequestAuthentication, workload: Workload, config: MeshConfig) -> bool:
    """Namespace and selector; a policy with targetRefs is for gateways and never for a workload."""
    if item.spec.target_refs or item.namespace not in (workload.namespace, config.root_namespace):
        return False
    selector = item.spec.selector
    return selector is None or selector.matches(workload.labels)


def _select(
    resources: Iterable[Resource], kind: type[_Selectable], workload: Workload, config: MeshConfig
) -> list[_Selectable]:
    return [item for item in resources if isinstance(item, kind) and _applies(item, workload, config)]


def _refuse_root_selectors(peers: Iterable[PeerAuthentication], config: MeshConfig) -> None:
    """Istio ignores these without a word, so that a STRICT is silently not applied: refused here."""
    problems = [
        Problem(
            "a PeerAuthentication with a selector has no effect in the root namespace: move it to the workload's",
            source=item.location,
            resource=f"PeerAuthentication {item.id}",
            field="spec.selector",
        )
        for item in peers
        if item.namespace == config.root_namespace and item.spec.selector and item.spec.selector.match_labels
    ]
    if problems:
        raise ConfigError(problems)


def _inside(path: str, mount: str) -> bool:
    """Whether the application that is mounted at ``mount`` would be reached by the normalized path."""
    decoded = unquote_to_bytes(path).decode("latin-1")
    prefix = mount.rstrip("/")
    return decoded == prefix or decoded.startswith(prefix + "/")


def _with_query(path: str, query: str) -> str:
    return f"{path}?{query}" if query else path


def _bad_request(refusal: Refusal) -> Decision:
    return Decision(
        Outcome.BAD_REQUEST, refusal.reason, "Bad Request", edits=_CLOSE, _details=lambda: refusal.message
    )


def _peer_decision(reason: Reason, why: str) -> Decision:
    return Decision(Outcome.UNAUTHENTICATED, reason, _PEER_FAILED, edits=_CLOSE, _details=lambda: why)


def _token_refusal(error: TokenError, facts: RequestFacts) -> Decision:
    """401 with a challenge (RFC 6750 section 3); a wrong audience is 403, as in Istio."""
    reason = Reason(error.code)
    outcome = Outcome.DENY if reason is Reason.JWT_AUDIENCE else Outcome.UNAUTHENTICATED
    # The query stays out of the realm: it may hold the token.
    path = facts.target.path[:_REALM_PATH].replace("\\", "%5C").replace('"', "%22")
    challenge = f'Bearer realm="{facts.scheme}://{facts.host or ""}{path}"'
    if reason is not Reason.JWT_MISSING:
        challenge += ', error="invalid_token"'
    edits = Edits(response_headers=(("www-authenticate", challenge),))
    message = str(error)
    return Decision(outcome, reason, message, edits=edits, _details=lambda: message)
