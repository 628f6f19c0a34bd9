"""Every change to a token that the comparison tries: claims, header, JSON, signature, text, and where it is put.

This file must not know what anybody says of the result.
"""

from __future__ import annotations

import json
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from interop.forge import ISSUER, SIGNERS, Change, Sent
from tokens import ALGORITHMS

__all__ = ["CHANGES"]

_CURVE_ORDER: Final = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def _member(stage: str, name: str, value: Any) -> Change:
    return Change(f"{stage} {name}={_short(value)}", stage, lambda found: {**found, name: _now(value)})


def _without(stage: str, name: str) -> Change:
    return Change(f"{stage} without {name}", stage, lambda found: {key: found[key] for key in found if key != name})


@dataclass(frozen=True)
class _In:
    """So many seconds from now, as this type."""

    seconds: float
    kind: Callable[[float], Any] = int


def _now(value: Any) -> Any:
    return value.kind(time.time() + value.seconds) if isinstance(value, _In) else value


def _short(value: Any) -> str:
    if isinstance(value, _In):
        return f"now{value.seconds:+g} as {value.kind.__name__}"
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:30]}...({len(text)})"


_ODD: Final[tuple[Any, ...]] = (
    None, True, False, "", "text", "0", 0, 1, 7, -1, -0.0, -0.5, 0.5, 1.5, 1e3, 1 << 53, (1 << 53) + 1, (1 << 63) - 1,
    1 << 63, (1 << 64) - 1024, (1 << 64) - 1, 1 << 64, 1e19, 1.8446744073709552e19, 1e20, 1e30, 1e308, 10**30, 1e-9,
    [], [None], ["text"], ["text", 7], [["text"]], [{}], [True], {}, {"text": 1}, {"a": {"b": ["text"]}},
)  # fmt: skip
_SPELLED: Final[Mapping[str, tuple[Any, ...]]] = {
    "iss": (f"{ISSUER}/", ISSUER[:-1], f"{ISSUER} ", f" {ISSUER}", ISSUER.upper(), f"_{ISSUER}_", [ISSUER],
            {"x": ISSUER}, f"{ISSUER}\0", "https://issuer\u2024example", "http://issuer.example"),
    "sub": ("a/b", " ", " alice ", "al\u00efce", "\U0001f600", "a,b", "a\tb", "a\nb", "a\0b", "\x7f", "x" * 5000,
            "alice\u2028", ["alice"], "\u0130"),
    "aud": ("WEB", "web/", "web//", "http://web", "https://web", "HTTP://web", "http://https://web", "ftp://web",
            " web", "web ", ["web"], ["x", "web"], ["x"], "api.example", "https://api.example", ["web", "web"],
            "https://api.example/", "http://api.example//", ["", "web"], [""], ["web", 7], [7], [["web"]], "http://",
            {"web": 1}, "web api", "web,api", "/", "https:///", "web\0", ["x"] * 300 + ["web"]),
    "exp": (*(_In(seconds, kind) for seconds in (-10**9, -600, -90, -70, -50, -1, 0, 50, 600, 10**9)
              for kind in (int, float, str)), [4_000_000_000]),
    "nbf": tuple(_In(seconds, kind) for seconds in (-600, -70, 0, 30, 50, 70, 90, 600, 10**9)
                 for kind in (int, float, str)),
    "iat": tuple(_In(seconds) for seconds in (-10**9, 0, 600, 10**9)),
    "jti": ("1", "x" * 300),
    "scope": ("read", " ", "read  dev", "a\tb", " read write ", ["read write"], ["read"], "\u00a0read", "write read"),
    "permission": ("admin dev", ["admin"]),
    "groups": ("staff", ["staff", 7], [["staff"]], ["a staff"], "staff other", "STAFF", ["x", "staff"]),
    "realm_access": ({"roles": "admin"}, {"roles": ["user"]}, {"roles": []}, {"roles": {"admin": True}}, ["admin"],
                     [{"roles": ["admin"]}], {"ROLES": ["admin"]}, {"roles": [["admin"]]}, {"roles": "admin dev"},
                     {"roles": None}, {"roles": {"roles": "admin"}}),
    "cnf": ({"x5t#S256": "A" * 43}, {"x5t#S256": ""}, {"x5t#S256": 7}, {"x5t#S256": None}, {"jwk": {}}, {"jkt": "x"}),
    "level": (-1, 1.5, 10**6, 0.1, 1e15, 1e21, "7", "\u00e9", ["a", "b"], {"a": [1, True, None]}, {"b": 1, "a": 2}),
    "x": ({"": 1}, {"__proto__": {}}, "x" * 30_000),
    "azp": ("web",), "at_hash": ("x",), "nonce": ("",), "alg": ("none",), "kid": ("other",), "keys": ([],), "": ("",),
}  # fmt: skip

