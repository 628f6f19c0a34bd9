"""The same tokens to a real Envoy's ``jwt_authn`` and to meshsec, in both compatibilities.

Every change there is to every rule there is, one by one, and then several at a time: with ``MESHSEC_FULL=1`` about
20,000 tokens, otherwise a part of them. ``MESHSEC_SEED`` chooses others. What may differ is a row of
docs/explanation/differences-from-istio.md, and under ``compatibility: istio`` only a row without ↩.
"""

from __future__ import annotations

import json
import os
import random
import re
import sys
from base64 import b64decode
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import pytest

from interop.changes import CHANGES
from interop.client import Answer, Client
from interop.compare import decided, served
from interop.generate import Case
from interop.rooms import ROOMS, Ask, asks
from interop.sidecar import Site, sites
from meshsec import Decision, MeshConfig, Reason

FULL: Final = bool(os.environ.get("MESHSEC_FULL"))
SEED: Final = int(os.environ.get("MESHSEC_SEED", "20260101"))
COUNT: Final = 20_000 if FULL else 1_000
DIFFERENCES: Final = Path(__file__, "../../../docs/explanation/differences-from-istio.md").resolve()

SAFE: Final = MeshConfig(allow_no_policy=True)
ISTIO: Final = MeshConfig(allow_no_policy=True, compatibility="istio", ambiguous_paths="istio")

# ------------------------------------------------------------------------------------------------- what may differ

Applies = Callable[[Ask], bool]


def _in(*rooms: str) -> Applies:
    return lambda ask: ask.room in rooms


def _at(*stages: str) -> Applies:
    return lambda ask: ask.changed(*stages)


def _controls(ask: Ask) -> bool:
    """Among what a claim is made of that becomes a header."""
    text = "".join(change.name for change in ask.changes if change.stage in ("claims", "payload_json"))
    return any(escape in text for escape in ("\\n", "\\u00", "\x7f"))


def _anywhere(ask: Ask) -> bool:
    return True


@dataclass(frozen=True)
class Row:
    """A row of the documentation.

    Attributes:
        reasons: what meshsec refuses with.
        applies: what makes a token one of those that it speaks of.
        room: where one is to be seen; what is missing here is a row of test_differences.
        change: the change that shows it there.
        signer: whose token is changed.
    """

    reasons: frozenset[Reason]
    applies: Applies
    room: str = ""
    change: str = ""
    signer: str = "ES256"


_TOKEN: Final = frozenset(
    reason for reason in Reason if reason.startswith("jwt_") and reason is not Reason.JWT_MISSING
)
_MALFORMED: Final = frozenset({Reason.JWT_MALFORMED})
_KEY: Final = frozenset({Reason.JWT_UNKNOWN_KEY})
_SIGNATURE: Final = frozenset({Reason.JWT_SIGNATURE})
_EVERY: Final = "every algorithm"
_NAMELESS: Final = ("keys without names", "a crowd of keys", "odd keys")
_BOUND: Final = (
    "a token bound to a certificate (`cnf` with `x5t#S256`) over another connection, or with a `cnf` that cannot be"
    " read"
)

