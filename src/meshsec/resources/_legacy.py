"""The legacy kinds Policy and MeshPolicy of ``authentication.istio.io/v1alpha1`` (Istio up to 1.5), typed.

Belongs here: the fields and their own rules. Must not know: which of several applies to a workload, or how it is
enforced.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from ..matching import Kind, Regex, StringPattern
from ._model import Flag, Model, PortNumber, Text, Token, checked, complain, is_dns_label
from ._problems import Complaint
from ._request_authentication import InlineKeys, keys_from_one_place
from ._resource import SecurityObject
from ._scalar import Unquoted
from ._url import Url

__all__ = [
    "Jwt",
    "LegacyMutualTls",
    "MeshPolicy",
    "OriginAuthenticationMethod",
    "PeerAuthenticationMethod",
    "Policy",
    "PolicySpec",
    "PortSelector",
    "PrincipalBinding",
    "StringMatch",
    "TargetSelector",
    "TriggerRule",
]

_DEFAULT: Final = "default"


class PrincipalBinding(StrEnum):
    """Whose identity ``request.auth.principal`` is."""

    USE_PEER = "USE_PEER"
    USE_ORIGIN = "USE_ORIGIN"


# ------------------------------------------------------------------ whose policy it is


def _short_name(text: str) -> None:
    if not is_dns_label(text):
        raise ValueError(f"{text[:80]!a} is no short service name: a-z 0-9 - only, without its namespace")


def _exactly_one(given: object, info: ValidationInfo, *names: str) -> None:
    """For the last of several fields that exclude each other."""
    if any(name not in info.data for name in names):
        return  # one of them is wrong itself
    count = sum(value is not None for value in (given, *map(info.data.get, names)))
    if count != 1:
        what = f"{', '.join(names)} and {info.field_name}"
        raise ValueError(f"{what} exclude each other" if count else f"one of {what} belongs here")


class PortSelector(Model):
    """One port of a **service**, by its number or its name."""

    number: PortNumber | None = None
    name: Text | None = Field(default=None, validate_default=True)

    @field_validator("name")
    @classmethod
    def _one(cls, name: str | None, info: ValidationInfo) -> str | None:
        _exactly_one(name, info, "number")
        return name


class TargetSelector(Model):
    """A service of the policy's namespace, and its ports; no port means all of them."""

    name: Annotated[Text, checked(_short_name)]
    ports: tuple[PortSelector, ...] = ()


# ------------------------------------------------------------------ peers


class LegacyMutualTls(Model):
    """Mutual TLS; ``mtls: {}`` and an empty ``mtls:`` are STRICT."""

    mode: Literal["STRICT", "PERMISSIVE"] = "STRICT"
    allow_tls: Flag = False

    @field_validator("allow_tls")
    @classmethod
    def _never_anonymous(cls, allowed: bool) -> bool:  # noqa: FBT001 - a validator's signature
        if allowed:
            raise ValueError(
                "TLS without a client certificate is not offered: write mode: PERMISSIVE if plaintext is meant"
            )
        return allowed


def _strict(value: object) -> object:
    nothing = value is None or (isinstance(value, Unquoted) and value.reads_as == "nothing")
    return {} if nothing else value


class PeerAuthenticationMethod(Model):
    """How the other end of the connection proves who it is."""

    jwt: Any = None
    mtls: Annotated[LegacyMutualTls, BeforeValidator(_strict)]

    @field_validator("jwt")
    @classmethod
    def _never_available(cls, _: object) -> None:
        raise ValueError("a peer cannot be authenticated by a token, in Istio neither: tokens belong under origins")


# ------------------------------------------------------------------ origins


def _path(text: str) -> None:
    if not text.startswith("/"):
        raise ValueError(f"{text[:80]!a} can match no path: a path begins with /")
    _path_text(text)


def _path_text(text: str) -> None:
    if "?" in text or "#" in text:
        raise ValueError(f"{text[:80]!a} can match no path: it ends before ? and #")


def _regex(text: str) -> None:
    Regex.parse(text)


class StringMatch(Model):
    """How a path is compared; exactly one is given, and case counts."""

    exact: Annotated[Text, checked(_path)] | None = None
    prefix: Annotated[Text, checked(_path)] | None = None
    suffix: Annotated[Text, checked(_path_text)] | None = None
    regex: Annotated[Text, checked(_regex)] | None = Field(default=None, validate_default=True)

    @field_validator("regex")
    @classmethod
    def _one(cls, regex: str | None, info: ValidationInfo) -> str | None:
        _exactly_one(regex, info, "exact", "prefix", "suffix")
        return regex

    @property
    def pattern(self) -> StringPattern | Regex:
        """The same as a pattern."""
        if self.regex is not None:
            return Regex.parse(self.regex)
        forms = ((Kind.EXACT, self.exact), (Kind.PREFIX, self.prefix), (Kind.SUFFIX, self.suffix))
        return next(StringPattern(kind, text) for kind, text in forms if text is not None)


