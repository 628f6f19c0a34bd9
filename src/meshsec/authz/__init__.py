"""MAY IT? AuthorizationPolicy: compiled once, evaluated for each request, explained when asked.

Belongs here: conditions (one table row for each attribute), rules, the order of actions. Must not know: tokens and
how they are verified, selectors, servers. CUSTOM is not enforced here.
"""

from ._compile import compile_authorization
from ._evaluate import CompiledAuthorization
from ._rows import claim_path
from ._rules import CompiledPolicy, Condition, PolicyRule
from ._verdict import Verdict

__all__ = [
    "CompiledAuthorization",
    "CompiledPolicy",
    "Condition",
    "PolicyRule",
    "Verdict",
    "claim_path",
    "compile_authorization",
]
