"""What is to be measured."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field

from raylaunch.bench import stats
from raylaunch.bench.figures import Level
from raylaunch.bench.prompts import LoadPrompt, RequestOptions
from raylaunch.bench.target import Target

STREAMS_PER_SHARD = 500
"""One shard carries 500 streams of 50 tokens/s in about a third of a core (docs/bench.md)."""


@dataclass(frozen=True)
class LoadTest:
    """What is to be measured."""

    target: Target
    request: RequestOptions
    prompts: Sequence[LoadPrompt]
    levels: tuple[Level, ...]
    warmup: int
    """Requests before the first level, which are not counted."""
    timeout_s: float
    """Longest silence on a request."""
    seed: int
    requests: int | None = None
    """For each level; None with a duration: as many as fit; None without: three times as many as at once."""
    duration_s: float | None = None
    shards: int | None = None
    """None: as many as the load needs and its machines have cores for, and at least one on each of them."""
    machines: int = 1
    """Machines that carry the load."""
    slo: stats.Slo = field(default_factory=stats.Slo)
    source: str = ""
    """Where the prompts come from, as text."""

    def count_requests(self, level: Level) -> int | None:
        """Requests of a level; None leaves it to the duration."""
        if self.requests is not None or self.duration_s is not None:
            return self.requests
        return max(20, 3 * level.concurrency) if level.concurrency else 200

    def count_shards(self, level: Level) -> int:
        """Shards of a level."""
        if self.shards is not None:
            return max(1, min(self.shards, level.concurrency or self.shards))
        wanted = -(-(level.concurrency or 1) // STREAMS_PER_SHARD)
        wanted = max(self.machines, min(wanted, self.machines * max(1, (os.cpu_count() or 2) - 1)))
        return min(wanted, level.concurrency or wanted)
