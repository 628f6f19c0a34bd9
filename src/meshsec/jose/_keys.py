"""JSON Web Keys (RFC 7517, 7518, 8037): sets to verify with, and a key to sign with.

Each key is checked once, when its set is read, and knows from then on which algorithms it may be used with; choosing
a key for a token is a look-up. Private members of a JWK are never read into a set. This file must not know tokens.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final, Self

from joserfc.errors import JoseError
from joserfc.jwa import JWS_ALGORITHMS, JWSAlgModel
from joserfc.jwk import ECKey, JWKRegistry, Key, OctKey, OKPKey, RSAKey

from ..errors import KeysUnavailableError
from ._encoding import decode_base64url, read_json_object
from ._verifiers import Verifier, verifier

__all__ = ["ASYMMETRIC_ALGORITHMS", "SYMMETRIC_ALGORITHMS", "KeySet", "SigningKey", "VerificationKey"]

_RSA_ALGORITHMS: Final = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
_CURVES: Final[Mapping[tuple[str, str], frozenset[str]]] = {
    ("EC", "P-256"): frozenset({"ES256"}),
    ("EC", "P-384"): frozenset({"ES384"}),
    ("EC", "P-521"): frozenset({"ES512"}),
    ("OKP", "Ed25519"): frozenset({"EdDSA", "Ed25519"}),
}
# RFC 7518 section 3.2: at least as many bits as the hash has.
_SECRET_BYTES: Final = {"HS256": 32, "HS384": 48, "HS512": 64}

ASYMMETRIC_ALGORITHMS: Final = _RSA_ALGORITHMS.union(*_CURVES.values())
SYMMETRIC_ALGORITHMS: Final = frozenset(_SECRET_BYTES)

_MODELS: Final[Mapping[str, JWSAlgModel]] = MappingProxyType(
    {model.name: model for model in JWS_ALGORITHMS if model.name in ASYMMETRIC_ALGORITHMS | SYMMETRIC_ALGORITHMS}
)

MAX_SET_BYTES: Final = 1 << 20
MAX_KEYS: Final = 256
MAX_TRIES: Final = 4
_UNKNOWN: Final = ""  # stands for every name that no key of a set has; no key is named so
_RSA_BITS: Final = range(2048, 8192 + 1)
_RSA_EXPONENTS: Final = frozenset({3, 65537})
# How a public key in text form begins: such bytes are no secret, whoever put them into an "oct" key.
_PUBLIC_KEY_MARKS: Final = (b"BEGIN ", b"ssh-", b"ecdsa-sha2-")


@dataclass(frozen=True, slots=True)
class VerificationKey:
    """One usable key of a set.

    Attributes:
        kid: its name; None where it has none.
        algorithms: what it may verify, by its type, curve and own ``alg``.
        material: the members that make the key, for comparing sets.
        declares_algorithm: whether it has an ``alg`` of its own.
        issuer: the only one it signs for, where its set serves several (a member of Entra's keys); None: it does not
            say. Counts in :meth:`KeySet.speaking_for` alone.
    """

    kid: str | None
    algorithms: frozenset[str]
    material: tuple[str, ...] = field(repr=False)
    declares_algorithm: bool
    issuer: str | None
    _verifiers: Mapping[str, Verifier] = field(repr=False, compare=False)

    @classmethod
    def parse(cls, jwk: Mapping[str, Any], *, allow_symmetric: bool = False) -> Self:
        """Read one public JWK.

        Args:
            jwk: the members; unknown ones do not matter.
            allow_symmetric: whether ``oct`` keys that name an HS algorithm are taken.

        Raises:
            ValueError: malformed, not for verifying signatures, of an unknown type, or too weak.
        """
        kid, alg = _optional_text(jwk, "kid"), _optional_text(jwk, "alg")
        if jwk.get("use", "sig") != "sig":
            raise ValueError("the key is not for signatures")
        operations = jwk.get("key_ops", ["verify"])
        if not isinstance(operations, list) or "verify" not in operations:
            raise ValueError("the key is not for verifying")
        reader = _READERS.get(_text(jwk, "kty"))
        if reader is None or (reader is _read_secret and not allow_symmetric):
            raise ValueError("the key's type is not usable")
        try:
            key, algorithms, material = reader(jwk)
        except JoseError:
            raise ValueError("the key is malformed") from None
        fitting = algorithms & {alg} if alg else algorithms
        if not fitting:
            raise ValueError("the key's alg does not fit it")
        # For a public key this is the key itself: verifying is all that it is for.
        checks = {name: verifier(name, key.get_op_key("verify")) for name in fitting}
        issuer = jwk.get("issuer")
        speaks_for = issuer if issuer is None or isinstance(issuer, str) else ""  # what no issuer is called
        return cls(kid or None, fitting, (*material, *sorted(fitting)), alg is not None, speaks_for, checks)

    def verify(self, algorithm: str, message: bytes, signature: bytes) -> bool:
        """Whether the signature is this key's; False too for an algorithm that is not one of ``algorithms``."""
        check = self._verifiers.get(algorithm)
        return check is not None and check(signature, message)

    def public_jwk(self) -> dict[str, str]:
        """What :meth:`parse` made of it, as a JWK. Raises ValueError for a shared secret."""
        kind = self.material[0]
        if kind not in _PUBLIC_MEMBERS:
            raise ValueError("a shared secret has no public half")
        name = {} if self.kid is None else {"kid": self.kid}
        algorithm = {"alg": next(iter(self.algorithms))} if self.declares_algorithm else {}
        issuer = {} if self.issuer is None else {"issuer": self.issuer}
        members = dict(zip(_PUBLIC_MEMBERS[kind], self.material, strict=False))
        return {**members, **name, "use": "sig", **algorithm, **issuer}


_Read = tuple[Key, frozenset[str], tuple[str, ...]]


def _read_rsa(jwk: Mapping[str, Any]) -> _Read:
    n, e = _text(jwk, "n"), _text(jwk, "e")
    bits = _number(n).bit_length()
    if bits not in _RSA_BITS or _number(e) not in _RSA_EXPONENTS:
        raise ValueError("an RSA key has 2048 to 8192 bits and the exponent 3 or 65537")
    return RSAKey.import_key({"kty": "RSA", "n": n, "e": e}), _RSA_ALGORITHMS, ("RSA", n, e)


def _read_ec(jwk: Mapping[str, Any]) -> _Read:
    crv, x, y = _text(jwk, "crv"), _text(jwk, "x"), _text(jwk, "y")
    algorithms = _of_curve("EC", crv)
    return ECKey.import_key({"kty": "EC", "crv": crv, "x": x, "y": y}), algorithms, ("EC", crv, x, y)


def _read_okp(jwk: Mapping[str, Any]) -> _Read:
    crv, x = _text(jwk, "crv"), _text(jwk, "x")
    algorithms = _of_curve("OKP", crv)
    return OKPKey.import_key({"kty": "OKP", "crv": crv, "x": x}), algorithms, ("OKP", crv, x)


def _read_secret(jwk: Mapping[str, Any]) -> _Read:
    """A shared secret must say itself what it is for: no public key is ever taken for one."""
    k, alg = _text(jwk, "k"), _text(jwk, "alg")
    secret = decode_base64url(k.encode("ascii"))
    if len(secret) < _SECRET_BYTES.get(alg, len(secret) + 1) or any(mark in secret for mark in _PUBLIC_KEY_MARKS):
        raise ValueError("the secret is too short for its alg, or no secret")
    return OctKey.import_key({"kty": "oct", "k": k}), frozenset({alg}), ("oct", k)


_PUBLIC_MEMBERS: Final = {"RSA": ("kty", "n", "e"), "EC": ("kty", "crv", "x", "y"), "OKP": ("kty", "crv", "x")}
_READERS: Final = {"RSA": _read_rsa, "EC": _read_ec, "OKP": _read_okp, "oct": _read_secret}


def _of_curve(kind: str, crv: str) -> frozenset[str]:
    if (kind, crv) not in _CURVES:
        raise ValueError("the key's curve is not usable")
    return _CURVES[kind, crv]


def _text(jwk: Mapping[str, Any], name: str) -> str:
    value = jwk.get(name)
    if not isinstance(value, str):
        raise ValueError(f"{name} must be text")  # noqa: TRY004 - a parser's refusal, not a caller's mistake
    return value


def _optional_text(jwk: Mapping[str, Any], name: str) -> str | None:
    return _text(jwk, name) if name in jwk else None


def _number(text: str) -> int:
    return int.from_bytes(decode_base64url(text.encode("ascii")), "big")


@dataclass(frozen=True, slots=True)
class KeySet:
    """A JSON Web Key Set, immutable; sets with the same usable keys in the same order are equal.

    Args:
        keys: the usable keys.
    """

    keys: tuple[VerificationKey, ...]
    _choices: Mapping[tuple[str, str | None], tuple[VerificationKey, ...]] = field(
        init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        # Keys that name their algorithm come before keys that merely could do it.
        ordered = sorted(self.keys, key=lambda key: not key.declares_algorithm)
        names = {None, _UNKNOWN, *(key.kid for key in ordered)}
        algorithms = {algorithm for key in ordered for algorithm in key.algorithms}
        choices = {(algorithm, kid): _choice(ordered, algorithm, kid) for algorithm in algorithms for kid in names}
        object.__setattr__(self, "_choices", choices)

    @classmethod
    def parse(cls, jwks: str | bytes | Mapping[str, Any], *, allow_symmetric: bool = False) -> Self:
        """Read a set; a key that is malformed, weak or for another purpose is left out.

        Args:
            jwks: JSON text, or the object it stands for; at most 1 MiB and 256 keys.
            allow_symmetric: whether ``oct`` keys that name an HS algorithm count. Never for a set that was fetched.

        Raises:
            KeysUnavailableError: not a key set, or no key of it is usable.
        """
        members = _members(jwks)
        keys = tuple(_usable(members, allow_symmetric=allow_symmetric))
        if not keys:
            raise KeysUnavailableError("Jwks doesn't have any valid public key")
        return cls(keys)

    def candidates(self, header: Mapping[str, Any]) -> tuple[VerificationKey, ...]:
        """The keys that may have signed a token with this header, likeliest first, at most four.

        The type, curve, ``alg``, ``use`` and ``key_ops`` of a key must allow the header's ``alg``. With a ``kid``,
        keys of that name come first and keys without a name after them; without one, every fitting key counts.
        """
        algorithm = header["alg"]
        found = self._choices.get((algorithm, header.get("kid") or None))
        return self._choices.get((algorithm, _UNKNOWN), ()) if found is None else found

    def speaking_for(self, issuers: Collection[str]) -> KeySet:
        """Without the keys that say of themselves that they sign for others; perhaps empty."""
        if all(key.issuer is None for key in self.keys):
            return self
        return _speaking_for(self, frozenset(issuers))

    def __len__(self) -> int:
        return len(self.keys)


@lru_cache(maxsize=256)
def _speaking_for(keys: KeySet, issuers: frozenset[str]) -> KeySet:
    return KeySet(tuple(key for key in keys.keys if key.issuer is None or key.issuer in issuers))


def _choice(keys: Iterable[VerificationKey], algorithm: str, kid: str | None) -> tuple[VerificationKey, ...]:
    fitting = [key for key in keys if algorithm in key.algorithms]
    if kid is not None:
        named = [key for key in fitting if key.kid == kid]
        fitting = [*named, *(key for key in fitting if key.kid is None)]
    return tuple(fitting[:MAX_TRIES])


def _members(jwks: str | bytes | Mapping[str, Any]) -> list[Any]:
    if isinstance(jwks, str | bytes):
        if len(jwks) > MAX_SET_BYTES:
            raise KeysUnavailableError(f"a key set has at most {MAX_SET_BYTES} bytes")
        try:
            jwks = read_json_object(jwks.encode() if isinstance(jwks, str) else jwks)
        except ValueError as error:
            raise KeysUnavailableError(f"the key set is unreadable: {error}") from None
    members = jwks.get("keys")
    if not isinstance(members, list) or len(members) > MAX_KEYS:
        raise KeysUnavailableError(f"a key set has a list named keys with at most {MAX_KEYS} members")
    return members


def _usable(members: Iterable[Any], *, allow_symmetric: bool) -> Iterable[VerificationKey]:
    for member in members:
        if not isinstance(member, dict):
            continue
        try:
            yield VerificationKey.parse(member, allow_symmetric=allow_symmetric)
        except ValueError:
            continue


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A private key that signs with one algorithm. Build one with :meth:`generate` or :meth:`from_pem`.

    Attributes:
        algorithm: the ``alg`` it signs with.
        kid: its name in headers and key sets; may be empty.
    """

    algorithm: str
    kid: str
    _key: Key = field(repr=False, compare=False)

    @classmethod
    def generate(cls, algorithm: str = "ES256", *, kid: str = "") -> Self:
        """A fresh key. Raises ValueError for anything but an asymmetric algorithm."""
        kind, shape = _shape(algorithm)
        return cls(algorithm, kid, JWKRegistry.generate_key(kind, shape))

    @classmethod
    def from_pem(cls, data: bytes, algorithm: str, *, kid: str = "") -> Self:
        """Read an unencrypted private key. Raises ValueError where it is none, or does not fit the algorithm."""
        kind, _ = _shape(algorithm)
        try:
            key = JWKRegistry.import_key(data, kind)
            _MODELS[algorithm].check_key(key)
        except (ValueError, TypeError, JoseError):
            key = None
        if key is None or not key.is_private:
            raise ValueError(f"not a private key for {algorithm}")
        return cls(algorithm, kid, key)

    def public_jwk(self) -> dict[str, Any]:
        """The public half, as a member of a key set."""
        name = {"kid": self.kid} if self.kid else {}
        return {**self._key.as_dict(private=False), **name, "use": "sig", "alg": self.algorithm}

    def sign(self, message: bytes) -> bytes:
        """The signature in JWS form (RFC 7518 section 3)."""
        return _MODELS[self.algorithm].sign(message, self._key)


def _shape(algorithm: str) -> tuple[str, str | int]:
    """Key type, and curve or size."""
    if algorithm in _RSA_ALGORITHMS:
        return "RSA", _RSA_BITS.start
    for shape, algorithms in _CURVES.items():
        if algorithm in algorithms:
            return shape
    raise ValueError(f"{algorithm[:16]!a} is not an algorithm to sign with")
