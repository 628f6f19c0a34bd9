"""The outer SSL context: what users hold, and what hands every connection to the newest inner one.

An inner context is built fresh for each snapshot of material, proven to load, then put in place by one reference;
none is ever changed while it serves. The outer one takes no orders: libraries that would load the Web's authorities
into it, or turn verification off, change nothing. This file must not know who publishes the material.
"""

# ruff: noqa: FBT001, FBT002 - the signatures are the ssl module's

from __future__ import annotations

import _ssl
import logging
import socket
import ssl
from collections.abc import Callable, Iterable
from typing import Any, Final, Self

from ..errors import ConfigError, SvidError
from ..spiffe import X509BundleSet, X509Svid
from ._keys import load_svid
from ._material import MaterialSource, TlsMaterial
from ._peer import Authorizer, Gate
from ._sockets import GuardedContext, GuardedObject, GuardedSocket

__all__ = ["MeshSSLContext", "client_context", "server_context"]

_log: Final = logging.getLogger("meshsec.tls")
_PROTOCOL: Final = {"client": ssl.PROTOCOL_TLS_SERVER, "server": ssl.PROTOCOL_TLS_CLIENT}  # by the peer's role

_C_CONTEXT: Final = _ssl._SSLContext

_Alpn = tuple[str, ...]


def server_context(source: MaterialSource, *, authorize: Authorizer | None = None) -> MeshSSLContext:
    """A context for servers: presents our SVID, demands the client's and verifies it.

    Args:
        source: asked at every handshake. While it has nothing, handshakes fail; this call does not.
        authorize: which clients may connect; None for every SVID of a trust domain that has a bundle.

    NOT checked: revocation, and what the client may do once connected.

    Raises:
        ConfigError: ``ssl_replaced``: another library has put its own class in the place of ``ssl.SSLContext``.
    """
    return MeshSSLContext(Gate("client", source, authorize))


def client_context(source: MaterialSource, *, authorize: Authorizer) -> MeshSSLContext:
    """A context for clients: presents our SVID and judges the server before a byte of the request is sent.

    Args:
        source: asked at every handshake.
        authorize: who may answer, judged by SPIFFE ID and by the server name that the caller asked for; mandatory,
            because a certificate alone never says that its holder is the one we meant. DNS names in it count nothing.

    Raises:
        ConfigError: as :func:`server_context` says.
    """
    return MeshSSLContext(Gate("server", source, authorize))


class _InnerContext(GuardedContext):
    """One snapshot, as OpenSSL wants it."""

    sslsocket_class = GuardedSocket
    sslobject_class = GuardedObject
    material: TlsMaterial | None = None

    def __new__(cls, gate: Gate) -> Self:
        return super().__new__(cls, _PROTOCOL[gate.role])

    def __init__(self, gate: Gate) -> None:
        # Explicitly, one by one: what create_default_context sets differs between versions of Python.
        self.gate = gate
        self.check_hostname = False  # before verify_mode; the gate judges the name
        self.verify_mode = ssl.CERT_REQUIRED
        # An authority need not be self-signed; STRICT would refuse roots that SPIFFE permits.
        self.verify_flags = ssl.VERIFY_X509_TRUSTED_FIRST | ssl.VERIFY_X509_PARTIAL_CHAIN
        self.minimum_version = ssl.TLSVersion.TLSv1_3
        # A resumed session would skip the certificate, its expiry and its authority.
        self.options |= ssl.OP_NO_TICKET
        if gate.role == "client":
            self.num_tickets = 0
            self.sni_callback = _note_server_name


def _note_server_name(tls_object: ssl.SSLObject, name: str | None, _context: ssl.SSLContext) -> None:
    # typeshed knows only SSLObject here; blocking sockets arrive as themselves.
    if isinstance(tls_object, GuardedObject | GuardedSocket):
        tls_object.sni = name


def _ignored(name: str) -> Callable[..., None]:
    def method(_self: ssl.SSLContext, *_args: object, **_options: object) -> None:
        _log.debug("%s() has no effect on a mesh's context", name)

    return method


