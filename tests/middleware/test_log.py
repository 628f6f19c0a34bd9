"""The log of refusals: who decided at INFO, why no rule matched at DEBUG only, and one line whatever comes."""

from __future__ import annotations

import logging

import pytest

from meshsec import AuthContext, Connection, Decision, HttpRequest, Outcome, Reason
from meshsec.middleware import log_refusal

REQUEST = HttpRequest("GET", "/a?secret", "web", (("x-request-id", "7\n8"),), "http")


def line(caplog: pytest.LogCaptureFixture, reason: Reason, level: int) -> tuple[str, int]:
    """What is logged of a refusal, and how often it was explained for that."""
    asked: list[int] = []

    def details() -> str:
        asked.append(1)
        return "why\n  and why"

    decision = Decision(Outcome.DENY, reason, "RBAC: access denied", "prod/a", 3, _details=details)
    with caplog.at_level(level, logger="meshsec.access"):
        log_refusal(AuthContext(None, None, decision), Connection(), REQUEST)
    (record,) = caplog.records
    return record.getMessage(), len(asked)


@pytest.mark.parametrize("reason", [Reason.DENY_RULE, Reason.NO_ALLOW_RULE])
def test_no_rule_is_asked_at_info(reason: Reason, caplog: pytest.LogCaptureFixture) -> None:
    """A refusal by thousands of rules costs one line."""
    text, asked = line(caplog, reason, logging.INFO)
    assert f"403 DENY reason={reason} policy=prod/a rule=3" in text
    assert text.endswith("request_id='7\\n8': RBAC: access denied")
    assert asked == 0


@pytest.mark.parametrize(
    ("reason", "level"), [(Reason.DENY_RULE, logging.DEBUG), (Reason.PEER_EXPIRED, logging.INFO)]
)
def test_what_is_cheap_or_asked_for_is_told(reason: Reason, level: int, caplog: pytest.LogCaptureFixture) -> None:
    """In one line, without the query."""
    text, asked = line(caplog, reason, level)
    assert text.endswith(f"({reason}) by prod/a rule 3: why |   and why")
    assert "\n" not in text
    assert "secret" not in text
    assert asked == 1