class TriggerRule(Model):
    """Which paths need a token: none of the excluded ones; and, if any are included, one of those."""

    excluded_paths: tuple[StringMatch, ...] = ()
    included_paths: tuple[StringMatch, ...] = ()


class Jwt(Model):
    """One issuer's tokens.

    Attributes:
        issuer: the ``iss`` a token must have.
        audiences: any of which must be in ``aud``; none: no check.
        jwks_uri: where the key set is fetched.
        jwks: the key set itself, JSON. With neither, the issuer's discovery document says where.
        jwt_headers: whose whole value is a token; with no header and no parameter: Authorization, ``access_token``.
        jwt_params: query parameters.
        trigger_rules: where a token is asked for: where any of them holds; everywhere, if there is none.
    """

    issuer: Text
    audiences: tuple[Text, ...] = ()
    jwks_uri: Url | None = None
    jwks: InlineKeys = Field(default=None, validate_default=True, repr=False)
    jwt_headers: tuple[Token, ...] = ()
    jwt_params: tuple[Text, ...] = ()
    trigger_rules: tuple[TriggerRule, ...] = ()

    @field_validator("jwks")
    @classmethod
    def _keys_from_one_place(cls, jwks: str | None, info: ValidationInfo) -> str | None:
        return keys_from_one_place(jwks, info)


class OriginAuthenticationMethod(Model):
    """How the end user proves who they are."""

    jwt: Jwt


# ------------------------------------------------------------------ the kinds


class PolicySpec(Model):
    """The spec of both kinds.

    Attributes:
        targets: the services it is for.
        peers: any of which must hold; none: mutual TLS is disabled.
        peer_is_optional: whether a request passes whose peer none of them accepts; it has no peer then.
        origins: any of which must hold, where one is triggered.
        origin_is_optional: whether a request passes for which none of them holds.
        principal_binding: whose identity counts.
    """

    targets: tuple[TargetSelector, ...] = ()
    peers: tuple[PeerAuthenticationMethod, ...] = ()
    peer_is_optional: Flag = False
    origins: tuple[OriginAuthenticationMethod, ...] = ()
    origin_is_optional: Flag = False
    principal_binding: PrincipalBinding = PrincipalBinding.USE_PEER

    @field_validator("origins")
    @classmethod
    def _one_each(cls, origins: tuple[OriginAuthenticationMethod, ...]) -> tuple[OriginAuthenticationMethod, ...]:
        complain(_repeated(origins))
        return origins


def _repeated(origins: tuple[OriginAuthenticationMethod, ...]) -> Iterator[Complaint]:
    first: dict[str, int] = {}
    for index, origin in enumerate(origins):
        if first.setdefault(origin.jwt.issuer, index) != index:
            where = first[origin.jwt.issuer]
            yield (index, "jwt", "issuer"), f"the same issuer as origins[{where}]: an issuer stands once in a policy"


class _Legacy(SecurityObject):
    """What both kinds share."""

    api_version: Literal["authentication.istio.io/v1alpha1"] = "authentication.istio.io/v1alpha1"


class Policy(_Legacy):
    """A service's, or by the name ``default`` a namespace's, authentication policy."""

    kind: Literal["Policy"] = "Policy"
    spec: PolicySpec = Field(default_factory=PolicySpec, validate_default=True)

    @field_validator("spec")
    @classmethod
    def _default_or_targets(cls, spec: PolicySpec, info: ValidationInfo) -> PolicySpec:
        metadata = info.data.get("metadata")
        if metadata is None:
            return spec
        if metadata.name == _DEFAULT and spec.targets:
            complain([(("targets",), "the policy named default is for its whole namespace: it has no targets")])
        if metadata.name != _DEFAULT and not spec.targets:
            complain(
                [(("targets",), "a policy without targets is for its whole namespace: it must be named default")]
            )
        return spec


class MeshPolicy(_Legacy):
    """The whole mesh's authentication policy, which every other one replaces. It is in no namespace."""

    kind: Literal["MeshPolicy"] = "MeshPolicy"
    spec: PolicySpec = Field(default_factory=PolicySpec)

    @field_validator("metadata")
    @classmethod
    def _named_default(cls, metadata: Any) -> Any:
        if metadata.name != _DEFAULT:
            complain([(("name",), "a MeshPolicy is named default")])
        return metadata

    @field_validator("spec")
    @classmethod
    def _no_targets(cls, spec: PolicySpec) -> PolicySpec:
        if spec.targets:
            complain([(("targets",), "a MeshPolicy is for the whole mesh: it has no targets")])
        return spec

    @property
    def id(self) -> str:
        """Its name alone."""
        return self.name
