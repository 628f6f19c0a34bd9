"""Kubernetes' own Service, as far as it says which workloads a service's name and ports stand for.

Every other field is accepted by name and has no effect; what Kubernetes does not have is an error, because a
misspelt selector would silently take a policy from its workload. Must not know: secure naming, policies.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, PlainValidator, field_validator

from ._model import Model, PortNumber, complain
from ._resource import Labels, Named

__all__ = ["KubernetesService", "ServicePort", "ServiceSpec"]


def _number_or_name(value: object) -> object:
    is_number = isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 65535
    if not is_number and not (isinstance(value, str) and value):
        raise ValueError("a port's number from 1 to 65535, or its name, belongs here")
    return value


class ServicePort(Model):
    """One port of a service.

    Attributes:
        port: as clients dial it.
        name: empty where there is only one.
        target_port: the workload's port, by number or by name; absent: the same number.
    """

    port: PortNumber
    name: Annotated[str, Field(strict=True)] = ""
    target_port: Annotated[int | str | None, PlainValidator(_number_or_name)] = None

    protocol: Any = Field(default=None, repr=False)
    app_protocol: Any = Field(default=None, repr=False)
    node_port: Any = Field(default=None, repr=False)


class ServiceSpec(Model):
    """The spec of a Service.

    Attributes:
        selector: labels of the workloads; none: it selects no workload.
        ports: what it listens on.
    """

    selector: Labels = Field(default_factory=dict)
    ports: tuple[ServicePort, ...] = ()
    type: Annotated[str, Field(strict=True)] = "ClusterIP"

    cluster_ip: Any = Field(default=None, repr=False, alias="clusterIP")
    cluster_ips: Any = Field(default=None, repr=False, alias="clusterIPs")
    external_ips: Any = Field(default=None, repr=False, alias="externalIPs")
    load_balancer_ip: Any = Field(default=None, repr=False, alias="loadBalancerIP")
    allocate_load_balancer_node_ports: Any = Field(default=None, repr=False)
    external_name: Any = Field(default=None, repr=False)
    external_traffic_policy: Any = Field(default=None, repr=False)
    health_check_node_port: Any = Field(default=None, repr=False)
    internal_traffic_policy: Any = Field(default=None, repr=False)
    ip_families: Any = Field(default=None, repr=False)
    ip_family_policy: Any = Field(default=None, repr=False)
    load_balancer_class: Any = Field(default=None, repr=False)
    load_balancer_source_ranges: Any = Field(default=None, repr=False)
    publish_not_ready_addresses: Any = Field(default=None, repr=False)
    session_affinity: Any = Field(default=None, repr=False)
    session_affinity_config: Any = Field(default=None, repr=False)
    topology_keys: Any = Field(default=None, repr=False)
    traffic_distribution: Any = Field(default=None, repr=False)

    @field_validator("ports")
    @classmethod
    def _told_apart(cls, ports: tuple[ServicePort, ...]) -> tuple[ServicePort, ...]:
        names = [port.name for port in ports]
        complain(
            ((index, "name"), "of several ports each has a name of its own")
            for index, name in enumerate(names)
            if len(names) > 1 and (not name or name in names[:index])
        )
        return ports


class KubernetesService(Named):
    """The ``Service`` of API group ``v1``: which workloads a name and its ports stand for."""

    api_version: Literal["v1"] = "v1"
    kind: Literal["Service"] = "Service"
    spec: ServiceSpec = Field(default_factory=ServiceSpec)
    status: Any = Field(default=None, repr=False)

    def selects(self, namespace: str, labels: Mapping[str, str]) -> bool:
        """Whether workloads of a namespace with these labels are behind it."""
        selector = self.spec.selector
        return (
            self.namespace == namespace
            and bool(selector)
            and all(labels.get(key) == value for key, value in selector.items())
        )
