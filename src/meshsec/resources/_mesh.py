"""What mesh.yaml says, as frozen values: the workloads and the mesh-wide settings.

Everything Istio has an object for is Istio's own YAML; this file holds the rest. The annotations say what a value in
a file must look like; values that are built in Python are taken as they are. This file must not know how a setting is
enforced. Reading the YAML is ``_mesh_file``'s work.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal

from pydantic import Field

from ..errors import SpiffeIdError
from ..matching import parse_ip
from ..spiffe import SpiffeId, TrustDomain
from ._model import Text, checked

__all__ = [
    "AmbiguousPaths",
    "Compatibility",
    "IdentityConfig",
    "KeysConfig",
    "MeshConfig",
    "PathNormalization",
    "Service",
    "TrustDomainName",
    "Workload",
    "host_key",
]

AmbiguousPaths = Literal["refuse", "judge", "istio"]
Compatibility = Literal["safe", "istio"]

_EMPTY: Final[Mapping[str, Any]] = MappingProxyType({})
_HOST: Final = re.compile(r"[a-z0-9_](?:[a-z0-9._-]*[a-z0-9_])?")
_ENDPOINT: Final = re.compile(r"(?:\[([0-9A-Fa-f:.]{2,45})\]|([A-Za-z0-9._-]{1,253})):([1-9][0-9]{0,4})")


def host_key(host: str) -> str:
    """A host as hosts are compared: lower case, without the dot at its end or the brackets around an IPv6 address.

    Raises:
        ValueError: it is no host name and no IP address; a wildcard and a port are neither.
    """
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    address = parse_ip(bare) if ":" in bare and "%" not in bare else None
    if address is not None:
        return str(address)
    key = host.removesuffix(".").lower()
    if not host.isascii() or len(key) > 253 or not _HOST.fullmatch(key):
        raise ValueError(f"{host[:80]!a} is no host name: no port, no wildcard, ASCII only")
    return key


def _address(endpoint: str) -> tuple[str, int]:
    found = _ENDPOINT.fullmatch(endpoint)
    if found is None or int(found[3]) > 65535 or (found[1] and parse_ip(found[1]) is None):
        raise ValueError(f"{endpoint[:80]!a} is no endpoint: write host:port or [IPv6]:port")
    return found[1] or found[2], int(found[3])


def _workload_id(text: str) -> None:
    try:
        if not SpiffeId.parse(text).path:
            raise ValueError(f"{text!a} names a trust domain, not a workload")
    except SpiffeIdError as error:
        raise ValueError(str(error)) from None


def _trust_domain(text: str) -> None:
    try:
        TrustDomain(text)
    except SpiffeIdError as error:
        raise ValueError(str(error)) from None


TrustDomainName = Annotated[Text, checked(_trust_domain)]
Seconds = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]


class PathNormalization(StrEnum):
    """Istio's ``meshConfig.pathNormalization.normalization``; ``DEFAULT`` in a file reads as BASE."""

    NONE = "NONE"
    BASE = "BASE"
    MERGE_SLASHES = "MERGE_SLASHES"
    DECODE_AND_MERGE_SLASHES = "DECODE_AND_MERGE_SLASHES"


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentityConfig:
    """Where a workload's X.509-SVID comes from; exactly one is set.

    Attributes:
        files: a folder that holds cert-chain.pem, key.pem and root-cert.pem (istio.io: file-mounted certificates).
        development_authority: a folder with a certificate authority that this process signs with: tests and laptops.
    """

    files: Text | None = None
    development_authority: Text | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """The program that is protected: what Kubernetes would say of its pod.

    Attributes:
        name: how ``Mesh.load(workload=…)`` names it.
        namespace: policies of this namespace and of the root namespace apply.
        service_account: together with the namespace, the identity.
        labels: what selectors match.
        ports: name to number of the ports it listens on.
        identity: where its certificates come from; None leaves the TLS contexts unusable and everything else working.
    """

    name: str
    namespace: str = "default"
    service_account: str = "default"
    labels: Mapping[str, str] = field(default_factory=lambda: _EMPTY)
    ports: Mapping[str, int] = field(default_factory=lambda: _EMPTY)
    identity: IdentityConfig | None = None

    def spiffe_id(self, trust_domain: str) -> SpiffeId:
        """The identity this workload must hold in a trust domain."""
        return SpiffeId.for_service_account(TrustDomain(trust_domain), self.namespace, self.service_account)


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """Secure naming's short form: who may answer for a host, and where it is reached.

    Attributes:
        ids: SPIFFE IDs, any of which may answer.
        endpoints: ``address:port``, tried in order; empty: the host name is dialled as it is.
    """

    ids: tuple[Annotated[Text, checked(_workload_id)], ...] = ()
    endpoints: tuple[Annotated[Text, checked(_address)], ...] = ()

    @property
    def addresses(self) -> tuple[tuple[str, int], ...]:
        """The endpoints as (host, port). Raises ValueError for a malformed one."""
        return tuple(map(_address, self.endpoints))


@dataclass(frozen=True, slots=True, kw_only=True)
class KeysConfig:
    """How JSON Web Key Sets are kept, in seconds.

    Attributes:
        refresh: how often a set is fetched anew.
        max_stale: how long the last good set serves when fetching fails.
        cooldown: the least time between two fetches that an unknown key asked for.
        timeout: the whole budget of one fetch.
    """

    refresh: Seconds = 300.0
    max_stale: Seconds = 86400.0
    cooldown: Seconds = 30.0
    timeout: Seconds = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class MeshConfig:
    """The mesh-wide settings: Istio's ``meshConfig`` where Istio has one, ours beside it.

    Attributes:
        trust_domain: the mesh's own; aliases are former names of it.
        trust_domain_aliases: names that policies and peers may use in place of ``trust_domain``.
        root_namespace: policies in it apply to every workload.
        path_normalization: how a request target becomes the path that is judged and routed.
        trust_bundles: foreign trust domain to the PEM file with its authorities.
        services: host to who may answer for it.
        policies: files and folders, relative to mesh.yaml.
        ambiguous_paths: what to do with a path that an application could read differently.
        compatibility: ``istio`` turns every deliberate difference back to Istio's reading.
        keys: how key sets are kept.
        allow_no_policy: whether a workload without any policy may start.
    """

    trust_domain: str = "cluster.local"
    trust_domain_aliases: tuple[str, ...] = ()
    root_namespace: str = "istio-system"
    path_normalization: PathNormalization = PathNormalization.BASE
    trust_bundles: Mapping[str, str] = field(default_factory=lambda: _EMPTY)
    services: Mapping[str, Service] = field(default_factory=lambda: _EMPTY)
    policies: tuple[str, ...] = (".",)
    ambiguous_paths: AmbiguousPaths = "refuse"
    compatibility: Compatibility = "safe"
    keys: KeysConfig = field(default_factory=KeysConfig)
    allow_no_policy: bool = False
