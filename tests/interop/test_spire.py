"""A real SPIRE behind the mesh: its agent as the source of identities, its bundle endpoint to federate with.

Two trust domains, each a server and an agent; one of them federates with an authority of ours as well.
"""

from __future__ import annotations

import json
import ssl
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from http.client import HTTPSConnection
from pathlib import Path
from typing import Any, Final, Self

import pytest

from interop.spire import FEDERATES, Spire, missing
from live import free_port
from meshsec import Mesh, MeshConfig, TokenError, Workload
from meshsec.ca import AuthorityFolder, CertificateAuthority
from meshsec.cli._ca_listen import Accounts, Listening, listening
from meshsec.resources import TrustBundle
from meshsec.sources import (
    Federation,
    Identity,
    IdentityKeeper,
    StaticIdentity,
    WorkloadApi,
    WorkloadApiIdentity,
    endpoint_id,
)
from meshsec.sources._workload_api_stream import Pauses
from meshsec.spiffe import SpiffeId, TrustDomain, verify_jwt_svid
from waiting import until
from world import serve

HERE: Final = "one.example"
THERE: Final = "two.example"
OURS: Final = TrustDomain("ours.example")
REASON: Final = missing()

if REASON:
    pytest.skip(f"WITHOUT SPIRE: {REASON}", allow_module_level=True)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """Short, for sockets."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


@pytest.fixture(scope="module")
def authority(folder: Path) -> AuthorityFolder:
    """Ours, which is federated with."""
    return AuthorityFolder.create(folder / "ca", CertificateAuthority.create(OURS, now=time.time() - 86_400))


@pytest.fixture(scope="module")
def bundle_port(authority: AuthorityFolder) -> Iterator[int]:
    """Where it serves its bundle."""
    port = free_port()
    options = Listening(None, None, None, (), 3600.0, ("127.0.0.1", port))
    with listening(options, authority, Accounts(list, OURS)):
        yield port


@pytest.fixture(scope="module")
def spires(folder: Path, authority: AuthorityFolder, bundle_port: int) -> Iterator[tuple[Spire, Spire]]:
    """Both, federated with each other; the first one also with ours."""
    here, there = Spire(folder / "1", HERE), Spire(folder / "2", THERE)
    url = f"https://127.0.0.1:{bundle_port}/"
    to_ours = FEDERATES.format(domain=OURS, url=url, spiffe_id=endpoint_id(OURS))
    here, there = (
        replace(here, federates=here.federating(there) + to_ours),
        replace(there, federates=there.federating(here)),
    )
    with here.running(), there.running():
        for one, other in ((here, there), (there, here)):
            shown = other.server("bundle", "show", "-format", "spiffe")
            one.server("bundle", "set", "-format", "spiffe", "-id", f"spiffe://{other.domain}", given=shown)
        document = authority.authority.bundle_document().decode()
        here.server("bundle", "set", "-format", "spiffe", "-id", f"spiffe://{OURS}", given=document)
        here.join()
        there.join()
        yield here, there


def workload_id(spire: Spire, account: str) -> SpiffeId:
    """Of an account."""
    return SpiffeId.for_service_account(spire.domain, "prod", account)


class Kept:
    """A keeper that follows an agent, and what it has."""

    def __init__(self, spire: Spire, account: str, **trust_bundles: TrustBundle) -> None:
        expected = workload_id(spire, account)
        # As patient as in life, but for the longest pause: ten deleted entries would take minutes.
        self.source = WorkloadApiIdentity(spire.address, expected, pauses=Pauses(longest=2.0))
        named = {name.replace("_", "."): bundle for name, bundle in trust_bundles.items()}
        self.keeper = IdentityKeeper(self.source, expected=expected, foreign=Federation(named))

    def serial(self) -> int | None:
        """Of what is served after another look."""
        self.keeper.refresh(time.time())
        svid = self.keeper.material.current().svid
        return svid.serial if svid else None

    def trusted(self) -> set[str]:
        """Whose bundles count, after another look."""
        self.serial()
        return {bundle.trust_domain.name for bundle in self.keeper.material.current().bundles}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.keeper.close()


def test_identities_come_and_rotate_and_go(spires: tuple[Spire, Spire]) -> None:
    """An entry is made, its SVID rotates on its own, the agent restarts, the entry is deleted and made anew."""
    spire = spires[0]
    with Kept(spire, "web") as kept:
        assert kept.serial() is None  # no entry yet: permission is denied
        entry = spire.entry("web", ttl=20)
        until(kept.serial)
        for event in (None, spire.stop_agent, spire.start_agent):
            if event:
                event()
            held = _present(kept.serial())  # also while the agent is away
            if event != spire.stop_agent:
                until(lambda: _present(kept.serial()) != held)  # noqa: B023
        spire.delete(entry)
        until(lambda: kept.serial() is None)
        assert not kept.trusted()
        entry = spire.entry("web")
        until(kept.serial)
        spire.delete(entry)


def _present(serial: int | None) -> int:
    """There is not a moment without."""
    assert serial is not None
    return serial


def test_a_new_root_is_followed(spires: tuple[Spire, Spire]) -> None:
    """SPIRE prepares and activates an authority; both are trusted, and the new one signs."""
    spire = spires[0]
    entry = spire.entry("web", ttl=20)
    with Kept(spire, "web") as kept:
        until(kept.serial)

        def roots() -> int:
            kept.serial()
            return len(next(iter(kept.keeper.material.current().bundles)).x509_authorities)

        before = roots()
        spire.server("localauthority", "x509", "prepare")
        until(lambda: roots() == before + 1)
        _activate(spire)
        held = kept.serial()
        until(lambda: kept.serial() not in (None, held))
    spire.delete(entry)


def _activate(spire: Spire) -> None:
    shown = json.loads(spire.server("localauthority", "x509", "show", "-output", "json"))
    spire.server("localauthority", "x509", "activate", "-authorityID", shown["prepared"]["authority_id"])


def test_tokens_of_the_agent_hold(spires: tuple[Spire, Spire]) -> None:
    """Under the JWT bundles that it gives out, for their audience."""
    spire = spires[0]
    entry = spire.entry("web")
    with Kept(spire, "web") as kept:
        until(kept.serial)
        stream = WorkloadApi(spire.address).jwt_bundles()
        token = kept.source.jwt_svid("reviews")
        found = verify_jwt_svid(token, stream.current(), audience="reviews", now=time.time())
        assert found.id == workload_id(spire, "web")
        assert WorkloadApi(spire.address).validate_jwt_svid(token, "reviews") == found.id
        for wrong, audience in ((token, "ratings"), (token[:-8] + "AAAAAAAA", "reviews"), ("a.b.c", "reviews")):
            with pytest.raises(TokenError):
                WorkloadApi(spire.address).validate_jwt_svid(wrong, audience)
        x509 = WorkloadApi(spire.address).x509_bundles()
        assert TrustDomain(HERE) in {bundle.trust_domain for bundle in x509.current().bundles}
        stream.close()
        x509.close()
    spire.delete(entry)


def is_ready(status: dict[str, Any]) -> bool:
    """Whether a mesh has its identity and the other's bundle."""
    return bool(status["serial"]) and not status["federation"][0]["failure"]


