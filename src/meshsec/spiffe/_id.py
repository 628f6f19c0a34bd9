"""SPIFFE IDs and trust domain names, parsed strictly (SPIFFE-ID section 2).

The one parser of the library: certificates, tokens, policies and configuration all come through here. Upper case is
refused, not folded: what a certificate or a token says must already be in canonical form. This file must not know
certificates.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Self

from ..errors import SpiffeIdError

__all__ = ["SpiffeId", "TrustDomain"]

MAX_ID_BYTES: Final = 2048
MAX_TRUST_DOMAIN_BYTES: Final = 255

_SCHEME: Final = "spiffe://"
_TRUST_DOMAIN: Final = re.compile(r"[a-z0-9._-]+")
# One or more segments, none empty and none equal to "." or "..".
_PATH: Final = re.compile(r"(?:/(?!\.{1,2}(?:/|\Z))[A-Za-z0-9._-]+)+")


@dataclass(frozen=True, slots=True, order=True)
class TrustDomain:
    """A trust domain name (SPIFFE-ID section 2.1): 1 to 255 of ``a-z 0-9 . - _``.

    Args:
        name: the bare name, such as ``cluster.local``.

    Raises:
        SpiffeIdError: the name is empty, too long or holds another character, an upper-case letter included.
    """

    name: str

    def __post_init__(self) -> None:
        if not 0 < len(self.name) <= MAX_TRUST_DOMAIN_BYTES:
            raise SpiffeIdError(f"a trust domain has 1 to {MAX_TRUST_DOMAIN_BYTES} characters, not {len(self.name)}")
        if not _TRUST_DOMAIN.fullmatch(self.name):
            raise SpiffeIdError(f"trust domain {self.name!a} holds a character outside a-z 0-9 . - _")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a bare name, or a trust domain's own SPIFFE ID (``spiffe://`` and the name, no path)."""
        return cls(text.removeprefix(_SCHEME))

    @classmethod
    def of(cls, value: TrustDomain | str) -> TrustDomain:
        """The value itself, or its text parsed."""
        return cls.parse(value) if isinstance(value, str) else value

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True, order=True)
class SpiffeId:
    """A SPIFFE ID: a trust domain and a path (SPIFFE-ID section 2).

    Args:
        trust_domain: the authority part.
        path: empty, or ``/`` followed by segments of ``A-Z a-z 0-9 . - _``; no empty, ``.`` or ``..`` segment and
            no trailing slash.

    Raises:
        SpiffeIdError: the path is malformed, or the whole ID is longer than 2048 bytes.
    """

    trust_domain: TrustDomain
    path: str = ""

    def __post_init__(self) -> None:
        length = len(_SCHEME) + len(self.trust_domain.name) + len(self.path)
        if length > MAX_ID_BYTES:
            raise SpiffeIdError(f"a SPIFFE ID has at most {MAX_ID_BYTES} bytes, not {length}")
        if self.path and not _PATH.fullmatch(self.path):
            raise SpiffeIdError(f"the path {self.path[:80]!a} of a SPIFFE ID is malformed")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``spiffe://<trust domain>[/path]``. Raises SpiffeIdError for anything else."""
        if len(text) > MAX_ID_BYTES:
            raise SpiffeIdError(f"a SPIFFE ID has at most {MAX_ID_BYTES} bytes, not {len(text)}")
        if not text.startswith(_SCHEME):
            raise SpiffeIdError(f"{text[:80]!a} is not a SPIFFE ID: it does not begin with {_SCHEME}")
        name, slash, path = text[len(_SCHEME) :].partition("/")
        return cls(TrustDomain(name), slash + path)

    @classmethod
    def of(cls, value: SpiffeId | str) -> SpiffeId:
        """The value itself, or its text parsed."""
        return cls.parse(value) if isinstance(value, str) else value

    @classmethod
    def for_service_account(cls, trust_domain: TrustDomain | str, namespace: str, service_account: str) -> Self:
        """The ID Istio gives to a Kubernetes service account: ``/ns/<namespace>/sa/<service account>``."""
        if "/" in namespace or "/" in service_account:
            raise SpiffeIdError("a namespace or service account holds no slash")
        return cls(TrustDomain.of(trust_domain), f"/ns/{namespace}/sa/{service_account}")

    @property
    def namespace(self) -> str | None:
        """The Kubernetes namespace, where the path has exactly Istio's form; else None."""
        parts = self._service_account_path()
        return parts[0] if parts else None

    @property
    def service_account(self) -> str | None:
        """The Kubernetes service account, where the path has exactly Istio's form; else None."""
        parts = self._service_account_path()
        return parts[1] if parts else None

    def _service_account_path(self) -> tuple[str, str] | None:
        match self.path.split("/"):
            case ["", "ns", namespace, "sa", account]:
                return namespace, account
        return None

    def __str__(self) -> str:
        return f"{_SCHEME}{self.trust_domain.name}{self.path}"
