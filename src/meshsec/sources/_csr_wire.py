"""What an authority's endpoint and its clients say to each other over HTTPS: paths, JSON, and the endpoint's own ID.

This file must not know sockets, nor who may have which identity.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

from ..errors import SvidError
from ..jose import read_json_object
from ..spiffe import SpiffeId, TrustDomain, X509Bundle
from ..tls import Revocations

__all__ = ["ISSUE", "ROOTS", "Trusted", "endpoint_id", "read_answer", "read_chain", "write_answer"]

ISSUE: Final = "/v1/svid"
ROOTS: Final = "/v1/roots"


def endpoint_id(trust_domain: TrustDomain) -> SpiffeId:
    """Who answers for the authority over mutual TLS; no account may have this name."""
    return SpiffeId.for_service_account(trust_domain, "istio-system", "meshsec-ca")


def write_answer(roots: bytes, crl: bytes, chain: Sequence[bytes] = ()) -> bytes:
    """JSON: ``rootCert`` and ``crl``, PEM, and ``certChain``, a list of PEM.

    Args:
        roots: PEM.
        crl: PEM; empty where nothing is revoked.
        chain: DER, leaf first; empty where nothing was issued.
    """
    found: dict[str, Any] = {"rootCert": roots.decode("ascii"), "crl": crl.decode("ascii")}
    return json.dumps({"certChain": [*map(ssl.DER_cert_to_PEM_cert, chain)], **found}).encode()


@dataclass(frozen=True, slots=True)
class Trusted:
    """Whom to trust now."""

    bundle: X509Bundle
    revoked: Revocations

    @classmethod
    def of(cls, trust_domain: TrustDomain, answer: dict[str, Any], source: str) -> Self:
        """Raises ConfigError or SvidError, with the place that it came from."""
        bundle = X509Bundle.from_pem(trust_domain, _pem(answer, "rootCert", source), source=source)
        lists = _pem(answer, "crl", source)
        if not lists:
            return cls(bundle, Revocations())
        return cls(bundle, Revocations.from_pem(lists, bundle.x509_authorities, source=source))


def read_answer(body: bytes, source: str) -> dict[str, Any]:
    """An answer, unread so far but for its form. Raises SvidError (``answer_malformed``)."""
    try:
        return read_json_object(body)
    except ValueError as error:
        raise SvidError(f"the answer of {source} is unreadable: {error}", code="answer_malformed") from None


def read_chain(answer: dict[str, Any], source: str) -> list[bytes]:
    """The chain of an answer, DER, leaf first. Raises SvidError (``answer_malformed``)."""
    try:
        return [ssl.PEM_cert_to_DER_cert(item) for item in answer["certChain"]]
    except (KeyError, TypeError, ValueError, AttributeError):
        raise SvidError(f"the answer of {source} has no certificate chain", code="answer_malformed") from None


def _pem(answer: dict[str, Any], name: str, source: str) -> bytes:
    """A member that is PEM. Raises SvidError (``answer_malformed``)."""
    value = answer.get(name)
    if not isinstance(value, str) or not value.isascii():
        raise SvidError(f"the answer of {source} has no {name}", code="answer_malformed")
    return value.encode()
