"""Policies that change while requests are judged: what replaces what, when, and what never does."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest

from meshsec import ConfigError, Connection, HttpRequest, Mesh, Reason, SvidError
from meshsec.authn import KeySource, NeedKeys
from meshsec.resources import KeysConfig
from meshsec.sources import KeyStore, PolicyKeeper, read_settled
from meshsec.sources._fetch import FetchResult
from meshsec.testing import TestIssuer
from waiting import until
from world import World

MESH = """\
workloads:
  web: {namespace: prod, serviceAccount: web, labels: {app: web}}
services:
  reviews.prod: {ids: ["spiffe://cluster.local/ns/prod/sa/reviews"]}
"""
GOOD = Path(__file__).parents[1] / "resources" / "good"
SECRET = HttpRequest("GET", "/secret", "web.prod", (), "http")
OTHER = HttpRequest("GET", "/other", "web.prod", (), "http")


def deny(path: str, name: str = "guard") -> str:
    """A policy that denies one path."""
    return f"""\
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: {name}, namespace: prod}}
spec:
  action: DENY
  rules:
  - to:
    - operation:
        paths: ["{path}"]
"""


def allow(path: str, name: str = "guard") -> str:
    """A policy that allows one path and nothing else."""
    return deny(path, name).replace("DENY", "ALLOW")


def users(issuer: str) -> str:
    """A rule that takes tokens of one issuer."""
    return f"""\
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {{name: users, namespace: prod}}
spec: {{jwtRules: [{{issuer: "{issuer}"}}]}}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A central folder whose one policy denies /secret."""
    (tmp_path / "mesh.yaml").write_text(MESH)
    (tmp_path / "guard.yaml").write_text(deny("/secret"))
    return tmp_path


@pytest.fixture
def mesh(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Mesh:
    """The mesh of that folder, which looks only when told to."""
    monkeypatch.setattr(Mesh, "start", lambda _: None)
    return Mesh.load(folder)


def keeper_of(mesh: Mesh) -> PolicyKeeper:
    """Where a mesh has its policies."""
    return mesh._policies


def look(mesh: Mesh, times: int = 2) -> None:
    """Let the seconds pass in which a change is seen and found settled."""
    for _ in range(times):
        keeper_of(mesh).refresh()


def reason(mesh: Mesh, request: HttpRequest = SECRET) -> Reason:
    """Why a request is answered as it is."""
    return mesh.decide(Connection(), request).reason


def test_a_changed_policy_is_used_when_it_is_found_the_same_twice(mesh: Mesh, folder: Path) -> None:
    """Somebody may still be writing at the first look; at the second the new version decides."""
    (folder / "guard.yaml").write_text(deny("/other"))
    look(mesh, 1)
    assert reason(mesh) is Reason.DENY_RULE
    look(mesh, 1)
    assert (reason(mesh), reason(mesh, OTHER)) == (Reason.NO_ALLOW_POLICY, Reason.DENY_RULE)
    assert mesh.status()["reload"] == {"version": 2, "folder": str(folder), "failure": None}


def test_a_file_that_keeps_changing_is_not_used(mesh: Mesh, folder: Path) -> None:
    """Half a file is never a policy, even where half a file would load."""
    whole = allow("/a", "one") + "---\n" + deny("/secret")
    for length in range(10, len(whole), 40):
        (folder / "guard.yaml").write_text(whole[:length])
        look(mesh, 1)
        assert mesh.status()["reload"]["version"] == 1
    (folder / "guard.yaml").write_text(whole)
    look(mesh)
    assert len(mesh.status()["policies"]) == 2


def test_a_rewrite_with_the_old_time_and_size_is_noticed(mesh: Mesh, folder: Path) -> None:
    """Content is compared, not what the file system says of it."""
    file = folder / "guard.yaml"
    before = file.stat()
    file.write_text(deny("/sicret"))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    look(mesh)
    assert reason(mesh) is Reason.NO_ALLOW_POLICY


def test_a_vanished_file_is_a_removal(mesh: Mesh, folder: Path) -> None:
    """Its policies go, the others stay."""
    (folder / "more.yaml").write_text(deny("/other", "more"))
    look(mesh)
    (folder / "guard.yaml").unlink()
    look(mesh)
    assert (reason(mesh), reason(mesh, OTHER)) == (Reason.NO_ALLOW_POLICY, Reason.DENY_RULE)


def emptied(folder: Path) -> None:
    (folder / "guard.yaml").unlink()


def gone(folder: Path) -> None:
    shutil.rmtree(folder)


def truncated(folder: Path) -> None:
    (folder / "guard.yaml").write_text("\n")


def unreadable(folder: Path) -> None:
    (folder / "guard.yaml").write_bytes(b"\xff\xfe")


def folder_for_file(folder: Path) -> None:
    (folder / "mesh.yaml").unlink()
    (folder / "mesh.yaml").mkdir()


def link_ring(folder: Path) -> None:
    (folder / "guard.yaml").unlink()
    (folder / "guard.yaml").symlink_to("guard.yaml")


def other_trust_domain(folder: Path) -> None:
    (folder / "mesh.yaml").write_text(MESH + "meshConfig: {trustDomain: other.example}\n")


def other_account(folder: Path) -> None:
    (folder / "mesh.yaml").write_text(MESH.replace("serviceAccount: web", "serviceAccount: db"))


def other_workload(folder: Path) -> None:
    (folder / "mesh.yaml").write_text(MESH.replace("web:", "db:"))


def other_issuers(folder: Path) -> None:
    (folder / "mesh.yaml").write_text(MESH + "issuers: {https://one.example: {refresh: 1}}\n")


def other_keys(folder: Path) -> None:
    (folder / "mesh.yaml").write_text(MESH + "keys: {refresh: 1}\n")


def none_applies(folder: Path) -> None:
    (folder / "guard.yaml").write_text(deny("/secret").replace("prod", "elsewhere"))


BAD: list[tuple[Callable[[Path], None], str]] = [
    (emptied, "holds no policy file any more"),
    (gone, "cannot be read"),
    (truncated, "is empty"),
    (unreadable, "not UTF-8"),
    (folder_for_file, "not a regular file"),
    (link_ring, "cannot be read"),
    (other_trust_domain, "meshConfig.trustDomain: cannot change while the program runs"),
    (other_account, "workloads.web.serviceAccount: cannot change"),
    (other_workload, "no workload 'web'"),
    (other_keys, "keys: cannot change"),
    (other_issuers, "issuers: cannot change"),
    (none_applies, "no policy applies"),
]


@pytest.mark.parametrize(("spoil", "told"), BAD, ids=[spoil.__name__ for spoil, _ in BAD])
def test_what_cannot_be_used_keeps_the_last_good(
    mesh: Mesh, folder: Path, caplog: pytest.LogCaptureFixture, spoil: Callable[[Path], None], told: str
) -> None:
    """The last good version decides on, the reason is in the status and once in the log; the good one clears it."""
    spoil(folder)
    look(mesh, 5)
    assert reason(mesh) is Reason.DENY_RULE
    assert told in mesh.status()["reload"]["failure"]
    assert len([record for record in caplog.records if record.name == "meshsec.policy"]) == 1
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "mesh.yaml").write_text(MESH)
    (folder / "guard.yaml").write_text(deny("/secret"))
    look(mesh)
    assert mesh.status()["reload"] == {"version": 1, "folder": str(folder), "failure": None}


@pytest.mark.parametrize("spoil", [emptied, gone, truncated])
def test_nothing_at_all_is_never_taken_for_a_policy(
    folder: Path, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[Path], None]
) -> None:
    """A folder that lost its policies keeps the last good even where no policy is allowed at the start."""
    monkeypatch.setattr(Mesh, "start", lambda _: None)
    (folder / "mesh.yaml").write_text(MESH + "allowNoPolicy: true\n")
    mesh = Mesh.load(folder)
    spoil(folder)
    look(mesh)
    assert reason(mesh) is Reason.DENY_RULE


def test_an_error_of_ours_keeps_the_last_good(mesh: Mesh, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever breaks while compiling, requests are judged by the version before."""
    (folder / "guard.yaml").write_text(deny("/other"))
    monkeypatch.setattr("meshsec.sources._policies.SecureNaming", lambda *_, **__: 1 / 0)
    look(mesh)
    assert reason(mesh) is Reason.DENY_RULE
    assert mesh.status()["reload"]["failure"] == "ZeroDivisionError: division by zero"


