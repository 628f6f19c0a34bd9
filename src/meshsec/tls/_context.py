"""The outer SSL context: what users hold, and what hands every connection to the newest inner one.

An inner context is built fresh for each snapshot of material, proven to load, then put in place by one reference;
none is ever changed while it serves. The outer one takes no orders: libraries that would load the Web's authorities
into it, or turn verification off, change nothing. This file must not know who publishes the material.
"""

# ruff: noqa: FBT001, FBT002 - the signatures are the ssl module's

from __future__ import annotations

import logging
import math
import platform
import socket
import ssl
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any, Final, Literal, Self

from ..errors import ConfigError, SvidError
from ..spiffe import X509BundleSet, X509Svid
from ._keys import load_svid
from ._material import MaterialSource, TlsMaterial
from ._peer import Authorizer, Gate
from ._permissive import PermissiveObject, PermissiveSocket
from ._sockets import GuardedContext, GuardedObject, GuardedSocket

__all__ = ["MeshSSLContext", "client_context", "server_context"]

_log: Final = logging.getLogger("meshsec.tls")
_PROTOCOL: Final = {"client": ssl.PROTOCOL_TLS_SERVER, "server": ssl.PROTOCOL_TLS_CLIENT}  # by the peer's role

# Before them, data that was sent in plaintext could pass for authenticated (CVE-2023-40217); OpenSSL 1.1.1 has ended.
_OLDEST_PYTHON: Final = (3, 11, 5)
_OLDEST_OPENSSL: Final = (3, 0)
_KNOWN: Final = ("ssl", "gevent.ssl")  # whose classes ours may derive from

_VERSIONS: Final = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
# For TLS 1.2, where it is permitted: forward secrecy and authenticated encryption only. Those of 1.3 are always so.
_CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"

# First: a PERMISSIVE sidecar terminates only TLS that offers it. The second is what a client without any preference
# speaks most often; some servers refuse whoever offers protocols of which they know none.
_MESH_ALPN: Final = ("istio",)
_USUAL_ALPN: Final = ("http/1.1",)

MinimumVersion = Literal["1.2", "1.3"]
_Kind = tuple[tuple[str, ...], bool]
"""The ALPN protocols to offer, and whether plaintext is taken."""


def server_context(
    source: MaterialSource,
    *,
    authorize: Authorizer | None = None,
    plaintext: Callable[[], bool] | None = None,
    minimum: MinimumVersion = "1.3",
) -> MeshSSLContext:
    """A context for servers: presents our SVID, demands the client's and verifies it.

    Args:
        source: asked at every handshake. While it has nothing, handshakes fail; this call does not.
        authorize: which clients may connect; None for every SVID of a trust domain that has a bundle.
        plaintext: asked at each new connection whether it may be plaintext instead, which its first byte tells
            (PeerAuthentication PERMISSIVE); None for never.
        minimum: the lowest TLS version.

    NOT checked: what the client may do once connected.

    Raises:
        ConfigError: ``ssl_replaced``: another library has put its own class in the place of ``ssl.SSLContext``;
            ``tls_too_old``: Python is older than 3.11.5, or its OpenSSL than 3.0.
    """
    return MeshSSLContext(Gate("client", source, authorize), minimum, plaintext)


def client_context(
    source: MaterialSource, *, authorize: Authorizer, minimum: MinimumVersion = "1.3", anonymous: bool = False
) -> MeshSSLContext:
    """A context for clients: presents our SVID and judges the server before a byte of the request is sent.

    Args:
        source: asked at every handshake.
        authorize: who may answer, judged by SPIFFE ID and by the server name that the caller asked for; mandatory,
            because a certificate alone never says that its holder is the one we meant. DNS names in it count nothing.
        minimum: the lowest TLS version.
        anonymous: whether no certificate of ours is shown, for servers that want none; then none is needed.

    Raises:
        ConfigError: as :func:`server_context` says.
    """
    return MeshSSLContext(Gate("server", source, authorize), minimum, anonymous=anonymous)


class _InnerContext(GuardedContext):
    """One snapshot, as OpenSSL wants it."""

    sslsocket_class = GuardedSocket
    sslobject_class = GuardedObject
    material: TlsMaterial | None = None
    not_after: float = math.inf  # of our own SVID, if it shows one

    def __new__(cls, gate: Gate, _minimum: ssl.TLSVersion) -> Self:
        return super().__new__(cls, _PROTOCOL[gate.role])

    def __init__(self, gate: Gate, minimum: ssl.TLSVersion) -> None:
        # Explicitly, one by one: what create_default_context sets differs between versions of Python.
        self.gate = gate
        self.check_hostname = False  # before verify_mode; the gate judges the name
        self.verify_mode = ssl.CERT_REQUIRED
        # An authority need not be self-signed; STRICT would refuse roots that SPIFFE permits.
        self.verify_flags = ssl.VERIFY_X509_TRUSTED_FIRST | ssl.VERIFY_X509_PARTIAL_CHAIN
        self.minimum_version = minimum
        self.set_ciphers(_CIPHERS)
        # A resumed session would skip the certificate, its expiry and its authority. TLS 1.2 resumes all the same:
        # then the gate verifies the chain anew.
        self.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
        if gate.role == "client":
            self.num_tickets = 0
            self.sni_callback = _note_server_name


class _PermissiveContext(_InnerContext):
    """The same for a connection that may turn out to be plaintext."""

    sslsocket_class = PermissiveSocket
    sslobject_class = PermissiveObject

    def wrap_bio(
        self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, *options: Any, **named: Any
    ) -> ssl.SSLObject:
        tls_object = super().wrap_bio(incoming, outgoing, *options, **named)
        if isinstance(tls_object, PermissiveObject):
            tls_object.between(incoming, outgoing)
        return tls_object


