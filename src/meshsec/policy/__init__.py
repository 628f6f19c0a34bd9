"""One workload's effective policy: select, compile, decide; and the same as filters for a real sidecar.

Composes authentication and authorization, which never see each other. The decision path is pure: no socket, no file,
no clock (``now`` is handed in), and what it lacks it asks for by returning a question. This room must not know
servers, threads, or where keys and files come from.
"""

from ._callers import Callers
from ._custom import CheckAnswer, NeedCheck
from ._memo import DecisionMemo, Remembered, RequestLine, Wanted
from ._workload import NeedKeys, WorkloadPolicy

__all__ = [
    "Callers",
    "CheckAnswer",
    "DecisionMemo",
    "NeedCheck",
    "NeedKeys",
    "Remembered",
    "RequestLine",
    "Wanted",
    "WorkloadPolicy",
]
