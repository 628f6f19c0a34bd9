"""Every error meshsec raises, split by whose fault it is.

::

    MeshsecError
    ├── ConfigError            your configuration: every problem at once, each with file:line:column
    ├── SpiffeIdError          a malformed SPIFFE ID or trust domain
    ├── AuthenticationError    the peer's evidence does not hold
    │   ├── SvidError          an X.509-SVID: chain, leaf profile, trust domain
    │   └── TokenError         a JSON Web Token: form, signature, claims
    ├── KeysUnavailableError   we cannot tell: a key set could not be had
    └── IssuanceError          the certificate authority refused to issue

A refused request is a :class:`meshsec.Decision`, not an exception. No message holds a token, a key or a whole
certificate. This module imports nothing of meshsec and must not know who raises what.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

__all__ = [
    "AuthenticationError",
    "ConfigError",
    "IssuanceError",
    "KeysUnavailableError",
    "MeshsecError",
    "Problem",
    "SpiffeIdError",
    "SvidError",
    "TokenError",
]


class MeshsecError(Exception):
    """The root of the tree; only its children are raised.

    Attributes:
        code: a stable, lower-case word for programs; messages may change, codes do not.
        http_status_hint: the status a server would answer with.
    """

    default_code: ClassVar[str] = "meshsec_error"
    http_status_hint: ClassVar[int] = 500

    def __init__(self, message: str, *, code: str | None = None) -> None:
        if type(self) is MeshsecError:
            raise TypeError("MeshsecError is abstract: raise one of its children")
        super().__init__(message)
        self.code: str = code or self.default_code


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with the configuration, and where.

    Attributes:
        message: what is wrong and, where it is known, what would be right.
        source: the file (or a name in angle brackets for text that came from no file).
        line: counted from 1; None where the place is unknown.
        column: counted from 1.
        resource: ``Kind namespace/name`` of the resource, where there is one.
        field: the path to the field, such as ``spec.rules[0].from[1].source.principals[0]``.
    """

    message: str
    source: str = "<config>"
    line: int | None = None
    column: int | None = None
    resource: str | None = None
    field: str | None = None

    def __str__(self) -> str:
        place = self.source if self.line is None else f"{self.source}:{self.line}:{self.column or 1}"
        return ": ".join(part for part in (place, self.resource, self.field, self.message) if part)


class ConfigError(MeshsecError):
    """The configuration cannot be used. Holds **all** the problems found, in the order of the files.

    Attributes:
        problems: at least one :class:`Problem`.
    """

    default_code = "config_invalid"

    def __init__(self, problems: Iterable[Problem] | Problem | str, *, code: str | None = None) -> None:
        if isinstance(problems, str):
            problems = Problem(problems)
        self.problems: tuple[Problem, ...] = (problems,) if isinstance(problems, Problem) else tuple(problems)
        super().__init__("\n".join(map(str, self.problems)), code=code)


class SpiffeIdError(MeshsecError):
    """A SPIFFE ID or trust domain name is malformed (SPIFFE-ID section 2)."""

    default_code = "spiffe_id_invalid"
    http_status_hint = 400


class AuthenticationError(MeshsecError):
    """The evidence the other side showed does not hold."""

    default_code = "authentication_failed"
    http_status_hint = 401


class SvidError(AuthenticationError):
    """An X.509-SVID or JWT-SVID is not acceptable."""

    default_code = "svid_invalid"


class TokenError(AuthenticationError):
    """A JSON Web Token is not acceptable; ``code`` is the value of a :class:`meshsec.decision.Reason`."""

    default_code = "jwt_malformed"


class KeysUnavailableError(MeshsecError):
    """A key set that is needed to judge a token could not be had: we cannot tell, so we refuse."""

    default_code = "keys_unavailable"
    http_status_hint = 503


class IssuanceError(MeshsecError):
    """The certificate authority refused to issue."""

    default_code = "issuance_refused"
    http_status_hint = 403
