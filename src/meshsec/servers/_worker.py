"""What our own worker classes for gunicorn have in common. Imports nothing of gunicorn's."""

from __future__ import annotations

__all__ = ["CarriesPeers"]


class CarriesPeers:
    """Marks them: they take the context from our hook, and hand each request its transport."""

    @classmethod
    def check_server(cls) -> None:
        """Raises ConfigError where the server's own code is not what it was written for."""
