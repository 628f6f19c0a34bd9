"""RequestAuthentication: whose tokens are taken, and where they are looked for (Istio's API object, typed).

Belongs here: the fields, their own rules, and our two annotations. Must not know: how a token is verified, or where
keys come from.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Final, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from ..matching import parse_path_pattern
from ._model import Flag, Model, Text, Texts, Token, checked
from ._problems import Complaint
from ._resource import IstioObject, Targets
from ._url import Url, check_url

__all__ = [
    "ClaimToHeader",
    "JWTHeader",
    "JWTRule",
    "Presence",
    "RequestAuthentication",
    "RequestAuthenticationSpec",
    "duration",
]

INCLUDE_PATHS: Final = "meshsec.dev/include-paths"
EXCLUDE_PATHS: Final = "meshsec.dev/exclude-paths"

_HEADER: Final = re.compile(r"[-_A-Za-z0-9]{1,256}")
_DURATION: Final = re.compile(r"(?:[0-9]{1,9}(?:\.[0-9]{1,9})?(?:h|ms|m|s))+")
_DURATION_PART: Final = re.compile(r"([0-9.]+)(h|ms|m|s)")
_SECONDS: Final = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}


class Presence(StrEnum):
    """Must a token be there: the newest field of Istio's API."""

    OPTIONAL = "OPTIONAL"
    REQUIRED = "REQUIRED"


def _header(text: str) -> None:
    if not _HEADER.fullmatch(text):
        raise ValueError(f"{text[:80]!a} is no header name that a claim may be put into: letters, digits, - and _")


def _key_set(value: object) -> object:
    """The shape only. Which keys are usable is decided where they are used."""
    if isinstance(value, Mapping):
        raise ValueError(  # noqa: TRY004 - pydantic collects ValueError alone
            "an inline key set is JSON in one text: write it in quotes or as a block (|)"
        )
    if isinstance(value, str):
        try:
            keys = json.loads(value)
        except (ValueError, RecursionError):
            raise ValueError("an inline key set is JSON, this is not") from None
        if not isinstance(keys, dict) or not isinstance(keys.get("keys"), list) or not keys["keys"]:
            raise ValueError('an inline key set is a JSON object with at least one key in "keys"')
    return value


def duration(value: object) -> float:
    """Go's notation, as Istio's: ``5s``, ``1m30s``, ``250ms``."""
    seconds = 0.0
    if isinstance(value, str) and len(value) <= 64 and _DURATION.fullmatch(value):
        seconds = sum(float(number) * _SECONDS[unit] for number, unit in _DURATION_PART.findall(value))
    if seconds < 0.001:
        raise ValueError("a duration belongs here, such as 5s or 1m30s, of at least 1ms")
    return seconds


InlineKeys = Annotated[Text | None, BeforeValidator(_key_set)]
OutputHeader = Annotated[Text, checked(_header)]


class JWTHeader(Model):
    """A header that may hold a token, and the text before it, such as ``Bearer`` and a space."""

    name: Token
    prefix: Annotated[str, Field(strict=True)] = ""


class ClaimToHeader(Model):
    """A claim (dots lead inside) that is put into a header for the application."""

    header: OutputHeader
    claim: Text


