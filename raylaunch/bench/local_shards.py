"""Shards as processes of this machine: started, begun at one moment, followed, stopped and brought home.

Each is a process of its own even where there is only one: what the starter does meanwhile (drawing, sampling) then
costs the load's loop nothing. A shard whose starter dies sees its pipe close, and ends.
"""

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, Pipe, wait
from time import monotonic
from typing import Any, Protocol

from raylaunch.base.errors import BenchError
from raylaunch.bench.shard import Shard
from raylaunch.bench.shard_plan import ShardPlan, ShardProgress, ShardResult

_LEAD_S = 0.05
"""From the last shard's word that it is prepared to the common start."""


class ShardRunner(Protocol):
    """Where shards run."""

    def run(
        self, plans: Sequence[ShardPlan], *, report: Callable[[ShardProgress], None], started: Callable[[float], None]
    ) -> list[ShardResult]:
        """Run all plans at once; times in the results are this machine's monotonic clock.

        A KeyboardInterrupt meanwhile ends the shards, and their results come back marked "stopped"; a second one is
        raised.

        Args:
            report: is told the sum of the shards' progress.
            started: is told the common start.
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
        pipes: list[Connection[Any, Any]] = []
        children = []
        try:
            for plan in plans:
                ours, theirs = Pipe()
                command = [sys.executable, "-m", "raylaunch.bench.local_shards", str(theirs.fileno())]
                # A session of its own: Ctrl-C reaches this process alone, and it tells the shards.
                children.append(subprocess.Popen(command, pass_fds=[theirs.fileno()], start_new_session=True))
                theirs.close()
                ours.send(plan)
                pipes.append(ours)
            return self._follow(pipes, report, started)
        finally:
            for pipe in pipes:
                pipe.close()
            for child in children:
                try:
                    child.wait(5)
                except subprocess.TimeoutExpired:
                    child.kill()
                    child.wait()

    def _follow(
        self,
        pipes: "Sequence[Connection[Any, Any]]",
        report: Callable[[ShardProgress], None],
        started: Callable[[float], None],
    ) -> list[ShardResult]:
        latest = [ShardProgress(0, 0, 0, 0) for _ in pipes]
        results: dict[int, ShardResult] = {}
        prepared, stopped = 0, False
        while len(results) < len(pipes):
            try:
                for ready in wait([pipe for number, pipe in enumerate(pipes) if number not in results]):
                    assert isinstance(ready, Connection)
                    number = pipes.index(ready)
                    message = self._receive(ready, number)
                    if isinstance(message, ShardResult):
                        results[number] = message
                    elif isinstance(message, ShardProgress):
                        latest[number] = message
                        report(add_up(latest))
                    else:
                        prepared += 1
                        if prepared == len(pipes) and not stopped:
                            start = monotonic() + _LEAD_S
                            started(start)
                            for pipe in pipes:
                                pipe.send(start)
            except KeyboardInterrupt:
                if stopped:
                    raise
                stopped = True
                for number, pipe in enumerate(pipes):
                    if number not in results:
                        with contextlib.suppress(OSError):  # it ended just now: its result is on the way
                            pipe.send("stop")
        return [results[number] for number in range(len(pipes))]

    def _receive(self, pipe: "Connection[Any, Any]", number: int) -> Any:
        try:
            return pipe.recv()
        except (EOFError, ConnectionResetError):
            raise BenchError(
                f"shard {number} of the load test died",
                fix="its last words are above; out of memory? Fewer requests or more shards need less at once",
            ) from None


class PipeControl:
    """The child's end of the pipe."""

    def __init__(self, pipe: "Connection[Any, Any]") -> None:
        self._pipe = pipe
        self._stopped = False

    def wait_for_start(self) -> float | None:
        """See ShardControl."""
        if self._stopped:
            return None
        self._pipe.send("prepared")
        try:
            said = self._pipe.recv()
        except EOFError:
            said = "stop"
        self._stopped = self._stopped or said == "stop"
        return None if said == "stop" else float(said)

    def is_stopped(self) -> bool:
        """See ShardControl: told so, or the starter is gone."""
        if not self._stopped and self._pipe.poll():
            self._stopped = True
        return self._stopped

    def report(self, progress: ShardProgress) -> None:
        """See ShardControl."""
        try:
            self._pipe.send(progress)
        except (BrokenPipeError, ConnectionResetError):
            self._stopped = True


def main() -> None:
    """A shard as a process: the plan comes over the inherited pipe, progress and the result go back."""
    pipe: Connection[Any, Any] = Connection(int(sys.argv[1]))
    plan = pipe.recv()
    result = Shard(plan, PipeControl(pipe)).run()
    result.node = os.uname().nodename
    try:
        pipe.send(result)
    except (BrokenPipeError, ConnectionResetError):
        sys.exit(1)


if __name__ == "__main__":
    main()
