"""A root replaced in three steps on disk: each observable, resumable, and reversible until the last."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from meshsec.ca import AuthorityFolder, CertificateAuthority, Phase
from meshsec.errors import ConfigError, IssuanceError, SvidError
from meshsec.spiffe import X509Bundle, X509Svid, verify_x509_svid
from pki import NOW

DAY = 86_400
ID = "spiffe://td.example/ns/prod/sa/web"


class Clock:
    """A clock that stands where it is put."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    """Stands at NOW."""
    return Clock()


@pytest.fixture
def folder(tmp_path: Path, clock: Clock) -> AuthorityFolder:
    """A new authority."""
    authority = CertificateAuthority.create("td.example", clock=clock)
    return AuthorityFolder.create(tmp_path / "ca", authority, clock=clock)


def reopened(folder: AuthorityFolder) -> AuthorityFolder:
    """The same folder, as another process sees it."""
    return AuthorityFolder(folder.folder, clock=folder._clock)


def holds(svid: X509Svid, bundle: X509Bundle, now: float = NOW) -> bool:
    """Whether a peer with this bundle takes the SVID."""
    try:
        verify_x509_svid(svid.chain, bundle, now=now, role="client")
    except SvidError:
        return False
    return True


def refusal(action: Callable[[], object]) -> str:
    """The code that a step is refused with."""
    with pytest.raises(IssuanceError) as caught:
        action()
    return caught.value.code


def test_every_step_is_on_disk_and_leaves_no_gap(folder: AuthorityFolder, clock: Clock) -> None:
    """After each step a process that starts anew goes on from there; neighbours in time trust each other."""
    bundles, svids = [folder.authority.bundle], [folder.authority.issue_x509_svid(ID)]
    steps = (Phase.PUBLISHED, Phase.ACTIVATED, Phase.STEADY)
    for step, wait, phase in zip(
        (folder.publish_root, folder.activate_root, folder.retire_old_roots), (0, 900, 2 * DAY), steps, strict=True
    ):
        clock.now += wait
        step()
        folder = reopened(folder)
        state = folder.authority.state
        assert (state.phase, state.since) == (phase, clock.now)
        bundles.append(folder.authority.bundle)
        svids.append(folder.authority.issue_x509_svid(ID))
        if phase is not Phase.STEADY:
            assert all(holds(svid, bundle, clock.now) for svid in svids[-2:] for bundle in bundles[-2:-1])
    assert [len(bundle.x509_authorities) for bundle in bundles] == [1, 2, 2, 1]
    assert bundles[0].der.isdisjoint(bundles[3].der)
    assert [holds(svid, bundles[3], clock.now - 1) for svid in svids] == [False, False, False, True]


def test_the_old_signs_until_the_new_is_activated(folder: AuthorityFolder) -> None:
    """Publishing changes who is trusted, activating who signs, and neither changes the other."""
    old = folder.authority.certificate
    published = folder.publish_root()
    assert published.certificate == old
    activated = folder.activate_root(settle=0)
    assert activated.certificate != old
    assert activated.bundle == published.bundle
    assert activated.state.sequence == published.state.sequence == 2


def test_the_new_root_is_not_used_before_everybody_has_it(folder: AuthorityFolder, clock: Clock) -> None:
    """Fifteen minutes by default: three times the interval at which a bundle is asked for."""
    folder.publish_root()
    clock.now += 899
    assert refusal(folder.activate_root) == "rotation_too_early"
    clock.now += 1
    folder.activate_root()


def test_the_old_root_stays_while_a_certificate_depends_on_it(folder: AuthorityFolder, clock: Clock) -> None:
    """The record knows when the last one ends; a token counts as well."""
    folder.publish_root()
    clock.now += 900
    folder.authority.issue_x509_svid(ID, ttl=1000)
    folder.activate_root()
    assert folder.status()["standbyUsedUntil"] == NOW + 1900
    clock.now = NOW + 1899
    assert refusal(folder.retire_old_roots) == "rotation_too_early"
    clock.now = NOW + 1900
    folder.retire_old_roots()
    assert len(folder.authority.bundle.x509_authorities) == 1


def test_a_token_keeps_its_key_published(folder: AuthorityFolder, clock: Clock) -> None:
    """The keys of JWT-SVIDs go through the same three steps."""
    folder.authority.issue_jwt_svid(ID, ["x"])
    [before] = folder.authority.jwks()["keys"]
    folder.publish_root()
    assert before in folder.authority.jwks()["keys"]
    folder.activate_root(settle=0)
    assert refusal(folder.retire_old_roots) == "rotation_too_early"
    clock.now += 300
    folder.retire_old_roots()
    assert before not in folder.authority.jwks()["keys"]


def test_force_does_not_wait(folder: AuthorityFolder) -> None:
    """After a key is stolen nobody waits for certificates to end."""
    folder.authority.issue_x509_svid(ID)
    folder.publish_root()
    folder.activate_root(settle=0)
    folder.retire_old_roots(force=True)
    assert folder.authority.state.phase is Phase.STEADY


def test_each_step_can_be_taken_back(folder: AuthorityFolder) -> None:
    """From activated to published to where it began, with the same root; the other twin of each transition."""
    root = folder.authority.bundle
    folder.publish_root()
    both = folder.authority.bundle
    folder.activate_root(settle=0)
    svid = folder.authority.issue_x509_svid(ID, ttl=1000)

    folder.roll_back()
    assert folder.authority.state.phase is Phase.PUBLISHED
    assert folder.authority.bundle == both
    assert holds(svid, folder.authority.bundle)
    assert refusal(folder.roll_back) == "rotation_too_early"  # the withdrawn root has a leaf
    folder.roll_back(force=True)
    assert folder.authority.bundle == root
    assert reopened(folder).authority.state.phase is Phase.STEADY
    assert not list(folder.folder.glob("standby-*"))


WRONG_ORDER: dict[str, list[str]] = {
    "activate first": ["activate_root"],
    "retire before activating": ["publish_root", "retire_old_roots"],
    "publish twice": ["publish_root", "publish_root"],
    "activate twice": ["publish_root", "activate_root", "activate_root"],
    "nothing to take back": ["roll_back"],
    "renew in the middle": ["publish_root", "renew_root"],
}


@pytest.mark.parametrize("names", WRONG_ORDER.values(), ids=WRONG_ORDER.keys())
def test_steps_have_an_order(folder: AuthorityFolder, clock: Clock, names: list[str]) -> None:
    """A step out of order changes nothing."""
    *before, last = names
    for name in before:
        getattr(folder, name)()
        clock.now += 900
    state = folder.authority.state
    assert refusal(getattr(folder, last)) == "rotation_step"
    assert reopened(folder).authority.state.phase is state.phase
    assert folder.authority.bundle == state.bundle


def test_a_root_renewed_with_its_key_changes_nothing_else(folder: AuthorityFolder, clock: Clock) -> None:
    """As Istio does it: old leaves hold under the new root, new leaves under the old."""
    old = folder.authority
    before = old.issue_x509_svid(ID, ttl=90 * DAY)
    clock.now += 50 * DAY
    new = folder.renew_root()
    assert (new.certificate != old.certificate, new.state.signer.key_id) == (True, old.state.signer.key_id)
    assert new.certificate.subject == old.certificate.subject
    assert holds(before, new.bundle, clock.now)
    assert holds(new.issue_x509_svid(ID), old.bundle, clock.now)
    assert new.state.signer.validity.not_after == clock.now + 3650 * DAY


def test_a_root_is_renewed_by_itself_in_its_last_fifth(folder: AuthorityFolder, clock: Clock) -> None:
    """Maintenance does what Istio's hourly check does, not before and not twice."""
    serial = folder.authority.certificate.serial_number
    clock.now = NOW + 2919 * DAY
    folder.maintain()
    assert folder.authority.certificate.serial_number == serial
    clock.now = NOW + 2921 * DAY
    folder.maintain()
    renewed = folder.authority.certificate.serial_number
    folder.maintain()
    assert serial != renewed == folder.authority.certificate.serial_number


