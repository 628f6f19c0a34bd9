"""mesh.yaml → MeshFile, and the policies it names.

Belongs here: the file's own shape, where it differs from the values in ``_mesh``. Must not know: how a setting is
enforced, or which workload this process is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from ..errors import ConfigError, Problem
from ._extension_providers import ExtensionProviderShape, providers_by_name
from ._files import FileText, find_mesh_file, read_policies, read_text
from ._host import host_key
from ._issuers import IssuerConfig, check_issuer
from ._load import Resource, build, in_order, load_all
from ._mesh import (
    AmbiguousPaths,
    Compatibility,
    ForwardedIdentity,
    IdentityConfig,
    KeysConfig,
    MeshConfig,
    PathNormalization,
    Service,
    TrustDomainName,
    Workload,
)
from ._model import FilePath, Flag, Model, PortNumber, Text, checked, complain, is_dns_label
from ._protected_resource import ProtectedResource
from ._resource import Labels
from ._trust_bundles import TrustBundle, TrustBundleShape, trust_bundle_complaints
from ._yaml import PlacedMapping, read_yaml

__all__ = ["MeshFile", "MeshText", "load_mesh", "load_policies", "read_mesh"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MeshFile:
    """What a mesh's central folder says, policies aside.

    Attributes:
        config: the mesh-wide settings; the files of ``trust_bundles`` are already seen from the current folder.
        workloads: name to workload.
        folder: where relative paths of ``policies`` and of a workload's ``identity`` begin.
        file: mesh.yaml itself, which holds no policy; None where there is none.
    """

    config: MeshConfig
    workloads: Mapping[str, Workload] = field(default_factory=dict)
    folder: Path
    file: Path | None = None

    def workload(self, name: str | None = None) -> Workload:
        """The workload of that name, or the only one.

        Raises:
            ConfigError: ``unknown_workload``, or ``no_workload`` where none was named and there is not exactly one.
        """
        if name is None and len(self.workloads) == 1:
            return next(iter(self.workloads.values()))
        known = ", ".join(sorted(self.workloads)) or "none"
        if name is None:
            message = f"name the workload, or set MESHSEC_WORKLOAD; mesh.yaml has: {known}"
            raise ConfigError(message, code="no_workload")
        if name not in self.workloads:
            raise ConfigError(f"mesh.yaml has no workload {name[:80]!a}; it has: {known}", code="unknown_workload")
        return self.workloads[name]


@dataclass(frozen=True, slots=True)
class MeshText:
    """All that stands in a mesh's central folder, read at one moment. Two are equal where every character is.

    Attributes:
        mesh: what mesh.yaml says.
        text: mesh.yaml itself; None where there is none.
        policies: each entry of ``policies`` with its files.
    """

    mesh: MeshFile = field(compare=False)
    text: str | None
    policies: Mapping[Path, tuple[FileText, ...]]

    def resources(self) -> list[Resource]:
        """Read every resource. Raises ConfigError with every problem of every file, and every file not there."""
        return load_all(file for files in self.policies.values() for file in files)


def read_mesh(path: str | PathLike[str], *, last: MeshText | None = None) -> MeshText:
    """Read a mesh's folder once, without parsing the policies.

    Args:
        path: the folder, or its mesh.yaml.
        last: an earlier reading, so that a mesh.yaml that did not change is not parsed again.

    Raises:
        ConfigError: mesh.yaml cannot be used; or there is no such file or folder.

    Does not see that somebody writes meanwhile: who needs to know reads twice and compares.
    """
    file = find_mesh_file(Path(path))
    text = None if file is None else read_text(file)
    mesh = last.mesh if last and (last.mesh.file, last.text) == (file, text) else _parse(Path(path), file, text)
    return MeshText(mesh, text, _read_policies(mesh))


def load_mesh(path: str | PathLike[str]) -> MeshFile:
    """Read a folder's mesh.yaml, or the file itself. A folder without one has every default and no workload.

    Raises:
        ConfigError: with every problem, each with its place; or there is no such file or folder.

    Does not check that the files it names exist.
    """
    file = find_mesh_file(Path(path))
    return _parse(Path(path), file, None if file is None else read_text(file))


def load_policies(mesh_file: MeshFile) -> list[Resource]:
    """Read every resource that ``policies`` names.

    Raises:
        ConfigError: with every problem of every file, and every file or folder that is not there.
    """
    return load_all(file for files in _read_policies(mesh_file).values() for file in files)


def _read_policies(mesh_file: MeshFile) -> Mapping[Path, tuple[FileText, ...]]:
    paths = (mesh_file.folder / entry for entry in mesh_file.config.policies)
    return read_policies(paths, leave_out=mesh_file.file)


def _parse(path: Path, file: Path | None, text: str | None) -> MeshFile:
    if file is None or text is None:
        return MeshFile(config=MeshConfig(), folder=path)
    problems: list[Problem] = []
    shape = _read(text, str(file), problems)
    if shape is None or problems:
        raise ConfigError(in_order(problems))
    return shape.mesh_file(file)


def _read(text: str, source: str, problems: list[Problem]) -> _MeshShape | None:
    documents = read_yaml(text, source, problems)
    if not documents:
        return None if problems else _MeshShape()
    data, place = documents[0]
    for _, second in documents[1:]:
        problems.append(Problem("mesh.yaml is one document", source, *second))
    if not isinstance(data, PlacedMapping):
        problems.append(Problem("mesh.yaml is a mapping of sections", source, *place))
        return None
    return build(_MeshShape, data, source, problems)


# ------------------------------------------------------------------ the file's shape


def _dns_label(text: str) -> None:
    if not is_dns_label(text):
        raise ValueError(f"{text[:80]!a} is no Kubernetes name: a-z 0-9 - only, at most 63")


def _name(text: str) -> None:
    if not text.isprintable():
        raise ValueError("a workload's name is printable")


_DnsLabel = Annotated[Text, checked(_dns_label)]


class _WorkloadShape(Model):
    namespace: _DnsLabel = "default"
    service_account: _DnsLabel = "default"
    labels: Labels = Field(default_factory=dict)
    ports: Mapping[Text, PortNumber] = Field(default_factory=dict)
    identity: IdentityConfig | None = None
    protected_resource: ProtectedResource | None = None

    @field_validator("identity")
    @classmethod
    def _one_source(cls, identity: IdentityConfig | None) -> IdentityConfig | None:
        if identity is None:
            return None
        sources = (identity.files, identity.development_authority, identity.csr, identity.workload_api)
        if len(list(filter(None, sources))) != 1:
            one_of = "files, workloadApi, csr or developmentAuthority"
            raise ValueError(f"an identity comes from exactly one source: {one_of}")
        if bool(identity.csr) != bool(identity.token_file):
            raise ValueError("csr and tokenFile belong together: the token says who asks")
        if not identity.csr and (identity.root_cert or identity.renewal):
            raise ValueError("rootCert and renewal are for csr")
        return identity


def _istio_default(value: Any) -> Any:
    return PathNormalization.BASE if value == "DEFAULT" else value


class _NormalizationShape(Model):
    normalization: Annotated[PathNormalization, BeforeValidator(_istio_default)] = PathNormalization.BASE


class _MeshMtlsShape(Model):
    """Istio's enum; what it leaves to itself (TLS_AUTO, 1.2 there) is 1.3 here."""

    min_protocol_version: Literal["TLS_AUTO", "TLSV1_2", "TLSV1_3"] = "TLS_AUTO"


