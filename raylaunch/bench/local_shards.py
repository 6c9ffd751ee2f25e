"""Shards as processes of this machine: started, begun at one moment, followed, stopped and brought home.

Each is a process of its own even where there is only one: what the starter does meanwhile (drawing, sampling) then
costs the load's loop nothing. A shard whose starter dies sees its pipe close, and ends.
"""

import os
import sys
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Protocol

from raylaunch.base.errors import BenchError
from raylaunch.base.ipc import ChildLink, ParentLink
from raylaunch.base.message_pipe import wait_for_any
from raylaunch.bench.shard import Shard
from raylaunch.bench.shard_plan import Prepared, ShardPlan, ShardProgress, ShardResult, StartAt, StopShard

_LEAD_S = 0.05
"""From the last shard's word that it is prepared to the common start."""
_END_GRACE_S = 5.0


class ShardRunner(Protocol):
    """Where shards run."""

    def run(
        self, plans: Sequence[ShardPlan], *, report: Callable[[ShardProgress], None], started: Callable[[float], None]
    ) -> list[ShardResult]:
        """Run all plans at once; times in the results are this machine's monotonic clock.

        A KeyboardInterrupt meanwhile ends the shards, and their results come back marked "stopped"; a second one is
        raised.

        Args:
            report: gets the sum of the shards' progress.
            started: gets the common start.
        """


def add_up(latest: Sequence[ShardProgress]) -> ShardProgress:
    """The sum of the shards' progress."""
    return ShardProgress(
        done=sum(one.done for one in latest),
        failed=sum(one.failed for one in latest),
        running=sum(one.running for one in latest),
        events=sum(one.events for one in latest),
    )


class LocalShards:
    """Shards as child processes."""

    def run(
        self, plans: Sequence[ShardPlan], *, report: Callable[[ShardProgress], None], started: Callable[[float], None]
    ) -> list[ShardResult]:
        """See ShardRunner."""
        links: list[ChildLink] = []
        try:
            for plan in plans:
                # It leads a session of its own: Ctrl-C reaches this process alone, which then stops the shards.
                link = ChildLink.launch(
                    "raylaunch.bench.local_shards", environment=os.environ, output=sys.stderr.buffer
                )
                links.append(link)
                link.send(plan)
            return self._follow(links, report, started)
        finally:
            for link in links:
                link.wait_end(_END_GRACE_S if link.last(ShardResult) else 0.0)

    def _follow(
        self, links: Sequence[ChildLink], report: Callable[[ShardProgress], None], started: Callable[[float], None]
    ) -> list[ShardResult]:
        latest = [ShardProgress(0, 0, 0, 0) for _ in links]
        stopped = is_started = False
        while running := [link for link in links if link.last(ShardResult) is None]:
            try:
                for link in wait_for_any(running, None):
                    number = links.index(link)
                    self._receive(link, number)
                    if (progress := link.last(ShardProgress)) is not None and progress is not latest[number]:
                        latest[number] = progress
                        report(add_up(latest))
                if not (is_started or stopped) and all(link.last(Prepared) for link in links):
                    is_started = True
                    start = monotonic() + _LEAD_S
                    started(start)
                    for link in links:
                        link.send(StartAt(start))
            except KeyboardInterrupt:
                if stopped:
                    raise
                stopped = True
                for link in running:
                    link.send(StopShard())  # one that ended just now has its result on the way
        return [result for link in links if (result := link.last(ShardResult)) is not None]

    def _receive(self, link: ChildLink, number: int) -> None:
        link.receive()
        if link.is_closed and link.last(ShardResult) is None:
            raise BenchError(
                f"shard {number} of the load test died",
                fix="its last output is above; out of memory? Fewer requests or more shards need less at once",
            )


class PipeControl:
    """How a shard process hears from, and reports to, its starter."""

    def __init__(self, parent: ParentLink) -> None:
        self._parent = parent
        self._stopped = False
        self._start: StartAt | None = None

    def wait_for_start(self) -> float | None:
        """See ShardControl."""
        self._parent.send(Prepared())
        while not self.is_stopped(None):
            if self._start is not None:
                return self._start.at_s
        return None

    def is_stopped(self, timeout_s: float | None = 0.0) -> bool:
        """See ShardControl: asked to, or the starter is gone."""
        if not self._stopped:
            for message in self._parent.receive(timeout_s):
                if isinstance(message, StartAt):
                    self._start = message
                self._stopped = self._stopped or isinstance(message, StopShard)
            self._stopped = self._stopped or self._parent.is_closed
        return self._stopped

    def report(self, progress: ShardProgress) -> None:
        """See ShardControl."""
        try:
            self._parent.send(progress)
        except BrokenPipeError:
            self._stopped = True


def main() -> None:
    """Run one shard: the plan comes from the starter, progress and the result go back."""
    parent = ParentLink()
    try:
        result = Shard(parent.wait_for(ShardPlan), PipeControl(parent)).run()
        result.node = os.uname().nodename
        parent.send(result)
    except BrokenPipeError:  # the starter is gone
        sys.exit(1)


if __name__ == "__main__":
    main()
