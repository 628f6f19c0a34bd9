"""Files and text → resources, or every problem of all of them at once.

Belongs here: which document is which kind, and where each problem stands. Must not know: any one field, or which
resource is for whom.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from os import PathLike
from pathlib import Path
from typing import Final, TypeAlias, TypeVar

from pydantic import ValidationError

from ..errors import ConfigError, Problem
from ._authorization_policy import AuthorizationPolicy
from ._config_map import Embedded, config_map_flaws, embedded_texts
from ._files import FileText, read_policies
from ._kubernetes import KubernetesService
from ._legacy import MeshPolicy, Policy
from ._model import Model
from ._networking import DestinationRule, ServiceEntry, WorkloadEntry
from ._peer_authentication import PeerAuthentication
from ._pods import Pod, PodMaker
from ._problems import describe, field_path, shown, suggest
from ._request_authentication import RequestAuthentication
from ._resource import Foreign
from ._yaml import MAX_BYTES, Place, PlacedList, PlacedMapping, Value, place_of, read_yaml

__all__ = ["Resource", "build", "in_order", "load", "load_all", "parse"]

Resource: TypeAlias = (
    AuthorizationPolicy
    | RequestAuthentication
    | PeerAuthentication
    | Policy
    | MeshPolicy
    | KubernetesService
    | Pod
    | PodMaker
    | ServiceEntry
    | WorkloadEntry
    | DestinationRule
    | Foreign
)
_Built = TypeVar("_Built", bound=Model)

_GROUP: Final = "security.istio.io"
_NETWORKING: Final = "networking.istio.io"
_VERSIONS: Final[Mapping[str, tuple[str, ...]]] = {
    _GROUP: ("security.istio.io/v1", "security.istio.io/v1beta1"),
    "authentication.istio.io": ("authentication.istio.io/v1alpha1",),
    _NETWORKING: tuple(f"{_NETWORKING}/{version}" for version in ("v1", "v1beta1", "v1alpha3")),
}
_KINDS: Final[Mapping[str, Mapping[str, type[Resource]]]] = {
    _GROUP: {
        "AuthorizationPolicy": AuthorizationPolicy,
        "PeerAuthentication": PeerAuthentication,
        "RequestAuthentication": RequestAuthentication,
    },
    "authentication.istio.io": {"MeshPolicy": MeshPolicy, "Policy": Policy},
    _NETWORKING: {
        "DestinationRule": DestinationRule,
        "ServiceEntry": ServiceEntry,
        "WorkloadEntry": WorkloadEntry,
    },
    "v1": {"Pod": Pod, "Service": KubernetesService},
    "apps": dict.fromkeys(("DaemonSet", "Deployment", "ReplicaSet", "StatefulSet"), PodMaker),
}
"""API group to its kinds; Kubernetes' own group has no name, only its version."""

_FOREIGN: Final[Mapping[str, frozenset[str]]] = {
    _NETWORKING: frozenset({"EnvoyFilter", "Gateway", "ProxyConfig", "Sidecar", "VirtualService", "WorkloadGroup"}),
}
"""Kinds of these groups that have no effect here."""

_LISTS: Final = frozenset({"List", *(f"{kind}List" for kinds in _KINDS.values() for kind in kinds)})
_REFUSED_GROUPS: Final[Mapping[str, str]] = {
    "rbac.istio.io": "rbac.istio.io was removed from Istio: write an AuthorizationPolicy",
}


def parse(text: str, *, source: str = "<string>") -> list[Resource]:
    """Read the resources in a text: YAML, of one or several documents, or JSON.

    Args:
        text: the text.
        source: what to call it in problems.

    Raises:
        ConfigError: with every problem, in the order of the lines.

    Does not check what needs more than these resources: selectors that select nothing, roots, workloads.
    """
    return _Loader().read(text, source).result()


