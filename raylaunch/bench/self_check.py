"""Whether the client itself kept up: what a shard notes about itself, and what makes a result INVALID."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from raylaunch.base import processes

MAX_CPU_SHARE = 0.85
"""Of one core, for one shard: above it, reads wait for the client."""
MAX_SLOW_SHARE = 0.02
"""Share of the run that a shard may spend in turns of its loop longer than SLOW_TURN_S."""
SLOW_TURN_S = 0.025
"""A turn of the loop this long puts that much error on the times it notes."""
MAX_WAIT_PER_TURN_S = 0.005
"""How long, on average, a turn of the loop may have waited for a core."""
MAX_LATE_P99_S = 0.010
"""Open loop: how late after its intended moment the last hundredth of requests may leave."""
MAX_FAILED_SHARE = 0.05
"""Above it, the figures are those of the survivors: what failed left its share of the server to them."""
FD_RESERVE = 64
"""Files a process holds besides its connections."""


@dataclass
class SelfCheck:
    """A shard's notes about itself."""

    began_s: float = 0.0
    ended_s: float = 0.0
    cpu_s: float = 0.0
    max_loop_lag_s: float = 0.0
    """The longest turn of the loop, or lateness of its timer: the largest error of a noted time."""
    slow_s: float = 0.0
    """Time spent in turns longer than SLOW_TURN_S."""
    turns: int = 0
    reads: int = 0
    runnable_wait_s: float | None = None
    """Time it was ready to run and the kernel ran something else; None where the kernel does not count it."""
    connects_s: list[float] = field(default_factory=list)
    """Time to set up each connection, TLS included."""
    refused_for_files: int = 0
    """Connections that were not opened because the process is out of file descriptors."""
    _cpu_at_start: float = 0.0
    _wait_at_start: float | None = None

    def start(self, now: float) -> None:
        """Begin to watch; `now` is the shard's clock."""
        self.began_s = now
        self._cpu_at_start = time.process_time()
        self._wait_at_start = read_runnable_wait_s()

    def note_turn(self, lag_s: float) -> None:
        """Take one turn of the loop: how long it delayed the next check of the sockets."""
        self.turns += 1
        self.max_loop_lag_s = max(self.max_loop_lag_s, lag_s)
        if lag_s > SLOW_TURN_S:
            self.slow_s += lag_s

    def end(self, now: float) -> None:
        """Stop watching."""
        self.ended_s = now
        self.cpu_s = time.process_time() - self._cpu_at_start
        waited = read_runnable_wait_s()
        if waited is not None and self._wait_at_start is not None:
            self.runnable_wait_s = waited - self._wait_at_start

    @property
    def duration_s(self) -> float:
        """How long it watched."""
        return max(self.ended_s - self.began_s, 1e-9)


def read_runnable_wait_s() -> float | None:
    """Seconds this process was ready and did not run (/proc/self/schedstat, its second figure), or None."""
    try:
        ran, waited, _ = Path("/proc/self/schedstat").read_text().split()
    except (OSError, ValueError):
        return None
    return int(waited) / 1e9 if int(ran) else None


def make_room(streams: int) -> int:
    """Raise the limit of open files as far as `streams` need; returns how many streams fit."""
    return max(1, min(streams, processes.raise_file_limit(streams + FD_RESERVE) - FD_RESERVE))


def find_client_limits(checks: Sequence[SelfCheck], late_p99_s: float | None) -> list[str]:
    """Every way in which the client was the limit, as sentences; none means that the figures are the server's.

    Args:
        late_p99_s: open loop only: the 99th percentile of a request's leaving after its intended moment.
    """
    found = []
    for number, notes in enumerate(checks):
        name = f"shard {number}"
        share = notes.cpu_s / notes.duration_s
        if share > MAX_CPU_SHARE:
            found.append(f"{name} used {share:.0%} of a core: more shards are needed (--shards)")
        slow = notes.slow_s / notes.duration_s
        if slow > MAX_SLOW_SHARE:
            found.append(
                f"{name} spent {slow:.0%} of the run in turns longer than {SLOW_TURN_S * 1e3:.0f} ms "
                f"(longest {notes.max_loop_lag_s * 1e3:.0f} ms): times are off by as much"
            )
        if notes.runnable_wait_s is not None and notes.runnable_wait_s / max(notes.turns, 1) > MAX_WAIT_PER_TURN_S:
            found.append(f"{name} waited {notes.runnable_wait_s:.1f} s for a core: this machine is too busy to measure")
        if notes.refused_for_files:
            found.append(f"{name} was out of file descriptors {notes.refused_for_files} times (ulimit -n)")
    if late_p99_s is not None and late_p99_s > MAX_LATE_P99_S:
        found.append(f"requests left late: p99 {late_p99_s * 1e3:.0f} ms after the moment they were meant for")
    return found
