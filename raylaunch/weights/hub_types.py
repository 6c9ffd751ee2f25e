"""A repo's listing on the hub, and how a process reaches the hub."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class HubAccess:
    """Endpoint and token, sent to the processes on other nodes."""

    endpoint: str
    token: str | None = field(default=None, repr=False)

    @classmethod
    def of_this_process(cls) -> "HubAccess":
        """Endpoint and token as huggingface_hub finds them here."""
        from huggingface_hub import get_token

        return cls(get_endpoint(), get_token())


@dataclass(frozen=True, slots=True)
class RepoFile:
    """A file as the hub lists it."""

    size: int
    sha256: str | None = None
    """Known for files in LFS, as all weights are."""
    git_sha1: str | None = None
    """Git's id, known for the other files: SHA-1 over "blob <size>", a zero byte and the content."""


@dataclass(frozen=True)
class Listing:
    """A repo at one commit."""

    repo: str
    revision: str | None
    """As requested."""
    commit: str
    endpoint: str
    files: Mapping[str, RepoFile]
    """The files that a server needs, by name."""
    left_out: Mapping[str, int]
    """The other files: path -> bytes."""

    @property
    def source(self) -> str:
        """Endpoint and commit, as text."""
        return f"{self.endpoint} commit {self.commit}"


def get_endpoint() -> str:
    """URL of the hub, or of the mirror in HF_ENDPOINT."""
    from huggingface_hub import constants

    return (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")