def meshes(spires: tuple[Spire, Spire], stack: ExitStack) -> tuple[Mesh, Mesh]:
    """A server of the first trust domain and a client of the second, each with its agent."""
    here, there = spires
    for one, account, other in ((here, "server", there), (there, "client", here)):
        stack.callback(one.delete, one.entry(account, ttl=20, federates=other.domain))
        one.server("federation", "refresh", "-id", f"spiffe://{other.domain}")  # else it asks once a minute
    found = []
    for one, account, other in ((here, "server", there), (there, "client", here)):
        with Kept(one, account) as kept:  # an entry takes a moment to get to the agent
            until(kept.serial)
        config = MeshConfig(
            trust_domain=one.domain,
            trust_bundles={other.domain: TrustBundle(workload_api=True)},
            allow_no_policy=True,
        )
        workload = Workload(name=account, namespace="prod", service_account=account)
        source = WorkloadApiIdentity(one.address, workload_id(one, account), pauses=Pauses(longest=2.0))
        mesh = stack.enter_context(Mesh(workload=workload, config=config, identity=source))
        until(lambda: is_ready(mesh.status()["identity"]))  # noqa: B023
        found.append(mesh)
    return found[0], found[1]


def asked(port: int, context: ssl.SSLContext) -> int:
    """The status of one request on a connection of its own. Raises OSError where the server is not believed."""
    with closing(HTTPSConnection("localhost", port, context=context, timeout=20)) as connection:
        connection.request("GET", "/")
        return connection.getresponse().status


