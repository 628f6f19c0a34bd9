"""Select what applies to a workload, compile it, decide one request after the other.

This file must not know what a decision looks like to another enforcer: ``_envoy`` does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Self

from ..attributes import (
    AuthContext,
    Connection,
    HttpRequest,
    RequestFacts,
    RequestPrincipal,
)
from ..authn import (
    CompiledLegacy,
    CompiledRequestAuthentication,
    KeySnapshot,
    KeySource,
    LegacyRefusal,
    NeedKeys,
    PeerModes,
    TokenResult,
    check_binding,
    compile_legacy,
    compile_peer_authentication,
    compile_request_authentication,
)
from ..authz import NO_CUSTOM, CompiledAuthorization, CompiledCustom, compile_authorization, compile_custom
from ..decision import Decision
from ..errors import ConfigError, TokenError
from ..resources import (
    Action,
    AuthorizationPolicy,
    MeshConfig,
    PeerAuthentication,
    RequestAuthentication,
    Resource,
    Workload,
)
from ._authorize import authorize
from ._callers import Callers
from ._custom import CheckAnswer, NeedCheck, check, reserved_headers
from ._decisions import legacy_refusal, token_refusal
from ._envoy import envoy_config
from ._form import Form
from ._memo import DecisionMemo
from ._metadata import ResourceMetadata
from ._peer import refuse_peer
from ._select import refuse_both, refuse_root_selectors, select

__all__ = ["NeedKeys", "WorkloadPolicy"]

# Of these headers the values always count: the host, and what makes a request a preflight.
_ALWAYS_READ: Final = frozenset({"host", "origin", "access-control-request-method"})
_PROXIES: Final = frozenset({"x-forwarded-for"})


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
        requests: the RequestAuthentications that ``tokens`` was compiled from.
        legacy: Policy and MeshPolicy, in whose place ``modes`` stands too; None where none applies.
        custom: CUSTOM policies, which ask external authorizers.
        reserved: headers that only their providers may set.
        callers: who was let pass a moment ago, and for what; None where nothing may be remembered.
        metadata: what OAuth clients are told (RFC 9728); None: nothing.
    """

    workload: Workload
    config: MeshConfig
    modes: PeerModes
    tokens: CompiledRequestAuthentication
    rules: CompiledAuthorization
    trust_domains: frozenset[str]
    applied: tuple[str, ...]
    requests: tuple[RequestAuthentication, ...] = ()
    legacy: CompiledLegacy | None = None
    custom: CompiledCustom = NO_CUSTOM
    reserved: frozenset[str] = frozenset()
    metadata: ResourceMetadata | None = None
    callers: Callers | None = field(default=None, init=False, repr=False, compare=False)
    _form: Form = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        form = Form(self.config, self.metadata)
        object.__setattr__(self, "_form", form)
        tokens, rules = self.tokens.token_headers, self.rules.headers
        asked = self.custom.policies or self.legacy is not None or self.config.forwarded_identity is not None
        # A rule that looks at what may hold a token would have it remembered with the explanation.
        if self.config.decision_memo and not asked and rules.isdisjoint(tokens | {"authorization"}):
            proxies = _PROXIES if self.config.num_trusted_proxies else frozenset[str]()
            # Authorization counts whoever reads it: two lines that a WSGI server has joined are refused.
            secret = tokens | {"authorization"}
            memo = DecisionMemo(_ALWAYS_READ | proxies | rules, secret)
            object.__setattr__(self, "callers", Callers(memo, form, self.tokens, self.rules))

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
        refuse_root_selectors(peers, config)
        requests = select(resources, RequestAuthentication, workload, config)
        policies = select(resources, AuthorizationPolicy, workload, config)
        judging = [item for item in policies if item.spec.action is not Action.CUSTOM]
        custom = compile_custom([item for item in policies if item.spec.action is Action.CUSTOM], config=config)
        modes = compile_peer_authentication(peers, workload, config)
        legacy, own = compile_legacy(resources, workload, config), workload.protected_resource
        if legacy is not None:
            refuse_both(legacy, requests, modes, workload)
            modes = legacy.modes
        if not (modes.declared or requests or policies or config.allow_no_policy):
            raise ConfigError(
                f"no policy applies to workload {workload.name} (namespace {workload.namespace}); "
                "set allowNoPolicy: true in mesh.yaml if that is meant",
                code="no_policy",
            )
        tokens = _compile_tokens(requests, config)
        secret = (legacy or tokens).token_headers | tokens.output_headers
        return cls(
            workload,
            config,
            modes,
            tokens,
            compile_authorization(judging, config=config, secret_headers=secret),
            frozenset({config.trust_domain, *config.trust_domain_aliases, *config.trust_bundles}),
            tuple(
                f"{type(item).__name__} {item.id}"
                for item in (*peers, *requests, *policies, *(legacy.applied if legacy else ()))
            ),
            tuple(requests),
            legacy,
            custom,
            reserved_headers(custom, config),
            None if own is None else ResourceMetadata.of(own, requests, config.issuers),
        )

    @property
    def sources(self) -> tuple[KeySource, ...]:
        """The key sets that the rules need and that are not written into them."""
        return self.tokens.sources if self.legacy is None else self.legacy.sources

    def to_envoy(self, *, jwks: Mapping[str, str] | None = None) -> dict[str, Any]:
        """The same policy for a real Envoy, as istiod would configure a sidecar; plain values, ready for JSON.

        Args:
            jwks: by issuer, the key set (as JSON text) for rules that name neither ``jwks`` nor ``jwksUri``: Envoy
                does not discover one, istiod does it for it.

        Returns:
            ``http_filters``: RBAC and ext_authz for each CUSTOM provider, jwt_authn, then RBAC for AUDIT, DENY and
            ALLOW, each only where there is something to do; policies on trial are shadow rules. They go before the
            router. ``http_connection_manager``: the settings that make Envoy normalize the path, and count proxies
            (``numTrustedProxies``), as this policy does. ``runtime``: a static layer for the bootstrap.
            Rules with ``jwksUri`` and providers refer to clusters that Istio would name ``outbound|<port>||<host>``.

        Raises:
            ConfigError: ``no_equivalent``: a rule that Envoy would judge otherwise (include and exclude annotations
                that are not those of all rules, key discovery without ``jwks``, ``presence: REQUIRED`` beside other
                rules, ``issuers`` with tenants or JWT-SVIDs), legacy kinds, a provider that is a function,
                ``forwardedIdentity``.

        Has no equivalent there: what ``compatibility: safe`` and ``ambiguous_paths`` refuse beyond Istio; the
        modes of PeerAuthentication, the trust domains and the dates of certificates, which are the listener's; the
        mount of an application. Envoy itself writes or removes some headers (``x-request-id``, ``x-envoy-*``,
        hop-by-hop ones) before a rule sees them. Values are the compiled ones: trust domain aliases are expanded.
        """
        if self.legacy is not None:
            raise ConfigError("legacy kinds have no equivalent in today's Envoy", code="no_equivalent")
        return envoy_config(self.config, self.requests, self.rules, self.custom, jwks or {})

    def decide(
        self,
        connection: Connection,
        request: HttpRequest,
        keys: KeySnapshot,
        *,
        now: float,
        answers: Sequence[NeedKeys | CheckAnswer] = (),
    ) -> Decision | NeedKeys | NeedCheck:
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
        answers: Sequence[NeedKeys | CheckAnswer] = (),
    ) -> AuthContext | NeedKeys | NeedCheck:
        """Authenticate and authorize one request.

        Args:
            connection: what the transport knows; its peer is taken as verified.
            request: the request's head as it came from the wire.
            keys: the key sets at hand.
            now: wall clock, POSIX seconds.
            answers: to the questions that were asked before about this request: for a NeedKeys itself, once its keys
                were fetched, well or badly; for a NeedCheck what the provider said. No question is asked twice.

        Returns:
            The caller and the decision, or a question.

        Does not check that the peer's certificate is genuine: only its dates and its trust domain's name.
        """
        refused = refuse_peer(self.modes, self.trust_domains, connection, now)
        if refused is not None:
            return AuthContext(None, None, refused)
        facts = self._form.read(request)
        if isinstance(facts, Decision):
            return AuthContext(connection.peer, None, facts)
        if not self.custom.policies:
            return self._judge_checked(connection, request, facts, keys, now=now, ask=not answers)
        passed = check(self.custom, self.reserved, connection, facts, answers)
        if isinstance(passed, NeedCheck):
            return passed
        if isinstance(passed, Decision):
            return AuthContext(connection.peer, None, passed)
        ask = not any(isinstance(answer, NeedKeys) for answer in answers)
        found = self._judge_checked(connection, request, passed.facts, keys, now=now, ask=ask)
        return found if isinstance(found, NeedKeys) else passed.completed(found)

    def _judge_checked(
        self,
        connection: Connection,
        request: HttpRequest,
        facts: RequestFacts,
        keys: KeySnapshot,
        *,
        now: float,
        ask: bool,
    ) -> AuthContext | NeedKeys:
        if self.legacy is not None:
            return self._judge_legacy(self.legacy, connection, request, facts, keys, now=now, ask=ask)
        token = self.tokens.authenticate(facts, keys, now=now, ask=ask)
        if isinstance(token, NeedKeys):
            return token
        error = token.error or self._binding_error(token.accepted, connection)
        if error is not None:
            return AuthContext(connection.peer, None, token_refusal(error, facts, self.metadata))
        decision = authorize(self.rules, connection, request, facts, token)
        return AuthContext(connection.peer, token.principal, decision, token.text, self._form.metadata_url)

    def _judge_legacy(
        self,
        legacy: CompiledLegacy,
        connection: Connection,
        request: HttpRequest,
        facts: RequestFacts,
        keys: KeySnapshot,
        *,
        now: float,
        ask: bool,
    ) -> AuthContext | NeedKeys:
        """The legacy kinds say who calls; today's AuthorizationPolicy says whether they may."""
        found = legacy.authenticate(connection.destination_port, connection.peer, facts, keys, now=now, ask=ask)
        if isinstance(found, NeedKeys):
            return found
        if isinstance(found, LegacyRefusal):
            return AuthContext(connection.peer, None, legacy_refusal(found, facts, self.metadata))
        error = self._binding_error([found.principal], connection)
        if error is not None:
            return AuthContext(connection.peer, None, token_refusal(error, facts, self.metadata))
        known = replace(connection, peer=found.peer)
        decision = authorize(self.rules, known, request, facts, TokenResult(found.judged), found.bound)
        return AuthContext(found.peer, found.principal, decision, found.text, self._form.metadata_url)

    def _binding_error(
        self, principals: Iterable[RequestPrincipal | None], connection: Connection
    ) -> TokenError | None:
        """Whether any of the tokens is another connection's; Istio's proxy does not look."""
        try:
            if self.config.compatibility != "istio":
                for principal in principals:
                    check_binding(principal, connection.peer)
        except TokenError as error:
            return error
        return None


def _compile_tokens(requests: Sequence[RequestAuthentication], config: MeshConfig) -> CompiledRequestAuthentication:
    return compile_request_authentication(
        requests, compatibility=config.compatibility, token_cache=config.keys.token_cache, own=config.issuers
    )
