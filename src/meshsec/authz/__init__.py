"""MAY IT? AuthorizationPolicy: compiled once, evaluated for each request, explained when asked.

Belongs here: conditions (one table row for each attribute), rules, the order of actions. Must not know: tokens and
how they are verified, selectors, servers, or how the external authorizer of a CUSTOM policy is asked.
"""

from ._compile import compile_authorization, compile_custom
from ._custom import NO_CUSTOM, CompiledCustom
from ._evaluate import CompiledAuthorization
from ._rows import claim_path
from ._rules import CompiledPolicy, Condition, PolicyRule
from ._verdict import Verdict

__all__ = [
    "NO_CUSTOM",
    "CompiledAuthorization",
    "CompiledCustom",
    "CompiledPolicy",
    "Condition",
    "PolicyRule",
    "Verdict",
    "claim_path",
    "compile_authorization",
    "compile_custom",
]
