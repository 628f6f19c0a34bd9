"""How each attribute of a request is read, and what people are shown of it.

A value is read once for each request and attribute, however many rules ask for it. None, or an empty tuple for hosts,
means *not known* for addresses, ports and hosts, and *not there* for everything else. Must not know: patterns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

from ..attributes import Attributes
from ..matching import IpAddress, decode_path, parse_ip

__all__ = ["HeaderValue", "Names", "joined"]

Names = tuple[str | None, str]
"""What a SPIFFE ID of exactly Istio's form names, else None; and the text to search where the form may be another."""

HeaderValue = tuple[tuple[str, ...], str]
"""The values of the lines; and, where a server may have joined several into one, what it joined, in one form."""

_LISTS: Final = (tuple, list)
_SHOWN: Final = 80


def peer_namespace(attributes: Attributes) -> Names | None:
    """The peer's Kubernetes namespace, and its whole SPIFFE ID."""
    peer = attributes.connection.peer
    return None if peer is None else (peer.id.namespace, str(peer.id))


def peer_service_account(attributes: Attributes) -> Names | None:
    """The peer's Kubernetes service account, and the path of its SPIFFE ID."""
    peer = attributes.connection.peer
    if peer is None:
        return None
    namespace = peer.id.namespace
    return (namespace and f"{namespace}/{peer.id.service_account}", peer.id.path)


def peer_principal(attributes: Attributes) -> str | None:
    """The peer's SPIFFE ID without its scheme, as policies write it."""
    peer = attributes.connection.peer
    return None if peer is None else peer.id.trust_domain.name + peer.id.path


def peer_trust_domain(attributes: Attributes) -> str | None:
    """The peer's trust domain."""
    peer = attributes.connection.peer
    return None if peer is None else peer.id.trust_domain.name


def source_ip(attributes: Attributes) -> IpAddress | None:
    """The directly connected peer's address."""
    return parse_ip(attributes.connection.source_ip or "")


def remote_ips(attributes: Attributes) -> tuple[IpAddress, ...] | None:
    """The original client's address where trusted proxies told it.

    Else the peer's, and beside it what X-Forwarded-For says: any client can write that, and Istio's sidecar believes
    it. So it may close a door and never open one: both addresses are judged.
    """
    connection = attributes.connection
    told = parse_ip(connection.remote_ip or "")
    if told is not None:
        return (told,)
    direct = source_ip(attributes)
    if direct is None:
        return None
    claimed = forwarded_ip(attributes)
    return (direct,) if claimed is None or claimed == direct else (direct, claimed)


def forwarded_ip(attributes: Attributes) -> IpAddress | None:
    """The last address of X-Forwarded-For, as Istio's sidecars believe it; the peer's where there is none."""
    lines = attributes.facts.headers.get("x-forwarded-for", ("",))
    return parse_ip(lines[-1].rpartition(",")[2].strip(" \t")) or source_ip(attributes)


def destination_ip(attributes: Attributes) -> IpAddress | None:
    """Our own address on this connection."""
    return parse_ip(attributes.connection.destination_ip or "")


def destination_port(attributes: Attributes) -> int | None:
    """The port this workload listens on."""
    return attributes.connection.destination_port


def sni(attributes: Attributes) -> str:
    """The TLS server name in lower case, as Envoy has it, because names do not know case; empty on plaintext."""
    return (attributes.connection.sni or "").lower()


def method(attributes: Attributes) -> str:
    """The method."""
    return attributes.facts.method


def method_of_line(method: str, _path: str) -> str:
    """The method."""
    return method


def path(attributes: Attributes) -> tuple[str, str]:
    """The path, and its percent-decoding, by which two spellings are compared."""
    return path_of_line(attributes.facts.method, attributes.path)


def path_of_line(_method: str, path: str) -> tuple[str, str]:
    """The same."""
    return path, decode_path(path)


def hosts(attributes: Attributes) -> tuple[str, ...]:
    """The host as sent, then what else it may be called: without port, without the dot at its end."""
    host = attributes.facts.host
    if host is None:
        return ()
    if ":" not in host and not host.endswith("."):
        return (host,)
    name = host[: host.find("]") + 1] if host.startswith("[") else host.partition(":")[0]
    bare = name.rstrip(".")
    return (host, name, bare, bare + host[len(name) :])


