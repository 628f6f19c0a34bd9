"""The table of attributes: one row for each key a policy can speak of.

The fields of ``source`` and ``operation`` are the same attributes as the keys of ``when``, so they share its rows.
Must not know: rules, actions, policies.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from ..attributes import Attributes
from . import _match, _patterns, _read
from ._match import Doubt, Test
from ._patterns import Pattern, Scope

__all__ = ["OPERATION_FIELDS", "SOURCE_FIELDS", "Row", "claim_path", "find_row"]


@dataclass(frozen=True, slots=True)
class Row:
    """One attribute.

    Attributes:
        parse: one value of a policy, as patterns.
        read: the request's value, in the form that ``test`` takes.
        test: patterns, as a predicate on that value.
        show: that value, for people; None where there is none.
        secret: whether even the policy's values are not shown.
        headers: those whose values ``read`` looks at, lower case; but for the host, which every request has.
        of_line: what ``read`` finds, given the method and the path; None where it looks at anything else.
    """

    parse: Callable[[str, Scope], Iterable[Pattern]]
    read: Callable[[Attributes], Any]
    test: Callable[[Any, Doubt], Test]
    show: Callable[[Any], str | None]
    secret: bool = False
    headers: tuple[str, ...] = ()
    of_line: Callable[[str, str], Any] | None = None

    def hiding(self, names: Collection[str]) -> Row:
        """The same; but of these headers nothing is shown."""
        if not any(name in names for name in self.headers):
            return self
        return replace(self, show=_read.show_hidden, secret=True)


SOURCE_FIELDS: Final = {
    "principals": "source.principal",
    "request_principals": "request.auth.principal",
    "namespaces": "source.namespace",
    "service_accounts": "source.serviceAccount",
    "trust_domains": "source.trustDomain",
    "ip_blocks": "source.ip",
    "remote_ip_blocks": "remote.ip",
}
"""Field of a source to attribute; ``not_`` before the field negates."""

OPERATION_FIELDS: Final = {"hosts": "hosts", "ports": "destination.port", "methods": "methods", "paths": "paths"}
"""Field of an operation to attribute; ``not_`` before the field negates."""


_FORWARDED: Final = ("x-forwarded-for",)

# A header whose name holds one of these carries something that opens doors.
_SECRET: Final = ("assertion", "auth", "cookie", "credential", "jwt", "key", "pass", "secret", "session", "token")


def _claim(*names: str) -> Row:
    return Row(_patterns.nonempty_text, _read.claim(names), _match.any_text, _read.show_hidden)


def claim_path(entry: str) -> tuple[str, ...]:
    """``[a][b]`` walks two objects; where the brackets are not so regular, all that is inside is one name."""
    names = entry[1:-1].split("][")
    regular = not any("[" in name or "]" in name for name in names)
    return tuple(names) if regular else (entry[1:-1],)


def _claim_entry(entry: str, *, istio: bool) -> Row:  # noqa: ARG001 - claims have one reading
    return _claim(*claim_path(entry))


def _header_entry(entry: str, *, istio: bool) -> Row:
    name = entry[1:-1].lower()
    secret = any(word in name for word in _SECRET)
    show = _read.show_hidden if secret else _read.show_lines
    return Row(_patterns.present_text, _read.header(name, istio=istio), _match.header, show, secret, (name,))


_ROWS: Final[Mapping[str, Row]] = {
    "source.principal": Row(_patterns.principal, _read.peer_principal, _match.text, _read.show_text),
    "source.namespace": Row(_patterns.namespace, _read.peer_namespace, _match.namespace, _read.show_names),
    "source.serviceAccount": Row(
        _patterns.service_account, _read.peer_service_account, _match.service_account, _read.show_names
    ),
    "source.trustDomain": Row(_patterns.trust_domain, _read.peer_trust_domain, _match.text, _read.show_text),
    "source.ip": Row(_patterns.ip_block, _read.source_ip, _match.address, _read.show_number),
    "remote.ip": Row(_patterns.ip_block, _read.remote_ips, _match.addresses, _read.show_numbers, headers=_FORWARDED),
    "destination.ip": Row(_patterns.ip_block, _read.destination_ip, _match.address, _read.show_number),
    "destination.port": Row(_patterns.port, _read.destination_port, _match.port, _read.show_number),
    "connection.sni": Row(_patterns.nonempty_text, _read.sni, _match.text, _read.show_text),
    "request.auth.principal": Row(
        _patterns.request_principal, _read.request_principal, _match.request_principal, _read.show_request_principal
    ),
    "request.auth.audiences": Row(_patterns.nonempty_text, _read.audiences, _match.any_text, _read.show_hidden),
    "request.auth.presenter": _claim("azp"),
    "hosts": Row(_patterns.host, _read.hosts, _match.host, _read.show_first),
    "methods": Row(_patterns.present_text, _read.method, _match.text, _read.show_text, of_line=_read.method_of_line),
    "paths": Row(_patterns.path, _read.path, _match.path, _read.show_first, of_line=_read.path_of_line),
}

# What compatibility: istio reads in another way.
_ISTIO_ROWS: Final[Mapping[str, Row]] = {
    "remote.ip": Row(_patterns.ip_block, _read.forwarded_ip, _match.address, _read.show_number, headers=_FORWARDED),
}

_ENTRIES: Final[Mapping[str, Callable[..., Row]]] = {
    "request.auth.claims": _claim_entry,
    "request.headers": _header_entry,
}


def find_row(key: str, *, istio: bool = False) -> Row:
    """The row of a key; ``map[entry]`` has one of its own. With ``istio``, read as Istio's proxy does.

    Raises:
        ValueError: there is no such attribute. Istio would drop the whole rule, a DENY too.
    """
    name, bracket, _ = key.partition("[")
    if name in _ENTRIES and bracket and key.endswith("]"):
        return _ENTRIES[name](key[len(name) :], istio=istio)
    if istio and key in _ISTIO_ROWS:
        return _ISTIO_ROWS[key]
    if key not in _ROWS:
        raise ValueError(f"unknown attribute {key[:80]!a}")
    return _ROWS[key]
