"""What a verified token's claims become in headers for the application (Istio's ``output…`` fields).

This file must not know how a token was verified, nor which headers the client sent.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

from ..decision import Reason
from ..errors import TokenError
from ..resources import JWTRule
from ._token import VerifiedToken

__all__ = ["OutputHeaders"]

# A header value cannot hold these (RFC 9110 section 5.5); a tab it can.
_CONTROLS: Final = frozenset(map(chr, (*range(0x09), *range(0x0A, 0x20), 0x7F)))


@dataclass(frozen=True, slots=True)
class OutputHeaders:
    """The headers a rule makes.

    Attributes:
        payload: the header for the payload segment; None for none.
        claims: header and the path of its claim; dots in the configuration lead inside.
    """

    payload: str | None
    claims: tuple[tuple[str, tuple[str, ...]], ...]

    @classmethod
    def of(cls, rule: JWTRule) -> Self:
        """The headers of a rule, names in lower case."""
        payload = rule.output_payload_to_header
        claims = tuple((item.header.lower(), tuple(item.claim.split("."))) for item in rule.output_claim_to_headers)
        return cls(payload.lower() if payload else None, claims)

    @property
    def names(self) -> tuple[str, ...]:
        """Every header it may set, lower case."""
        payload = (self.payload,) if self.payload else ()
        return (*payload, *(name for name, _ in self.claims))

    def values(self, token: VerifiedToken) -> tuple[tuple[str, str], ...]:
        """Name and value of each header; a claim that is absent, null or empty text gives none.

        Raises:
            TokenError: ``jwt_claim_type``: a value that no header can hold.
        """
        return tuple(self._values(token)) if self.payload or self.claims else ()

    def _values(self, token: VerifiedToken) -> Iterator[tuple[str, str]]:
        if self.payload:
            yield self.payload, token.payload.decode("ascii")
        for name, path in self.claims:
            value = _header_value(_claim(token.claims, path))
            if value:
                yield name, value


def _claim(claims: Mapping[str, Any], path: tuple[str, ...]) -> object:
    found: object = claims
    for name in path:
        if not isinstance(found, Mapping) or name not in found:
            return None
        found = found[name]
    return found


def _header_value(claim: object) -> str:
    """As Istio's proxy writes it; text becomes the latin-1 reading of its UTF-8 bytes. Empty for no header."""
    if claim is None:
        return ""
    if isinstance(claim, str):
        return _text(claim)
    if isinstance(claim, bool):
        return "true" if claim else "false"
    if isinstance(claim, int):
        return str(claim) if claim >= 0 else f"{claim}.000000"
    if isinstance(claim, float):
        return str(int(claim)) if claim >= 0 and claim.is_integer() else f"{claim:f}"
    data = json.dumps(claim, separators=(",", ":"), ensure_ascii=False, default=dict)
    return b64encode(data.encode()).decode("ascii")


def _text(claim: str) -> str:
    if not _CONTROLS.isdisjoint(claim):
        raise TokenError("Jwt payload holds a claim that no header can hold", code=Reason.JWT_CLAIM_TYPE)
    return claim.encode().decode("latin-1")
