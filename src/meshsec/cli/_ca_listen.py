"""What ``meshsec ca run`` listens for: workloads elsewhere that prove who they are, and partners to federate with.

Separate listeners, so that none has to guess: one demands a client certificate and believes nothing else, one asks
for none and believes nothing but a token, one asks for nothing and tells only what is public. This file must not know
how HTTP is served.
"""

from __future__ import annotations

import logging
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click

from ..attributes import Connection, HttpRequest
from ..ca import AuthorityFolder
from ..errors import AuthenticationError, ConfigError, MeshsecError, Problem
from ..mesh import Mesh
from ..resources import MeshConfig, RequestAuthentication, Resource, Workload, load
from ..sources import CsrAnswer, CsrEndpoint, Requester, account_of, endpoint_id
from ..spiffe import SpiffeId, TrustDomain, X509BundleSet, X509Svid
from ..tls import Revocations, StaticMaterial, load_svid, recheck, server_context, verified_peer
from ._ca_http import Answerer, serving

__all__ = ["Accounts", "Listening", "listen_options", "listening"]

_log: Final = logging.getLogger("meshsec.ca")
_PATH: Final = click.Path(path_type=Path)


@dataclass(frozen=True, slots=True)
class Listening:
    """What the command line says of it.

    Attributes:
        listen: ``host:port`` for mutual TLS; None: not so.
        listen_token: ``host:port`` for tokens; None: not so.
        token_rules: RequestAuthentication resources: whose tokens are taken.
        listen_names: DNS names in the certificate of the endpoint.
        ttl: of what is issued, seconds.
        listen_bundle: ``host:port`` of the bundle endpoint; None: there is none.
    """

    listen: tuple[str, int] | None
    listen_token: tuple[str, int] | None
    token_rules: Path | None
    listen_names: tuple[str, ...]
    ttl: float
    listen_bundle: tuple[str, int] | None = None

    @property
    def anywhere(self) -> bool:
        """Whether it listens at all."""
        return bool(self.listen or self.listen_token or self.listen_bundle)


def _address(_context: click.Context, _option: click.Parameter, value: str | None) -> tuple[str, int] | None:
    if value is None:
        return None
    host, _, port = value.rpartition(":")
    if not host or not (port.isascii() and port.isdecimal()) or len(port) > 5 or int(port) > 65535:
        raise click.BadParameter("write host:port or [IPv6]:port")
    return host.strip("[]"), int(port)


_OPTIONS: Final = (
    click.option(
        "--listen", callback=_address, help="host:port: renews the identity that a client certificate shows."
    ),
    click.option("--listen-token", callback=_address, help="host:port: issues to a service account's token."),
    click.option("--listen-bundle", callback=_address, help="host:port: a SPIFFE bundle endpoint (https_spiffe)."),
    click.option("--token-rules", type=_PATH, help="RequestAuthentication resources: whose tokens are taken."),
    click.option("--listen-name", "listen_names", multiple=True, help="A DNS name of the endpoint; may be repeated."),
)


def listen_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of ``run`` that this file is about."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


class Accounts:
    """The identities of all accounts, read at each look; between two looks the last good list counts."""

    def __init__(self, read: Callable[[], Sequence[SpiffeId]], trust_domain: TrustDomain) -> None:
        self._read = read
        self._reserved = endpoint_id(trust_domain)
        self.known: frozenset[SpiffeId] = frozenset()

    def __call__(self) -> Sequence[SpiffeId]:
        """Raises ConfigError, and then the last good list still counts."""
        found = self._read()
        if self._reserved in found:
            raise ConfigError(
                f"no account may be {self._reserved}: the authority's endpoint is", code="account_reserved"
            )
        self.known = frozenset(found)
        return found


@contextmanager
def listening(options: Listening, authority: AuthorityFolder, accounts: Accounts) -> Iterator[Callable[[], None]]:
    """Listen as long as the block runs; gives what is to be called now and then, to keep certificates fresh.

    Raises:
        ConfigError: the token rules cannot be used.
        OSError: it cannot listen there.
    """
    if not options.anywhere:
        yield lambda: None
        return
    accounts()
    material = _Material(authority, options.listen_names, options.ttl)
    # A handle of its own: requests come in other threads.
    endpoint = CsrEndpoint(AuthorityFolder(authority.folder), lambda: accounts.known, ttl=options.ttl)
    with ExitStack() as stack:
        if options.listen:
            context = server_context(material.source)
            _open(stack, options.listen, lambda: context, _by_certificate(endpoint, material), "mutual TLS")
        if options.listen_token:
            mesh = stack.enter_context(_judge(options.token_rules, authority.authority.trust_domain))
            _open(stack, options.listen_token, lambda: material.plain, _by_token(endpoint, mesh), "tokens")
        if options.listen_bundle:
            answer = _bundle(AuthorityFolder(authority.folder))
            _open(stack, options.listen_bundle, lambda: material.public, answer, "the bundle")
        yield material.refresh


def _open(
    stack: ExitStack, address: tuple[str, int], context: Callable[[], ssl.SSLContext], answer: Answerer, what: str
) -> None:
    port = stack.enter_context(serving(*address, context, answer))
    _log.info("listening on %s port %d for %s", address[0], port, what)


