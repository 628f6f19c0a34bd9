"""The form of a request: what is answered whoever asks. Must not know: tokens, rules."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from ..attributes import HttpRequest, Refusal, RequestFacts, plain_path, read_line, read_request
from ..decision import Decision, Reason
from ..resources import METHODS, MeshConfig
from ._decisions import bad_request
from ._metadata import ResourceMetadata

__all__ = ["Form"]


@dataclass(frozen=True, slots=True)
class Form:
    """How one workload reads requests.

    Attributes:
        config: the mesh-wide settings.
        metadata: what OAuth clients are told (RFC 9728); None: nothing.
    """

    config: MeshConfig
    metadata: ResourceMetadata | None

    @property
    def metadata_url(self) -> str | None:
        """Where that is."""
        return None if self.metadata is None else self.metadata.url

    def read(self, request: HttpRequest) -> RequestFacts | Decision:
        """The facts about a request, or what is answered to any that is like it."""
        config = self.config
        facts = read_request(
            request, config.path_normalization, config.ambiguous_paths, compatibility=config.compatibility
        )
        return self._answered(request, facts)

    def read_line(self, known: RequestFacts, request: HttpRequest) -> RequestFacts | Decision | None:
        """The same of another request with the same header lines; None where only :meth:`read` can say."""
        facts = read_line(known, request, self.config.path_normalization, self.config.ambiguous_paths)
        return None if facts is None else self._answered(request, facts)

    def read_plain(self, request: HttpRequest) -> str | None:
        """The path of a request of which :meth:`read_line` would change and answer nothing; None where it may."""
        if request.mount or self.metadata is not None or request.method not in METHODS:
            return None
        return plain_path(request.target)

    def _answered(self, request: HttpRequest, facts: RequestFacts | Refusal) -> RequestFacts | Decision:
        if isinstance(facts, Refusal):
            return bad_request(facts)
        if request.mount and not _inside(facts.target.path, request.mount):
            return bad_request(Refusal(Reason.TARGET_OUTSIDE_MOUNT, "the path leaves its mount"))
        if self.metadata is not None and self.metadata.is_meant(facts):
            return self.metadata.decision
        return facts


def _inside(path: str, mount: str) -> bool:
    """Whether the application that is mounted at ``mount`` would be reached by the normalized path."""
    decoded = unquote_to_bytes(path).decode("latin-1")
    prefix = mount.rstrip("/")
    return decoded == prefix or decoded.startswith(prefix + "/")
