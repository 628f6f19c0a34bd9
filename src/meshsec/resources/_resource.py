"""What every kind of resource shares: metadata, selectors, identity, age.

Belongs here: Kubernetes' ObjectMeta as far as it is used, and by name where it is not. Must not know: any one kind's
spec, or which workload a resource is for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field, PrivateAttr, ValidationInfo, field_validator

from ._model import Model, Text, complain, is_dns_label
from ._problems import Complaint, suggest
from ._scalar import Unquoted

__all__ = [
    "Foreign",
    "IstioObject",
    "Metadata",
    "Named",
    "SecurityObject",
    "TargetReference",
    "Targets",
    "WorkloadSelector",
]

OUR_ANNOTATIONS: Final = "meshsec.dev/"

_NAME: Final = re.compile(r"[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?")
_INSTANT: Final = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,9})?(?:Z|[+-][0-9]{2}:[0-9]{2})"
)

Labels = Mapping[Text, Annotated[str, Field(strict=True)]]


def _instant(value: object) -> float:
    """RFC 3339, quoted or not; ``null`` is what ``kubectl --dry-run`` writes."""
    text = value.text if isinstance(value, Unquoted) else value
    if isinstance(value, Unquoted) and value.reads_as == "nothing":
        return 0.0
    if not isinstance(text, str) or len(text) > 40 or not _INSTANT.fullmatch(text):
        raise ValueError("a time is written like 2024-05-01T12:00:00Z")
    return datetime.fromisoformat(text).timestamp()


class Metadata(Model):
    """Kubernetes' ObjectMeta. What is not listed here is accepted by name and has no effect.

    Attributes:
        name: the resource's name.
        namespace: where it applies; empty means ``default``.
        labels: of the resource itself; selectors do not look at them.
        annotations: Istio's, Kubernetes' and ours.
        creation_timestamp: POSIX seconds; 0 where it is not known, as in most files.
    """

    name: Annotated[str, Field(strict=True)] = ""
    namespace: Annotated[str, Field(strict=True)] = ""
    labels: Labels = Field(default_factory=dict)
    annotations: Labels = Field(default_factory=dict)
    creation_timestamp: Annotated[float, BeforeValidator(_instant)] = 0.0

    generate_name: Any = Field(default=None, repr=False)
    uid: Any = Field(default=None, repr=False)
    resource_version: Any = Field(default=None, repr=False)
    generation: Any = Field(default=None, repr=False)
    self_link: Any = Field(default=None, repr=False)
    deletion_timestamp: Any = Field(default=None, repr=False)
    deletion_grace_period_seconds: Any = Field(default=None, repr=False)
    owner_references: Any = Field(default=None, repr=False)
    finalizers: Any = Field(default=None, repr=False)
    managed_fields: Any = Field(default=None, repr=False)


class WorkloadSelector(Model):
    """Which workloads of a namespace a resource is for: those with all of these labels."""

    match_labels: Labels = Field(default_factory=dict)

    @field_validator("match_labels")
    @classmethod
    def _no_stars(cls, labels: Mapping[str, str]) -> Mapping[str, str]:
        complain(
            ((key,), "a selector knows no wildcard: '*' is refused")
            for key, value in labels.items()
            if "*" in key or "*" in value
        )
        return labels

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether a workload with these labels is selected; without ``match_labels`` every one is."""
        return all(labels.get(key) == value for key, value in self.match_labels.items())


class TargetReference(Model):
    """A Gateway API object that a policy is attached to. Such a policy never applies to a workload."""

    group: Annotated[str, Field(strict=True)] = ""
    kind: Text
    name: Text
    namespace: Annotated[str, Field(strict=True)] = ""


