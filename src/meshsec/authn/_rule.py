"""One JWTRule, compiled: whose tokens, from where, with which keys, on which paths, and what becomes of them.

This file must not know requests.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Self

from ..matching import PathSet, parse_path_pattern
from ..resources import Compatibility, IssuerConfig, JWTRule, Presence, RequestAuthentication
from ._cache import TokenCache
from ._keys import NO_KEYS, KeySnapshot, KeySource, KeyState
from ._legacy_trigger import LegacyTrigger
from ._locate import Location, locations
from ._output import OutputHeaders
from ._token import TokenProfile, inline_keys

__all__ = ["Rule", "Trigger"]

_DEFAULT_TIMEOUT: Final = 5.0  # Istio's; a rule that says no other leaves it to the mesh's setting


@dataclass(frozen=True, slots=True)
class Trigger:
    """Our include and exclude annotations: where a valid token is required, and where none is read.

    Attributes:
        include: the paths it is for; None: all of them.
        exclude: the paths it is not for, whatever ``include`` says.
    """

    include: PathSet | None
    exclude: PathSet

    @classmethod
    def of(cls, resource: RequestAuthentication) -> Self | None:
        """The annotations of a resource; None where it has neither."""
        include, exclude = resource.include_paths, resource.exclude_paths
        if not include and not exclude:
            return None
        return cls(_patterns(include) if include else None, _patterns(exclude))

    def fires(self, readings: Sequence[str]) -> bool:
        """Whether for any reading of the path; so an exclusion must hold for all of them.

        An application decodes ``/a%3Ab`` to ``/a:b``: no spelling of an included path escapes, and only the very
        spelling of an excluded one is let off.
        """
        return any(
            not self.exclude.matches_strictly(path) and (self.include is None or self.include.matches(path))
            for path in readings
        )


@dataclass(frozen=True, slots=True)
class Rule:
    """A JWTRule and what its resource says of paths.

    Attributes:
        profile: what the claims must be.
        locations: where its tokens stand.
        inline: the keys that are written into it; None: they are fetched.
        source: where the set is fetched; None: it is written into it.
        outputs: the headers it makes.
        forward: whether the application sees the token.
        must_be_present: whether one of the locations must hold a token.
        trigger: where it applies; None: everywhere, and tokens are optional.
    """

    profile: TokenProfile
    locations: tuple[Location, ...]
    inline: KeyState | None
    source: KeySource | None
    outputs: OutputHeaders
    forward: bool
    must_be_present: bool
    trigger: Trigger | LegacyTrigger | None

    @classmethod
    def of(
        cls,
        rule: JWTRule,
        trigger: Trigger | LegacyTrigger | None,
        compatibility: Compatibility,
        *,
        token_cache: bool = True,
        own: IssuerConfig | None = None,
    ) -> Self:
        """Compile, with what mesh.yaml says of the issuer.

        Raises:
            KeysUnavailableError: the inline key set has no usable key.
            ValueError: the rule and what mesh.yaml says do not go together.
        """
        own = own or IssuerConfig()
        if own.jwt_svid and not rule.audiences:
            raise ValueError("a JWT-SVID is for somebody: name the audiences of this workload")
        if own.tenants and rule.jwks is None and rule.jwks_uri is None and own.discovery is None:
            raise ValueError(
                "a templated issuer names no place for its keys: write jwksUri, or discovery in mesh.yaml"
            )
        keys = inline_keys(rule, own)
        timeout = None if rule.timeout == _DEFAULT_TIMEOUT else rule.timeout
        return cls(
            TokenProfile.of(rule, compatibility, own),
            locations(rule),
            KeyState(keys, cache=TokenCache() if token_cache else None) if keys else None,
            None if keys else KeySource(rule.issuer, rule.jwks_uri, timeout),
            OutputHeaders.of(rule),
            rule.forward_original_token,
            rule.presence is Presence.REQUIRED,
            trigger,
        )

    def state(self, snapshot: KeySnapshot) -> KeyState:
        """The keys at hand."""
        return self.inline or (snapshot.get(self.source, NO_KEYS) if self.source else NO_KEYS)


def _patterns(texts: Iterable[str]) -> PathSet:
    return PathSet.of(map(parse_path_pattern, texts))
