"""The SPIFFE Workload API as a source: identities, bundles and tokens from an agent on this machine, such as SPIRE's.

What an answer means is decided here; how it comes is ``_workload_api_stream``'s part, how it is written
``_workload_api_wire``'s. Keys come into memory and go nowhere else. Must not know: requests, servers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from ..errors import MeshsecError, SpiffeIdError, SvidError, TokenError
from ..jose import KeySet
from ..spiffe import SpiffeId, TrustDomain, X509Bundle, X509BundleSet, X509Svid, read_jwt_bundle
from ..tls import Revocations
from ._identity import WITHDRAWN, Identity
from ._workload_api_stream import FIRST_LOOK, Pauses, Stream, dial
from ._workload_api_wire import (
    CallError,
    Code,
    GivenSvid,
    X509Answer,
    read_jwt_bundles,
    read_jwt_svids,
    read_validated,
    read_x509_bundles,
    read_x509_svids,
    write_jwt_request,
    write_validate_request,
)

__all__ = ["AgentBundles", "WorkloadApi", "WorkloadApiIdentity"]

TOKEN_PATIENCE: Final = 5.0


class WorkloadApiIdentity:
    """Our X.509-SVID, its bundle and those of other trust domains, as the Workload API says them at each moment.

    Of several SVIDs ours is the one with the workload's own ID; hints and the order of the others do not matter. What
    an answer no longer holds must not be used any more, nor anything when there is permission no longer; while the
    agent is away, or says what cannot be used, the last good answer serves.

    Args:
        address: ``unix:///path`` or ``tcp://IP:port``.
        spiffe_id: the identity that is expected.
        pauses: between two attempts.
        first_look: seconds that the first :meth:`read` may wait for an answer.
    """

    def __init__(
        self,
        address: str,
        spiffe_id: SpiffeId,
        *,
        pauses: Pauses | None = None,
        first_look: float = FIRST_LOOK,
    ) -> None:
        self._id = spiffe_id
        self._held = False
        self._stream = Stream(address, "FetchX509SVID", self._identity, pauses=pauses, first_look=first_look)

    @property
    def origin(self) -> str:
        return self._stream.address

    def read(self, now: float) -> Identity:  # noqa: ARG002 - the keeper judges dates
        """What the newest answer said.

        Raises:
            SvidError: ``wrong_identity``: the agent gives only other identities out; ``identity_withdrawn``: it gave
                ours before and does not any longer; ``source_failed``, ``answer_malformed`` and others: the agent is
                away or its answer cannot be used.
            ConfigError: ``extra_missing``, ``bundle_invalid``.
        """
        return self._stream.current()

    def jwt_svid(self, audience: str) -> str:
        """A fresh JWT-SVID of this workload for that audience. Waits; raises as :meth:`WorkloadApi.jwt_svid`."""
        return WorkloadApi(self.origin).jwt_svid(audience, spiffe_id=self._id)

    def close(self) -> None:
        """Hang up; another :meth:`read` begins anew."""
        self._stream.close()

    def _identity(self, message: bytes) -> Identity:
        answer = read_x509_svids(message)
        ours = next((given for given in answer.svids if given.spiffe_id == str(self._id)), None)
        if ours is None:
            others = ", ".join(sorted({f"{given.spiffe_id[:200]!a}" for given in answer.svids})[:8])
            code = WITHDRAWN if self._held else "wrong_identity"
            raise SvidError(f"{self.origin} gives out {others}, this workload is {self._id}", code=code)
        identity = _read_identity(ours, answer)
        self._held = True
        return identity


def _read_identity(ours: GivenSvid, answer: X509Answer) -> Identity:
    svid = X509Svid.from_der(ours.chain, ours.key)
    if str(svid.id) != ours.spiffe_id:
        raise SvidError(f"the certificate said to be of {ours.spiffe_id} is of {svid.id}", code="answer_malformed")
    own = X509Bundle.from_der(svid.id.trust_domain, ours.bundle)
    bundles = _bundles({**answer.bundles, **_of_other_svids(answer)})
    federated = tuple(bundle for bundle in bundles if bundle.trust_domain != own.trust_domain)
    return Identity(svid, own, _revoked(answer, (own, *federated)), federated)


def _of_other_svids(answer: X509Answer) -> Mapping[str, bytes]:
    """Each SVID comes with the bundle of its own trust domain, which may be another than ours."""
    return {f"spiffe://{SpiffeId.parse(given.spiffe_id).trust_domain}": given.bundle for given in answer.svids}


@dataclass(frozen=True, slots=True)
class AgentBundles:
    """All X.509 authorities that an agent says are to be trusted, each for its own trust domain."""

    bundles: X509BundleSet
    revoked: Revocations


class WorkloadApi:
    """What an agent tells besides an identity; each stream is closed by whoever opened it.

    Args:
        address: ``unix:///path`` or ``tcp://IP:port``.
    """

    def __init__(self, address: str) -> None:
        self.address = address

    def x509_bundles(self) -> Stream[AgentBundles]:
        """Everybody's X.509 authorities, for a program that has no identity of its own: ``current()`` says them."""
        return Stream(self.address, "FetchX509Bundles", _agent_bundles)

    def jwt_bundles(self) -> Stream[Mapping[TrustDomain, KeySet]]:
        """Everybody's JWT authorities; ``current()`` is what :func:`meshsec.spiffe.verify_jwt_svid` wants."""
        return Stream(self.address, "FetchJWTBundles", _jwt_authorities)

    def jwt_svid(self, audience: str, *, spiffe_id: SpiffeId | None = None) -> str:
        """A fresh JWT-SVID. Waits up to five seconds.

        Args:
            audience: for whom it is.
            spiffe_id: whose; None: the default identity's.

        NOT checked: the token, which is for somebody else to verify.

        Raises:
            SvidError: ``source_failed``: the agent is away, or gives no such token; ``answer_malformed``.
        """
        request = write_jwt_request([audience], str(spiffe_id) if spiffe_id else "")
        try:
            messages = self._ask("FetchJWTSVID", request)
        except CallError as error:
            raise self._failed(error) from None
        tokens = [pair for message in messages for pair in read_jwt_svids(message)]
        for found, token in tokens:
            if spiffe_id is None or found == str(spiffe_id):
                return token
        raise SvidError(f"{self.address} gave no token of {spiffe_id}", code="answer_malformed")

    def validate_jwt_svid(self, token: str, audience: str) -> SpiffeId:
        """Have the agent verify a JWT-SVID (Workload API, section 6.2.3). Waits up to five seconds.

        For a program that has no JWT bundles; with them, :func:`meshsec.spiffe.verify_jwt_svid` has to ask nobody.

        Args:
            token: the compact form.
            audience: the verifier's own name, which must be in ``aud``.

        Returns:
            Whose it is.

        Raises:
            TokenError: ``jwt_signature``: the agent says that it does not hold; ``jwt_malformed``.
            SvidError: ``source_failed``: the agent is away; ``answer_malformed``.

        NOT checked: anything else than the agent checks.
        """
        if not token.isascii():
            raise TokenError("Jwt has letters that no token has", code="jwt_malformed")
        try:
            messages = self._ask("ValidateJWTSVID", write_validate_request(audience, token))
        except CallError as error:
            if error.code is Code.INVALID_ARGUMENT:  # its text may hold the token
                raise TokenError("the agent says that the JWT-SVID does not hold", code="jwt_signature") from None
            raise self._failed(error) from None
        names = [read_validated(message) for message in messages]
        try:
            (found,) = map(SpiffeId.parse, names)
        except (ValueError, SpiffeIdError):
            raise SvidError(f"{self.address} does not say whose token it is", code="answer_malformed") from None
        return found

    def _ask(self, method: str, request: bytes) -> list[bytes]:
        """One question and its answer. Raises CallError."""
        return list(dial(self.address, method, request, patience=TOKEN_PATIENCE, streaming=False).messages())

    def _failed(self, error: CallError) -> SvidError:
        return SvidError(f"{self.address}: {error}", code="source_failed")


def _agent_bundles(message: bytes) -> AgentBundles:
    answer = read_x509_bundles(message)
    bundles = _bundles(answer.bundles)
    return AgentBundles(bundles, _revoked(answer, bundles))


def _jwt_authorities(message: bytes) -> Mapping[TrustDomain, KeySet]:
    return {_domain(name): read_jwt_bundle(keys) for name, keys in read_jwt_bundles(message).items()}


def _bundles(by_name: Mapping[str, bytes]) -> X509BundleSet:
    return X509BundleSet([X509Bundle.from_der(_domain(name), data) for name, data in by_name.items()])


def _domain(name: str) -> TrustDomain:
    """A trust domain goes by its SPIFFE ID here. Raises SvidError (``answer_malformed``)."""
    try:
        found = SpiffeId.parse(name)
    except MeshsecError as error:
        raise SvidError(str(error), code="answer_malformed") from None
    if found.path:
        raise SvidError(f"{found} names a workload where a trust domain belongs", code="answer_malformed")
    return found.trust_domain


def _revoked(answer: X509Answer, bundles: Iterable[X509Bundle]) -> Revocations:
    authorities = [authority for bundle in bundles for authority in bundle.x509_authorities]
    return Revocations.from_der(answer.crls, authorities)