def answers(port: int, context: ssl.SSLContext) -> bool:
    """Whether it works."""
    try:
        return asked(port, context) == 200
    except OSError:
        return False


def test_two_trust_domains_talk_while_everything_rotates(spires: tuple[Spire, Spire]) -> None:
    """Each has the other's bundle from its own agent; over several rotations no request fails."""
    with ExitStack() as stack:
        server_mesh, client_mesh = meshes(spires, stack)
        server = stack.enter_context(serve(server_mesh.server_context()))
        context = client_mesh.client_context(authorize=workload_id(spires[0], "server"))
        until(lambda: answers(server.server_port, context))  # another test has just replaced a root
        serials, end = set(), time.monotonic() + 15
        while time.monotonic() < end:
            assert asked(server.server_port, context) == 200
            serials.add(client_mesh.status()["identity"]["serial"])
            time.sleep(0.1)
        assert len(serials) > 1
        impostor = client_mesh.client_context(authorize=workload_id(spires[0], "other"))
        with pytest.raises(OSError):
            asked(server.server_port, impostor)


def endpoint(spire: Spire, file: Path, **changes: str) -> TrustBundle:
    """SPIRE's own bundle endpoint."""
    given = {"endpoint": f"https://127.0.0.1:{spire.bundle_port}", "spiffe_id": spire.server_id, **changes}
    return TrustBundle(profile="https_spiffe", bundle=str(file), **given)  # type: ignore[arg-type]


def kept_of(relation: TrustBundle, clock: Callable[[], float]) -> IdentityKeeper:
    """A workload of ours that federates with it."""
    own = CertificateAuthority.create(OURS)
    expected = SpiffeId.for_service_account(OURS, "prod", "web")
    source = StaticIdentity(Identity(own.issue_x509_svid(expected), own.bundle))
    return IdentityKeeper(source, expected=expected, foreign=Federation({HERE: relation}, clock=clock))


def test_spires_bundle_endpoint_is_federated_with(spires: tuple[Spire, Spire], folder: Path) -> None:
    """From a first bundle on; each new root is fetched when its time has come, of the right server only."""
    spire, now = spires[0], [1000.0]
    file = folder / "first.json"
    file.write_text(spire.server("bundle", "show", "-format", "spiffe"))
    keeper = kept_of(endpoint(spire, file), lambda: now[0])

    def fetched() -> frozenset[bytes]:
        keeper.refresh(time.time())
        return keeper.material.current().bundles.get(TrustDomain(HERE)).der  # type: ignore[union-attr]

    fetched()
    until(lambda: keeper.status()["federation"][0]["age"] is not None)
    assert not keeper.status()["federation"][0]["failure"]
    before = fetched()
    spire.server("localauthority", "x509", "prepare")
    now[0] += 300
    until(lambda: before < fetched())
    _activate(spire)
    now[0] += 300
    fetched()
    until(lambda: keeper.status()["federation"][0]["age"] == 0)
    wrong = kept_of(endpoint(spire, file, spiffe_id=f"spiffe://{HERE}/spire/agent"), lambda: now[0])
    wrong.refresh(time.time())
    until(lambda: wrong.status()["federation"][0]["failure"])


def test_spire_federates_with_our_bundle_endpoint(spires: tuple[Spire, Spire], authority: AuthorityFolder) -> None:
    """It fetches our new root, and hands it to a workload through its agent, in which a mesh finds it."""
    spire = spires[0]
    entry = spire.entry("web", federates=OURS.name)
    with Kept(spire, "web", ours_example=TrustBundle(workload_api=True)) as kept:
        until(lambda: OURS.name in kept.trusted())
        authority.publish_root()

        def current() -> object:
            spire.server("federation", "refresh", "-id", f"spiffe://{OURS}")
            kept.serial()
            return kept.keeper.material.current().bundles.get(OURS) == authority.authority.bundle

        until(current)
    spire.delete(entry)
