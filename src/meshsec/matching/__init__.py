"""How the text of a policy meets the text of a request: patterns, path templates, address blocks.

Belongs here: the value forms of Istio's AuthorizationPolicy. No regular expression is ever built from a pattern. Must
not know: which attribute a pattern is for, what an action is, or where the text came from.

Bad patterns raise :class:`ValueError` with the reason; the loader knows the place and adds it.
"""

from ._ip import IpAddress, IpBlock, parse_ip
from ._pattern import Glob, Kind, PathTemplate, StringPattern, parse_path_pattern
from ._sets import PathSet, PatternSet, decode_path

__all__ = [
    "Glob",
    "IpAddress",
    "IpBlock",
    "Kind",
    "PathSet",
    "PathTemplate",
    "PatternSet",
    "StringPattern",
    "decode_path",
    "parse_ip",
    "parse_path_pattern",
]
