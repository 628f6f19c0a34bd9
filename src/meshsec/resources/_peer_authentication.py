"""PeerAuthentication: whether a port takes plaintext, mutual TLS or both (Istio's API object, typed).

Must not know: which of several objects wins; that is authn's business.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from ._model import Model, Port
from ._resource import IstioObject, WorkloadSelector

__all__ = ["MtlsMode", "MutualTls", "PeerAuthentication", "PeerAuthenticationSpec"]


class MtlsMode(StrEnum):
    """Istio's ``MutualTLS.Mode``. UNSET takes the mode of the wider scope."""

    UNSET = "UNSET"
    DISABLE = "DISABLE"
    PERMISSIVE = "PERMISSIVE"
    STRICT = "STRICT"


class MutualTls(Model):
    """One mode."""

    mode: MtlsMode = MtlsMode.UNSET


def _one_spelling(ports: Any) -> Any:
    """``8443`` and ``"8443"`` are one port; a mapping built in Python may hold both."""
    if isinstance(ports, Mapping) and len({str(port) for port in ports}) < len(ports):
        raise ValueError("a port is given twice")
    return ports


PortModes = Annotated[Mapping[Port, MutualTls], Field(min_length=1), BeforeValidator(_one_spelling)]


class PeerAuthenticationSpec(Model):
    """The spec of a PeerAuthentication.

    Attributes:
        selector: the workloads; absent or empty means the whole namespace, or the mesh in the root namespace.
        mtls: the mode.
        port_level_mtls: workload port to mode; needs a selector that is not empty.
    """

    selector: WorkloadSelector | None = None
    mtls: MutualTls = MutualTls()
    port_level_mtls: PortModes = Field(default_factory=dict)

    @field_validator("port_level_mtls")
    @classmethod
    def _needs_selector(cls, ports: Mapping[int, MutualTls], info: ValidationInfo) -> Mapping[int, MutualTls]:
        selector = info.data.get("selector", ...)
        if selector is None or (isinstance(selector, WorkloadSelector) and not selector.match_labels):
            raise ValueError("portLevelMtls needs a selector with matchLabels")
        return ports


class PeerAuthentication(IstioObject):
    """What a workload's ports accept on the wire."""

    kind: Literal["PeerAuthentication"] = "PeerAuthentication"
    spec: PeerAuthenticationSpec = Field(default_factory=PeerAuthenticationSpec)
