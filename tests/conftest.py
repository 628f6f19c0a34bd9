"""What every test shares: how property tests run."""

from __future__ import annotations

from hypothesis import settings

# Two processes share a small machine: a slow example is no failure, and a failing one is printed to be replayed.
settings.register_profile("meshsec", deadline=None, print_blob=True)
settings.load_profile("meshsec")