class _GatewayTopologyShape(Model):
    num_trusted_proxies: Annotated[int, Field(strict=True, ge=0, le=100)] = 0


class _ProxyConfigShape(Model):
    """Of Istio's ProxyConfig only what has a meaning without a proxy of our own."""

    gateway_topology: _GatewayTopologyShape = Field(default_factory=_GatewayTopologyShape)


class _MeshConfigShape(Model):
    trust_domain: TrustDomainName = "cluster.local"
    trust_domain_aliases: tuple[TrustDomainName, ...] = ()
    root_namespace: _DnsLabel = "istio-system"
    path_normalization: _NormalizationShape = Field(default_factory=_NormalizationShape)
    extension_providers: tuple[ExtensionProviderShape, ...] = ()
    default_config: _ProxyConfigShape = Field(default_factory=_ProxyConfigShape)
    mesh_mtls: _MeshMtlsShape = Field(default_factory=_MeshMtlsShape, alias="meshMTLS")

    @field_validator("extension_providers")
    @classmethod
    def _one_each(cls, providers: tuple[ExtensionProviderShape, ...]) -> tuple[ExtensionProviderShape, ...]:
        first = {provider.name: index for index, provider in reversed(list(enumerate(providers)))}
        complain(
            ((index, "name"), "another provider has this name")
            for index, provider in enumerate(providers)
            if first[provider.name] != index
        )
        return providers