def mutations(text: str, random: Random) -> Iterator[str]:
    """Mistakes that a hand or a half-finished tool makes in good YAML; none of them is a policy that anyone meant."""
    lines = text.splitlines(keepends=True)
    keys = [index for index, line in enumerate(lines) if ":" in line and "annot" not in line and "#" not in line]
    for index in random.sample(keys, min(len(keys), 12)):
        line = lines[index]
        key = line.split(":")[0].strip(" -{")
        if not key.isalpha() or key in ("app", "version"):
            continue
        for spoilt in (
            line.replace(key, key + "x", 1),
            "\t" + line,
            line.replace(":", ": {", 1),
            line.replace(":", ": !!python/none", 1),
        ):
            yield "".join([*lines[:index], spoilt, *lines[index + 1 :]])


def test_no_mutation_of_a_good_file_weakens_what_is_in_force(mesh: Mesh, folder: Path) -> None:
    """A hundred and more spoilt files: the last good version stays in force, untouched, through all of them."""
    random = Random(7)
    texts = [(GOOD / name).read_text() for name in ("policy.yaml", "peer.yaml", "request.yaml")]
    good, count = keeper_of(mesh).current, 0
    for text in [*texts, deny("/secret"), allow("/a"), users("https://issuer.example")]:
        for spoilt in mutations(text, random):
            (folder / "more.yaml").write_text(spoilt)
            look(mesh)
            assert keeper_of(mesh).current is good, spoilt
            assert mesh.status()["reload"]["failure"]
            count += 1
    assert count >= 100


