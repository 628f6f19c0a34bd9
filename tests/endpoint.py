"""An authority that listens on real sockets, and whatever its tests show to it."""

from __future__ import annotations

import json
import logging
import re
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from meshsec.ca import AuthorityFolder, CertificateAuthority, new_request
from meshsec.cli._ca_listen import Accounts, Listening, listening
from meshsec.sources import CsrIdentity, CsrServer, endpoint_id
from meshsec.spiffe import SpiffeId, TrustDomain, X509BundleSet, X509Svid
from meshsec.tls import StaticMaterial, authorize_id, client_context
from tokens import ISSUER, jwks, mint, signing_key

__all__ = ["CART", "RULES", "TD", "WEB", "World", "rules", "token"]

TD = TrustDomain("cluster.local")
WEB = SpiffeId.for_service_account(TD, "prod", "web")
DAY = 86_400.0
CART = SpiffeId.for_service_account(TD, "prod", "cart")
RULES = """
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {{name: cluster, namespace: istio-system}}
spec: {{jwtRules: [{{issuer: {issuer}, audiences: [meshsec-ca], jwks: '{jwks}'}}]}}
"""


def rules() -> str:
    """Whose tokens are taken."""
    return RULES.format(issuer=ISSUER, jwks=jwks(signing_key()))


def token(account: str = "prod:web", **changes: Any) -> str:
    """A service account's token."""
    now = int(time.time())
    given = {"sub": f"system:serviceaccount:{account}", "aud": ["meshsec-ca"], "iat": now, "exp": now + 600}
    return mint(**{**given, **changes})


@dataclass
class World:
    """A folder with an authority that listens, and what a workload elsewhere has."""

    folder: Path
    accounts: list[SpiffeId] = field(default_factory=lambda: [WEB, CART])
    ports: tuple[int, int] = (0, 0)
    clock: float = 0.0
    authority: AuthorityFolder = field(init=False)
    known: Accounts = field(init=False)
    refresh: Callable[[], None] = field(init=False)

    @classmethod
    @contextmanager
    def open(cls, folder: Path, caplog: Any, *, ttl: float = 3600.0) -> Iterator[World]:
        """Both listeners, on free ports of the loopback interface."""
        world = cls(folder)
        world.authority = AuthorityFolder.create(
            folder / "ca", CertificateAuthority.create(TD, now=time.time() - DAY)
        )
        world.known = Accounts(lambda: list(world.accounts), TD)
        (folder / "rules.yaml").write_text(rules())
        (folder / "token").write_text(token())
        (folder / "root.pem").write_bytes(world.authority.authority.bundle.to_pem())
        here = ("127.0.0.1", 0)
        options = Listening(here, here, folder / "rules.yaml", ("localhost",), ttl)
        with caplog.at_level(logging.INFO, "meshsec"), listening(options, world.authority, world.known) as refresh:
            world.refresh = refresh
            first, second = re.findall(r"listening on \S+ port (\d+)", caplog.text)
            world.ports = (int(first), int(second))
            yield world

    def look(self) -> None:
        """What the authority's process does every few seconds."""
        self.known()
        self.refresh()

    def identity(self, **changes: Any) -> CsrIdentity:
        """A workload's source, with a clock that stands still."""
        mutual, plain = self.ports
        server = CsrServer(
            **{
                "url": f"https://localhost:{plain}",
                "token_file": self.folder / "token",
                "root_cert": self.folder / "root.pem",
                "renewal": f"https://localhost:{mutual}",
                **changes,
            }
        )
        return CsrIdentity(server, WEB, clock=lambda: self.clock)

    def by_token(self, bearer: str | None, body: bytes | None = None, path: str = "/v1/svid") -> tuple[int, Any]:
        """Ask the second listener."""
        context = ssl.create_default_context(cadata=(self.folder / "root.pem").read_text())
        lines = {"authorization": f"Bearer {bearer}"} if bearer else {}
        return self._post(self.ports[1], context, path, new_request()[0] if body is None else body, lines)

    def by_certificate(self, svid: X509Svid, body: bytes | None = None, **lines: str) -> tuple[int, Any]:
        """Ask the first listener."""
        material = StaticMaterial(svid, X509BundleSet([self.authority.authority.bundle]))
        context = client_context(material, authorize=authorize_id(endpoint_id(TD)))
        return self._post(self.ports[0], context, "/v1/svid", new_request()[0] if body is None else body, lines)

    def _post(
        self, port: int, context: ssl.SSLContext, path: str, body: bytes, lines: dict[str, str]
    ) -> tuple[int, Any]:
        with (
            socket.create_connection(("127.0.0.1", port), timeout=10) as line,
            context.wrap_socket(line, server_hostname="localhost") as secured,
        ):
            connection = HTTPConnection("localhost", port)
            connection.sock = secured
            connection.request("POST", path, body, lines)
            response = connection.getresponse()
            return response.status, json.loads(response.read())