def test_another_process_sees_a_step_at_once(folder: AuthorityFolder) -> None:
    """What one process publishes the other has without being told."""
    other = reopened(folder)
    folder.publish_root()
    assert other.authority.bundle == folder.authority.bundle
    other.activate_root(settle=0)
    assert folder.authority.certificate == other.authority.certificate


def test_nothing_is_handed_out_from_a_root_that_is_gone(folder: AuthorityFolder) -> None:
    """An authority held over a whole rotation issues nothing more: its requester asks again."""
    held = folder.authority
    other = reopened(folder)
    other.publish_root()
    assert held.issue_x509_svid(ID)
    other.activate_root(settle=0)
    other.retire_old_roots(force=True)
    assert refusal(lambda: held.issue_x509_svid(ID)) == "superseded"
    assert len(list(folder.issued())) == 1


def test_eight_at_once_make_one_new_root(folder: AuthorityFolder) -> None:
    """Whoever comes first publishes; the others are told that a rotation is under way."""
    refused: list[str] = []

    def publish() -> None:
        try:
            reopened(folder).publish_root()
        except IssuanceError as error:
            refused.append(error.code)

    threads = [threading.Thread(target=publish) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert refused == ["rotation_step"] * 7
    assert len(folder.authority.bundle.x509_authorities) == 2


def test_it_can_be_opened_while_it_changes(folder: AuthorityFolder) -> None:
    """A reader gets the files of one generation, even where that is swept away under its hands."""
    done = threading.Event()

    def change() -> None:
        while not done.is_set():
            folder.publish_root()
            folder.roll_back()

    writer = threading.Thread(target=change)
    writer.start()
    try:
        phases = {reopened(folder).authority.state.phase for _ in range(60)}
    finally:
        done.set()
        writer.join()
    assert phases <= {Phase.STEADY, Phase.PUBLISHED}


def test_one_folder_holds_one_authority(folder: AuthorityFolder) -> None:
    """A second one does not overwrite the first; two keepers exclude each other."""
    other = CertificateAuthority.create("td.example", now=NOW)
    assert refusal(lambda: AuthorityFolder.create(folder.folder, other)) == "authority_exists"
    with folder.exclusively():

        def second() -> None:
            with reopened(folder).exclusively():
                raise AssertionError("two at once")

        assert refusal(second) == "locked"
    with reopened(folder).exclusively():
        pass


@pytest.mark.parametrize(
    "change",
    [{"phase": "resting"}, {"trustDomain": "TD"}, {"since": "x"}, {"sequence": None}, {"phase": "published"}],
)
def test_a_damaged_state_is_refused(folder: AuthorityFolder, change: dict[str, object]) -> None:
    """Never guessed at: the folder is not opened, and a process that has it open keeps what it had."""
    path = (folder.folder / "authority.state").resolve()
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises((ConfigError, FileNotFoundError)):
        reopened(folder)
    assert folder.authority.issue_x509_svid(ID)
