"""A real SPIRE: server and agent as processes of their own, built once from the released module and then kept."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from live import free_port
from waiting import until

__all__ = ["VERSION", "Spire", "missing"]

VERSION: Final = "v1.15.3"
MODULE: Final = "github.com/spiffe/spire"
CACHE: Final = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "meshsec" / f"spire-{VERSION[1:]}"
COMMANDS: Final = ("spire-server", "spire-agent")
TIMEOUT: Final = 60.0

SERVER: Final = """
server {{
  bind_address = "127.0.0.1"
  bind_port = "{port}"
  socket_path = "{folder}/api.sock"
  trust_domain = "{domain}"
  data_dir = "{folder}/server"
  log_level = "WARN"
  ca_ttl = "{ca_ttl}"
  ca_subject {{ country = ["US"], organization = ["SPIFFE"] }}
  federation {{
    bundle_endpoint {{
      address = "127.0.0.1"
      port = {bundle_port}
      refresh_hint = "10s"
      profile "https_spiffe" {{}}
    }}
    {federates}
  }}
}}
plugins {{
  DataStore "sql" {{ plugin_data {{ database_type = "sqlite3", connection_string = "{folder}/data.sqlite3" }} }}
  KeyManager "memory" {{ plugin_data {{}} }}
  NodeAttestor "join_token" {{ plugin_data {{}} }}
}}
"""
FEDERATES: Final = """
    federates_with "{domain}" {{
      bundle_endpoint_url = "{url}"
      bundle_endpoint_profile "https_spiffe" {{ endpoint_spiffe_id = "{spiffe_id}" }}
    }}
"""
AGENT: Final = """
agent {{
  data_dir = "{folder}/agent"
  server_address = "127.0.0.1"
  server_port = "{port}"
  socket_path = "{folder}/agent.sock"
  trust_domain = "{domain}"
  trust_bundle_path = "{folder}/bootstrap.pem"
  log_level = "WARN"
  experimental {{ sync_interval = "1s" }}
}}
plugins {{
  NodeAttestor "join_token" {{ plugin_data {{}} }}
  KeyManager "disk" {{ plugin_data {{ directory = "{folder}/agent" }} }}
  WorkloadAttestor "unix" {{ plugin_data {{}} }}
}}
"""


def missing() -> str | None:
    """Why there is no SPIRE here; None: there is, now at the latest."""
    if all((CACHE / name).exists() for name in COMMANDS):
        return None
    if not shutil.which("go"):
        return "Go is not installed"
    sys.stderr.write(f"building SPIRE {VERSION}, once: some minutes\n")
    try:
        _build()
    except (OSError, subprocess.CalledProcessError) as error:
        return f"SPIRE cannot be built: {str(getattr(error, 'stderr', error))[-300:]}"
    return None


def _build() -> None:
    """The released commands; where not every module that they need is to be had, without EJBCA's plugin."""
    CACHE.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "GOFLAGS": "-buildvcs=false", "GOBIN": str(CACHE)}
    packages = [f"{MODULE}/cmd/{command}@{VERSION}" for command in COMMANDS]
    if subprocess.run(["go", "install", *packages], env=environment, capture_output=True, check=False).returncode:
        _build_without_ejbca(environment)


def _build_without_ejbca(environment: dict[str, str]) -> None:
    """That one is for another company's authority, and the client that it needs is not on every proxy."""
    found = subprocess.run(
        ["go", "mod", "download", "-json", f"{MODULE}@{VERSION}"], check=True, capture_output=True, text=True
    )
    with tempfile.TemporaryDirectory() as name:
        source = Path(name) / "spire"
        shutil.copytree(json.loads(found.stdout)["Dir"], source, copy_function=shutil.copyfile)
        for folder in (source, *filter(Path.is_dir, source.rglob("*"))):
            folder.chmod(0o755)  # Go's own copy is for reading only
        plugins = source / "pkg" / "server" / "catalog" / "upstreamauthority.go"
        lines = plugins.read_text().splitlines(keepends=True)
        plugins.write_text("".join(line for line in lines if "ejbca" not in line))
        shutil.rmtree(source / "pkg" / "server" / "plugin" / "upstreamauthority" / "ejbca")
        packages = [f"./cmd/{command}" for command in COMMANDS]
        subprocess.run(
            ["go", "build", "-o", f"{CACHE}{os.sep}", *packages],
            cwd=source, env=environment, check=True, capture_output=True, text=True,
        )  # fmt: skip


