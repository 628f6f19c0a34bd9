"""Kubernetes' pods, and the kinds that make pods, as far as they say which account runs behind which labels.

Every other field of a pod is accepted by name and has no effect; what Kubernetes does not have is an error, because a
misspelt serviceAccountName would silently name the account ``default``. Must not know: services, secure naming.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import Field, model_validator

from ._accounts import account_name
from ._model import Model, checked
from ._resource import Labels, Metadata, Named

__all__ = ["Pod", "PodMaker"]

_POD_UNUSED: Final = frozenset(
    """
    activeDeadlineSeconds affinity automountServiceAccountToken containers dnsConfig dnsPolicy enableServiceLinks
    ephemeralContainers hostAliases hostIPC hostNetwork hostPID hostUsers hostname hostnameOverride imagePullSecrets
    initContainers nodeName nodeSelector os overhead preemptionPolicy priority priorityClassName readinessGates
    resourceClaims resources restartPolicy runtimeClassName schedulerName schedulingGates securityContext
    setHostnameAsFQDN shareProcessNamespace subdomain terminationGracePeriodSeconds tolerations
    topologySpreadConstraints volumes workloadRef
    """.split()  # noqa: SIM905 - one word to a line would be a page
)
"""What a pod's spec may say besides its account (Kubernetes 1.35)."""

_Account = Annotated[str, Field(strict=True), checked(account_name)]
_MAKER_UNUSED: Final = frozenset(
    """
    minReadySeconds ordinals paused persistentVolumeClaimRetentionPolicy podManagementPolicy progressDeadlineSeconds
    replicas revisionHistoryLimit selector serviceName strategy updateStrategy volumeClaimTemplates
    """.split()  # noqa: SIM905 - one word to a line would be a page
)


def _without(given: object, unused: frozenset[str]) -> object:
    return {key: value for key, value in given.items() if key not in unused} if isinstance(given, Mapping) else given


class PodSpec(Model):
    """The account of a pod; the second spelling is Kubernetes' old one, the first wins."""

    service_account_name: _Account = ""
    service_account: _Account = ""

    @model_validator(mode="before")
    @classmethod
    def _used(cls, given: object) -> object:
        return _without(given, _POD_UNUSED)


class PodTemplate(Model):
    """What a maker makes its pods from."""

    metadata: Metadata = Field(default_factory=Metadata)
    spec: PodSpec = Field(default_factory=PodSpec)


class _MakerSpec(Model):
    template: PodTemplate

    @model_validator(mode="before")
    @classmethod
    def _used(cls, given: object) -> object:
        return _without(given, _MAKER_UNUSED)


class Pod(Named):
    """A pod: labels, and the account it runs as."""

    api_version: Literal["v1"] = "v1"
    kind: Literal["Pod"] = "Pod"
    spec: PodSpec = Field(default_factory=PodSpec)
    status: Any = Field(default=None, repr=False)

    @property
    def labels(self) -> Labels:
        """What services select it by."""
        return self.metadata.labels

    @property
    def service_account(self) -> str:
        """The name of its account, in its namespace."""
        return _account(self.spec)


class PodMaker(Named):
    """A Deployment, StatefulSet, DaemonSet or ReplicaSet: as the pods it makes."""

    api_version: Literal["apps/v1"] = "apps/v1"
    kind: Literal["Deployment", "StatefulSet", "DaemonSet", "ReplicaSet"]
    spec: _MakerSpec
    status: Any = Field(default=None, repr=False)

    @property
    def labels(self) -> Labels:
        """What services select its pods by."""
        return self.spec.template.metadata.labels

    @property
    def service_account(self) -> str:
        """The name of its pods' account, in its namespace."""
        return _account(self.spec.template.spec)


def _account(spec: PodSpec) -> str:
    return spec.service_account_name or spec.service_account or "default"
