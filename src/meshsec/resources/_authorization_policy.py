"""AuthorizationPolicy: who may do what, under which conditions (Istio's API object, typed).

Belongs here: the fields, and every rule of Istio's own validation that needs one object only. Must not know: how a
rule is matched, or which of several policies decides.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Annotated, Any, Final, Literal

from pydantic import AliasChoices, Field, ValidationInfo, field_validator, model_validator
from pydantic.alias_generators import to_camel

from ..matching import parse_path_pattern
from ._conditions import check_key, value_check
from ._model import Model, Text, check_each, checked, complain
from ._problems import Complaint
from ._resource import IstioObject, Targets
from ._values import (
    check_host,
    check_ip_block,
    check_method,
    check_namespace,
    check_port,
    check_principal,
    check_request_principal,
    check_service_account,
    check_trust_domain,
)

__all__ = [
    "Action",
    "AuthorizationPolicy",
    "AuthorizationPolicySpec",
    "Condition",
    "ExtensionProvider",
    "From",
    "Operation",
    "Rule",
    "Source",
    "To",
]

DRY_RUN: Final = "istio.io/dry-run"

# Go's strconv.ParseBool, by which Istio reads the annotation.
_TRUE: Final = frozenset({"1", "t", "T", "true", "TRUE", "True"})
_FALSE: Final = frozenset({"0", "f", "F", "false", "FALSE", "False"})


class Action(StrEnum):
    """What a matching rule does."""

    ALLOW = "ALLOW"
    DENY = "DENY"
    AUDIT = "AUDIT"
    CUSTOM = "CUSTOM"


_ON_TRIAL: Final = frozenset({Action.ALLOW, Action.DENY})
_NEED_RULES: Final[Mapping[Action, str]] = {Action.DENY: "denies nothing", Action.CUSTOM: "asks nobody"}

# What Istio's proxy does not know when it asks an external authorizer, as fields and as keys of ``when``.
_IDENTITY_FIELDS: Final = ("principals", "request_principals", "namespaces", "service_accounts", "trust_domains")
_IDENTITY_KEYS: Final = ("source.principal", "source.namespace", "source.serviceAccount", "source.trustDomain")

_Value = Annotated[Text, Field(max_length=8192)]
_SOME: Final = Field(min_length=1, max_length=10_000)

_Values = Annotated[tuple[_Value, ...], _SOME]
_Hosts = Annotated[tuple[Annotated[_Value, checked(check_host)], ...], _SOME]
_IpBlocks = Annotated[tuple[Annotated[_Value, checked(check_ip_block)], ...], _SOME]
_Methods = Annotated[tuple[Annotated[_Value, checked(check_method)], ...], _SOME]
_Namespaces = Annotated[tuple[Annotated[_Value, checked(check_namespace)], ...], _SOME]
_Paths = Annotated[tuple[Annotated[_Value, checked(parse_path_pattern)], ...], _SOME]
_Ports = Annotated[tuple[Annotated[_Value, checked(check_port)], ...], _SOME]
_Principals = Annotated[tuple[Annotated[_Value, checked(check_principal)], ...], _SOME]
_RequestPrincipals = Annotated[tuple[Annotated[_Value, checked(check_request_principal)], ...], _SOME]
_ServiceAccounts = Annotated[
    tuple[Annotated[_Value, checked(check_service_account)], ...], Field(min_length=1, max_length=16)
]
_TrustDomains = Annotated[tuple[Annotated[_Value, checked(check_trust_domain)], ...], _SOME]


class _Entry(Model):
    """A set of fields that must not all be absent: an empty one would match everything."""

    @model_validator(mode="before")
    @classmethod
    def _not_empty(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and not data:
            raise ValueError("nothing stands here, which would match everything: name at least one field")
        return data


class Source(_Entry):
    """Who calls. Fields are ANDed, the values of a field ORed; ``not_…`` negates.

    Attributes:
        principals: SPIFFE IDs without ``spiffe://``.
        request_principals: ``iss/sub`` of a token.
        namespaces: of the caller's service account.
        service_accounts: ``name`` in the policy's namespace, or ``namespace/name``.
        trust_domains: of the caller's SPIFFE ID.
        ip_blocks: addresses of the directly connected peer.
        remote_ip_blocks: addresses of the original client, behind trusted proxies.
    """

    principals: _Principals = ()
    not_principals: _Principals = ()
    request_principals: _RequestPrincipals = ()
    not_request_principals: _RequestPrincipals = ()
    namespaces: _Namespaces = ()
    not_namespaces: _Namespaces = ()
    service_accounts: _ServiceAccounts = ()
    not_service_accounts: _ServiceAccounts = ()
    trust_domains: _TrustDomains = ()
    not_trust_domains: _TrustDomains = ()
    ip_blocks: _IpBlocks = ()
    not_ip_blocks: _IpBlocks = ()
    remote_ip_blocks: _IpBlocks = ()
    not_remote_ip_blocks: _IpBlocks = ()

    @field_validator("service_accounts", "not_service_accounts")
    @classmethod
    def _alone(cls, accounts: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        others = ("principals", "not_principals", "namespaces", "not_namespaces")
        if any(info.data.get(name) for name in others):
            raise ValueError("service accounts cannot be combined with principals or namespaces in one source")
        return accounts


class Operation(_Entry):
    """What is done. Fields are ANDed, the values of a field ORed; ``not_…`` negates.

    Attributes:
        hosts: as the client sent it, port included.
        ports: the workload's, as text.
        methods: case-sensitive.
        paths: without query; exact, ``p*``, ``*s`` or templates.
    """

    hosts: _Hosts = ()
    not_hosts: _Hosts = ()
    ports: _Ports = ()
    not_ports: _Ports = ()
    methods: _Methods = ()
    not_methods: _Methods = ()
    paths: _Paths = ()
    not_paths: _Paths = ()


class From(Model):
    """One caller of a rule."""

    source: Source


class To(Model):
    """One operation of a rule."""

    operation: Operation


class Condition(Model):
    """One ``when``: an attribute and its values.

    Attributes:
        key: the attribute.
        values: any of them.
        not_values: none of them.
    """

    key: Annotated[Text, checked(check_key)]
    values: _Values = ()
    not_values: _Values = ()

    @field_validator("values", "not_values")
    @classmethod
    def _fit_the_key(cls, values: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if "key" in info.data:
            check_each(values, value_check(info.data["key"]))
        return values

    @model_validator(mode="after")
    def _some_value(self) -> Condition:
        if not self.values and not self.not_values:
            raise ValueError("a condition needs values or notValues")
        return self


class Rule(Model):
    """Some of ``from_``, some of ``to`` and all of ``when``; what is absent holds for every request."""

    from_: Annotated[tuple[From, ...], Field(min_length=1, max_length=512)] | None = Field(
        default=None, validation_alias=AliasChoices("from", "from_")
    )
    to: Annotated[tuple[To, ...], Field(min_length=1)] | None = None
    when: Annotated[tuple[Condition, ...], Field(min_length=1)] | None = None


def _about_identity(rule: Rule) -> Iterator[tuple[int | str, ...]]:
    """Where a rule speaks of who calls."""
    for index, item in enumerate(rule.from_ or ()):
        for name in _IDENTITY_FIELDS:
            for spelling in (name, f"not_{name}"):
                if getattr(item.source, spelling):
                    yield "from", index, "source", to_camel(spelling)
    for index, condition in enumerate(rule.when or ()):
        if condition.key in _IDENTITY_KEYS or condition.key.startswith("request.auth."):
            yield "when", index, "key"


class ExtensionProvider(Model):
    """The external authorizer of a CUSTOM policy."""

    name: Text


class AuthorizationPolicySpec(Targets):
    """The spec of an AuthorizationPolicy.

    Attributes:
        action: what a matching rule does.
        provider: for CUSTOM only.
        rules: any of which must match. None and an empty tuple mean the same: none ever matches.
    """

    action: Action = Action.ALLOW
    provider: ExtensionProvider | None = Field(default=None, validate_default=True)
    rules: Annotated[tuple[Rule, ...], Field(max_length=512)] | None = Field(default=None, validate_default=True)

    @field_validator("provider")
    @classmethod
    def _for_custom(cls, provider: ExtensionProvider | None, info: ValidationInfo) -> ExtensionProvider | None:
        custom = info.data.get("action") is Action.CUSTOM
        if provider is not None and "action" in info.data and not custom:
            raise ValueError("a provider belongs to action CUSTOM only")
        if provider is None and custom:
            raise ValueError("action CUSTOM needs a provider: name one of meshConfig.extensionProviders")
        return provider

    @field_validator("rules")
    @classmethod
    def _deny_what(cls, rules: tuple[Rule, ...] | None, info: ValidationInfo) -> tuple[Rule, ...] | None:
        action = info.data.get("action", Action.ALLOW)
        if not rules and action in _NEED_RULES:
            raise ValueError(f"a {action} policy without rules {_NEED_RULES[action]}: name at least one")
        if action is Action.CUSTOM:
            complain(
                ((index, *below), "CUSTOM is judged before any identity is known: it cannot depend on this")
                for index, rule in enumerate(rules or ())
                for below in _about_identity(rule)
            )
        return rules


class AuthorizationPolicy(IstioObject):
    """Who may do what on the selected workloads. Any ALLOW policy there refuses everything no ALLOW rule matches."""

    kind: Literal["AuthorizationPolicy"] = "AuthorizationPolicy"
    spec: AuthorizationPolicySpec = AuthorizationPolicySpec()

    @classmethod
    def _check_annotations(cls, annotations: Mapping[str, str]) -> list[Complaint]:
        found = super()._check_annotations(annotations)
        if annotations.get(DRY_RUN, "false") not in _TRUE | _FALSE:
            found.append((("annotations", DRY_RUN), "true or false belongs here: Istio would enforce the policy"))
        return found

    @model_validator(mode="after")
    def _trial(self) -> AuthorizationPolicy:
        action = self.spec.action
        if self.dry_run and action not in _ON_TRIAL:
            complain([(("metadata", "annotations", DRY_RUN), f"only ALLOW and DENY can be on trial, not {action}")])
        return self

    @property
    def dry_run(self) -> bool:
        """Whether it is on trial: what it would do is recorded, and nothing of it is done."""
        return self.metadata.annotations.get(DRY_RUN) in _TRUE