@dataclass
class Spire:
    """A trust domain: a server, and an agent that has joined it."""

    folder: Path
    domain: str
    ca_ttl: str = "1h"
    federates: str = ""
    port: int = field(default_factory=free_port)
    bundle_port: int = field(default_factory=free_port)
    agent: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """Of the Workload API."""
        return f"unix://{self.folder}/agent.sock"

    @property
    def server_id(self) -> str:
        """Who answers at the bundle endpoint."""
        return f"spiffe://{self.domain}/spire/server"

    def federating(self, other: Spire) -> str:
        """What has to stand in the other side's configuration to learn of us."""
        url = f"https://127.0.0.1:{other.bundle_port}"
        return FEDERATES.format(domain=other.domain, url=url, spiffe_id=other.server_id)

    @contextmanager
    def running(self) -> Iterator[Spire]:
        """The server, until the block is left; and the agent, where one was started."""
        (self.folder / "server").mkdir(parents=True)
        (self.folder / "agent").mkdir()
        values = {
            name: getattr(self, name) for name in ("folder", "domain", "ca_ttl", "federates", "port", "bundle_port")
        }
        (self.folder / "server.conf").write_text(SERVER.format(**values))
        (self.folder / "agent.conf").write_text(AGENT.format(**values))
        server = self._start("spire-server")
        try:
            until(lambda: self._asks("healthcheck") == 0)
            (self.folder / "bootstrap.pem").write_text(self.server("bundle", "show"))
            yield self
        finally:
            self.stop_agent()
            _stop(server)

    def join(self) -> None:
        """Start the agent with a join token."""
        shown = self.server("token", "generate", "-spiffeID", f"spiffe://{self.domain}/node", "-output", "json")
        self.start_agent("-joinToken", json.loads(shown)["value"])

    def start_agent(self, *arguments: str) -> None:
        """Start it, and wait for its socket."""
        self.agent = self._start("spire-agent", *arguments)
        until(self._agent_is_well)

    def stop_agent(self) -> None:
        """As at an upgrade of it."""
        if self.agent is not None:
            _stop(self.agent)
            self.agent = None

    def entry(self, account: str, *, ttl: int = 3600, federates: str = "") -> str:
        """Let this user's processes be that account; gives the entry's ID."""
        made = self.server(
            "entry", "create", "-output", "json",
            "-parentID", f"spiffe://{self.domain}/node",
            "-spiffeID", f"spiffe://{self.domain}/ns/prod/sa/{account}",
            "-selector", f"unix:uid:{os.getuid()}",
            "-x509SVIDTTL", str(ttl),
            *(["-federatesWith", f"spiffe://{federates}"] if federates else []),
        )  # fmt: skip
        return str(json.loads(made)["results"][0]["entry"]["id"])

    def delete(self, entry: str) -> None:
        """Revoke it."""
        self.server("entry", "delete", "-entryID", entry)

    def server(self, *arguments: str, given: str | None = None) -> str:
        """One of spire-server's commands."""
        command = [str(CACHE / "spire-server"), *arguments, "-socketPath", f"{self.folder}/api.sock"]
        done = subprocess.run(command, capture_output=True, text=True, input=given, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def _asks(self, *arguments: str) -> int:
        command = [str(CACHE / "spire-server"), *arguments, "-socketPath", f"{self.folder}/api.sock"]
        return subprocess.run(command, capture_output=True, check=False).returncode

    def _agent_is_well(self) -> bool:
        command = [str(CACHE / "spire-agent"), "healthcheck", "-socketPath", f"{self.folder}/agent.sock"]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    def _start(self, name: str, *arguments: str) -> subprocess.Popen[bytes]:
        config = self.folder / f"{name.removeprefix('spire-')}.conf"
        log = (self.folder / f"{name}.log").open("ab")
        with log:
            command = [str(CACHE / name), "run", "-config", str(config), *arguments]
            return subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
