"""Handshakes per second, side by side in one run: ``python -m benchmarks.tls``.

The same certificates and settings (P-256, TLS 1.3, mutual, no tickets) for Python's own ssl, for meshsec, which also
judges who the peer is, and for pyOpenSSL, if it is installed. Python's comes twice: with its certificate alone in the
file, as people write it, and with the issuer's beside it, as meshsec does, which spares OpenSSL a look for it in each
handshake; both send the same bytes. Both ends are in one process over memory, so that neither the network nor a
scheduler is measured; the ratios count, not the figures.
"""

from __future__ import annotations

import ssl
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from meshsec.ca import CertificateAuthority
from meshsec.spiffe import X509BundleSet, X509Svid
from meshsec.tls import StaticMaterial, authorize_any, client_context, server_context

ROUNDS: Final = 25
SECONDS: Final = 0.2
AUTHORITY: Final = CertificateAuthority.create("td.example")

Handshake = Callable[[], None]


def _svid(name: str) -> X509Svid:
    return AUTHORITY.issue_x509_svid(f"spiffe://td.example/ns/prod/sa/{name}")


def _drive(server: Any, client: Any) -> None:
    """Flights over memory until both ends are done."""
    pending = [client, server]
    while pending:
        for side in list(pending):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            pending.remove(side)


def _between(server: ssl.SSLContext, client: ssl.SSLContext) -> Handshake:
    def handshake() -> None:
        to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        served = server.wrap_bio(to_server, to_client, server_side=True)
        _drive(served, client.wrap_bio(to_client, to_server))

    return handshake


def plain(beside: bytes = b"") -> Handshake:
    """Python's ssl: it checks the chain, and looks at no name. Beside its own certificate may stand others (PEM)."""

    def context(protocol: int, svid: X509Svid, folder: Path) -> ssl.SSLContext:
        found = ssl.SSLContext(protocol)
        found.check_hostname = False
        found.verify_mode = ssl.CERT_REQUIRED
        found.verify_flags = ssl.VERIFY_X509_TRUSTED_FIRST | ssl.VERIFY_X509_PARTIAL_CHAIN
        found.minimum_version = ssl.TLSVersion.TLSv1_3
        found.options |= ssl.OP_NO_TICKET
        if protocol == ssl.PROTOCOL_TLS_SERVER:
            found.num_tickets = 0
        pair = folder / "pair.pem"
        pair.write_bytes(svid.key_pem() + svid.chain_pem() + beside)
        found.load_cert_chain(pair)
        found.load_verify_locations(cadata=AUTHORITY.bundle.to_pem().decode())
        return found

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        server = context(ssl.PROTOCOL_TLS_SERVER, _svid("server"), folder)
        return _between(server, context(ssl.PROTOCOL_TLS_CLIENT, _svid("client"), folder))


def ours() -> Handshake:
    """meshsec's contexts: leaf profile, trust domain, authorizer."""

    def material(name: str) -> StaticMaterial:
        return StaticMaterial(_svid(name), X509BundleSet([AUTHORITY.bundle]))

    return _between(server_context(material("server")), client_context(material("client"), authorize=authorize_any()))


def pyopenssl() -> Handshake:
    """pyOpenSSL, the same settings; it checks the chain, and looks at no name."""
    from cryptography import x509
    from OpenSSL import SSL, crypto

    def context(svid: X509Svid) -> Any:
        found = SSL.Context(SSL.TLS_METHOD)
        found.set_min_proto_version(SSL.TLS1_3_VERSION)
        found.set_options(SSL.OP_NO_TICKET)
        found.set_session_cache_mode(SSL.SESS_CACHE_OFF)
        found.use_certificate(x509.load_der_x509_certificate(svid.chain[0]))
        found.use_privatekey(svid.private_key)
        store = found.get_cert_store()
        if store is not None:
            store.add_cert(crypto.X509.from_cryptography(AUTHORITY.bundle.x509_authorities[0]))
        found.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, lambda *arguments: bool(arguments[-1]))
        return found

    server, client = context(_svid("server")), context(_svid("client"))

    def handshake() -> None:
        ends = [SSL.Connection(client, None), SSL.Connection(server, None)]
        ends[0].set_connect_state()
        ends[1].set_accept_state()
        pending = list(ends)
        while pending:
            for side in list(pending):
                other = ends[1] if side is ends[0] else ends[0]
                try:
                    side.do_handshake()
                    pending.remove(side)
                except SSL.WantReadError:
                    pass
                _move(SSL, side, other)

    return handshake


def _move(module: Any, source: Any, target: Any) -> None:
    try:
        while True:
            target.bio_write(source.bio_read(65536))
    except module.WantReadError:
        return


def _rate(handshake: Handshake) -> float:
    """Handshakes per second of CPU time, which other programs on the machine cost less than time."""
    count, start = 0, time.process_time()
    while time.process_time() < start + SECONDS:
        for _ in range(10):
            handshake()
        count += 10
    return count / (time.process_time() - start)


def main() -> None:
    """The best of some rounds, which are interleaved so that a slow moment slows all of them."""
    issuer = AUTHORITY.bundle.to_pem()
    kinds: dict[str, Handshake] = {"ssl": plain(), "ssl, issuer in file": plain(issuer), "meshsec": ours()}
    try:
        kinds["pyOpenSSL"] = pyopenssl()
    except ImportError:
        print("pyOpenSSL is not installed", file=sys.stderr)
    rates = dict.fromkeys(kinds, 0.0)
    for _ in range(ROUNDS):
        for name, handshake in kinds.items():
            rates[name] = max(rates[name], _rate(handshake))
    alone, beside, *_ = rates.values()
    for name, rate in rates.items():
        print(f"{name:20} {rate:8.0f} handshakes/s   {rate / alone:5.2f} and {rate / beside:5.2f} of ssl's two")


if __name__ == "__main__":
    main()