def load(path: str | PathLike[str]) -> list[Resource]:
    """Read the resources in a file, or in a folder and the folders below (``*.yaml``, ``*.yml``, ``*.json``).

    Names that begin with a dot, and mesh.yaml, are left out.

    Raises:
        ConfigError: with every problem of every file; or there is no such file or folder.
    """
    return load_all(read_policies([Path(path)])[Path(path)])


def load_all(files: Iterable[FileText]) -> list[Resource]:
    """Read the resources in all these files, which together must not define anything twice."""
    loader = _Loader()
    for file in files:
        loader.problems.extend(file.problems)
        loader.read(file.text, file.source)
    return loader.result()


def build(
    model: type[_Built], data: PlacedMapping, source: str, problems: list[Problem], resource: str | None = None
) -> _Built | None:
    """The model made of the data; or None, and its problems with their places."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        for found in describe(error, model):
            line, column = place_of(data, found.path, at_key=found.at_key)
            problems.append(Problem(found.message, source, line, column, resource, field_path(found.path) or None))
    return None


def in_order(problems: Iterable[Problem]) -> list[Problem]:
    """One file's problems, from its top to its bottom."""
    return sorted(problems, key=lambda problem: (problem.line or 0, problem.column or 0))


class _Loader:
    """Gathers the resources and the problems of several files."""

    def __init__(self) -> None:
        self.resources: list[Resource] = []
        self.problems: list[Problem] = []
        self._places: dict[tuple[str, str], str] = {}

    def result(self) -> list[Resource]:
        if self.problems:
            raise ConfigError(self.problems)
        return self.resources

    def read(self, text: str, source: str) -> _Loader:
        document = _Documents(source, text.split("\n"))
        for value, place in read_yaml(text, source, document.problems):
            for resource in document.read(value, place):
                self._add(resource, document)
        self.problems.extend(in_order(document.problems))
        return self

    def _add(self, resource: Resource, document: _Documents) -> None:
        self.resources.append(resource)
        if isinstance(resource, Foreign):
            return
        key = resource.kind, resource.id
        if key in self._places:
            title = f"{resource.kind} {resource.id}"
            document.complain(f"stands at {self._places[key]} already", document.place, title)
        self._places.setdefault(key, resource.location)