def test_a_folder_is_swapped_as_kubernetes_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files are links into ..data, which is moved in one step: old or new, never some of each."""
    monkeypatch.setattr(Mesh, "start", lambda _: None)
    for name, path in (("..1", "/secret"), ("..2", "/other")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mesh.yaml").write_text(MESH)
        (tmp_path / name / "guard.yaml").write_text(deny(path))
        (tmp_path / name / "more.yaml").write_text(deny(path + "/more", "more"))
    (tmp_path / "..data").symlink_to("..1")
    for name in ("mesh.yaml", "guard.yaml", "more.yaml"):
        (tmp_path / name).symlink_to(f"..data/{name}")
    mesh = Mesh.load(tmp_path)
    (tmp_path / "..new").symlink_to("..2")
    (tmp_path / "..new").rename(tmp_path / "..data")
    look(mesh)
    assert (reason(mesh), reason(mesh, OTHER)) == (Reason.NO_ALLOW_POLICY, Reason.DENY_RULE)
    assert mesh.status()["reload"]["version"] == 2


def test_a_swap_in_the_middle_of_a_reading_is_read_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the start, too, two readings must agree; a folder that never holds still is an error."""
    from meshsec.resources import _files

    plain = _files.read_text
    reads: list[Path] = []

    def restless(path: Path) -> str:
        reads.append(path)
        if path.name == "guard.yaml" and len(reads) < 5:
            path.write_text(deny(f"/{len(reads)}"))
        return plain(path)

    monkeypatch.setattr(_files, "read_text", restless)
    assert "/4" in str(read_settled(folder).policies)
    monkeypatch.setattr(_files, "read_text", lambda path: plain(path) + f"# {id(object())}{os.urandom(4).hex()}")
    with pytest.raises(ConfigError) as caught:
        read_settled(folder)
    assert caught.value.code == "unsettled"


@pytest.mark.usefixtures("short_turns")
def test_each_request_is_judged_by_one_version(mesh: Mesh, folder: Path) -> None:
    """Two versions that contradict each other, swapped under eight threads: each is seen, every answer is one's."""
    one = deny("/secret", "one-denies") + "---\n" + allow("/other", "one-allows")
    two = deny("/other", "two-denies") + "---\n" + allow("/secret", "two-allows")
    answers: list[set[tuple[str, str | None, bool]]] = [
        {("/secret", "prod/one-denies", False), ("/other", "prod/one-allows", True)},
        {("/other", "prod/two-denies", False), ("/secret", "prod/two-allows", True)},
    ]
    possible = {("/secret", "prod/guard", False), ("/other", None, True)}.union(*answers)
    stop = threading.Event()
    seen: set[tuple[str, str | None, bool]] = set()

    def ask() -> None:
        while not stop.is_set():
            for request in (SECRET, OTHER):
                found = mesh.decide(Connection(), request)
                seen.add((request.target, found.policy, found.allowed))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    try:
        for turn in range(20):
            (folder / "guard.yaml").write_text((one, two)[turn % 2])
            look(mesh)
            until(lambda turn=turn: seen >= answers[turn % 2])  # type: ignore[misc]
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert seen <= possible
    assert mesh.status()["reload"]["version"] == 21


