"""What mesh.yaml says, as frozen values: the workloads and the mesh-wide settings.

Everything Istio has an object for is Istio's own YAML; this file holds the rest. The annotations say what a value in
a file must look like; values that are built in Python are taken as they are. This file must not know how a setting is
enforced. Reading the YAML is ``_mesh_file``'s work.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal

from ..errors import SpiffeIdError
from ..matching import IpBlock, parse_ip
from ..spiffe import SpiffeId, TrustDomain
from ._extension_providers import ExtAuthzHttp
from ._issuers import IssuerConfig, ProxySetting
from ._model import FilePath, Flag, Seconds, Text, WorkloadId, checked, is_token
from ._protected_resource import ProtectedResource
from ._trust_bundles import TrustBundle
from ._workload_api import workload_api_address

__all__ = [
    "AmbiguousPaths",
    "Compatibility",
    "ForwardedIdentity",
    "IdentityConfig",
    "KeysConfig",
    "MeshConfig",
    "PathNormalization",
    "Service",
    "TrustDomainName",
    "Workload",
]

AmbiguousPaths = Literal["refuse", "judge", "istio"]
Compatibility = Literal["safe", "istio"]
TlsVersion = Literal["1.2", "1.3"]

FROM_ENVIRONMENT: Final = "environment"

_EMPTY: Final[Mapping[str, Any]] = MappingProxyType({})
_SERVER: Final = re.compile(r"https://(?:\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._-]{1,253})(?::([1-9][0-9]{0,4}))?/?")
_ENDPOINT: Final = re.compile(r"(?:\[([0-9A-Fa-f:.]{2,45})\]|([A-Za-z0-9._-]{1,253})):([1-9][0-9]{0,4})")


def _address(endpoint: str) -> tuple[str, int]:
    found = _ENDPOINT.fullmatch(endpoint)
    if found is None or int(found[3]) > 65535 or (found[1] and parse_ip(found[1]) is None):
        raise ValueError(f"{endpoint[:80]!a} is no endpoint: write host:port or [IPv6]:port")
    return found[1] or found[2], int(found[3])


def _trust_domain(text: str) -> None:
    try:
        TrustDomain(text)
    except SpiffeIdError as error:
        raise ValueError(str(error)) from None


def _https_url(text: str) -> None:
    """A URL that names a server and perhaps a port: what is asked there is not the file's to say."""
    found = _SERVER.fullmatch(text)
    if found is None or int(found[1] or 443) > 65535:
        raise ValueError("the https URL of a server belongs here, such as https://ca.mesh:8444, without a path")


def _workload_api(text: str) -> None:
    if text != FROM_ENVIRONMENT:
        workload_api_address(text)


TrustDomainName = Annotated[Text, checked(_trust_domain)]


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
        files: a folder that holds cert-chain.pem, key.pem and root-cert.pem (istio.io: file-mounted certificates);
            ``default``: where platforms mount them.
        development_authority: a folder with a certificate authority that this process signs with: tests and laptops.
        csr: the https URL of an authority that signs a key made here, to whoever shows the token.
        token_file: for ``csr``: a service account's token, read anew each time.
        root_cert: for ``csr``: a PEM file with the authorities that vouch for that server; None: the system's.
        workload_api: the SPIFFE Workload API, ``unix:///path`` or ``tcp://IP:port``; ``environment``: where
            ``$SPIFFE_ENDPOINT_SOCKET`` says.
        renewal: for ``csr``: the https URL where the present identity, in place of the token, gets the next one.
    """

    files: FilePath | None = None
    development_authority: FilePath | None = None
    csr: Annotated[Text, checked(_https_url)] | None = None
    workload_api: Annotated[Text, checked(_workload_api)] | None = None
    token_file: FilePath | None = None
    root_cert: FilePath | None = None
    renewal: Annotated[Text, checked(_https_url)] | None = None


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
        protected_resource: what it tells OAuth clients (RFC 9728); None: nothing.
    """

    name: str
    namespace: str = "default"
    service_account: str = "default"
    labels: Mapping[str, str] = field(default_factory=lambda: _EMPTY)
    ports: Mapping[str, int] = field(default_factory=lambda: _EMPTY)
    identity: IdentityConfig | None = None
    protected_resource: ProtectedResource | None = None

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

    ids: tuple[WorkloadId, ...] = ()
    endpoints: tuple[Annotated[Text, checked(_address)], ...] = ()

    @property
    def addresses(self) -> tuple[tuple[str, int], ...]:
        """The endpoints as (host, port). Raises ValueError for a malformed one."""
        return tuple(map(_address, self.endpoints))


def _header(text: str) -> None:
    if text and (not is_token(text) or text != text.lower() or "_" in text):
        raise ValueError(f"{text[:80]!a} is no header's name: lower case, - and no _")


