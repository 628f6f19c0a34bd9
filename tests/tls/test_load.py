"""Certificates and roots rotate under load: no connection fails, and none names another client.

``MESHSEC_FULL=1``: 1,000 rotations and 10,000 connections; else 50 and 500.
"""

from __future__ import annotations

import itertools
import os
import socket
import ssl
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Final

from meshsec.ca import CertificateAuthority
from meshsec.spiffe import X509Bundle, X509BundleSet
from meshsec.tls import StaticMaterial, authorize_id, client_context, server_context, verified_peer

TIMES: Final = 20 if os.environ.get("MESHSEC_FULL") else 1
ROTATIONS: Final = 50 * TIMES
CONNECTIONS: Final = 500 * TIMES
CLIENTS: Final = 4
TIMEOUT: Final = 30.0
SERVER: Final = "spiffe://td.example/ns/prod/sa/server"


class Fleet:
    """A server and some clients, whose trust and certificates move from root to root."""

    def __init__(self) -> None:
        self.names = [SERVER, *(f"spiffe://td.example/ns/prod/sa/client-{number}" for number in range(CLIENTS))]
        self.materials = {name: StaticMaterial() for name in self.names}
        self.rounds = -1
        self.roots = {self.rounds: CertificateAuthority.create("td.example")}  # by the round that made it trusted
        self.signers: list[int] = []  # the root of each round's certificates
        self.rotate(0)

    def rotate(self, oldest: int) -> None:
        """Another root becomes trusted, and everybody has a new certificate.

        Who began in a round may have missed what came to be trusted after it, and may show what was signed in it: a
        root signs when everybody has begun after its publication, and goes when everybody has begun after its time.

        Args:
            oldest: the round in which the oldest connection began that is still open.
        """
        self.rounds += 1
        self.roots[self.rounds] = CertificateAuthority.create("td.example")
        self.signers.append(min(oldest, self.rounds - 1))
        needed = self.signers[min(oldest, self.rounds)]
        self.roots = {number: root for number, root in self.roots.items() if number >= needed}
        authorities = [authority for root in self.roots.values() for authority in root.bundle.x509_authorities]
        bundles = X509BundleSet([X509Bundle("td.example", authorities)])
        for material in self.materials.values():
            material.replace(bundles=bundles)
        for name, material in self.materials.items():
            material.replace(svid=self.roots[self.signers[-1]].issue_x509_svid(name))


def _answer(context: ssl.SSLContext, raw: socket.socket) -> None:
    with suppress(OSError), raw:
        raw.settimeout(TIMEOUT)
        with context.wrap_socket(raw, server_side=True) as sock:
            peer = verified_peer(sock)
            sock.recv(1)
            sock.sendall(str(peer.id if peer else None).encode())


@contextmanager
def serving(context: ssl.SSLContext) -> Iterator[tuple[str, int]]:
    """A server with a few threads that answers each connection with the name of its client."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener, ThreadPoolExecutor(CLIENTS * 2) as pool:

        def accept() -> None:
            with suppress(OSError):
                while True:
                    pool.submit(_answer, context, listener.accept()[0])

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        try:
            yield listener.getsockname()
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(TIMEOUT)


def test_nothing_fails_and_nobody_is_mistaken_while_everything_rotates() -> None:
    """Each connection says who it is; a rotation comes every ten connections, whoever is in the middle of what.

    However long a busy machine puts a connection to sleep: rotations go on, and the roots that it needs stay.
    """
    fleet, counter, lock = Fleet(), itertools.count(1), threading.Lock()
    began = [0] * CLIENTS
    wrong: list[str] = []

    def rotate_if_due(number: int, *, last: bool) -> None:
        with lock:
            began[number] = ROTATIONS if last else fleet.rounds
            if next(counter) % (CONNECTIONS // ROTATIONS) == 0:
                fleet.rotate(min(began))

    def client(number: int, address: tuple[str, int]) -> None:
        name = fleet.names[number + 1]
        context = client_context(fleet.materials[name], authorize=authorize_id(SERVER))
        for left in reversed(range(CONNECTIONS // CLIENTS)):
            with socket.create_connection(address, timeout=TIMEOUT) as raw, context.wrap_socket(raw) as sock:
                sock.sendall(b"x")
                answer = sock.recv(200).decode()
            if answer != name:
                wrong.append(answer)
            rotate_if_due(number, last=left == 0)

    with serving(server_context(fleet.materials[SERVER])) as address, ThreadPoolExecutor(CLIENTS) as pool:
        for future in [pool.submit(client, number, address) for number in range(CLIENTS)]:
            future.result(TIMEOUT * TIMES)
    assert wrong == []
    assert next(counter) == CONNECTIONS + 1
    assert fleet.rounds == ROTATIONS