class JWTRule(Model):
    """One issuer's tokens (Istio's ``JWTRule``).

    Attributes:
        issuer: the ``iss`` a token must have; empty, with ``jwks_uri``: any or none.
        audiences: any of which must be in ``aud``; none: no check.
        jwks_uri: where the key set is fetched.
        jwks: the key set itself, JSON; hidden, because it may hold a shared secret. With neither, the issuer's
            discovery document says where.
        from_headers: where tokens are looked for; with no location at all: Authorization, then ``access_token``.
        from_params: query parameters.
        from_cookies: cookies.
        output_payload_to_header: gets the token's payload, base64url.
        output_claim_to_headers: claims that go into headers.
        forward_original_token: whether the application sees the token.
        timeout: seconds for one fetch.
        presence: whether a token must be there.
        space_delimited_claims: claims split at spaces, besides ``scope`` and ``permission``.
    """

    issuer: Annotated[str, Field(strict=True)] = ""
    audiences: Texts = ()
    jwks_uri: Url | None = None
    jwks: InlineKeys = Field(default=None, validate_default=True, repr=False)
    from_headers: Annotated[tuple[JWTHeader, ...], Field(min_length=1)] = ()
    from_params: Texts = ()
    from_cookies: Texts = ()
    output_payload_to_header: OutputHeader | None = None
    output_claim_to_headers: Annotated[tuple[ClaimToHeader, ...], Field(min_length=1)] = ()
    forward_original_token: Flag = False
    timeout: Annotated[float, BeforeValidator(duration)] = 5.0
    presence: Presence = Presence.OPTIONAL
    space_delimited_claims: Annotated[Texts, Field(max_length=64)] = ()

    @field_validator("jwks")
    @classmethod
    def _keys_from_one_place(cls, jwks: str | None, info: ValidationInfo) -> str | None:
        return keys_from_one_place(jwks, info)


def keys_from_one_place(jwks: str | None, info: ValidationInfo) -> str | None:
    """The check of ``jwks``, which stands after ``issuer`` and ``jwks_uri`` and is validated by default too."""
    if "issuer" not in info.data or "jwks_uri" not in info.data:
        return jwks  # they are wrong themselves
    issuer, uri = info.data["issuer"], info.data["jwks_uri"]
    if jwks is not None and uri is not None:
        raise ValueError("jwks and jwksUri exclude each other")
    if not issuer and uri is None:
        raise ValueError("a rule needs an issuer, or a jwksUri")
    if jwks is None and uri is None:
        _discoverable(issuer)
    return jwks


def _discoverable(issuer: str) -> None:
    try:
        check_url(issuer)
    except ValueError:
        raise ValueError("without jwks and jwksUri the issuer must be an http or https URL that names them") from None


class RequestAuthenticationSpec(Targets):
    """The spec of a RequestAuthentication.

    Attributes:
        jwt_rules: the issuers; a token of none of them is refused.
    """

    jwt_rules: Annotated[tuple[JWTRule, ...], Field(min_length=1, max_length=4096)] = ()


class RequestAuthentication(IstioObject):
    """Which end users' tokens a workload takes. By itself it demands none, except under our annotations.

    ``meshsec.dev/include-paths`` and ``meshsec.dev/exclude-paths`` hold path patterns (exact, ``p*``, ``*s``,
    templates), one per line or separated by commas. They are ours, not Istio's.
    """

    kind: Literal["RequestAuthentication"] = "RequestAuthentication"
    spec: RequestAuthenticationSpec = RequestAuthenticationSpec()

    @property
    def include_paths(self) -> tuple[str, ...]:
        """Patterns of the paths where a valid token is required; empty without the annotation."""
        return _patterns(self.metadata.annotations.get(INCLUDE_PATHS, ""))

    @property
    def exclude_paths(self) -> tuple[str, ...]:
        """Patterns of the paths where tokens are not read; they win over ``include_paths``."""
        return _patterns(self.metadata.annotations.get(EXCLUDE_PATHS, ""))

    @classmethod
    def _our_annotations(cls) -> frozenset[str]:
        return frozenset({INCLUDE_PATHS, EXCLUDE_PATHS})

    @classmethod
    def _check_annotations(cls, annotations: Mapping[str, str]) -> list[Complaint]:
        found = super()._check_annotations(annotations)
        for key in cls._our_annotations() & annotations.keys():
            found.extend((("annotations", key), message) for message in _pattern_problems(annotations[key]))
        return found


def _patterns(text: str) -> tuple[str, ...]:
    """A comma always separates: a path that holds one cannot be written here."""
    return tuple(part.strip(" \t\r") for part in text.replace("\n", ",").split(",") if part.strip(" \t\r"))


def _pattern_problems(text: str) -> list[str]:
    patterns = _patterns(text)
    if not patterns:
        return ["no path stands here: remove the annotation, or name at least one"]
    problems = []
    for pattern in patterns:
        try:
            parse_path_pattern(pattern)
        except ValueError as error:
            problems.append(str(error))
    return problems