class _Documents:
    """Reads the documents of one file, or of one value of a ConfigMap in it (which then has no lines)."""

    def __init__(self, source: str, lines: Sequence[str] = ()) -> None:
        self.source = source
        self.lines = lines
        self.place: Place = (1, 1)
        self.problems: list[Problem] = []
        self._embedded_bytes = 0

    def complain(self, message: str, place: Place, resource: str | None = None) -> None:
        self.problems.append(Problem(message, self.source, *place, resource))

    def read(self, value: Value, place: Place) -> Iterator[Resource]:
        """The resource in a document, or those in a list of them."""
        self.place = place
        if not isinstance(value, PlacedMapping):
            self.complain("a resource is a mapping with apiVersion, kind, metadata and spec", place)
            return
        kind, api_version = (self._text(value, name) for name in ("kind", "apiVersion"))
        if kind is None or api_version is None:
            return
        wrong = _misfit(kind, api_version)
        if kind in _LISTS:
            yield from self._list(value)
        elif wrong:
            self.complain(wrong[1], value.values_at[wrong[0]], _title(kind, value))
        elif (kind, api_version) == ("ConfigMap", "v1") and (texts := self._texts(value)):
            for text in texts:
                yield from self._embedded(text, _title(kind, value))
        elif resource := self._resource(kind, api_version, value):
            resource._location = f"{self.source}:{place[0]}"
            yield resource

    def _text(self, value: PlacedMapping, name: str) -> str | None:
        found = value.get(name)
        if isinstance(found, str) and found:
            return found
        missing = f"a resource without {name}{suggest(name, map(str, value)) if name not in value else ''}"
        self.complain(missing.partition(";")[0], place_of(value, (name,)))
        return None

    def _list(self, value: PlacedMapping) -> Iterator[Resource]:
        items = value.get("items")
        for key in value.keys() - {"apiVersion", "kind", "metadata", "items"}:
            self.complain(f"unknown field {key!a} of a list", value.keys_at[key])
        if not isinstance(items, PlacedList):
            self.complain("a list of resources has a list under items", place_of(value, ("items",)))
            return
        for item, place in zip(items, items.items_at, strict=True):
            yield from self.read(item, place)

    def _texts(self, config_map: PlacedMapping) -> list[Embedded]:
        for message, place in config_map_flaws(config_map):
            self.complain(message, place, _title("ConfigMap", config_map))
        return embedded_texts(config_map)

    def _embedded(self, embedded: Embedded, title: str) -> Iterator[Resource]:
        """The resources in a value of a ConfigMap, each with its place in the file."""
        self._embedded_bytes += len(embedded.text)
        if not self.lines or self._embedded_bytes > MAX_BYTES:
            what = f"with more than {MAX_BYTES} characters" if self.lines else "inside a ConfigMap"
            self.complain(f"a ConfigMap {what} is not read", embedded.key_at, title)
            return
        inner = _Documents(self.source)
        for value, place in read_yaml(embedded.text, self.source, inner.problems):
            for resource in inner.read(value, place):
                self.place = embedded.place(inner.place, self.lines)
                resource._location = f"{self.source}:{self.place[0]}"
                yield resource
        for problem in inner.problems:
            inside = (problem.line, problem.column or 1) if problem.line else (len(embedded.text), 1)
            line, column = embedded.place(inside, self.lines)
            self.problems.append(replace(problem, line=line, column=column))

    def _resource(self, kind: str, api_version: str, value: PlacedMapping) -> Resource | None:
        model = _KINDS.get(_group(api_version), {}).get(kind)
        if model:
            return build(model, value, self.source, self.problems, _title(kind, value))
        metadata = value.get("metadata")
        known = {
            name: text
            for name in ("name", "namespace")
            if isinstance(metadata, Mapping) and isinstance(text := metadata.get(name), str)
        }
        return Foreign(api_version=api_version, kind=kind, metadata=known)


def _misfit(kind: str, api_version: str) -> tuple[str, str] | None:
    """The field that is wrong, and why; a misspelt policy must not pass as somebody else's object."""
    group = _group(api_version)
    if group in _REFUSED_GROUPS:
        return "apiVersion", _REFUSED_GROUPS[group]
    known = _KINDS.get(group, {}).keys() | _FOREIGN.get(group, frozenset())
    # Policy and Service are kinds of many groups; today's names are Istio's alone.
    if group == _NETWORKING and kind in _KINDS[_GROUP]:
        group = _GROUP
    elif group in _VERSIONS and kind not in known:
        return "kind", f"unknown kind {kind[:80]!a}{suggest(kind, _KINDS[group])}"
    versions = _VERSIONS.get(group) or _VERSIONS[_GROUP] if group in _VERSIONS or kind in _KINDS[_GROUP] else ()
    if versions and api_version not in versions:
        return "apiVersion", f"{kind} has apiVersion {' or '.join(versions)}, not {api_version[:80]!a}"
    near = get_close_matches(group.lower(), _VERSIONS, n=1, cutoff=0.85)
    if near and group not in _VERSIONS:
        return "apiVersion", f"unknown API group {group[:80]!a}: did you mean {near[0]}?"
    return None


def _group(api_version: str) -> str:
    return api_version.partition("/")[0]


def _title(kind: str, value: PlacedMapping) -> str:
    """``Kind namespace/name``, as far as it is known."""
    metadata = value.get("metadata")
    name, namespace = map(metadata.get, ("name", "namespace")) if isinstance(metadata, Mapping) else (None, None)
    if not isinstance(name, str):
        return shown(kind)
    return f"{shown(kind)} {shown(namespace) if isinstance(namespace, str) else 'default'}/{shown(name)}"
