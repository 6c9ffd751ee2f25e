"""What a shard is given, and what it returns."""

from dataclasses import dataclass, field
from typing import Protocol

from raylaunch.bench.connection import RequestRow, ServerAddress
from raylaunch.bench.self_check import SelfCheck


@dataclass(frozen=True)
class ShardPlan:
    """What one shard is to do."""

    addresses: tuple[ServerAddress, ...]
    """Tried in this order until one connects."""
    head: bytes
    """Of every request: wire.make_head."""
    bodies: tuple[bytes, ...]
    """Request n sends bodies[(first_body + n) % len(bodies)]."""
    timeout_s: float
    """Longest silence on a request."""
    first_body: int = 0
    shard: int = 0
    shards: int = 1
    """This shard sends the requests shard, shard + shards, shard + 2 shards, ..."""
    concurrency: int | None = None
    """Closed loop: of all shards together; each stream sends its next request when the last is answered."""
    rate_per_s: float | None = None
    """Open loop: of all shards together; Poisson arrivals, whatever the server does."""
    requests: int | None = None
    duration_s: float | None = None
    """No request begins later than this."""
    seed: int = 0

    @property
    def streams(self) -> int:
        """Closed loop: connections of this shard."""
        assert self.concurrency is not None
        return self.concurrency // self.shards + (self.shard < self.concurrency % self.shards)


@dataclass(frozen=True)
class ShardProgress:
    """How far a shard is."""

    done: int
    failed: int
    running: int
    events: int
    """Output events of the requests that are done."""


@dataclass
class ShardResult:
    """What a shard brings back."""

    rows: list[RequestRow]
    self_check: SelfCheck
    began_s: float
    """On the shard's own monotonic clock."""
    ended_s: float
    ended: str
    """"whole", "stopped" (from outside), "gone" (every request fails), "stalled" (no byte for timeout_s) or "lost"
    (the shard itself)."""
    cut_off: int = 0
    """Requests under way that were given up because the run was stopped."""
    rows_cut: list[RequestRow] = field(default_factory=list)
    clock_offset_s: float = 0.0
    """This shard's clock minus the starter's (processes of one machine share it)."""
    clock_error_s: float = 0.0
    """The most that the offset can be wrong by."""
    node: str = ""


@dataclass(frozen=True)
class Prepared:
    """From a shard: it is ready to start."""


@dataclass(frozen=True)
class StartAt:
    """To a shard: begin at this time of the monotonic clock."""

    at_s: float


@dataclass(frozen=True)
class StopShard:
    """To a shard: end now, and send what was measured."""


class ShardControl(Protocol):
    """How a shard hears from, and reports to, its starter."""

    def wait_for_start(self) -> float | None:
        """Tell that all is prepared; returns the moment to begin on this machine's clock, or None to end."""

    def is_stopped(self) -> bool:
        """Whether to end now."""

    def report(self, progress: ShardProgress) -> None:
        """Take the state; called twice a second."""
