"""A streaming call of the Workload API that is held open for ever, in a thread of its own, and its newest answer.

Every message is the whole state, so only the newest counts; one that cannot be used is reported and passed over, and
the stream goes on (Workload API, sections 4.2 to 4.5). This file must not know certificates.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from random import SystemRandom
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from ..errors import ConfigError, MeshsecError, SvidError
from ..resources import workload_api_address
from ._identity import WITHDRAWN
from ._workload_api_wire import CallError, Code

if TYPE_CHECKING:
    from ._workload_api_call import Call

__all__ = ["Pauses", "Stream", "dial"]

SERVICE: Final = "/SpiffeWorkloadAPI/"
PATIENCE: Final = 30.0  # to connect and for the first message, which comes without delay
FIRST_LOOK: Final = 5.0  # so long the very first look may wait for it

# An error of ours, not of the moment (Endpoint, section 6).
_FINAL: Final = frozenset({Code.INVALID_ARGUMENT, Code.UNIMPLEMENTED})

_log: Final = logging.getLogger("meshsec.identity")
_random: Final = SystemRandom()
_Answer = TypeVar("_Answer")


@dataclass(frozen=True, slots=True)
class Pauses:
    """How long to wait before the call is made again, in seconds.

    Attributes:
        first: after a first failure; each further one waits twice as long.
        longest: and no longer than this.
        steady: a call that held so long and then broke is made again at once.
    """

    first: float = 1.0
    longest: float = 30.0
    steady: float = 30.0

    def after(self, last: float, lived: float, code: Code) -> float:
        """The next pause. A server that ends every call soon is not asked at its own pace."""
        if lived < self.steady:
            return min(max(2 * last, self.first), self.longest)
        return 0.0 if code is Code.UNAVAILABLE else self.first


def dial(address: str, method: str, request: bytes, *, patience: float, streaming: bool) -> Call:
    """Begin a call of the Workload API.

    Args:
        address: ``unix:///path`` or ``tcp://IP:port``.
        method: its name alone.
        patience: seconds.
        streaming: whether they are for the first message alone.

    Raises:
        CallError: it cannot be reached.
        ConfigError: ``extra_missing``: h2 is not installed; or the address is none.
    """
    try:
        from ._workload_api_call import Call
    except ImportError:
        raise ConfigError(
            "the Workload API needs h2: pip install 'meshsec[workload-api]'", code="extra_missing"
        ) from None
    try:
        place = workload_api_address(address)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    return Call(place, SERVICE + method, request, patience=patience, streaming=streaming)


@dataclass(slots=True, eq=False)
class _Run:
    """One thread's turn; a fork or :meth:`Stream.close` ends it and another may begin."""

    began: float
    stop: threading.Event = field(default_factory=threading.Event)
    answered: threading.Event = field(default_factory=threading.Event)
    call: Call | None = None


class Stream(Generic[_Answer]):
    """The newest answer of one streaming method.

    Args:
        address: where the Workload API listens.
        method: such as ``FetchX509SVID``; its request is empty.
        read: message → what is kept of it; MeshsecError: the message is passed over.
        pauses: between two calls.
        first_look: seconds that the first look may wait.

    The thread begins with the first look, and again in a process that was forked.
    """

    def __init__(
        self,
        address: str,
        method: str,
        read: Callable[[bytes], _Answer],
        *,
        pauses: Pauses | None = None,
        first_look: float = FIRST_LOOK,
    ) -> None:
        self.address = address
        self._method = method
        self._read = read
        self._pauses = pauses or Pauses()
        self._first_look = first_look
        self._lock = threading.Lock()
        self._run: _Run | None = None
        self._state: tuple[_Answer] | MeshsecError | None = None
        _streams.add(self)

    def current(self) -> _Answer:
        """What the newest message said.

        Raises:
            MeshsecError: why there is none; or that since then something failed, and what was known before still
                holds, unless its code is ``identity_withdrawn``: then it does not.
        """
        run = self._started()
        if self._state is None:
            run.answered.wait(max(run.began + self._first_look - time.monotonic(), 0.0))
        state = self._state
        if state is None:
            raise SvidError("it has not answered yet", code="source_failed")
        if isinstance(state, MeshsecError):
            raise state.with_traceback(None)
        return state[0]

    def close(self) -> None:
        """End the call and the thread; the next look begins anew."""
        with self._lock:
            run, self._run = self._run, None
        if run is not None:
            run.stop.set()
            if run.call is not None:
                run.call.cut_off()

    def _started(self) -> _Run:
        with self._lock:
            if self._run is None:
                run, name = _Run(time.monotonic()), "meshsec-workload-api"
                try:
                    threading.Thread(target=self._live, args=(run,), name=name, daemon=True).start()
                except RuntimeError as error:  # as many threads as there may be: the next look tries again
                    raise SvidError(str(error), code="source_failed") from None
                self._run = run
            return self._run

    def _live(self, run: _Run) -> None:
        pause = 0.0
        while not run.stop.is_set():
            began = time.monotonic()
            try:
                ended = self._listen(run)
            except ConfigError as error:
                self._publish(run, error)
                return
            pause = self._pauses.after(pause, time.monotonic() - began, ended.code)
            if pause or ended.code in _FINAL:
                code = WITHDRAWN if ended.code is Code.PERMISSION_DENIED else "source_failed"
                self._publish(run, SvidError(str(ended), code=code))
            if ended.code in _FINAL:
                return
            run.stop.wait(pause * _random.uniform(0.8, 1.2))

    def _listen(self, run: _Run) -> CallError:
        """One call from its beginning to its end; why it ended."""
        try:
            run.call = dial(self.address, self._method, b"", patience=PATIENCE, streaming=True)
            if run.stop.is_set():  # closed while we were dialling
                run.call.cut_off()
            for message in run.call.messages():
                self._take(run, message)
        except CallError as error:
            return error
        except ConfigError:
            raise
        except Exception as error:  # noqa: BLE001 - without this thread no identity would ever be renewed again
            _log.exception("%s: the call broke", self.address)
            return CallError(Code.UNKNOWN, type(error).__name__)
        finally:
            run.call = None
        return CallError(Code.UNAVAILABLE, "the server ended the stream")

    def _take(self, run: _Run, message: bytes) -> None:
        try:
            self._publish(run, (self._read(message),))
        except MeshsecError as error:
            self._publish(run, error)
        except Exception as error:  # noqa: BLE001 - a message that breaks its reader is one that cannot be used
            _log.exception("%s: an answer could not be read", self.address)
            self._publish(run, SvidError(f"an answer broke its reader: {type(error).__name__}", code="source_failed"))

    def _publish(self, run: _Run, state: tuple[_Answer] | MeshsecError) -> None:
        """What was withdrawn stays so until there is a new answer, whatever fails in between."""
        with self._lock:
            if self._run is run and (isinstance(state, tuple) or getattr(self._state, "code", "") != WITHDRAWN):
                self._state = state
        run.answered.set()

    def _after_fork(self) -> None:
        """In the child, where no thread of ours lives: what was known is kept, the connection is the parent's."""
        self._lock = threading.Lock()
        run, self._run = self._run, None
        if run is not None and run.call is not None:
            run.call.forget()


_streams: Final[weakref.WeakSet[Stream[Any]]] = weakref.WeakSet()


def _after_fork() -> None:
    for stream in list(_streams):
        stream._after_fork()


os.register_at_fork(after_in_child=_after_fork)