def _of_ids(value: Any) -> Any:
    """A list alone says who may answer."""
    return {"ids": value} if isinstance(value, list) else value


_ShortService = Annotated[Service, BeforeValidator(_of_ids)]


class _MeshShape(Model):
    workloads: Mapping[Annotated[Text, checked(_name)], _WorkloadShape] = Field(default_factory=dict)
    mesh_config: _MeshConfigShape = Field(default_factory=_MeshConfigShape)
    trust_bundles: Mapping[TrustDomainName, TrustBundleShape] = Field(default_factory=dict)
    services: Mapping[Annotated[Text, checked(host_key)], _ShortService] = Field(default_factory=dict)
    policies: Annotated[tuple[FilePath, ...], Field(min_length=1)] = (".",)
    ambiguous_paths: AmbiguousPaths | None = None
    compatibility: Compatibility = "safe"
    keys: KeysConfig = Field(default_factory=KeysConfig)
    issuers: Mapping[Text, IssuerConfig] = Field(default_factory=dict)
    allow_no_policy: Flag = False
    forwarded_identity: ForwardedIdentity | None = None
    decision_memo: Flag = True
    problem_details: Flag = False

    @field_validator("trust_bundles")
    @classmethod
    def _foreign_only(cls, bundles: Mapping[str, TrustBundle], info: ValidationInfo) -> Mapping[str, TrustBundle]:
        config = info.data.get("mesh_config")
        own = {config.trust_domain, *config.trust_domain_aliases} if config else set()
        complain(trust_bundle_complaints(bundles, frozenset(own)))
        return bundles

    @field_validator("issuers")
    @classmethod
    def _nothing_open(cls, issuers: Mapping[str, IssuerConfig]) -> Mapping[str, IssuerConfig]:
        complain(complaint for name, issuer in issuers.items() for complaint in check_issuer(name, issuer))
        return issuers

    @field_validator("forwarded_identity")
    @classmethod
    def _proven(cls, forwarded: ForwardedIdentity | None) -> ForwardedIdentity | None:
        if forwarded and not (forwarded.ids or forwarded.addresses or forwarded.unix_socket):
            raise ValueError("say what proves that the proxy sent it: ids, addresses or unixSocket")
        return forwarded

    @field_validator("services")
    @classmethod
    def _one_spelling(cls, services: Mapping[str, Service]) -> Mapping[str, Service]:
        first: dict[str, str] = {}
        complain(
            ((name,), f"the same host as {first[host_key(name)]}")
            for name in services
            if first.setdefault(host_key(name), name) != name
        )
        return services

    def mesh_file(self, file: Path) -> MeshFile:
        """The values everyone else knows."""
        config, folder = self.mesh_config, file.parent
        return MeshFile(
            config=MeshConfig(
                trust_domain=config.trust_domain,
                trust_domain_aliases=config.trust_domain_aliases,
                root_namespace=config.root_namespace,
                path_normalization=config.path_normalization.normalization,
                trust_bundles={name: bundle.below(folder) for name, bundle in self.trust_bundles.items()},
                services=self.services,
                policies=self.policies,
                ambiguous_paths=self.ambiguous_paths or ("istio" if self.compatibility == "istio" else "refuse"),
                compatibility=self.compatibility,
                keys=self.keys.below(folder),
                issuers={name: issuer.below(folder) for name, issuer in self.issuers.items()},
                allow_no_policy=self.allow_no_policy,
                decision_memo=self.decision_memo,
                problem_details=self.problem_details,
                forwarded_identity=self.forwarded_identity,
                num_trusted_proxies=config.default_config.gateway_topology.num_trusted_proxies,
                extension_providers=providers_by_name(config.extension_providers),
                min_tls_version="1.2" if config.mesh_mtls.min_protocol_version == "TLSV1_2" else "1.3",
            ),
            workloads={
                name: Workload(
                    name=name,
                    namespace=shape.namespace,
                    service_account=shape.service_account,
                    labels=shape.labels,
                    ports=shape.ports,
                    identity=shape.identity,
                    protected_resource=shape.protected_resource,
                )
                for name, shape in self.workloads.items()
            },
            folder=folder,
            file=file,
        )