_HEADER: Final[Mapping[str, tuple[Any, ...]]] = {
    "alg": (*ALGORITHMS, "HS256", "HS384", "HS512", "none", "None", "NONE", "nOnE", "none ", "", "es256", "ES256 ",
            "ES256K", "RS1", "HS1", "Ed448", "dir", "RSA-OAEP", "A128GCM", None, True, 0, [], ["ES256"], {}),
    "kid": ("", "none", "ES256", "RS256", "HS256", "same", "enc", "es256", "ES256 ", "ES256\0", "\u00c9S256", None, 7,
            True, [], ["ES256"], {}, "../../dev/null", "' OR 1=1 --", "x" * 7000),
    "typ": ("JWT", "at+jwt", "jwt", "application/jwt", "logout+jwt", "JOSE", "", 7, None, [], {}),
    "crit": ([], ["exp"], ["b64"], ["x"], [""], None, "b64", 7, True, {}, ["alg"], [7]),
    "b64": (True, False, None, "false", 0),
    "cty": ("JWT", "jwt", "", 7),
    "jwk": (SIGNERS["foreign ES256"].public_jwk(), {}, None, "x"),
    "jku": ("http://127.0.0.1:9/jwks", 7),
    "x5u": ("http://127.0.0.1:9/cert",),
    "x5c": (["AAAA"], [], "AAAA"),
    "x5t": ("AAAA",),
    "x5t#S256": ("A" * 43, 7),
    "zip": ("DEF", 7),
    "enc": ("A256GCM",),
    "epk": ({},),
    "p2c": (10**9,),
    "iss": ("https://other.example", 7),
    "exp": (0, "x"),
    "x": ("y" * 9000, 1e308, 10**30, [[[]]], {"alg": "none"}, None, True),
}  # fmt: skip


def _members() -> Iterator[Change]:
    for name in ("iss", "sub", "aud", "exp", "nbf", "iat", "jti", "scope", "groups", "realm_access", "level", "cnf"):
        yield _without("claims", name)
        yield from (_member("claims", name, value) for value in _ODD)
    yield from (_member("claims", name, value) for name, values in _SPELLED.items() for value in values)
    yield from (_without("header", name) for name in ("alg", "kid"))
    yield from (_member("header", name, value) for name, values in _HEADER.items() for value in values)


def _key(signer: str) -> Change:
    return Change(f"signed with {signer}", "key", lambda _: signer)


