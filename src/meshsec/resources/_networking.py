"""Istio's ServiceEntry, WorkloadEntry and DestinationRule, as far as they say who may answer for a host.

What only routes or balances is accepted by name and has no effect; what would change who is believed, and is not
supported, is refused by name. Must not know: Kubernetes' own kinds, or which rule is for whom.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, Final, Literal

from pydantic import Field, model_validator
from pydantic.alias_generators import to_camel

from ._accounts import account_name
from ._host import host_key, host_pattern
from ._model import Model, Port, Text, checked, complain
from ._problems import Complaint
from ._resource import Labels, SecurityObject, WorkloadSelector

__all__ = [
    "ClientTls",
    "DestinationRule",
    "DestinationRuleSpec",
    "EntryEndpoint",
    "EntryPort",
    "ServiceEntry",
    "ServiceEntrySpec",
    "TlsMode",
    "TrafficPolicy",
    "WorkloadEntry",
]

_Version = Literal["networking.istio.io/v1", "networking.istio.io/v1beta1", "networking.istio.io/v1alpha3"]
_SPIFFE: Final = "spiffe://"
_Host = Annotated[Text, checked(host_pattern)]


class _NetworkObject(SecurityObject):
    """A resource of ``networking.istio.io``."""

    api_version: _Version = "networking.istio.io/v1"


class EntryEndpoint(Model):
    """One workload behind a ServiceEntry, or a WorkloadEntry's spec.

    Attributes:
        address: where it is dialled, an IP address or a DNS name; empty where only its account counts.
        ports: a port's name to the number it has there.
        labels: what a ServiceEntry's selector looks at.
        service_account: the account in the entry's namespace; empty where it is not known.
    """

    address: Annotated[str, Field(strict=True)] = ""
    ports: Mapping[Text, Port] = Field(default_factory=dict)
    labels: Labels = Field(default_factory=dict)
    service_account: Annotated[str, Field(strict=True), checked(account_name)] = ""

    network: Any = Field(default=None, repr=False)
    locality: Any = Field(default=None, repr=False)
    weight: Any = Field(default=None, repr=False)


class EntryPort(Model):
    """One port of a ServiceEntry: its number, its name, and the number behind it (0: the same)."""

    number: Port
    name: Text
    target_port: Port | None = None

    protocol: Any = Field(default=None, repr=False)


class _EntrySelector(Model):
    labels: Labels = Field(default_factory=dict)


class ServiceEntrySpec(Model):
    """The spec of a ServiceEntry.

    Attributes:
        hosts: names, ``*.example.com`` included.
        ports: what it listens on.
        endpoints: the workloads behind it.
        workload_selector: labels of WorkloadEntries and pods behind it, in place of ``endpoints``.
        subject_alt_names: further identities that may answer; others than SPIFFE IDs name nobody here.
        export_to: namespaces that see it; ``.`` its own, ``*`` and nothing: every one.
    """

    hosts: Annotated[tuple[_Host, ...], Field(min_length=1)]
    ports: tuple[EntryPort, ...] = ()
    endpoints: tuple[EntryEndpoint, ...] = ()
    workload_selector: _EntrySelector | None = None
    subject_alt_names: tuple[Text, ...] = ()
    export_to: tuple[Text, ...] = ()

    addresses: Any = Field(default=None, repr=False)
    location: Any = Field(default=None, repr=False)
    resolution: Any = Field(default=None, repr=False)

    @model_validator(mode="after")
    def _one_way(self) -> ServiceEntrySpec:
        if self.endpoints and self.workload_selector is not None:
            raise ValueError("endpoints and workloadSelector exclude each other")
        return self


class ServiceEntry(_NetworkObject):
    """Hosts that Kubernetes has no Service for, and who answers for them."""

    kind: Literal["ServiceEntry"] = "ServiceEntry"
    spec: ServiceEntrySpec


class WorkloadEntry(_NetworkObject):
    """A workload outside Kubernetes."""

    kind: Literal["WorkloadEntry"] = "WorkloadEntry"
    spec: EntryEndpoint


class TlsMode(StrEnum):
    """How a client speaks to a host."""

    DISABLE = "DISABLE"
    SIMPLE = "SIMPLE"
    MUTUAL = "MUTUAL"
    ISTIO_MUTUAL = "ISTIO_MUTUAL"


class ClientTls(Model):
    """``trafficPolicy.tls``.

    Attributes:
        mode: ISTIO_MUTUAL is the mesh's own mTLS, DISABLE plaintext. SIMPLE and MUTUAL are read, and a host under
            them is refused when it is called: its server shows no identity of a mesh.
        subject_alt_names: who may answer, in place of what was computed.
        sni: the TLS server name that is sent, in place of the host's own.
    """

    mode: TlsMode = TlsMode.DISABLE
    subject_alt_names: tuple[Text, ...] = ()
    sni: Annotated[Text, checked(host_key)] | None = None

    client_certificate: Any = Field(default=None, repr=False)
    private_key: Any = Field(default=None, repr=False)
    ca_certificates: Any = Field(default=None, repr=False)
    ca_crl: Any = Field(default=None, repr=False)
    credential_name: Any = Field(default=None, repr=False)
    insecure_skip_verify: Any = Field(default=None, repr=False)

    @model_validator(mode="after")
    def _fits_its_mode(self) -> ClientTls:
        if self.mode is not TlsMode.ISTIO_MUTUAL:
            return self
        wrong: list[Complaint] = [
            (("subjectAltNames", index), f"{name[:80]!a} is no SPIFFE ID: the mesh's own mTLS knows no other name")
            for index, name in enumerate(self.subject_alt_names)
            if not name.startswith(_SPIFFE)
        ]
        given = ("client_certificate", "private_key", "ca_certificates", "ca_crl", "credential_name")
        wrong += [((to_camel(name),), "has no place in ISTIO_MUTUAL") for name in given if getattr(self, name)]
        if self.insecure_skip_verify not in (None, False):
            wrong.append((("insecureSkipVerify",), "who answers is always checked"))
        complain(wrong)
        return self


class _PortSelector(Model):
    number: Port


class _PortPolicy(Model):
    """What is different for one port of the service: all of the policy, also where it says nothing of TLS."""

    port: _PortSelector
    tls: ClientTls | None = None

    connection_pool: Any = Field(default=None, repr=False)
    load_balancer: Any = Field(default=None, repr=False)
    outlier_detection: Any = Field(default=None, repr=False)


class TrafficPolicy(Model):
    """A rule's ``trafficPolicy``: its ``tls``, and that of single ports; what balances and limits has no effect."""

    tls: ClientTls | None = None
    port_level_settings: tuple[_PortPolicy, ...] = ()

    connection_pool: Any = Field(default=None, repr=False)
    load_balancer: Any = Field(default=None, repr=False)
    outlier_detection: Any = Field(default=None, repr=False)
    proxy_protocol: Any = Field(default=None, repr=False)
    retry_budget: Any = Field(default=None, repr=False)
    tunnel: Any = Field(default=None, repr=False)


class _Subset(Model):
    """Some of a host's workloads, to which VirtualServices lead: its ``traffic_policy`` overrides the rule's."""

    name: Text
    labels: Labels = Field(default_factory=dict)
    traffic_policy: TrafficPolicy | None = None


class DestinationRuleSpec(Model):
    """The spec of a DestinationRule.

    Attributes:
        host: a name, a pattern, or a Kubernetes service's short name in the rule's namespace.
        traffic_policy: how it is spoken to.
        export_to: as a ServiceEntry's.
        workload_selector: the clients of the rule's namespace that it is for.
        subsets: no client chooses one here; one whose ``tls`` is not the host's own is refused by secure naming.
    """

    host: _Host
    traffic_policy: TrafficPolicy | None = None
    export_to: tuple[Text, ...] = ()
    workload_selector: WorkloadSelector | None = None
    subsets: tuple[_Subset, ...] = ()


class DestinationRule(_NetworkObject):
    """How clients speak to a host, and who may answer."""

    kind: Literal["DestinationRule"] = "DestinationRule"
    spec: DestinationRuleSpec
