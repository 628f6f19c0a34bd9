"""Asks external authorizers: over HTTP, as Istio's proxy does (``envoyExtAuthzHttp``), or a function in this process.

Whatever goes wrong is an answer, and never one that lets a request pass, but for ``failOpen`` where the authorizer
itself failed. This file must not know policies, or what becomes of an answer.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import ssl
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any, Final
from urllib.parse import quote

from ..errors import KeysUnavailableError
from ..matching import StringPattern
from ..policy import CheckAnswer, NeedCheck
from ..resources import ExtAuthzHttp
from ._kept import KeptLines
from ._line import UNREACHABLE, Asking, FetchResult

__all__ = ["Authorizers", "Dialled", "Provider"]

_log: Final = logging.getLogger("meshsec.check")

Provider = Callable[[NeedCheck], "CheckAnswer | bool | Awaitable[CheckAnswer | bool]"]
"""An authorizer in this process: True, False, or an answer; a coroutine function may take its time."""

_AT_ONCE: Final = 256  # threads that wait for authorizers on behalf of event loops
_BAD_STATUS: Final = 403

# What belongs to one connection or one body, and what the server writes itself.
_OWN: Final = frozenset({
    "connection", "content-length", "date", "expect", "host", "keep-alive", "proxy-connection", "server", "te",
    "trailer", "transfer-encoding", "upgrade",
})  # fmt: skip
_ALWAYS_SHOWN: Final = ("authorization",)
_ALWAYS_TOLD: Final = ("www-authenticate", "location")


@dataclass(frozen=True, slots=True)
class Dialled:
    """Where a host is reached.

    Attributes:
        addresses: hosts and ports, any of which may be dialled.
        context: a context that checks who answers; None: plain HTTP.
        proof: what that context checks by now; a connection made under another one gets no request.
    """

    addresses: tuple[tuple[str, int], ...]
    context: ssl.SSLContext | None = None
    proof: object = field(default=None, repr=False)


class Authorizers:
    """Whoever can be asked. It may be shared by threads and event loops.

    Args:
        providers: those in this process, by name; they come before settings of the same name.
        dial: says where a host is reached.
    """

    def __init__(self, providers: Mapping[str, Provider], dial: Callable[[str, int], Dialled]) -> None:
        self.providers: dict[str, Provider] = dict(providers)
        self._dial = dial
        self._lines = KeptLines()
        self._answered: dict[str, tuple[str, int]] = {}  # by provider, the address that did last
        self._failing: dict[str, str] = {}
        self._seats = threading.BoundedSemaphore(_AT_ONCE)

    def ask(self, question: NeedCheck, settings: ExtAuthzHttp | None) -> CheckAnswer:
        """Ask, in this thread.

        Args:
            question: about which request.
            settings: of the provider that is asked over HTTP.
        """
        provider = self.providers.get(question.provider)
        try:
            if provider is not None:
                return _named(_said(provider(question)), question)
            if settings is None:
                return _failed(question, "no function is registered under this name")
            answer = self._ask_http(question, settings)
            self._note(question.provider, answer.failure)
            return _named(answer, question)
        except Exception as error:  # noqa: BLE001 - whatever breaks in a provider, the door stays shut
            _log.exception("provider %s could not be asked", question.provider)
            return _failed(question, type(error).__name__)

    async def ask_async(self, question: NeedCheck, settings: ExtAuthzHttp | None) -> CheckAnswer:
        """As :meth:`ask`, without blocking the event loop: coroutine functions in it, everything else in a thread."""
        provider = self.providers.get(question.provider)
        if provider is not None and _is_async(provider):
            try:
                return _named(_checked(await _awaited(provider(question))), question)
            except Exception as error:  # noqa: BLE001 - as above
                _log.exception("provider %s could not be asked", question.provider)
                return _failed(question, type(error).__name__)
        if not self._seats.acquire(blocking=False):
            # Never failOpen: whoever can make many requests could open the door by it.
            return _failed(question, f"{_AT_ONCE} checks are under way")
        return await asyncio.wrap_future(self._in_thread(question, settings))

    def status(self, settings: Mapping[str, ExtAuthzHttp | None]) -> dict[str, str | None]:
        """How each provider is asked, and what failed last; None: a function that is not registered."""
        addresses = {
            name: f"{item.host}:{item.port}{self._failed_last(name)}" if item else None
            for name, item in settings.items()
        }
        return {**addresses, **dict.fromkeys(self.providers, "function")}

    def _failed_last(self, name: str) -> str:
        failure = self._failing.get(name)
        return f": {failure}" if failure else ""

    def close(self) -> None:
        """Close connections that wait for the next check."""
        self._lines.close()

    def after_fork(self) -> None:
        """In a forked child, where nobody waits, and connections are the parent's."""
        self._seats = threading.BoundedSemaphore(_AT_ONCE)
        self._lines.after_fork()

    def _note(self, provider: str, failure: str | None) -> None:
        """Log that a provider begins to fail, and that it is back; not every request in between."""
        known = self._failing.get(provider)
        if failure is not None:
            self._failing[provider] = failure
            if known is None:
                _log.warning("provider %s cannot be asked: %s", provider, failure)
        elif known is not None:
            self._failing.pop(provider, None)
            _log.info("provider %s answers again", provider)

    def _in_thread(self, question: NeedCheck, settings: ExtAuthzHttp | None) -> Future[CheckAnswer]:
        """A thread of its own, so that a slow authorizer takes no thread from anybody."""
        found: Future[CheckAnswer] = Future()
        found.set_running_or_notify_cancel()
        seats = self._seats

        def run() -> None:
            answer = _failed(question, "the function ended its thread")
            try:
                answer = self.ask(question, settings)
            except BaseException:  # noqa: BLE001 - somebody waits for the answer, whatever ends this thread
                _log.exception("provider %s could not be asked", question.provider)
            finally:
                seats.release()
                found.set_result(answer)

        try:
            threading.Thread(target=run, name="meshsec-check", daemon=True).start()
        except RuntimeError as error:
            seats.release()
            found.set_result(_failed(question, str(error)))
        return found

    def _ask_http(self, question: NeedCheck, settings: ExtAuthzHttp) -> CheckAnswer:
        dialled = self._dial(settings.host, settings.port)
        asking = Asking(
            method=question.method,
            # Quoted only where HTTP cannot carry it: what reaches the application in another form is refused before.
            target=quote(settings.path_prefix + question.target, safe=_ASCII, encoding="latin-1"),
            headers=_shown(question, settings),
            context=dialled.context,
            server_hostname=settings.host if dialled.context else None,
            cut=True,  # a refusal stays one, however much it says
            proof=dialled.proof,
        )
        try:
            result = self._reach(question.provider, dialled, asking, settings.timeout)
        except KeysUnavailableError as error:
            return _unavailable(question, settings, str(error))
        if result.status >= 500:
            return _unavailable(question, settings, f"status {result.status}")
        return _read(result, settings)

    def _reach(self, provider: str, dialled: Dialled, asking: Asking, timeout: float) -> FetchResult:
        """Ask whoever can be reached, the one that answered last before the others. Raises KeysUnavailableError."""
        scheme = "http" if dialled.context is None else "https"
        deadline = time.monotonic() + timeout
        last = self._answered.get(provider)
        waiting = sorted(dialled.addresses, key=lambda address: address != last)
        while True:
            host, port = address = waiting.pop(0)
            left = deadline - time.monotonic()
            # One that swallows what is sent to it leaves the others their share of the time.
            limited = replace(asking, connect_within=left / (1 + len(waiting)))
            try:
                url = f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}/"
                result = self._lines.fetch(url, timeout=left, asking=limited)
            except KeysUnavailableError as error:
                if not waiting or error.code != UNREACHABLE:
                    raise
            else:
                self._answered[provider] = address
                return result