class Targets(Model):
    """What a policy is attached to; the three exclude each other.

    Attributes:
        selector: the workloads; absent means all of the namespace, or of the mesh in the root namespace.
        target_ref: the old, single form of ``target_refs``.
        target_refs: Gateway API objects; the single form is in it too.
    """

    selector: WorkloadSelector | None = None
    target_ref: TargetReference | None = None
    target_refs: Annotated[tuple[TargetReference, ...], Field(min_length=1, max_length=16)] = Field(
        default_factory=lambda data: (data["target_ref"],) if data.get("target_ref") else ()
    )

    @field_validator("target_ref", "target_refs")
    @classmethod
    def _exclusive(cls, given: object, info: ValidationInfo) -> object:
        if given and any(info.data.get(name) for name in ("selector", "target_ref")):
            raise ValueError("selector, targetRef and targetRefs exclude each other")
        return given


class Named(Model):
    """Anything with Kubernetes metadata.

    Attributes:
        metadata: name, namespace, annotations.
    """

    metadata: Metadata

    _location: str = PrivateAttr("<python>")

    @property
    def name(self) -> str:
        """The resource's name."""
        return self.metadata.name

    @property
    def namespace(self) -> str:
        """The namespace it applies in."""
        return self.metadata.namespace or "default"

    @property
    def id(self) -> str:
        """``namespace/name``."""
        return f"{self.namespace}/{self.name}"

    @property
    def location(self) -> str:
        """``file:line`` where the resource begins, or ``<python>``."""
        return self._location

    def __eq__(self, other: object) -> bool:
        """Equal content; where it was written does not count."""
        return type(self) is type(other) and self.__dict__ == other.__dict__

    __hash__ = None  # type: ignore[assignment]


class Foreign(Named):
    """A resource of an API group that is not enforced here: it is listed, and has no effect.

    Attributes:
        api_version: group and version, as written.
        kind: as written.
        metadata: its name and namespace, as far as they are text.
    """

    api_version: Text
    kind: Text
    metadata: Metadata = Field(default_factory=Metadata)


class SecurityObject(Named):
    """A resource that is enforced here: today's kinds and the legacy ones."""

    status: Any = Field(default=None, repr=False)

    @field_validator("metadata")
    @classmethod
    def _check_metadata(cls, metadata: Metadata) -> Metadata:
        complain([*_names(metadata), *cls._check_annotations(metadata.annotations)])
        return metadata

    @classmethod
    def _our_annotations(cls) -> frozenset[str]:
        """The annotations of ours that this kind understands."""
        return frozenset()

    @classmethod
    def _check_annotations(cls, annotations: Mapping[str, str]) -> list[Complaint]:
        """Complaints about annotations; a kind that understands one adds its own."""
        ours = cls._our_annotations()
        return [
            (("annotations", key), f"unknown annotation{suggest(key, ours)}")
            for key in annotations
            if key.startswith(OUR_ANNOTATIONS) and key not in ours
        ]

    @property
    def age(self) -> tuple[float, str, str]:
        """A sort key: wherever Istio says that the oldest wins, the smallest of these does."""
        return self.metadata.creation_timestamp, self.name, self.namespace


class IstioObject(SecurityObject):
    """A resource of Istio's API group ``security.istio.io``.

    Attributes:
        api_version: ``security.istio.io/v1`` or ``/v1beta1``, which mean the same.
    """

    api_version: Literal["security.istio.io/v1", "security.istio.io/v1beta1"] = "security.istio.io/v1"


def _names(metadata: Metadata) -> list[Complaint]:
    name, namespace = metadata.name, metadata.namespace
    found: list[Complaint] = []
    if not name:
        found.append((("name",), "a resource needs a name"))
    elif len(name) > 253 or not _NAME.fullmatch(name):
        found.append((("name",), f"{name[:80]!a} is no name: a-z 0-9 - . only, and a letter or digit at both ends"))
    if namespace and not is_dns_label(namespace):
        found.append((("namespace",), f"{namespace[:80]!a} is no namespace: a-z 0-9 - only, at most 63"))
    return found