class MeshSSLContext(ssl.SSLContext):
    """An ``ssl.SSLContext`` whose certificate, key and trust follow a source, and that nothing else can change.

    Hand it to any server or client that takes an ``SSLContext``. TLS 1.3 with mutual authentication only; no session
    is ever resumed. Made by :func:`server_context` and :func:`client_context`.

    Settings that libraries make are ignored, because none of them may weaken it; only ALPN is theirs. It reads as
    strict as it is: ``CERT_REQUIRED`` and, for clients, ``check_hostname``: the authorizer judges the server's name.
    """

    # Only a listening socket is ever made from the outer context itself.
    sslsocket_class = GuardedSocket
    sslobject_class = GuardedObject

    _gate: Gate
    _alpn: _Alpn
    _built: dict[_Alpn, _InnerContext]
    _failed: TlsMaterial | None

    def __new__(cls, gate: Gate) -> Self:
        if ssl.SSLContext.__base__ is not _C_CONTEXT:
            # truststore.inject_into_ssl() and gevent do; then settings recurse, and event loops refuse our class.
            raise ConfigError("something has replaced ssl.SSLContext: a mesh needs Python's own", code="ssl_replaced")
        return super().__new__(cls, _PROTOCOL[gate.role])

    def __init__(self, gate: Gate) -> None:
        # Never used for a connection; were it ever, it has no certificate and trusts nobody.
        super().__setattr__("verify_mode", ssl.CERT_REQUIRED)
        super().__setattr__("minimum_version", ssl.TLSVersion.TLSv1_3)
        self._gate = gate
        self._alpn = ()
        self._built = {}
        self._failed = None

    def wrap_socket(
        self,
        sock: socket.socket,
        server_side: bool = False,
        do_handshake_on_connect: bool = True,
        suppress_ragged_eofs: bool = True,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,  # noqa: ARG002 - no session is ever resumed
    ) -> ssl.SSLSocket:
        """As in the ssl module. A listening socket may be wrapped: each connection it accepts gets the newest."""
        if server_side and not _is_connected(sock):
            return super().wrap_socket(sock, server_side, do_handshake_on_connect, suppress_ragged_eofs)
        return self._current().wrap_socket(
            sock, server_side, do_handshake_on_connect, suppress_ragged_eofs, server_hostname
        )

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,  # noqa: ARG002
    ) -> ssl.SSLObject:
        """As in the ssl module. May be called from any thread."""
        return self._current().wrap_bio(incoming, outgoing, server_side, server_hostname)

    def set_alpn_protocols(self, alpn_protocols: Iterable[str]) -> None:
        """Offer these protocols from the next connection on."""
        protocols = tuple(alpn_protocols)
        super().set_alpn_protocols(protocols)  # says what is wrong with them
        self._alpn = protocols

    def prepare(self) -> None:
        """Build now what the next handshake needs, so that no event loop has to; it never fails."""
        self._current()

    def __setattr__(self, name: str, value: Any) -> None:
        if hasattr(ssl.SSLContext, name):
            _log.debug("setting %s has no effect on a mesh's context", name)
        else:
            super().__setattr__(name, value)

    load_cert_chain = _ignored("load_cert_chain")
    load_default_certs = _ignored("load_default_certs")
    load_dh_params = _ignored("load_dh_params")
    load_verify_locations = _ignored("load_verify_locations")
    set_ciphers = _ignored("set_ciphers")
    set_default_verify_paths = _ignored("set_default_verify_paths")
    set_ecdh_curve = _ignored("set_ecdh_curve")

    def _current(self) -> _InnerContext:
        """The inner context of the newest snapshot. Without a lock: twins built by two threads do no harm."""
        try:
            material = self._gate.source.current()
        except SvidError as error:
            return _unready(self._gate, error)
        if material.svid is None:
            return _unready(self._gate, SvidError("this workload has no SVID yet", code="no_svid"))
        alpn = self._alpn
        inner = self._built.get(alpn)
        if inner is not None and inner.material is material:
            return inner
        try:
            fresh = _build(self._gate, material, material.svid, alpn)
        except Exception as error:  # noqa: BLE001 - whatever it is, the last good one goes on
            return self._fallen_back(inner, material, error)
        others = {key: built for key, built in self._built.items() if built.material is material}
        self._built = {**others, alpn: fresh}
        return fresh

    def _fallen_back(self, last: _InnerContext | None, material: TlsMaterial, error: Exception) -> _InnerContext:
        """The last good context. What it trusts too much the gate refuses, which asks the newest snapshot."""
        if self._failed is not material:
            self._failed = material
            _log.error("a new certificate could not be put to use: %s", error)
        return last or _unready(self._gate, SvidError(f"OpenSSL refuses our SVID: {error}", code="svid_unusable"))


def _build(gate: Gate, material: TlsMaterial, svid: X509Svid, alpn: _Alpn) -> _InnerContext:
    inner = _InnerContext(gate)
    inner.material = material
    load_svid(inner, svid)
    authorities = b"".join(_authorities(material.bundles))
    if authorities:
        inner.load_verify_locations(cadata=authorities)
    if alpn:
        inner.set_alpn_protocols(alpn)
    return inner


def _unready(gate: Gate, error: SvidError) -> _InnerContext:
    """A context whose every handshake fails and says why: servers treat that better than an error while wrapping."""
    inner = _InnerContext(gate)
    inner.unready = error
    return inner


def _authorities(bundles: X509BundleSet) -> list[bytes]:
    """Of all trust domains together, which lets OpenSSL find a path; whose path it may be, the gate decides."""
    return sorted(frozenset().union(*(bundle.der for bundle in bundles)))


def _is_connected(sock: socket.socket) -> bool:
    try:
        sock.getpeername()
    except OSError:
        return False
    return True