# What can be put behind the last member of an object.
_TAILS: Final = (
    b',"x":NaN', b',"x":Infinity', b',"x":-Infinity', b',"x":1e400', b',"x":-1e400', b',"x":1e-400', b',"x":01',
    b',"x":-01', b',"x":+1', b',"x":0x10', b',"x":1.', b',"x":.5', b',"x":1e', b',"x":1E+2', b',"x":-', b',"x":-0',
    b',"x":' + b"9" * 320, b',"x":' + b"1" * 40, b',"x":1' + b"0" * 308, b',"x":0.' + b"0" * 400 + b"1",
    b',"x":True', b',"x":nul', b',"x":undefined', b',"x":"\\u0000"', b',"x":"\\ud800"', b',"x":"\\ude00"',
    b',"x":"\\ud83d\\ude00"', b',"x":"\\ud800\\ud800"', b',"x":"\\/"', b',"x":"\\x41"', b',"x":"\\u12"',
    b',"x":"\\U0041"', b',"x":"\\\'"', b',"x":"a\tb"', b',"x":"a\nb"', b',"x":"\x01"', b',"x":"\x7f"', b',"x":"\x00"',
    b',"x":"\xff"', b',"x":"\xc0\xaf"', b',"x":"\xed\xa0\x80"', b',"x":"\xf4\x90\x80\x80"', b',"x":"\xef\xbf\xbf"',
    b',"x":"\xe2\x80\xa8"', b',"x":"\xc3"', b',"\xff":1', b',"\\ud800":1', b',"x":1,"x":1', b',"x":1,"\\u0078":2',
    b',"x":{"y":1,"y":2}', b',"x":[{"y":1,"y":2}]', b',"":1,"":2', b',"sub":"mallory"', b',"s\\u0075b":"mallory"',
    b',"iss":"https://issuer.example"', b',"exp":0', b',"alg":"none"', b',"al\\u0067":"none"', b',"kid":"x"', b",",
    b",,", b',"x":[1,]', b',"x":[1 2]', b',"x":{"y":1,}', b',"x":[,1]', b',"x"', b',"x":', b",x:1", b",'x':1",
    b',"x":\'y\'', b',"x":1/**/', b',"x":1//\n', b',"x":1;', b',"x":"unterminated', b',"x":[1}', b',"x":{]',
    b',"x":' + b"[" * 30 + b"]" * 30, b',"x":' + b"[" * 31 + b"]" * 31, b',"x":' + b"[" * 32 + b"]" * 32,
    b',"x":' + b"[" * 60 + b"]" * 60, b',"x":' + b"[" * 98 + b"]" * 98, b',"x":' + b"[" * 120 + b"]" * 120,
    b',"x":' + b'{"a":' * 30 + b"1" + b"}" * 30, b',"x":' + b'{"a":' * 60 + b"1" + b"}" * 60, b',"x":' + b"[" * 2000,
    b' , "x" : 1 ', b',\t"x":1', b',\r\n"x":1', b',\v"x":1', b',\x0c"x":1', b',\xc2\xa0"x":1', b',\xa0"x":1',
)  # fmt: skip
_WRAPS: Final[Mapping[str, Callable[[bytes], bytes]]] = {
    "nothing": lambda data: b"",
    "null": lambda data: b"null",
    "[]": lambda data: b"[]",
    "a list of it": lambda data: b"[" + data + b"]",
    "text of it": lambda data: json.dumps(data.decode("latin-1")).encode(),
    "7": lambda data: b"7",
    "{}": lambda data: b"{}",
    "{": lambda data: b"{",
    "the half of it": lambda data: data[: len(data) // 2],
    "it twice": lambda data: data * 2,
    "it and x": lambda data: data + b"x",
    "it and }": lambda data: data + b"}",
    "it and a comma": lambda data: data + b",",
    "it and NUL": lambda data: data + b"\0",
    "NUL and it": lambda data: b"\0" + data,
    "it and a newline": lambda data: data + b"\n",
    "space and it": lambda data: b" \t\r\n" + data,
    "form feed and it": lambda data: b"\x0c" + data,
    "it and a no-break space": lambda data: data + b"\xc2\xa0",
    "a byte order mark and it": lambda data: b"\xef\xbb\xbf" + data,
    "it in UTF-16": lambda data: data.decode("latin-1").encode("utf-16"),
    "it in UTF-16 without mark": lambda data: data.decode("latin-1").encode("utf-16-le"),
    "it in single quotes": lambda data: data.replace(b'"', b"'"),
    "its names without quotes": lambda data: data.replace(b'"sub":', b"sub:").replace(b'"alg":', b"alg:"),
    "equals signs for colons": lambda data: data.replace(b":", b"=", 1),
    "a comment and it": lambda data: b"/* x */" + data,
    "a guard and it": lambda data: b")]}'\n" + data,
    "escaped names": lambda data: data.replace(b'"sub"', b'"\\u0073ub"').replace(b'"alg"', b'"\\u0061lg"'),
    "escaped values": lambda data: data.replace(b"alice", b"\\u0061lice").replace(b'"ES', b'"\\u0045S'),
    "names in upper case": lambda data: data.replace(b'"sub"', b'"SUB"').replace(b'"alg"', b'"ALG"'),
}


def _json() -> Iterator[Change]:
    for stage in ("header_json", "payload_json"):
        for tail in _TAILS:
            name = tail if len(tail) < 50 else tail[:20] + b"...(%d)" % len(tail)
            yield Change(f"{stage} ends in {name!r}", stage, lambda data, tail=tail: data[:-1] + tail + data[-1:])
        for name, wrap in _WRAPS.items():
            yield Change(f"{stage} is {name}", stage, wrap)


def _flipped(data: bytes, at: int) -> bytes:
    changed = bytearray(data)
    changed[at % len(changed)] ^= 1
    return bytes(changed)


def _halves(data: bytes) -> tuple[int, int]:
    half = len(data) // 2
    return int.from_bytes(data[:half], "big"), int.from_bytes(data[half:], "big")


def _joined(data: bytes, r: int, s: int) -> bytes:
    """Where they fit; the order of one curve is too long for a signature that is none."""
    half = max(len(data) // 2, 32)
    return r.to_bytes(half, "big") + s.to_bytes(half, "big")


_SIGNATURES: Final[Mapping[str, Callable[[bytes], bytes]]] = {
    "is empty": lambda data: b"",
    "lost a byte": lambda data: data[:-1],
    "lost its first byte": lambda data: data[1:],
    "is halved": lambda data: data[: len(data) // 2],
    "is one byte": lambda data: data[:1],
    "has a byte more": lambda data: data + b"\0",
    "has a byte more in front": lambda data: b"\0" + data,
    "is there twice": lambda data: data * 2,
    "is zero": lambda data: bytes(len(data)),
    "is one": lambda data: bytes(len(data) - 1) + b"\1",
    "is all ones": lambda data: b"\xff" * len(data),
    "has its first bit flipped": lambda data: _flipped(data, 0),
    "has a bit flipped": lambda data: _flipped(data, len(data) // 2),
    "has its last bit flipped": lambda data: _flipped(data, -1),
    "is DER": lambda data: encode_dss_signature(*_halves(data)),
    "has r and s swapped": lambda data: _joined(data, *_halves(data)[::-1]),
    "has the other s": lambda data: _joined(data, _halves(data)[0], (_CURVE_ORDER - _halves(data)[1]) % _CURVE_ORDER),
    "has r and no s": lambda data: _joined(data, _halves(data)[0], 0),
    "has s and no r": lambda data: _joined(data, 0, _halves(data)[1]),
    "has r and s of the order": lambda data: _joined(data, _CURVE_ORDER, _CURVE_ORDER),
    "is of 300 bytes": lambda data: b"x" * 300,
    "is the secret's own text": lambda data: b"HS256" * 16,
}

_CHARACTERS: Final = (
    *" \t\n\r\v\f\0\x1c\x7f\x80\x85\xa0\xff",
    *"=+/!%*,;\"'~:@&#?\\{<",
    "==",
    "===",
    "====",
    ".=",
    "%3D",
)
_BASE64: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


def _spare_bits(text: str, part: int) -> str:
    """One more in the last character of a segment, which decodes alike where its last bits are spare."""
    segments = text.split(".")
    if part >= len(segments) or not segments[part] or len(segments[part]) % 4 in (0, 1):
        return text
    last = segments[part][-1]
    if last in _BASE64[:-1]:
        segments[part] = segments[part][:-1] + _BASE64[_BASE64.index(last) + 1]
    return ".".join(segments)


def _recoded(text: str, part: int, change: Callable[[bytes], bytes]) -> str:
    segments = text.split(".")
    if part < len(segments):
        data = segments[part].encode("ascii", "replace")
        with suppress(ValueError):
            segments[part] = change(urlsafe_b64decode(data + b"=" * (-len(data) % 4))).decode("latin-1")
    return ".".join(segments)


_JSON_FORM: Final = ("protected", "payload", "signature")
_TEXTS: Final[Mapping[str, Callable[[str], str]]] = {
    "a dot in front": lambda text: "." + text,
    "a dot behind": lambda text: text + ".",
    "a dot doubled": lambda text: text.replace(".", "..", 1),
    "the other dot doubled": lambda text: text[::-1].replace(".", "..", 1)[::-1],
    "dots everywhere": lambda text: "..." + text.replace(".", "...") + "...",
    "only dots": lambda text: "..",
    "a million dots less": lambda text: "." * 1000,
    "no header": lambda text: text[text.find(".") :],
    "no payload": lambda text: f"{text.split('.')[0]}..{text.split('.')[-1]}",
    "no signature": lambda text: text.rpartition(".")[0],
    "no signature but its dot": lambda text: text.rpartition(".")[0] + ".",
    "a fourth segment": lambda text: text + ".AAAA",
    "five segments": lambda text: text + ".AAAA.AAAA",
    "segments in reverse": lambda text: ".".join(text.split(".")[::-1]),
    "lower case": str.lower,
    "upper case": str.upper,
    "in quotes": lambda text: f'"{text}"',
    "as JSON": lambda text: json.dumps(
        dict(zip(("protected", "payload", "signature"), text.split("."), strict=False))
    ),
    "as a JSON key": lambda text: json.dumps({text: 1}),
    "once more behind a comma": lambda text: f"{text},{text}",
    "once more behind a space": lambda text: f"{text} {text}",
    "garbage": lambda text: "garbage",
    "a.b.c": lambda text: "a.b.c",
    "one character per segment": lambda text: "A.A.A",
    "nothing": lambda text: "",
    "the header in standard base64": lambda text: _recoded(text, 0, urlsafe_b64encode),
    "the payload in standard base64": lambda text: _recoded(text, 1, urlsafe_b64encode),
    "the payload in hex": lambda text: _recoded(text, 1, lambda data: data.hex().encode()),
    "the payload as it is": lambda text: _recoded(text, 1, lambda data: data),
}


def _texts() -> Iterator[Change]:
    yield from (Change(f"the text: {name}", "text", apply) for name, apply in _TEXTS.items())
    for part, where in enumerate(("header", "payload", "signature")):
        yield Change(f"spare bits in the {where}", "text", lambda text, part=part: _spare_bits(text, part))
        for character in _CHARACTERS:
            yield Change(f"{character!a} at the {where}'s end", "text", _behind(part, character))
            yield Change(f"{character!a} inside the {where}", "text", _inside(part, character))
    for character in _CHARACTERS:
        yield Change(f"{character!a} in front", "text", lambda text, character=character: character + text)


def _behind(part: int, character: str) -> Callable[[str], str]:
    return _edited(part, lambda text: text + character)


def _inside(part: int, character: str) -> Callable[[str], str]:
    return _edited(part, lambda text: text[:4] + character + text[4:])


def _edited(part: int, edit: Callable[[str], str]) -> Callable[[str], str]:
    def apply(text: str) -> str:
        segments = text.split(".")
        if part < len(segments):
            segments[part] = edit(segments[part])
        return ".".join(segments)

    return apply


def _header_lines(*lines: tuple[str, str]) -> Callable[[str], Sent]:
    """Lines in which ``@`` stands for the token; what no line can hold goes through the query instead."""

    def send(text: str) -> Sent:
        if any(character in text for character in "\r\n\0"):
            return Sent(f"/?access_token={encoded(text)}", ())
        return Sent("/", tuple((name, value.replace("@", text)) for name, value in lines))

    return send


def _query(pattern: str) -> Callable[[str], Sent]:
    return lambda text: Sent(f"/{pattern.replace('@', encoded(text))}", ())


def _both(pattern: str, *lines: tuple[str, str]) -> Callable[[str], Sent]:
    return lambda text: Sent(_query(pattern)(text).target, _header_lines(*lines)(text).headers)


def encoded(text: str) -> str:
    """For a query."""
    return quote(text.encode("latin-1"), safe="")


_AUTHORIZATIONS: Final = (
    "Bearer @", "bearer @", "BEARER @", "Bearer  @", "Bearer\t@", "Bearer \t @", "Bearer @ ", "Bearer@", "Basic @",
    "Token @", "Bearer", "Bearer ", "", "@", "Bearer @, x", "Bearer @,", "Bearer @ x", "Bearer @;x", 'Bearer "@"',
    "Bearer %@", "Bearer =@", "Bearer ..@", "Basic x, Bearer @", "xBearer @", "Bearer Bearer @", "DPoP @",
    "Bearer x Bearer @", "Bearer @ Bearer @", "Bearer token=@", "Bearer: @", "Bearer <@>", "Bearer \xa0@",
    "Bearer x.@",
)  # fmt: skip
_QUERIES: Final = (
    "?access_token=@", "?a=b&access_token=@&c=d", "?ACCESS_TOKEN=@", "?access%5Ftoken=@", "?%61ccess_token=@",
    "?access_token=", "?access_token", "?&access_token=@", "?a=b;access_token=@", "?access_token=@;x",
    "?access_token=+@",
    "?access_token=@+", "?access_token=%20@", "?access_token[]=@", "?access_token=@&access_token=x",
    "?access_token=x&access_token=@", "?access_token=@&access_token=@", "?access_token%00=@", "?access_token=@%00",
    "?access_token=Bearer%20@", "?access_token=%", "?access_token=%zz@", "??access_token=@", "?access_token==@",
    "?x=@", "?id_token=@", "?access_token=@#x", "#access_token=@", "?access_token=%22@%22", "?access+token=@",
)  # fmt: skip
_COOKIES: Final = (
    "session=@", 'session="@"', "a=b; session=@", "session=@; session=x", "session=x; session=@", "Session=@",
    " session = @", "session", "session=", '"session"=@', "session=@,x", "session=@ ", "a=b;session=@;c=d",
    'session="@', "session=x=@", "xsession=@", "session=;session=@", "session=%@", "session= @", "; ;session=@",
    "\tsession=@", "session\t=@", "session=@; ;", "session=\"@",
    "session=\"\"@\"\"", "session='@'", "session=%22@%22", "a=\"; session=@; b=\"",
)  # fmt: skip


def _sent() -> Iterator[Change]:
    def change(name: str, send: Callable[[str], Sent]) -> Change:
        return Change(name, "sent", send)

    for value in _AUTHORIZATIONS:
        yield change(f"Authorization: {value!a}", _header_lines(("Authorization", value)))
    for pattern in _QUERIES:
        yield change(f"query {pattern}", _query(pattern))
    for cookie in _COOKIES:
        yield change(f"Cookie: {cookie}", _header_lines(("Cookie", cookie)))
    for value in ("T @", "t @", "T@", "@", "", "T ", "T  @", "x T @", "T T @", "T x @"):
        yield change(f"x-token: {value!a}", _header_lines(("x-token", value)))
        yield change(f"x-raw: {value!a}", _header_lines(("X-Raw", value)))
    for one in (("Authorization", "Bearer @"), ("x-token", "T @"), ("x-raw", "@"), ("Cookie", "session=@")):
        for other in (("Authorization", "Bearer x"), ("x-token", "T x.y.z"), ("x-raw", "x"), ("x-raw", ""), one):
            yield change(f"{one} and {other}", _header_lines(one, other))
        yield change(f"{one} and in the query", _both("?token=@&access_token=@", one))
        yield change(f"{one} and garbage in the query", _both("?token=x&access_token=y", one))
    for lines in (
        ("session=@", "session=x"),
        ("session=x", "session=@"),
        ("a=b", "session=@"),
        ("session", "session=@"),
    ):
        yield change(f"Cookies: {lines}", _header_lines(*(("Cookie", line) for line in lines)))
    for pattern in ("?token=@", "?token=", "?token=@&token=x", "?token=x&token=@", "?TOKEN=@", "?t%6Fken=@"):
        yield change(f"query {pattern}", _query(pattern))


CHANGES: Final[tuple[Change, ...]] = (
    *map(_key, SIGNERS),
    *_members(),
    *_json(),
    *(Change(f"the signature {name}", "signature", apply) for name, apply in _SIGNATURES.items()),
    *_texts(),
    *_sent(),
)
"""Every change there is."""