def _ip_block(text: str) -> None:
    IpBlock.parse(text)


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardedIdentity:
    """Which header a proxy writes the client's certificate into, and what proves that the proxy wrote it.

    Attributes:
        format: ``xfcc`` (Envoy with SANITIZE_SET, cert on), ``client-cert`` (RFC 9440), ``nginx``, ``haproxy``,
            ``alb`` (AWS Application Load Balancer).
        header: its name in lower case; empty: the format's usual one.
        ids: SPIFFE IDs of proxies that are connected over mutual TLS themselves.
        addresses: CIDR blocks of proxies, by the transport's address.
        unix_socket: whether everything that comes over a unix socket comes from the proxy.
    """

    format: Literal["xfcc", "client-cert", "nginx", "haproxy", "alb"]
    header: Annotated[str, checked(_header)] = ""
    ids: tuple[WorkloadId, ...] = ()
    addresses: tuple[Annotated[Text, checked(_ip_block)], ...] = ()
    unix_socket: Flag = False


_OF_ISSUERS: Final = ("refresh", "max_stale", "cooldown", "timeout", "proxy", "proxy_ca_file")


@dataclass(frozen=True, slots=True, kw_only=True)
class KeysConfig:
    """How JSON Web Key Sets are kept; times in seconds.

    Attributes:
        refresh: how often a set is fetched anew.
        max_stale: how long the last good set serves when fetching fails.
        cooldown: the least time between two fetches that an unknown key asked for.
        timeout: the whole budget of one fetch.
        token_cache: whether a verified token is remembered as long as its key set and the token itself last.
        cache: a folder where good sets (public keys) are kept for the next process; None: nowhere.
        proxy: ``http://host:port`` or ``https://host:port``, through which https servers are asked; ``environment``:
            as HTTPS_PROXY and NO_PROXY say; ``none`` or None: they are dialled directly, whatever the environment
            says.
        proxy_ca_file: a PEM file with the only authorities that may vouch for an ``https`` proxy; None: the system's.
    """

    refresh: Seconds = 300.0
    max_stale: Seconds = 86400.0
    cooldown: Seconds = 30.0
    timeout: Seconds = 5.0
    token_cache: Flag = True
    cache: FilePath | None = None
    proxy: ProxySetting | None = None
    proxy_ca_file: FilePath | None = None

    def below(self, folder: Path) -> KeysConfig:
        """The same, its files seen from the current folder."""
        cache, proxy_ca_file = (file and str(folder / file) for file in (self.cache, self.proxy_ca_file))
        return replace(self, cache=cache, proxy_ca_file=proxy_ca_file)

    def of(self, issuer: IssuerConfig | None) -> KeysConfig:
        """With what an issuer has of its own."""
        own = {name: getattr(issuer, name, None) for name in _OF_ISSUERS}
        return replace(self, **{name: value for name, value in own.items() if value is not None})


@dataclass(frozen=True, slots=True, kw_only=True)
class MeshConfig:
    """The mesh-wide settings: Istio's ``meshConfig`` where Istio has one, ours beside it.

    Attributes:
        trust_domain: the mesh's own; aliases are former names of it.
        trust_domain_aliases: names that policies and peers may use in place of ``trust_domain``.
        root_namespace: policies in it apply to every workload.
        path_normalization: how a request target becomes the path that is judged and routed.
        trust_bundles: foreign trust domain to the file with its authorities, or where else they come from.
        services: host to who may answer for it.
        policies: files and folders, relative to mesh.yaml.
        ambiguous_paths: what to do with a path that an application could read differently.
        compatibility: ``istio`` turns every deliberate difference back to Istio's reading.
        keys: how key sets are kept.
        issuers: ``iss`` to what is different for that issuer's keys.
        allow_no_policy: whether a workload without any policy may start.
        decision_memo: whether what was allowed is remembered for requests like an earlier one.
        problem_details: whether refused clients that ask for JSON get it (RFC 9457), in place of Istio's text.
        extension_providers: the external authorizers that CUSTOM policies may name; None: one that this program
            brings along (``Mesh(providers=…)``, ``mesh.provider``).
        forwarded_identity: a proxy's header that is believed; None: none ever is.
        num_trusted_proxies: how many proxies add to X-Forwarded-For before a request arrives here; 0: it is not read.
        min_tls_version: the lowest version that is spoken, as a server and as a client.
    """

    trust_domain: str = "cluster.local"
    trust_domain_aliases: tuple[str, ...] = ()
    root_namespace: str = "istio-system"
    path_normalization: PathNormalization = PathNormalization.BASE
    trust_bundles: Mapping[str, str | TrustBundle] = field(default_factory=lambda: _EMPTY)
    services: Mapping[str, Service] = field(default_factory=lambda: _EMPTY)
    policies: tuple[str, ...] = (".",)
    ambiguous_paths: AmbiguousPaths = "refuse"
    compatibility: Compatibility = "safe"
    keys: KeysConfig = field(default_factory=KeysConfig)
    issuers: Mapping[str, IssuerConfig] = field(default_factory=lambda: _EMPTY)
    allow_no_policy: bool = False
    decision_memo: bool = True
    problem_details: bool = False
    extension_providers: Mapping[str, ExtAuthzHttp | None] = field(default_factory=lambda: _EMPTY)
    forwarded_identity: ForwardedIdentity | None = None
    num_trusted_proxies: int = 0
    min_tls_version: TlsVersion = "1.3"