def test_a_question_is_answered_for_the_version_that_asked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A policy that is replaced while a request waits for keys still decides that request."""
    issuer = TestIssuer("https://old.example")
    monkeypatch.setattr(Mesh, "start", lambda _: None)
    (folder / "users.yaml").write_text(users(issuer.issuer))
    mesh = Mesh.load(folder)
    swapped: list[bool] = []

    def wait(question: NeedKeys) -> None:
        assert question.sources == (KeySource(issuer.issuer),)
        (folder / "users.yaml").write_text(users("https://new.example"))
        (folder / "guard.yaml").write_text(deny("/other"))
        look(mesh)
        swapped.append(True)

    monkeypatch.setattr(mesh._keys, "wait", wait)
    headers = (("authorization", f"Bearer {issuer.token()}"),)
    found = mesh.decide(Connection(), HttpRequest("GET", "/secret", "web.prod", headers, "http"))
    assert swapped
    assert found.reason is Reason.KEYS_UNAVAILABLE  # not jwt_issuer, which the new version would have said
    assert reason(mesh, OTHER) is Reason.DENY_RULE


def test_new_issuers_reach_the_key_store_and_known_keys_stay(mesh: Mesh, folder: Path) -> None:
    """A new version's key sources are asked for; those of the version before go one look later."""
    for issuer in ("https://one.example", "https://two.example"):
        (folder / "users.yaml").write_text(users(issuer))
        look(mesh)
    assert [entry["issuer"] for entry in mesh.status()["keys"]] == ["https://one.example", "https://two.example"]
    look(mesh, 1)
    assert [entry["issuer"] for entry in mesh.status()["keys"]] == ["https://two.example"]


def test_a_key_store_keeps_what_it_fetched_when_its_sources_change() -> None:
    """No second fetch for a source that stays; a changed timeout is taken over."""
    fetched: list[str] = []
    issuer = TestIssuer()

    def fetch(url: str, *, timeout: float) -> FetchResult:
        fetched.append(f"{url} {timeout:.0f}")
        return FetchResult(200, issuer.jwks.encode())

    one = KeySource("https://one.example", "https://one.example/keys")
    two = KeySource("https://two.example", "https://two.example/keys", timeout=9)
    store = KeyStore([one], KeysConfig(), fetch=fetch)
    store.wait(NeedKeys((one,)))
    store.replace([KeySource(one.issuer, one.jwks_uri, timeout=3), two])
    store.wait(NeedKeys((two,)))
    keys = store.snapshot()
    assert keys[one].keys
    assert keys[two].keys
    assert [text.split()[0] for text in fetched] == [one.jwks_uri, two.jwks_uri]
    store.replace([two])
    assert list(store.snapshot()) == [two]


def test_a_running_key_store_fetches_new_sources_at_once() -> None:
    """Started without any source, it begins with the first it is given."""
    landed = threading.Event()

    def fetch(url: str, *, timeout: float) -> FetchResult:
        landed.set()
        return FetchResult(200, TestIssuer().jwks.encode())

    store = KeyStore([], KeysConfig(), fetch=fetch)
    store.start()
    store.replace([KeySource("https://one.example", "https://one.example/keys")])
    assert landed.wait(10)
    store.close()


def test_running_client_contexts_see_new_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who may answer for a host is asked at each handshake, so that a context made before the change follows it."""
    monkeypatch.setattr(Mesh, "start", lambda _: None)
    world = World()
    (tmp_path / "mesh.yaml").write_text(MESH + "allowNoPolicy: true\n")
    mesh = Mesh.load(tmp_path)
    authorize = mesh._contexts.authorizer(None)
    authorize(world.id("reviews"), "reviews.prod")
    (tmp_path / "mesh.yaml").write_text(MESH.replace("sa/reviews", "sa/other") + "allowNoPolicy: true\n")
    look(mesh)
    with pytest.raises(SvidError):
        authorize(world.id("reviews"), "reviews.prod")
    authorize(world.id("other"), "reviews.prod")
    assert world.id("other") in mesh.naming.ids("reviews.prod")


def test_the_background_thread_looks_by_itself(folder: Path) -> None:
    """A running mesh takes a new policy without being told."""
    taken = threading.Event()
    with Mesh.load(folder) as mesh:
        keeper = keeper_of(mesh)
        accept = keeper._accept
        keeper._accept = lambda *found: (accept(*found), taken.set())  # type: ignore[assignment, method-assign]
        (folder / "guard.yaml").write_text(deny("/other"))
        assert taken.wait(20)
        assert reason(mesh) is Reason.NO_ALLOW_POLICY


def test_a_mesh_of_values_has_nothing_to_look_at() -> None:
    """Without a folder there is one version for ever."""
    mesh = World().mesh("web")
    look(mesh)
    assert mesh.status()["reload"] == {"version": 1, "folder": None, "failure": None}