_ASCII: Final = "".join(map(chr, range(0x21, 0x7F)))


def _shown(question: NeedCheck, settings: ExtAuthzHttp) -> tuple[tuple[str, str], ...]:
    """Every line of what may be shown, not only one of several; what the mesh adds wins over the client's."""
    added = {name.lower(): value for name, value in settings.include_additional_headers_in_check.items()}
    allowed = _Names((*_ALWAYS_SHOWN, *settings.include_request_headers_in_check))
    lines = [
        (name, value)
        for name, value in question.headers
        if name not in _OWN and name not in added and allowed.match(name)
    ]
    named = {name for name, _ in lines} | added.keys()
    own = () if "user-agent" in named else (("user-agent", "meshsec"),)
    return (("host", question.host or ""), ("content-length", "0"), *own, *lines, *added.items())


def _read(result: FetchResult, settings: ExtAuthzHttp) -> CheckAnswer:
    """200 and nothing else lets pass (Envoy: every other status below 500 is a refusal, with its head and body)."""
    lines = [line for line in result.lines if line[0] not in _OWN]
    if result.status == 200:
        upstream = _Names(settings.headers_to_upstream_on_allow)
        downstream = _Names(settings.headers_to_downstream_on_allow)
        return CheckAnswer(
            allowed=True,
            request_headers=tuple(line for line in lines if upstream.match(line[0])),
            response_headers=tuple(line for line in lines if downstream.match(line[0])),
        )
    names = settings.headers_to_downstream_on_deny
    told = _Names((*_ALWAYS_TOLD, *names))
    return CheckAnswer(
        allowed=False,
        status=result.status if 300 <= result.status != 304 else _BAD_STATUS,
        body=result.body,
        response_headers=tuple(line for line in lines if not names or told.match(line[0])),
    )


class _Names:
    """Names of headers, as Istio lists them: exact, ``prefix*``, ``*suffix``, in any case."""

    def __init__(self, patterns: Sequence[str]) -> None:
        self._patterns = [StringPattern.parse(pattern.lower()) for pattern in patterns]

    def match(self, name: str) -> bool:
        return any(pattern.matches(name) for pattern in self._patterns)


def _said(answer: Any) -> CheckAnswer:
    """What a function said; one that takes its time is waited for here."""
    return _checked(asyncio.run(_awaited(answer)) if inspect.isawaitable(answer) else answer)


async def _awaited(answer: Any) -> Any:
    return await answer if inspect.isawaitable(answer) else answer


def _checked(answer: Any) -> CheckAnswer:
    if isinstance(answer, CheckAnswer):
        return answer
    if isinstance(answer, bool):
        return CheckAnswer(allowed=answer)
    raise TypeError(f"a provider answers True, False or a CheckAnswer, not {type(answer).__name__}")


def _is_async(provider: Provider) -> bool:
    call = getattr(provider, "__call__", None)  # noqa: B004 - an object may have a coroutine function for its call
    return inspect.iscoroutinefunction(provider) or inspect.iscoroutinefunction(call)


def _named(answer: CheckAnswer, question: NeedCheck) -> CheckAnswer:
    return replace(answer, provider=question.provider)


def _failed(question: NeedCheck, why: str) -> CheckAnswer:
    return CheckAnswer(allowed=False, provider=question.provider, failure=why)


def _unavailable(question: NeedCheck, settings: ExtAuthzHttp, why: str) -> CheckAnswer:
    """The authorizer itself failed: here alone ``failOpen`` counts."""
    return CheckAnswer(
        allowed=settings.fail_open,
        provider=question.provider,
        status=int(settings.status_on_error),
        failure=why,
    )
