"""py-spiffe's X509Source as an identity: known by what it can do."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from meshsec.ca import CertificateAuthority
from meshsec.errors import SvidError
from meshsec.sources import IdentityKeeper, X509SourceIdentity
from meshsec.spiffe import SpiffeId

NOW = 1_800_000_000.0
ID = SpiffeId.for_service_account("cluster.local", "prod", "web")


class X509Source:
    """What py-spiffe 0.3 offers, with an authority behind it in place of an agent."""

    def __init__(self) -> None:
        self.authority = CertificateAuthority.create("cluster.local", now=NOW)
        self.error: Exception | None = None
        self.known = {"cluster.local"}
        self.renew()

    def renew(self) -> None:
        """As the agent does."""
        self.svid = self.authority.issue_x509_svid(ID, now=NOW)

    def get_x509_context(self) -> SimpleNamespace:
        """One snapshot."""
        if self.error:
            raise self.error
        given = SimpleNamespace(
            spiffe_id=SimpleNamespace(trust_domain=SimpleNamespace(name="cluster.local")),
            cert_chain=list(self.svid.certificates),
            private_key=self.svid.private_key,
        )
        return SimpleNamespace(default_svid=given, x509_bundle_set=self)

    def get_bundle_for_trust_domain(self, trust_domain: SimpleNamespace) -> SimpleNamespace | None:
        """The authorities, as a set."""
        authorities = set(self.authority.bundle.x509_authorities)
        return SimpleNamespace(x509_authorities=authorities) if trust_domain.name in self.known else None


@pytest.fixture
def source() -> X509Source:
    """A source that works."""
    return X509Source()


def test_the_sources_identity_is_published_and_followed(source: X509Source) -> None:
    """What is unchanged is not published anew."""
    keeper = IdentityKeeper(X509SourceIdentity(source), expected=ID)
    keeper.load(NOW)
    before = keeper.material.current()
    keeper.refresh(NOW)
    assert keeper.material.current() is before
    source.renew()
    keeper.refresh(NOW)
    assert keeper.material.current().svid == source.svid


@pytest.mark.parametrize("error", [RuntimeError("closed"), OSError("gone"), KeyError("x")])
def test_a_source_that_fails_changes_nothing(source: X509Source, error: Exception) -> None:
    """Whatever it raises; the last good identity goes on, and the status says why."""
    keeper = IdentityKeeper(X509SourceIdentity(source), expected=ID)
    keeper.load(NOW)
    before = keeper.material.current()
    source.error = error
    keeper.refresh(NOW)
    assert keeper.material.current() is before
    assert keeper.status()["failure"] == f"X509Source: X509Source failed: {type(error).__name__}"


def test_a_source_without_our_bundle_is_refused(source: X509Source) -> None:
    """Nobody could be verified with it."""
    source.known = set()
    with pytest.raises(SvidError, match=r"no bundle of cluster\.local"):
        X509SourceIdentity(source).read(NOW)


def test_a_key_that_does_not_fit_is_refused(source: X509Source) -> None:
    """The SVID is checked as any other."""
    other = source.authority.issue_x509_svid(ID, now=NOW)
    source.svid = SimpleNamespace(certificates=source.svid.certificates, private_key=other.private_key)  # type: ignore[assignment]
    with pytest.raises(SvidError, match="key"):
        X509SourceIdentity(source).read(NOW)


def test_what_an_agent_has_denied_is_used_until_it_ends(source: X509Source, caplog: pytest.LogCaptureFixture) -> None:
    """py-spiffe goes on handing it out and says nothing; its end is said aloud, and nothing is served any longer."""
    keeper = IdentityKeeper(X509SourceIdentity(source), expected=ID)
    keeper.load(NOW)
    keeper.refresh(source.svid.not_after)
    assert keeper.status()["failure"] is None
    assert "expired" not in caplog.text
    keeper.refresh(source.svid.not_after + 1)
    keeper.refresh(source.svid.not_after + 2)
    assert caplog.text.count("our own identity holds no longer: ") == 1
