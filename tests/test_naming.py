"""Secure naming: who may answer for a host, and where it is dialled."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshsec.errors import ConfigError, SvidError
from meshsec.naming import SecureNaming
from meshsec.resources import Compatibility, MeshConfig, Service
from meshsec.spiffe import SpiffeId

REVIEWS = "spiffe://cluster.local/ns/prod/sa/reviews"
OLD = "spiffe://old.local/ns/prod/sa/reviews"
PARTNER = "spiffe://partner.example/ns/prod/sa/reviews"
SERVICES = {
    "reviews.prod": Service(ids=(REVIEWS,), endpoints=("127.0.0.1:8443", "[::1]:8444", "pod-1.prod:8443")),
    "Ratings.prod.": Service(ids=(REVIEWS, "spiffe://cluster.local/ns/prod/sa/ratings")),
    "nobody": Service(endpoints=("10.0.0.1:1",)),
    "::1": Service(ids=(REVIEWS,)),
}


def naming(services: dict[str, Service] | None = None, **config: object) -> SecureNaming:
    """The naming of the services above, or of others."""
    return SecureNaming(SERVICES if services is None else services, MeshConfig(**config))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("host", "ids"),
    [
        ("reviews.prod", {REVIEWS}),
        ("REVIEWS.prod", {REVIEWS}),
        ("reviews.prod.", {REVIEWS}),
        ("ratings.prod", {REVIEWS, "spiffe://cluster.local/ns/prod/sa/ratings"}),
        ("::1", {REVIEWS}),
        ("[::1]", {REVIEWS}),
        ("0:0::0001", {REVIEWS}),
    ],
)
def test_a_known_host_has_its_ids(host: str, ids: set[str]) -> None:
    """Case and the dot at the end do not count, nor the brackets of an address in a URL."""
    assert {str(found) for found in naming().ids(host)} == ids
    assert naming().knows(host)


@pytest.mark.parametrize(
    "host",
    [
        *("reviews", "reviews.prod.svc", "x.reviews.prod", "reviews.prod..", ".reviews.prod", "reviews.prod:443"),
        *(
            "reviews.prod ",
            "reviews.prod\0",
            "*",
            "",
            ".",
            "rev\u0131ews.prod",
            "[reviews.prod]x",
            "::1%lo",
            "a" * 300,
        ),
    ],
)
def test_an_unknown_host_is_refused(host: str) -> None:
    """Names are exact: no search path, no wildcard, no port, no letters that only look alike."""
    assert not naming().knows(host)
    for ask in (naming().ids, lambda host: naming().authorize(SpiffeId.parse(REVIEWS), host)):
        with pytest.raises(SvidError) as caught:
            ask(host)
        assert caught.value.code == "unknown_service"


def test_the_nearest_names_are_told() -> None:
    """Most unknown names are misspelt."""
    with pytest.raises(SvidError, match=r"no service 'review\.prod'; near it are: reviews\.prod"):
        naming().ids("review.prod")


def test_a_host_without_identities_is_refused() -> None:
    """Istio would accept anyone of the mesh there."""
    with pytest.raises(SvidError) as caught:
        naming().ids("nobody")
    assert caught.value.code == "no_identity_named"


@pytest.mark.parametrize(
    ("host", "endpoints"),
    [
        ("Reviews.prod.", (("127.0.0.1", 8443), ("::1", 8444), ("pod-1.prod", 8443))),
        ("ratings.prod", (("ratings.prod", 9000),)),
        ("elsewhere.example", (("elsewhere.example", 9000),)),
        ("nobody", (("10.0.0.1", 1),)),
    ],
)
def test_endpoints_are_dialled_in_their_order(host: str, endpoints: tuple[tuple[str, int], ...]) -> None:
    """A host without any is dialled itself, at the port that was asked for."""
    assert naming().endpoints(host, 9000) == endpoints


@pytest.mark.parametrize(
    ("ids", "compatibility", "expected"),
    [
        ((REVIEWS,), "safe", {REVIEWS, OLD}),
        ((OLD,), "safe", {OLD}),
        ((PARTNER,), "safe", {PARTNER}),
        ((PARTNER,), "istio", {PARTNER, OLD}),
        (("spiffe://cluster.local/other",), "safe", {"spiffe://cluster.local/other"}),
    ],
)
def test_aliases_have_the_same_service_accounts(
    ids: tuple[str, ...], compatibility: Compatibility, expected: set[str]
) -> None:
    """Only of our own trust domain, unless Istio's reading is asked for; only service accounts."""
    found = naming({"a": Service(ids=ids)}, trust_domain_aliases=("old.local",), compatibility=compatibility).ids("a")
    assert {str(item) for item in found} == expected


@pytest.mark.parametrize("peer", [REVIEWS, OLD])
def test_a_named_peer_may_answer(peer: str) -> None:
    """The service's own account, under the trust domain's old name too."""
    naming(trust_domain_aliases=("old.local",)).authorize(SpiffeId.parse(peer), "reviews.prod")


@pytest.mark.parametrize(
    "peer",
    [
        OLD,
        PARTNER,
        "spiffe://cluster.local/ns/prod/sa/ratings",
        "spiffe://cluster.local/ns/test/sa/reviews",
        "spiffe://cluster.local/ns/prod/sa/Reviews",
        "spiffe://cluster.local/ns/prod/sa/reviews/x",
        "spiffe://cluster.local",
    ],
)
def test_anybody_else_may_not(peer: str) -> None:
    """Another domain, account, namespace, case or path."""
    with pytest.raises(SvidError, match=f"expected is {REVIEWS}$") as caught:
        naming().authorize(SpiffeId.parse(peer), "reviews.prod")
    assert caught.value.code == "peer_not_authorized"


def test_without_a_host_nobody_may_answer() -> None:
    """A client that forgot to say whom it wants gets no connection."""
    with pytest.raises(SvidError) as caught:
        naming().authorize(SpiffeId.parse(REVIEWS), None)
    assert caught.value.code == "unknown_service"


def test_every_wrong_service_is_told_at_once() -> None:
    """Services that were built in Python are checked as those of a file are."""
    wrong = {
        "a": Service(ids=("cluster.local/ns/a/sa/b",)),
        "b": Service(endpoints=("localhost",)),
        "c:443": Service(),
        "D": Service(),
        "d.": Service(),
    }
    with pytest.raises(ConfigError) as caught:
        naming(wrong)
    fields = [problem.field for problem in caught.value.problems]
    assert fields == ["services['a']", "services['b']", "services['c:443']", "services['d.']"]


@given(st.text(), st.integers(1, 65535))
def test_any_host_is_answered_or_refused(host: str, port: int) -> None:
    """No text is too strange."""
    assert naming().endpoints(host, port)
    if not naming().knows(host):
        with pytest.raises(SvidError):
            naming().ids(host)


@given(st.text(), st.text())
def test_any_service_is_accepted_or_a_config_error(host: str, text: str) -> None:
    """The same for what services are made of."""
    for service in (Service(ids=(text,)), Service(endpoints=(text,))):
        try:
            assert naming({host: service}).knows(host)
        except ConfigError as error:
            assert len(error.problems) == 1  # noqa: PT017 - either outcome is fine