ROWS: Final[Mapping[str, Row]] = {
    "no `exp`": Row(frozenset({Reason.JWT_NO_EXPIRY}), _at("claims"), _EVERY, "claims without exp"),
    "`exp: 0`": Row(frozenset({Reason.JWT_EXPIRED}), _at("claims"), _EVERY, "claims exp=0"),
    "`crit` or `b64` in the token's header": Row(
        frozenset({Reason.JWT_CRITICAL_HEADER}), _at("header"), _EVERY, 'header crit=["exp"]'
    ),
    "dots too many, white space or padding or spare bits in base64url": Row(
        _MALFORMED, _at("text", "sent"), _EVERY, "the text: a dot in front"
    ),
    "a token in JSON that is none (single quotes, commas too many), or nested deeper than 32 levels": Row(
        _MALFORMED, _at("header_json", "payload_json"), _EVERY, "payload_json is it in single quotes"
    ),
    "a token over 32 KiB, a header segment over 8 KiB": Row(
        frozenset({Reason.JWT_TOO_LARGE}), _anywhere, _EVERY, 'header x="yyyyyyyyyyyyyyyyyyyyyyyyyyyyy...(9002)'
    ),
    "a token that names no key, where more than four keys fit": Row(
        _SIGNATURE, _in("a crowd of keys"), "a crowd of keys", "header without kid"
    ),
    "an RSA key under 2048 or over 8192 bits, a shared secret shorter than its hash": Row(
        _KEY, _in("odd keys"), "odd keys", "header typ=\"JWT\"", "short"
    ),
    "a key with another `use`, without `verify` in its `key_ops`, or an EC or OKP key without its `crv`": Row(
        _KEY, _in("odd keys"), "odd keys", "header typ=\"JWT\"", "enc"
    ),
    "an `alg` of another family than the key that signed it, where that says none": Row(
        _KEY | _SIGNATURE, lambda ask: _in(*_NAMELESS)(ask) and _at("header", "header_json")(ask),
        "keys without names", 'header alg="PS384"', "EdDSA",
    ),
    "an ECDSA signature with a byte too many": Row(
        _SIGNATURE, _at("signature", "text", "sent"), _EVERY, "the signature has a byte more"
    ),
    "a claim with control characters that is to become a header": Row(
        frozenset({Reason.JWT_CLAIM_TYPE}), _controls, _EVERY, 'claims sub="a\\nb"'
    ),
    _BOUND: Row(
        frozenset({Reason.JWT_BOUND, Reason.JWT_CLAIM_TYPE}), _at("claims"), _EVERY, 'claims cnf={"x5t#S256": ""}'
    ),
    "a token bound to a key of its client (`cnf` with `jkt`, DPoP), of which a bearer token proves nothing": Row(
        frozenset({Reason.JWT_BOUND}), _at("claims"), _EVERY, 'claims cnf={"jkt": "x"}'
    ),
    "two tokens in the places one rule reads": Row(
        frozenset({Reason.JWT_SEVERAL}), _at("sent"), "places of its own", "('x-raw', '@') and in the query"
    ),
    "`Bearer ` somewhere inside a header's value": Row(
        _MALFORMED, _at("sent"), _EVERY, "Authorization: 'Basic x, Bearer @'"
    ),
    "a cookie's name with white space behind it": Row(
        _MALFORMED, _at("sent"), "places of its own", "Cookie:  session = @"
    ),
    "several `Authorization` headers": Row(frozenset({Reason.AUTHORIZATION_REPEATED}), _at("sent")),
    "a bad token in a place that another rule reads": Row(_TOKEN, _in("two issuers", "one issuer twice")),
    "the order of checks": Row(_TOKEN, _anywhere),
}  # fmt: skip


@cache
def documented() -> Mapping[str, str]:
    """The rows of the documentation's tables: what comes, and the whole row."""
    lines = re.findall(r"(?m)^\| .+$", DIFFERENCES.read_text(encoding="utf-8"))
    return {line.split(" | ")[0].removeprefix("| "): line for line in lines}


def listed(ask: Ask, envoy: Answer, ours: Decision, compatibility: str) -> str | None:
    """The row that says why meshsec refuses what Envoy lets pass, or refuses otherwise."""
    for name, row in ROWS.items():
        turned_back = compatibility == "istio" and "↩" in documented()[name]
        if ours.reason not in row.reasons or turned_back or not row.applies(ask):
            continue
        if name != "the order of checks" or envoy.status in (401, 403):
            return name
    return None


# ------------------------------------------------------------------------------------------------------ both judges


@dataclass(frozen=True)
class Difference:
    """What the two say differently of one token."""

    ask: Ask
    compatibility: str
    why: str

    def __str__(self) -> str:
        """All that is needed to see it again."""
        changes = ", ".join(change.name for change in self.ask.changes) or "nothing changed"
        lines = [
            f"{self.why}  [compatibility: {self.compatibility}]",
            f"  {self.ask.room}: a token by {self.ask.signer}; {changes}",
            f"  {self.ask.question.bytes[:3000]!r}",
        ]
        return "\n".join(lines)


# Envoy's text tells which of several keys was tried last; ours does not.
_OF_KEYS: Final = frozenset({Reason.JWT_SIGNATURE, Reason.JWT_UNKNOWN_KEY})


