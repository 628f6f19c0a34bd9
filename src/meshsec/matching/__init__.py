"""How the text of a policy meets the text of a request: patterns, path templates, address blocks.

Belongs here: the value forms of Istio's AuthorizationPolicy. No regular expression is ever built from a pattern; what
the legacy kinds ask for by that name goes to RE2. Must not know: which attribute a pattern is for, what an action is,
or where the text came from.

Bad patterns raise :class:`ValueError` with the reason; the loader knows the place and adds it.
"""

from ._index import Find, index_blocks, index_paths, index_texts
from ._ip import IpAddress, IpBlock, parse_ip
from ._pattern import Glob, Kind, PathTemplate, StringPattern, parse_path_pattern
from ._regex import Regex
from ._sets import PathSet, PatternSet, decode_path, end_twin

__all__ = [
    "Find",
    "Glob",
    "IpAddress",
    "IpBlock",
    "Kind",
    "PathSet",
    "PathTemplate",
    "PatternSet",
    "Regex",
    "StringPattern",
    "decode_path",
    "end_twin",
    "index_blocks",
    "index_paths",
    "index_texts",
    "parse_ip",
    "parse_path_pattern",
]
