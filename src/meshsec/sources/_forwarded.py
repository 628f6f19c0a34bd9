"""What proxies in front say about the client: its certificate in a header, its address in X-Forwarded-For.

A header is evidence only if its sender is proven by the connection itself; the certificate in it is judged by our own
bundles like any other. Must not know: policies, servers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Final

from ..attributes import Connection, HttpRequest, PeerIdentity, read_client_cert, read_client_cert_chain
from ..decision import Reason
from ..errors import SvidError
from ..matching import IpBlock, parse_ip
from ..resources import ForwardedIdentity, MeshConfig
from ..tls import MaterialSource, verify_presented

__all__ = ["believed"]

_log: Final = logging.getLogger("meshsec.identity")
_HEADERS: Final = {
    "xfcc": "x-forwarded-client-cert",
    "client-cert": "client-cert",
    "nginx": "x-ssl-client-cert",
    "haproxy": "x-ssl-client-der",
    "alb": "x-amzn-mtls-clientcert-leaf",
}
_CHAIN: Final = "client-cert-chain"
_XFF: Final = "x-forwarded-for"


def believed(
    connection: Connection, request: HttpRequest, config: MeshConfig, material: MaterialSource | None, *, now: float
) -> Connection:
    """The connection as the proxies in front, as far as the configuration trusts them, describe it.

    Over a proven proxy's connection its client is the peer, and without a certificate in the header nobody is: the
    proxy itself does not call. Over any other connection the header has no meaning.
    """
    forwarded = config.forwarded_identity
    proven = forwarded is not None and _sent_by_proxy(connection, forwarded)
    if config.num_trusted_proxies:
        # Where the configuration can tell a proxy from anybody else, nobody else says who the client is.
        told = _remote_ip(request, config.num_trusted_proxies) if proven or forwarded is None else None
        connection = replace(connection, remote_ip=told or connection.source_ip)
    if forwarded is None or connection.rejected is not None or not proven:
        return connection
    try:
        chain = _presented(request, forwarded)
        if not chain:
            return replace(connection, peer=None)
        if material is None:
            raise ValueError("without an identity of our own there are no authorities to judge it by")
        peer = verify_presented(chain, material, now=now)
    except ValueError as error:
        _log.info("a forwarded certificate is refused: %s", error)
        return replace(connection, peer=None, rejected=Reason.FORWARDED_INVALID)
    except SvidError as error:
        _log.info("a forwarded certificate is not believed: %s", error)
        return replace(connection, peer=None, rejected=Reason.PEER_DISTRUSTED)
    return replace(connection, peer=PeerIdentity(peer.id, peer.certificate_sha256, peer.not_after))


def _sent_by_proxy(connection: Connection, forwarded: ForwardedIdentity) -> bool:
    if forwarded.unix_socket and connection.unix:
        return True
    if connection.peer is not None and str(connection.peer.id) in forwarded.ids:
        return True
    address = connection.source_ip
    return address is not None and any(contains(address) for contains in _blocks(forwarded.addresses))


@lru_cache(16)
def _blocks(addresses: tuple[str, ...]) -> Sequence[Callable[[str], bool]]:
    return tuple(IpBlock.parse(address).contains for address in addresses)


def _presented(request: HttpRequest, forwarded: ForwardedIdentity) -> tuple[bytes, ...]:
    """What the proxy says that the client presented, leaf first. Raises ValueError."""
    name = forwarded.header or _HEADERS[forwarded.format]
    chain = read_client_cert(_only_line(request, name), forwarded.format)
    if forwarded.format != "client-cert" or not chain:
        return chain
    # A forged one would do no harm: certificates between are believed for their signatures alone.
    return chain + read_client_cert_chain(_only_line(request, _CHAIN))


def _only_line(request: HttpRequest, name: str) -> str:
    """The header's value; empty without one. A second line, or a name that some server would read as the same."""
    found = [(given.lower(), value) for given, value in request.headers if given.lower().replace("_", "-") == name]
    if len(found) > 1 or any(given != name for given, _ in found):
        raise ValueError(f"{name} came more than once, or with an underscore in its name")
    return found[0][1] if found else ""


def _remote_ip(request: HttpRequest, proxies: int) -> str | None:
    """The address that the outermost of our proxies saw: the N-th from the right, as Istio's gateways count."""
    told = ",".join(value for name, value in request.headers if name.lower() == _XFF).split(",")
    address = told[-proxies].strip(" \t") if len(told) >= proxies else ""
    return address if parse_ip(address) is not None else None
