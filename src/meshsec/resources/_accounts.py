"""Who must have an identity: Kubernetes ServiceAccounts, from manifests or a plain list.

Belongs here: reading ``kind: ServiceAccount`` out of whatever else a folder holds, and the short form. Must not know:
identities, authorities, where a list is used.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ..errors import ConfigError, Problem
from ._files import policy_files, read_text
from ._model import is_dns_label
from ._yaml import Place, PlacedList, PlacedMapping, Value, place_of, read_yaml

__all__ = ["ServiceAccount", "account_name", "load_service_accounts"]

MAX_NAME: Final = 253
_NAME: Final = re.compile(r"[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?")
_SHORT: Final = frozenset({"namespace", "name"})
_LISTS: Final = frozenset({"List", "ServiceAccountList"})


@dataclass(frozen=True, slots=True, order=True)
class ServiceAccount:
    """A Kubernetes service account, by name.

    Attributes:
        namespace: a DNS label.
        name: a DNS name.
    """

    namespace: str
    name: str

    @classmethod
    def of(cls, namespace: object, name: object) -> ServiceAccount:
        """Whatever was read, checked. Raises ValueError."""
        if flaw := _flaw(namespace, name):
            raise ValueError(flaw[1])
        return cls(str(namespace), str(name))


def _flaw(namespace: object, name: object) -> tuple[str, str] | None:
    """Which of the two is wrong, and what would be right."""
    if not isinstance(name, str) or len(name) > MAX_NAME or not _NAME.fullmatch(name):
        return "name", "the name of a service account is a lower-case DNS name"
    if not isinstance(namespace, str) or not is_dns_label(namespace):
        return "namespace", "a namespace is a lower-case DNS label"
    return None


def account_name(text: str) -> str:
    """A service account's name, as it is; empty where none is given. Raises ValueError for any other text."""
    if text and (len(text) > MAX_NAME or not _NAME.fullmatch(text)):
        raise ValueError(f"{text[:80]!a} is no service account: a lower-case DNS name")
    return text


def load_service_accounts(path: str | Path) -> tuple[ServiceAccount, ...]:
    """Read the service accounts in a file, or in a folder and those below (``*.yaml``, ``*.yml``, ``*.json``).

    A file holds Kubernetes manifests, of which those of another kind are passed over, or a list of
    ``{namespace: prod, name: reviews}``.

    Returns:
        Each once, in order of namespace and name.

    Raises:
        ConfigError: with every problem of every file; or there is no such file or folder.
    """
    problems: list[Problem] = []
    found: set[ServiceAccount] = set()
    for file in policy_files(Path(path)):
        try:
            text = read_text(file)
        except ConfigError as error:
            problems.extend(error.problems)
            continue
        reader = _Reader(str(file), problems)
        for document, place in read_yaml(text, str(file), problems):
            found.update(reader.document(document, place))
    if problems:
        raise ConfigError(problems)
    return tuple(sorted(found))


@dataclass(frozen=True, slots=True)
class _Reader:
    """Reads one file."""

    source: str
    problems: list[Problem]

    def document(self, document: Value, place: Place) -> Iterator[ServiceAccount]:
        if isinstance(document, PlacedList):
            for item, item_place in zip(document, document.items_at, strict=True):
                yield from self.short(item, item_place)
        elif isinstance(document, PlacedMapping):
            yield from self.manifest(document)
        else:
            self.complain("service accounts are manifests, or a list of {namespace, name}", place)

    def manifest(self, document: PlacedMapping) -> Iterator[ServiceAccount]:
        kind, items = document.get("kind"), document.get("items")
        if not isinstance(kind, str):
            self.complain("a manifest says of what kind it is", place_of(document, ("kind",)))
        elif kind == "ServiceAccount" and document.get("apiVersion") == "v1":
            yield from self.named(document)
        elif kind in _LISTS and isinstance(items, PlacedList):
            for item, place in zip(items, items.items_at, strict=True):
                # The API's own lists name the kind once, for all their items.
                if kind == "ServiceAccountList" and isinstance(item, PlacedMapping) and "kind" not in item:
                    yield from self.named(item)
                else:
                    yield from self.document(item, place)
        elif kind in _LISTS:
            self.complain("a list has a list under items", place_of(document, ("items",)))

    def named(self, document: PlacedMapping) -> Iterator[ServiceAccount]:
        metadata = document.get("metadata")
        if isinstance(metadata, PlacedMapping):
            yield from self.account(metadata, metadata.get("namespace", "default"))
        else:
            self.complain("a ServiceAccount has metadata with a name", document.place)

    def short(self, item: Value, place: Place) -> Iterator[ServiceAccount]:
        if not isinstance(item, PlacedMapping) or set(item) != _SHORT:
            self.complain("a service account is {namespace: ..., name: ...}", place)
            return
        yield from self.account(item, item["namespace"])

    def account(self, holder: PlacedMapping, namespace: Value) -> Iterator[ServiceAccount]:
        if flaw := _flaw(namespace, holder.get("name")):
            field, message = flaw
            self.complain(message, place_of(holder, (field,)))
        else:
            yield ServiceAccount.of(namespace, holder.get("name"))

    def complain(self, message: str, place: Place) -> None:
        self.problems.append(Problem(message, self.source, *place))
