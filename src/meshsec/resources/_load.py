"""Files and text → resources, or every problem of all of them at once.

Belongs here: which document is which kind, and where each problem stands. Must not know: any one field, or which
resource is for whom.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from os import PathLike
from pathlib import Path
from typing import Final, TypeAlias, TypeVar

from pydantic import ValidationError

from ..errors import ConfigError, Problem
from ._authorization_policy import AuthorizationPolicy
from ._files import policy_files, read_text
from ._model import Model
from ._peer_authentication import PeerAuthentication
from ._problems import describe, field_path, suggest
from ._request_authentication import RequestAuthentication
from ._resource import Foreign
from ._yaml import Place, PlacedList, PlacedMapping, Value, place_of, read_yaml

__all__ = ["Resource", "build", "in_order", "load", "load_all", "parse"]

Resource: TypeAlias = AuthorizationPolicy | RequestAuthentication | PeerAuthentication | Foreign
_Built = TypeVar("_Built", bound=Model)

_GROUP: Final = "security.istio.io"
_VERSIONS: Final = ("security.istio.io/v1", "security.istio.io/v1beta1")
_KINDS: Final[Mapping[str, type[AuthorizationPolicy | RequestAuthentication | PeerAuthentication]]] = {
    "AuthorizationPolicy": AuthorizationPolicy,
    "PeerAuthentication": PeerAuthentication,
    "RequestAuthentication": RequestAuthentication,
}
_LISTS: Final = frozenset({"List", *(f"{kind}List" for kind in _KINDS)})
_REFUSED_GROUPS: Final[Mapping[str, str]] = {
    "authentication.istio.io": "the legacy group authentication.istio.io is not supported yet",
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
    return load_all([Path(path)])


def load_all(paths: Iterable[Path], *, leave_out: Path | None = None) -> list[Resource]:
    """Read the resources in all these files and folders, which together must not define anything twice."""
    loader = _Loader()
    done = {leave_out.resolve()} if leave_out else set()
    for path in paths:
        with loader.gathering():
            for file in policy_files(path):
                with loader.gathering():
                    text = read_text(file)
                    if (real := file.resolve()) not in done:
                        done.add(real)
                        loader.read(text, str(file))
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

    @contextmanager
    def gathering(self) -> Iterator[None]:
        """Keep the problems of a file that cannot be read, and go on with the next."""
        try:
            yield
        except ConfigError as error:
            self.problems.extend(error.problems)

    def read(self, text: str, source: str) -> _Loader:
        document = _Documents(source)
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
    """Reads the documents of one file."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.place: Place = (1, 1)
        self.problems: list[Problem] = []

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

    def _resource(self, kind: str, api_version: str, value: PlacedMapping) -> Resource | None:
        if kind in _KINDS:
            return build(_KINDS[kind], value, self.source, self.problems, _title(kind, value))
        metadata = value.get("metadata")
        known = {
            name: text
            for name in ("name", "namespace")
            if isinstance(metadata, Mapping) and isinstance(text := metadata.get(name), str)
        }
        return Foreign(api_version=api_version, kind=kind, metadata=known)


def _misfit(kind: str, api_version: str) -> tuple[str, str] | None:
    """The field that is wrong, and why; a misspelt policy must not pass as somebody else's object."""
    group = api_version.partition("/")[0]
    if group in _REFUSED_GROUPS:
        return "apiVersion", _REFUSED_GROUPS[group]
    if group == _GROUP and kind not in _KINDS:
        return "kind", f"unknown kind {kind[:80]!a}{suggest(kind, _KINDS)}"
    if kind in _KINDS and api_version not in _VERSIONS:
        return "apiVersion", f"{kind} has apiVersion {' or '.join(_VERSIONS)}, not {api_version[:80]!a}"
    if group != _GROUP and get_close_matches(group.lower(), [_GROUP], cutoff=0.85):
        return "apiVersion", f"unknown API group {group[:80]!a}: did you mean {_GROUP}?"
    return None


def _title(kind: str, value: PlacedMapping) -> str:
    """``Kind namespace/name``, as far as it is known."""
    metadata = value.get("metadata")
    name, namespace = map(metadata.get, ("name", "namespace")) if isinstance(metadata, Mapping) else (None, None)
    if not isinstance(name, str) or not name.isprintable():
        return kind
    return f"{kind} {namespace if isinstance(namespace, str) else 'default'}/{name[:80]}"
