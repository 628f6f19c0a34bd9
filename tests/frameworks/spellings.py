"""Ways to write one path in a request line, thousands of them, the same ones for the same seed."""

from __future__ import annotations

import random
from typing import Final

__all__ = ["FIXED", "HOST", "OTHER", "SECRET", "spellings"]

HOST: Final = "web.prod"
SECRET: Final = "/private/secret.html"
OTHER: Final = "/private/other.html"

_SLASHES: Final = (
    "//", "///", "/./", "/.//", "/x/../", "//x/../", "/%2e/", "/%2E/", "/x/%2e%2E/", "/x/.%2e/", "/%2f", "%2f", "%2F",
    "%5c", "%5C", "\\", "/\\", "/x/..;/", "/x/..;p=1/", "/.;p/", "/;/", "/;p=1/", "/x/..%3b/", "/.%3Bp/", "%252f",
    "%25252F", "/%252e/", "/x/%252e%252e/", "%c0%af", "%e0%80%af", "%c0%2f", "/%c0%ae/", "/x/%c0%ae%c0%ae/", "/%00/",
    "/%0a", "%u002f", "%%32f", "/%20/", "/..../", "/x/..%00/", "/x/..%5c", "/%ef%bc%8f", "%ef%bc%8f", "/ ", "/\t",
)  # fmt: skip
_ENDS: Final = (
    "/", "//", "/.", "/./", "/..", "/x/..", "/x/../", "%2f", "%2F", "\\", "%5c", "/%2e", "/%2e/", ";", ";p=1", "%3bp",
    "/;p", ";/", "?", "?q=1", "??", "?/..", "%3f", "%3Fq=1", "#", "#f", "#?q", "%23", "%23f", "?#", "#/../x", "%0a",
    "%0A", "%0d", "%0d%0a", "%00", "%09", "%0b", "%0c", "%1c", "%1f", "%7f", "%20", "+", "%c2%85", "%c2%a0",
    "%e2%80%a8", "%e2%80%a9", "%e2%80%8b", "%ef%bb%bf", "%ff", "%c0%80", "%c0%ae", "%", "%2", "%zz", "%250a", "%252f",
    "%2500", "%25252f", "\n", "\r", "\x00", "\x0b", "\x85", " ", "\t", "\xff", "\xe2\x80\xa8", ".", "..", "%2e", "*",
    "/%0a", "%0a/", "/%00", "/%20", "/%ff", "%u0000", "&", ",", "!", "/;/", "/..;/secret.html", "/../secret.html",
)  # fmt: skip
_PREFIXES: Final = (
    "/", "//", "/.", "/..", "/../..", "/x/..", "/%2e", "/%2e%2e", "/.;", "/;p=1", "/..;", "http://web.prod",
    "HTTP://web.prod", "http://WEB.prod", "https://web.prod", "http://web.prod:80", "http://other", "http://web.prod/",
    "http://u@web.prod", "http:", "//web.prod", "ftp://web.prod", "x://web.prod", "%2f", "\\", "%5c", "/%00", "/%0a",
    " ", "/ ", "*", "?", "#", "/?", "/#", "/%ff", "/%c0%ae", "/%ef%bb%bf", "http://web.prod?", "http://web.prod#",
)  # fmt: skip
_LETTERS: Final = (
    "%{code:02x}", "%{code:02X}", "%25{code:02x}", "%2525{code:02x}", "%c1%{low:02x}", "%e0%81%{low:02x}",
    "{char}%ff", "%ff{char}", "{char}%00", "{char}%0a", "{char}%c0", "%u00{code:02x}", "%%3{tens}{ones}", "{upper}",
    "{wide}", "{char};p", "{char}%e2%80%8b", "%{code:02x}%0d", "\xff{char}", "{char}\x00", "%{code:02x}%{code:02x}",
)  # fmt: skip

FIXED: Final = (
    *(SECRET + end for end in _ENDS),
    *(prefix + SECRET for prefix in _PREFIXES),
    *(SECRET.replace("/", slash, 1) for slash in _SLASHES),
    *("/private" + slash + "secret.html" for slash in _SLASHES),
    *("".join(f"%{ord(char):02x}" for char in part) for part in (SECRET, SECRET[1:])),
    "/" + "".join(f"%{ord(char):02X}" for char in SECRET[1:]),
    SECRET.upper(),
    "/Private/secret.html",
    "/private/secret%2ehtml",
    "/private/s%2565cret.html",
    "/private/s%65cret.html?x",
)
"""One of everything."""


def spellings(seed: int, count: int) -> list[str]:
    """Request targets, bytes as latin-1 text, each another: one of everything, then mixtures."""
    rng = random.Random(seed)
    found = dict.fromkeys(FIXED)
    while len(found) < count:
        found[_mixture(rng)] = None
    return list(found)[:count]


def _mixture(rng: random.Random) -> str:
    """One to three changes, more often of the letters than of the structure."""
    pieces = [*SECRET]
    for _ in range(rng.choice((1, 1, 2, 3))):
        at = rng.randrange(len(pieces))
        slash = pieces[at] == "/" or rng.random() < 0.3
        if slash:
            at = rng.choice([place for place, char in enumerate(SECRET) if char == "/"])
            pieces[at] = rng.choice(_SLASHES)
        else:
            pieces[at] = _letter(rng, SECRET[at])
    head = rng.choice(_PREFIXES) if rng.random() < 0.15 else ""
    return head + "".join(pieces) + (rng.choice(_ENDS) if rng.random() < 0.3 else "")


def _letter(rng: random.Random, char: str) -> str:
    code = ord(char)
    wide = "".join(f"%{byte:02x}" for byte in chr(code + 0xFEE0).encode())
    return rng.choice(("%{code:02x}", "%{code:02X}") if rng.random() < 0.5 else _LETTERS).format(
        char=char,
        code=code,
        low=0x80 | code & 0x3F,
        tens=code >> 4,
        ones=f"{code & 15:x}",
        upper=char.upper(),
        wide=wide,
    )