def _check_platform() -> None:
    """Raises ConfigError where what stands below us cannot be built upon."""
    if not issubclass(MeshSSLContext, ssl.SSLContext) or ssl.SSLContext.__module__ not in _KNOWN:
        # truststore.inject_into_ssl() does, and so does gevent if it comes later than this module; then settings
        # recurse, and event loops refuse our class.
        raise ConfigError(
            "something has replaced ssl.SSLContext: a mesh needs Python's own, or gevent's if it patches first",
            code="ssl_replaced",
        )
    if ssl.OPENSSL_VERSION_INFO < _OLDEST_OPENSSL or sys.version_info < _OLDEST_PYTHON:
        raise ConfigError(
            "mutual TLS needs Python 3.11.5 and OpenSSL 3.0 or newer,"
            f" this is Python {platform.python_version()} with {ssl.OPENSSL_VERSION}",
            code="tls_too_old",
        )


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

    Hand it to any server or client that takes an ``SSLContext``. TLS 1.3 with mutual authentication only, unless it
    was made for less; no session is resumed unverified. Made by :func:`server_context` and :func:`client_context`.

    Settings that libraries make are ignored, because none of them may weaken it; only ALPN is theirs. It reads as
    strict as it is: ``CERT_REQUIRED`` and, for clients, ``check_hostname``: the authorizer judges the server's name.
    """

    # Only a listening socket is ever made from the outer context itself.
    sslsocket_class = GuardedSocket
    sslobject_class = GuardedObject

    _gate: Gate
    _alpn: tuple[str, ...]
    _built: dict[_Kind, _InnerContext]
    _failed: TlsMaterial | None

    def __new__(
        cls,
        gate: Gate,
        _minimum: MinimumVersion = "1.3",
        _plaintext: Callable[[], bool] | None = None,
        *,
        anonymous: bool = False,  # noqa: ARG004 - both see what __init__ is given
    ) -> Self:
        _check_platform()
        return super().__new__(cls, _PROTOCOL[gate.role])

    def __init__(
        self,
        gate: Gate,
        minimum: MinimumVersion = "1.3",
        plaintext: Callable[[], bool] | None = None,
        *,
        anonymous: bool = False,
    ) -> None:
        # Never used for a connection; were it ever, it has no certificate and trusts nobody.
        super().__setattr__("verify_mode", ssl.CERT_REQUIRED)
        super().__setattr__("minimum_version", ssl.TLSVersion.TLSv1_3)
        self._gate = gate
        self._minimum = _VERSIONS[minimum]
        self._plaintext = plaintext
        self._anonymous = anonymous
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

    def snapshot(self) -> TlsMaterial | None:
        """The material of the next handshake; None where there is none yet. Another one after every change."""
        try:
            return self._gate.source.current()
        except SvidError:
            return None

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
            return _unready(self._new(permissive=False), error)
        kind = (self._alpn, self._plaintext is not None and self._plaintext())
        inner = self._built.get(kind)
        if inner is not None and inner.material is material and time.time() <= inner.not_after:
            return inner
        if not self._anonymous and (unfit := _unfit(material.svid)):
            return _unready(self._new(permissive=False), unfit)
        try:
            fresh = _filled(
                self._new(permissive=kind[1]), material, None if self._anonymous else material.svid, kind[0]
            )
        except Exception as error:  # noqa: BLE001 - whatever it is, the last good one goes on
            return self._fallen_back(inner, material, error)
        others = {key: built for key, built in self._built.items() if built.material is material}
        self._built = {**others, kind: fresh}
        return fresh

    def _new(self, *, permissive: bool) -> _InnerContext:
        return (_PermissiveContext if permissive else _InnerContext)(self._gate, self._minimum)

    def _fallen_back(self, last: _InnerContext | None, material: TlsMaterial, error: Exception) -> _InnerContext:
        """The last good context. What it trusts too much the gate refuses, which asks the newest snapshot."""
        if self._failed is not material:
            self._failed = material
            _log.error("a new certificate could not be put to use: %s", error)
        if last is not None and time.time() <= last.not_after:
            return last
        reason = SvidError(f"OpenSSL refuses our SVID: {error}", code="svid_unusable")
        return _unready(self._new(permissive=False), reason)


def _unfit(svid: X509Svid | None) -> SvidError | None:
    """Why nothing can be shown with it."""
    if svid is None:
        return SvidError("this workload has no SVID yet", code="no_svid")
    if svid.not_after < time.time():
        return SvidError("our own SVID has expired", code="svid_expired")
    return None


def _filled(
    inner: _InnerContext, material: TlsMaterial, svid: X509Svid | None, alpn: tuple[str, ...]
) -> _InnerContext:
    inner.material = material
    if svid is not None:
        inner.not_after = svid.not_after
        own = material.bundles.get(svid.id.trust_domain)
        load_svid(inner, svid, own.x509_authorities if own else ())
    authorities = b"".join(_authorities(material.bundles))
    if authorities:
        inner.load_verify_locations(cadata=authorities)
    if inner.gate.role == "server":
        alpn = (*_MESH_ALPN, *(alpn or _USUAL_ALPN))
    if alpn:
        inner.set_alpn_protocols(alpn)
    return inner


def _unready(inner: _InnerContext, error: SvidError) -> _InnerContext:
    """A context whose every handshake fails and says why: servers treat that better than an error while wrapping."""
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
