"""A process that issues, renews and replaces roots as fast as it can, killed at random instants; run as a program.

``python killed.py FOLDER ROUNDS SEED``: after each kill everything on the disk is looked at; a sweep puts it right.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

from meshsec.ca import AuthorityFolder, CertificateAuthority, FolderStore, Phase, Rotator, _record
from meshsec.spiffe import SpiffeId, verify_x509_svid

DAY = 86_400
START = 1_800_000_000.0
TRUST_DOMAIN = "td.example"
IDS = [SpiffeId.for_service_account(TRUST_DOMAIN, "prod", f"a{number}") for number in range(6)]
LONGEST = 0.15


class Clock:
    """Goes on from the last thing that was recorded: each sweep finds everything due."""

    now = START

    def __call__(self) -> float:
        return self.now


def opened(folder: Path) -> tuple[AuthorityFolder, Rotator, Clock]:
    """The authority as a process that starts anew finds it."""
    clock = Clock()
    authority = AuthorityFolder(folder / "ca", clock=clock)
    clock.now = max((item.issued_at for item in authority.issued()), default=START)
    return authority, Rotator(authority, FolderStore(folder / "store"), lambda: IDS, clock=clock), clock


def work(folder: Path) -> None:
    """Never returns."""
    authority, rotator, clock = opened(folder)
    steps = {
        Phase.STEADY: authority.publish_root,
        Phase.PUBLISHED: lambda: authority.activate_root(settle=0),
        Phase.ACTIVATED: lambda: authority.retire_old_roots(force=True),
    }
    _record.MAX_SIZE = 4096  # type: ignore[misc]  # a file is put aside with every third sweep
    while True:
        clock.now += 0.6 * DAY
        rotator.sweep()
        steps[authority.authority.state.phase]()
        authority.maintain()


def check(folder: Path) -> int:
    """Every set that is mounted is whole, verifiable, recorded, and its account's; how many there are."""
    authority, _, _ = opened(folder)
    recorded = {item.serial: item.id for item in authority.issued()}
    store = FolderStore(folder / "store")
    found = 0
    for spiffe_id in IDS:
        if not (store.path(spiffe_id) / "..data").exists():
            continue
        stored = store.read(spiffe_id)
        svid = stored.svid
        verified = verify_x509_svid(svid.chain, stored.bundle, now=svid.not_before + 130, role="client")
        if not verified == spiffe_id == SpiffeId.parse(recorded[f"{svid.serial:x}"]):
            raise SystemExit(f"{spiffe_id} holds {verified}, the record says {recorded[f'{svid.serial:x}']}")
        found += 1
    return found


def recover(folder: Path) -> None:
    """One sweep of a new process mends whatever was left undone."""
    _, rotator, _ = opened(folder)
    sweep = rotator.sweep()
    if sweep.failed or check(folder) != len(IDS):
        raise SystemExit(f"not put right: {sweep}")


def main(folder: Path, rounds: int, seed: int) -> None:
    """Kill as often as asked; anything that is not as it should be ends the program."""
    AuthorityFolder.create(folder / "ca", CertificateAuthority.create(TRUST_DOMAIN, now=START), clock=lambda: START)
    randomness = random.Random(seed)
    for _ in range(rounds):
        child = os.fork()
        if not child:
            work(folder)
        time.sleep(randomness.uniform(0, LONGEST))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if os.WTERMSIG(status) != signal.SIGKILL:
            raise SystemExit("the process ended by itself")
        check(folder)
        if randomness.random() < 0.5:  # else the next one starts from what this one left
            recover(folder)
    recover(folder)
    authority, _, _ = opened(folder)
    sys.stdout.write(
        f"{rounds} kills, {len(list(authority.issued()))} identities, {authority.authority.state.sequence}\n"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
