"""What the hub answers, and how a process reaches it."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class HubAccess:
    """How this process reaches the hub, for a process on another node."""

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
    """Of files under LFS, which all weights are."""
    git_sha1: str | None = None
    """Git's id of the others: SHA-1 over "blob <size>", a zero byte and the content."""


@dataclass(frozen=True)
class Listing:
    """A repo at one commit."""

    repo: str
    revision: str | None
    """As asked for."""
    commit: str
    endpoint: str
    files: Mapping[str, RepoFile]
    """What a server needs of it, by name."""
    left_out: Mapping[str, int]
    """The rest: path -> bytes."""

    @property
    def source(self) -> str:
        """Where the files come from, in words."""
        return f"{self.endpoint} commit {self.commit}"


def get_endpoint() -> str:
    """Address of the hub, or of the mirror that HF_ENDPOINT names."""
    from huggingface_hub import constants

    return (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")