class Court:
    """Both, side by side."""

    def __init__(self, places: Mapping[str, Site], client: Client) -> None:
        self._client = client
        self._cases = {
            (name, config.compatibility): Case.of(room.documents, config, places[name])
            for name, room in ROOMS.items()
            for config in (SAFE, ISTIO)
        }
        self.statuses: Counter[int] = Counter()
        self.rows: Counter[tuple[str, str]] = Counter()

    @property
    def cases(self) -> list[Case]:
        """What Envoy has to serve."""
        return [case for (_, compatibility), case in self._cases.items() if compatibility == "istio"]

    def envoy(self, ask: Ask) -> Answer:
        """What Envoy says."""
        return self._client.ask(ask.question.route(self._cases[ask.room, "safe"].site), ask.question.bytes)

    def meshsec(self, ask: Ask, compatibility: str) -> Decision:
        """What meshsec says."""
        return decided(self._cases[ask.room, compatibility], ask.question)

    def judge(self, ask: Ask) -> list[Difference]:
        """Ask both; meshsec several times, because a verdict must not change when the token is known."""
        envoy = self.envoy(ask)
        self.statuses[envoy.status] += 1
        found = []
        for compatibility in ("safe", "istio"):
            ours = self.meshsec(ask, compatibility)
            why = self._why(ask, envoy, ours, compatibility)
            if compatibility == "safe" and any(self.meshsec(ask, "safe") != ours for _ in range(2)):
                why = "asked again, meshsec says something else"
            if why:
                found.append(Difference(ask, compatibility, why))
        return found

    def _why(self, ask: Ask, envoy: Answer, ours: Decision, compatibility: str) -> str | None:
        if ours.allowed and envoy.status == 200:
            return _seen(ask, envoy, ours)
        if not ours.allowed:
            if ours.status == envoy.status and (compatibility == "safe" or _says_the_same(ask, envoy, ours)):
                return None
            row = listed(ask, envoy, ours, compatibility)
            if row:
                self.rows[row, compatibility] += 1
                return None
        return f"Envoy says {envoy.status} {envoy.body!r}, meshsec {ours.status} {ours.message!r} ({ours.reason})"


def _says_the_same(ask: Ask, envoy: Answer, ours: Decision) -> bool:
    """Of several faults each tells another first."""
    return len(ask.changes) > 1 or ours.reason in _OF_KEYS or ours.message.encode() == envoy.body


def _seen(ask: Ask, envoy: Answer, ours: Decision) -> str | None:
    """How what the application sees differs, if it does."""
    if ask.changed("sent"):
        return None
    sent = {name.lower(): value for name, value in ask.sent.headers}
    kept = {name: value for name, value in sent.items() if name not in ours.edits.remove_headers}
    wanted = {**kept, **dict(ours.edits.add_headers)}
    for name in ("authorization", "x-token", "x-sub", "x-payload", "x-level"):
        given, mine = envoy.headers.get(f"echo-{name}", ""), wanted.get(name, "").strip(" \t")
        if given != mine and not _same_number(given, mine) and not _same_json(given, mine):
            return f"{name} is {given!a} behind Envoy, {mine!a} behind meshsec"
    return None


def _same_number(given: str, mine: str) -> bool:
    """A row of the documentation: whole numbers keep every digit, which as doubles they do not."""
    return bool(re.fullmatch(r"-?[0-9]{16,}(\.0+)?", mine)) and float(given) == float(mine)


def _same_json(given: str, mine: str) -> bool:
    """Objects that differ in the order of their members."""
    try:
        return bool(json.loads(b64decode(given, validate=True)) == json.loads(b64decode(mine, validate=True)))
    except ValueError:
        return False


def smallest(court: Court, found: Difference) -> Difference:
    """With every change left out that does not matter."""
    for fewer in found.ask.fewer():
        same = [item for item in court.judge(fewer) if item.compatibility == found.compatibility]
        if same:
            return smallest(court, same[0])
    return found


@pytest.fixture(scope="module")
def court() -> Iterator[Court]:
    """Envoy with every room, and meshsec twice."""
    places = dict(zip(ROOMS, sites(len(ROOMS), v6_every=len(ROOMS) + 1), strict=True))
    with Client() as client:
        found = Court(places, client)
        with served(found.cases):
            yield found
    lines = [f"{found.statuses.total()} tokens; Envoy said {dict(found.statuses)}"]
    lines += (f"  meant to differ ({mode}), {count} times: {row}" for (row, mode), count in found.rows.most_common())
    sys.stdout.write("\n" + "\n".join(lines) + "\n")


def test_envoy_and_meshsec_agree_about_tokens(court: Court) -> None:
    """No difference but those that are listed."""
    found = [difference for ask in asks(random.Random(SEED), COUNT) for difference in court.judge(ask)]
    kinds = {re.sub(r"b?(['\"]).*?\1", "", item.why) + item.compatibility: item for item in reversed(found)}
    shown = [str(smallest(court, item)) for item in list(kinds.values())[:12]]
    assert not found, f"{len(found)} differences, for example\n" + "\n\n".join(shown)
    for status in (200, 401, 403):
        assert court.statuses[status] > COUNT / 100, court.statuses


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row.change])
def test_each_difference_is_seen(court: Court, name: str) -> None:
    """Every row that one token shows: Envoy lets it pass, meshsec does not, and says why."""
    row = ROWS[name]
    ask = Ask.of(row.room, row.signer, [next(change for change in CHANGES if change.name == row.change)])
    ours = court.meshsec(ask, "safe")
    assert court.envoy(ask).status in (200, 503), name
    assert ours.reason in row.reasons
    assert f"`{ours.reason}`" in documented()[name]
    assert court.meshsec(ask, "istio").allowed == ("↩" in documented()[name])