def request_principal(attributes: Attributes) -> tuple[str, str] | str | None:
    """Issuer and subject, if both are claims of a verified token, and text; or what a legacy Policy binds."""
    principal, bound = attributes.principal, attributes.bound
    if bound is not None:
        return bound.principal or None
    if principal is None:
        return None
    # Without a claim the field may still say something: the principal was then built by hand.
    issuer = principal.claims.get("iss", principal.issuer or None)
    subject = principal.claims.get("sub", principal.subject or None)
    return (issuer, subject) if isinstance(issuer, str) and isinstance(subject, str) else None


def claim(names: tuple[str, ...]) -> Callable[[Attributes], tuple[str, ...]]:
    """The texts of one claim: its own, or those in its list. A number, a truth value or an object has none."""

    def read(attributes: Attributes) -> tuple[str, ...]:
        if attributes.principal is None:
            return ()
        value: Any = attributes.principal.claims
        for name in names:
            # Claims are frozen, so this is what their objects are; a test may give a dict.
            known = type(value) is MappingProxyType or isinstance(value, Mapping)
            value = value.get(name) if known else None
        if isinstance(value, str):
            return (value,)
        return tuple([item for item in value if isinstance(item, str)]) if isinstance(value, _LISTS) else ()

    return read


def audiences(attributes: Attributes) -> tuple[str, ...]:
    """The claim ``aud``; where a legacy Policy applies, the first of it."""
    bound = attributes.bound
    if bound is not None:
        return (bound.audience,) if bound.audience else ()
    return _audiences(attributes)


_audiences: Final = claim(("aud",))


# Of these headers Envoy makes one line of several before a policy sees them (measured with 1.39.3).
_JOINED: Final = frozenset({
    "accept", "accept-encoding", "access-control-request-headers", "access-control-request-method", "authorization",
    "cache-control", "cdn-loop", "content-encoding", "content-type", "expect", "grpc-accept-encoding", "grpc-timeout",
    "if-match", "if-modified-since", "if-none-match", "if-range", "if-unmodified-since", "origin", "pragma",
    "referer", "user-agent", "via", "x-client-trace-id", "x-envoy-attempt-count", "x-envoy-decorator-operation",
    "x-envoy-downstream-service-cluster", "x-envoy-external-address", "x-envoy-original-path", "x-forwarded-for",
    "x-forwarded-host", "x-forwarded-port", "x-forwarded-proto", "x-request-id",
})  # fmt: skip


def header(name: str, *, istio: bool = False) -> Callable[[Attributes], HeaderValue]:
    """The lines of one header, whose name is lower-case.

    Several lines of a header that Envoy would join are in doubt as if a server had; with ``istio`` they are joined.
    """
    proxied = name in _JOINED

    def read(attributes: Attributes) -> HeaderValue:
        lines = attributes.facts.headers.get(name, ())
        several = proxied and len(lines) > 1
        if several and istio:
            lines, several = (",".join(filter(None, lines)),), False
        if several or (attributes.facts.joined_headers and any("," in line for line in lines)):
            return lines, joined(",".join(lines))
        return lines, ""

    return read


def joined(text: str) -> str:
    """The pieces between commas without the space around them: servers join with a comma, some with a space too."""
    return ",".join(piece.strip(" \t") for piece in text.split(","))


def show_text(value: str | None) -> str | None:
    """Quoted, escaped, cut."""
    if not value:
        return None
    return ascii(value) if len(value) <= _SHOWN else f"{value[:_SHOWN]!a}..."


def show_first(value: tuple[str, ...]) -> str | None:
    """The value itself, not what else it may be read as."""
    return show_text(value[0]) if value else "(not known)"


def show_names(value: Names | None) -> str | None:
    """The name, or what it was looked for in."""
    return None if value is None else show_text(value[0] or value[1])


def show_number(value: int | IpAddress | None) -> str | None:
    """A port or an address."""
    return "(not known)" if value is None else str(value)


def show_numbers(value: tuple[IpAddress, ...] | None) -> str | None:
    """Addresses, any of which may be the client's."""
    return "(not known)" if value is None else " or ".join(map(str, value))


def show_request_principal(value: tuple[str, str] | str | None) -> str | None:
    """Who the token is about; not the token."""
    return show_text(value) if value is None or isinstance(value, str) else show_text("/".join(value))


def show_lines(value: HeaderValue) -> str | None:
    """The lines of a header."""
    return " and ".join(show_text(line) or "''" for line in value[0]) or None


def show_hidden(value: tuple[object, ...]) -> str | None:
    """A claim, or a header that holds a secret: that it is there, and no more."""
    return "(hidden)" if value and value[0] else None
