"""Secure naming as a running client has it: a changed file decides the next handshake, and nothing is restarted."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path

import pytest

from meshsec import Mesh
from meshsec.ca import CertificateAuthority, write_identity
from waiting import until
from world import serve

OK = b"HTTP/1.1 200 OK"
MESH = """\
workloads:
  web: {namespace: prod, serviceAccount: web, identity: {files: ../web}}
  reviews: {namespace: prod, serviceAccount: reviews, identity: {files: ../reviews}}
allowNoPolicy: true
"""
SERVICE = """\
apiVersion: v1
kind: Service
metadata: {name: reviews, namespace: prod}
spec: {selector: {app: reviews}}
---
apiVersion: v1
kind: Pod
metadata: {name: reviews-1, namespace: prod, labels: {app: reviews}}
spec: {serviceAccountName: reviews}
"""
RULE = """\
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews, namespace: prod}
spec:
  host: reviews
  trafficPolicy: {tls: {mode: ISTIO_MUTUAL, subjectAltNames: ["spiffe://cluster.local/ns/prod/sa/other"]}}
"""


def call(context: ssl.SSLContext, port: int) -> bytes:
    """The status line of one call over a new connection, by the name of the service."""
    plain = socket.create_connection(("127.0.0.1", port), timeout=10)
    with context.wrap_socket(plain, server_hostname="reviews.prod") as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nhost: reviews.prod\r\nconnection: close\r\n\r\n")
        return connection.recv(15)


def test_a_changed_file_decides_the_next_handshake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A DestinationRule replaces the list, and its end brings the list back; then the pod gets another account."""
    monkeypatch.setattr("meshsec.mesh._mesh._POLL_SECONDS", 0.01)
    authority = CertificateAuthority.create("cluster.local")
    for name in ("web", "reviews"):
        svid = authority.issue_x509_svid(f"spiffe://cluster.local/ns/prod/sa/{name}")
        write_identity(tmp_path / name, svid, authority.bundle)
    folder = tmp_path / "mesh"
    folder.mkdir()
    (folder / "mesh.yaml").write_text(MESH)
    (folder / "service.yaml").write_text(SERVICE)
    with Mesh.load(folder, workload="web") as web, Mesh.load(folder, workload="reviews") as reviews:
        context = web.client_context()
        with serve(reviews.server_context()) as server:
            assert call(context, server.server_port) == OK
            for change, back in (
                (lambda: (folder / "rule.yaml").write_text(RULE), (folder / "rule.yaml").unlink),
                (
                    lambda: (folder / "service.yaml").write_text(SERVICE.replace("Name: reviews", "Name: other")),
                    lambda: (folder / "service.yaml").write_text(SERVICE),
                ),
            ):
                before = web.naming
                change()
                until(lambda before=before: web.naming is not before)  # type: ignore[misc]
                with pytest.raises(ssl.SSLError, match="expected"):
                    call(context, server.server_port)
                before = web.naming
                back()
                until(lambda before=before: web.naming is not before)  # type: ignore[misc]
                assert call(context, server.server_port) == OK
