"""Drives the policy: hands it the time and the keys, answers what it asks, and keeps the door shut when it breaks.

Must not know: how a decision is reached, or servers.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final

from ..attributes import AuthContext, Connection, HttpRequest
from ..decision import Decision, Outcome, Reason
from ..policy import CheckAnswer, NeedCheck, NeedKeys, Remembered, Wanted, WorkloadPolicy
from ._check import Authorizers
from ._keys import KeyStore
from ._policies import PolicyKeeper, PolicyVersion

__all__ = ["Driver"]

_log: Final = logging.getLogger("meshsec")
_INTERNAL_ERROR: Final = Decision(Outcome.DENY, Reason.INTERNAL_ERROR, "Internal Server Error", status=500)

_Answers = list[NeedKeys | CheckAnswer]


class Driver:
    """Judges requests, each by the version of the policy that was in force when it came.

    Args:
        policies: the version in force.
        keys: answers questions for keys.
        authorizers: answer questions for checks.
        begin: called as each request comes: begins to keep all of these fresh, where nothing does yet.
    """

    def __init__(
        self, policies: PolicyKeeper, keys: KeyStore, authorizers: Authorizers, *, begin: Callable[[], None]
    ) -> None:
        self._policies = policies
        self._keys = keys
        self._authorizers = authorizers
        self._begin = begin

    def judge(self, connection: Connection, request: HttpRequest, wanted: Wanted | None = None) -> AuthContext:
        """Say who calls and whether they may. Waits in this thread for one fetch of keys, and for authorizers."""
        version, answers = self._policies.current, _Answers()
        found = self._ask(version.policy, connection, request, answers, wanted)
        while not isinstance(found, AuthContext):
            if isinstance(found, NeedCheck):
                answers.append(self._authorizers.ask(found, version.config.extension_providers.get(found.provider)))
            else:
                self._keys.wait(found)
                answers.append(found)
            found = self._ask(version.policy, connection, request, answers)
        return found

    def judge_soon(
        self, connection: Connection, request: HttpRequest, wanted: Wanted | None = None
    ) -> AuthContext | Coroutine[Any, Any, AuthContext]:
        """As :meth:`judge`, but where something must be asked first, that is to be awaited."""
        version = self._policies.current
        found = self._ask(version.policy, connection, request, (), wanted)
        return found if isinstance(found, AuthContext) else self._answered(version, connection, request, found)

    def judge_line(self, request: HttpRequest, wanted: Wanted) -> Remembered | None:
        """Judge a request of a known caller by its line; None where it takes all of it."""
        try:
            callers = self._policies.current.policy.callers
            return None if callers is None else callers.judge_line(wanted, request, time.time())
        except Exception:  # noqa: BLE001 - it is judged anew, behind a door that is as safe
            _log.exception("a request of a known caller could not be judged by its line")
            return None

    async def _answered(
        self, version: PolicyVersion, connection: Connection, request: HttpRequest, found: NeedKeys | NeedCheck
    ) -> AuthContext:
        answers = _Answers()
        while True:
            if isinstance(found, NeedCheck):
                settings = version.config.extension_providers.get(found.provider)
                answers.append(await self._authorizers.ask_async(found, settings))
            else:
                await self._keys.wait_async(found)
                answers.append(found)
            judged = self._ask(version.policy, connection, request, answers)
            if isinstance(judged, AuthContext):
                return judged
            found = judged

    def _ask(
        self,
        policy: WorkloadPolicy,
        connection: Connection,
        request: HttpRequest,
        answers: Sequence[NeedKeys | CheckAnswer],
        wanted: Wanted | None = None,
    ) -> AuthContext | NeedKeys | NeedCheck:
        try:
            if not answers:
                self._begin()
            elif len(answers) > 1 + len(policy.custom.providers):
                raise RuntimeError("the policy asks without end")
            keys, now = self._keys.snapshot(), time.time()
            found = policy.judge(connection, request, keys, now=now, answers=answers)
            if wanted is not None and policy.callers is not None and isinstance(found, AuthContext):
                policy.callers.remember(wanted, found, connection, request, keys, now)
            return found
        except Exception:  # noqa: BLE001 - whatever breaks in here, the door stays shut
            # The traceback goes to the log and never to the caller.
            _log.exception("a request could not be judged and was refused")
            return AuthContext(None, None, _INTERNAL_ERROR)
