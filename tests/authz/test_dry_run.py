"""authz: policies on trial are recorded beside the verdict, and change nothing of it."""

from __future__ import annotations

from typing import Any, Final

import pytest

from authz.cases import WEB, compiled, operation, policy, request
from meshsec import ConfigError, Connection, Decision, HttpRequest, Workload, WorkloadPolicy
from meshsec.authz import Verdict
from meshsec.decision import DryRun, Reason
from meshsec.resources import AuthorizationPolicy, Resource

GET: Final = operation(methods=["GET"])
POST: Final = operation(methods=["POST"])
ALL: Final[dict[str, Any]] = {}
ASKED: Final = request(peer=WEB, target="/a")

DENIES: Final = DryRun(Reason.DENY_RULE, "prod/t", 0)
ALLOWS: Final = DryRun(Reason.ALLOW_RULE, "prod/t", 0)
LACKS: Final = DryRun(Reason.NO_ALLOW_RULE)


def trial(item: AuthorizationPolicy, written: str = "true") -> AuthorizationPolicy:
    """The same policy with the annotation."""
    metadata = {"name": item.name, "namespace": item.namespace, "annotations": {"istio.io/dry-run": written}}
    return AuthorizationPolicy(metadata=metadata, spec=item.spec)


# What is on trial, and what is told of a GET.
TRIALS: Final = [
    ([trial(policy(GET, name="t", action="DENY"))], (DENIES,)),
    ([trial(policy(POST, name="t", action="DENY"))], ()),
    ([trial(policy(GET, name="t"))], (ALLOWS,)),
    ([trial(policy(POST, name="t"))], (LACKS,)),
    ([trial(policy(name="t"))], (LACKS,)),
    ([trial(policy(POST, GET, name="t"))], (DryRun(Reason.ALLOW_RULE, "prod/t", 1),)),
    ([trial(policy(GET, name="t", action="DENY")), trial(policy(POST, name="u"))], (DENIES, LACKS)),
    ([trial(policy(GET, name="t", action="DENY")), trial(policy(GET, name="s", action="DENY"))],
     (DryRun(Reason.DENY_RULE, "prod/s", 0),)),
]  # fmt: skip
ENFORCED: Final = [
    ([], Reason.NO_ALLOW_POLICY),
    ([policy(ALL)], Reason.ALLOW_RULE),
    ([policy(POST)], Reason.NO_ALLOW_RULE),
    ([policy(ALL, action="DENY")], Reason.DENY_RULE),
]


@pytest.mark.parametrize(("enforced", "reason"), ENFORCED)
@pytest.mark.parametrize(("trials", "expected"), TRIALS)
def test_a_trial_is_recorded_and_not_enforced(
    enforced: list[AuthorizationPolicy],
    reason: Reason,
    trials: list[AuthorizationPolicy],
    expected: tuple[DryRun, ...],
) -> None:
    """The verdict is the one without the trial; beside it stands what the trial would have said."""
    alone = compiled(*enforced).evaluate(ASKED)
    verdict = compiled(*enforced, *trials).evaluate(ASKED)
    assert verdict == Verdict(reason, alone.policy, alone.rule, alone.audited, expected)


@pytest.mark.parametrize("written", ["1", "t", "T", "true", "TRUE", "True"])
def test_true_is_a_trial(written: str) -> None:
    """Go's truth values, by which Istio reads the annotation."""
    assert compiled(trial(policy(ALL, action="DENY"), written)).evaluate(ASKED).allowed


@pytest.mark.parametrize("written", ["0", "f", "F", "false", "FALSE", "False"])
def test_false_is_enforced(written: str) -> None:
    """Go's other truth values."""
    assert not compiled(trial(policy(ALL, action="DENY"), written)).evaluate(ASKED).allowed


@pytest.mark.parametrize("written", ["", "yes", "tRue", " true", "TRUE ", "2"])
def test_what_is_no_truth_value_is_refused(written: str) -> None:
    """Istio would enforce the policy that was meant to be tried."""
    with pytest.raises(ConfigError, match="true or false belongs here"):
        trial(policy(ALL, action="DENY"), written)


def test_only_allow_and_deny_can_be_tried() -> None:
    """A trial of what only marks means nothing."""
    with pytest.raises(ConfigError, match="only ALLOW and DENY can be on trial, not AUDIT"):
        trial(policy(ALL, action="AUDIT"))


def test_allowed_says_what_would_have_happened() -> None:
    """Each entry has its own answer."""
    assert (DENIES.allowed, ALLOWS.allowed, LACKS.allowed) == (False, True, False)


def test_the_explanation_tells_the_trial() -> None:
    """The policy is marked, and the last lines say what it would have done."""
    items = [policy(ALL), trial(policy(GET, name="t", action="DENY")), trial(policy(POST, name="u"))]
    assert compiled(*items).explain(ASKED).splitlines()[1:] == [
        "  ALLOW prod/p: rule 0 matches: it is for every request",
        "  DENY (dry-run) prod/t: rule 0 matches: methods 'GET' is one of GET",
        "  ALLOW (dry-run) prod/u: rule 0 does not match: methods 'GET' is not one of POST",
        "  dry-run: would be denied: rule 0 of the DENY policy prod/t matches",
        "  dry-run: would be denied: no rule of the ALLOW policies on trial matches",
    ]


def decided(target: str, *resources: Resource) -> Decision:
    """One request's decision."""
    found = WorkloadPolicy.compile(resources, Workload(name="web", namespace="prod")).decide(
        Connection(), HttpRequest("GET", target, "web"), {}, now=0.0
    )
    assert isinstance(found, Decision)
    return found


def test_the_decision_says_what_was_marked_and_tried() -> None:
    """An application, or a log, finds it there."""
    found = decided("/a", policy(GET, name="m", action="AUDIT"), trial(policy(GET, name="t", action="DENY")))
    assert (found.allowed, found.audited, found.dry_run) == (True, ("prod/m",), (DENIES,))
    assert "dry-run: would be denied" in found.explain()


def test_no_spelling_slips_past_an_audit() -> None:
    """Where a path has two readings, what marks either of them is told, and the refusal of a trial."""
    admin = operation(paths=["/admin"])
    found = decided(
        "//admin",
        policy(admin, name="m", action="AUDIT"),
        trial(policy(admin, name="t", action="DENY")),
        trial(policy(operation(notPaths=["/admin"]), name="u")),
    )
    assert (found.allowed, found.audited) == (True, ("prod/m",))
    assert found.dry_run == (DENIES, LACKS)