class _Material:
    """The endpoint's own identity, issued by the authority itself, and the contexts that present it."""

    def __init__(self, authority: AuthorityFolder, names: Sequence[str], ttl: float) -> None:
        self.source = StaticMaterial()
        self._authority = authority
        self._names = names
        self._ttl = ttl
        self._signer = ""
        self._renew()

    def refresh(self) -> None:
        """Renew at half the life and after a change of the signer; take over new roots and lists."""
        try:
            self._renew()
        except (MeshsecError, OSError) as error:
            _log.warning("the endpoint's own certificate could not be looked after: %s", error)

    def _renew(self) -> None:
        authority, now = self._authority.authority, time.time()
        svid, signer = self.source.current().svid, authority.state.signer.key_id
        if svid is None or signer != self._signer or now >= (svid.not_before + svid.not_after) / 2:
            own = endpoint_id(authority.trust_domain)
            svid = authority.issue_x509_svid(own, ttl=self._ttl, dns_names=self._names, requester="ca endpoint")
            self.plain, self._signer = _plain_context(svid), signer
            self.public = _plain_context(svid, ssl.TLSVersion.TLSv1_2)  # federation asks for it (section 5)
        lists = self._authority.crl()
        revoked = Revocations.from_pem(lists, authority.bundle.x509_authorities) if lists else Revocations()
        self.source.replace(svid=svid, bundles=X509BundleSet([authority.bundle]), revoked=revoked)


def _plain_context(svid: X509Svid, minimum: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> ssl.SSLContext:
    """The first contact has no certificate yet: none is asked for, so none can be mistaken for a proof."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = minimum
    context.set_ciphers("ECDHE+AESGCM:ECDHE+CHACHA20")
    context.num_tickets = 0
    load_svid(context, svid)
    return context


def _by_certificate(endpoint: CsrEndpoint, material: _Material) -> Answerer:
    def answer(request: HttpRequest, body: bytes, connection: ssl.SSLSocket) -> CsrAnswer:
        def authenticate() -> Requester:
            peer = verified_peer(connection)
            if peer is None:
                raise AuthenticationError("no verified certificate")
            peer = recheck(peer, material.source, now=time.time())
            return Requester(peer.id, f"csr: certificate {peer.certificate_sha256.hex()}")

        return endpoint.answer(request.method, request.target, body, authenticate)

    return answer


def _by_token(endpoint: CsrEndpoint, mesh: Mesh) -> Answerer:
    def answer(request: HttpRequest, body: bytes, connection: ssl.SSLSocket) -> CsrAnswer:  # noqa: ARG001
        def authenticate() -> Requester:
            # As if in plaintext: this TLS is none of the mesh's, and has no peer.
            context = mesh.judge(Connection(), request)
            if not context.decision.allowed or context.principal is None:
                raise AuthenticationError(f"the token does not hold: {context.decision.reason}")
            found = account_of(context.principal.subject, mesh.config.trust_domain)
            return Requester(found, f"csr: token of {context.principal.issuer}")

        return endpoint.answer(request.method, request.target, body, authenticate)

    return answer


def _bundle(authority: AuthorityFolder) -> Answerer:
    """``GET /`` gives the trust domain's bundle to anybody (SPIFFE Federation, section 5.2.2.3)."""
    lock = threading.Lock()  # a folder's handle is for one thread

    def answer(request: HttpRequest, body: bytes, connection: ssl.SSLSocket) -> CsrAnswer:  # noqa: ARG001
        if (request.method, request.target) != ("GET", "/"):
            return CsrAnswer(404, b'{"code": "not_found", "message": "there is GET /"}')
        try:
            with lock:
                return CsrAnswer(200, authority.authority.bundle_document())
        except (MeshsecError, OSError) as error:
            _log.warning("the bundle could not be read: %s", error)
            return CsrAnswer(503, b'{"code": "unavailable", "message": "the bundle cannot be read at present"}')

    return answer


def _judge(rules: Path | None, trust_domain: TrustDomain) -> Mesh:
    """Tokens are judged as those of any service: by a mesh with these rules and nothing else."""
    resources = [] if rules is None else load(rules)
    if problems := list(_problems(resources)):
        raise ConfigError(problems, code="token_rules")
    own = endpoint_id(trust_domain)
    workload = Workload(name="meshsec-ca", namespace=own.namespace or "", service_account=own.service_account or "")
    return Mesh(workload=workload, resources=resources, config=MeshConfig(trust_domain=str(trust_domain)))


def _problems(resources: Iterable[Resource]) -> Iterator[Problem]:
    """A token for another service would do here if no audience were named."""
    for item in resources:
        name = f"{item.kind} {item.id}"
        if not isinstance(item, RequestAuthentication):
            yield Problem("only RequestAuthentication belongs here", item.location, resource=name)
            continue
        for index, rule in enumerate(item.spec.jwt_rules):
            for field, value in (("issuer", rule.issuer), ("audiences", rule.audiences)):
                if not value:
                    place = f"spec.jwtRules[{index}].{field}"
                    yield Problem(
                        "must be named for tokens that get identities", item.location, None, None, name, place
                    )
