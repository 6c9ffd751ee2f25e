"""Shards as Ray actors spread over the nodes of a cluster, on one time axis.

Every node has a clock of its own. Latencies are taken within one shard and need no other clock; to lay all rows on one
axis, each node's offset is measured by asking it for its time, before and after the load, as NTP does: the quickest of
many round trips, half of which is the most that the offset can be wrong by.
"""

import threading
import time
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any

from raylaunch.base.errors import BenchError
from raylaunch.bench.local_shards import add_up
from raylaunch.bench.self_check import SelfCheck
from raylaunch.bench.shard import Shard
from raylaunch.bench.shard_plan import ShardPlan, ShardProgress, ShardResult
from raylaunch.cluster import ship
from raylaunch.cluster.ray_session import ClusterNode

_PINGS = 20
_LEAD_S = 0.5
_EACH_S = 0.25
_ANSWER_S = 60.0
"""Longest wait for a node's answer: Ray may have to start a process there."""


class ShardActor:
    """A shard on some node; one thread runs the load, another answers."""

    def __init__(self, hostname: str) -> None:
        self._hostname = hostname
        self._start: float | None = None
        self._may_start, self._stopped = threading.Event(), threading.Event()
        self._prepared = False
        self._progress = ShardProgress(0, 0, 0, 0)

    def run(self, plan: ShardPlan) -> ShardResult:
        """Offer the load; returns when it is through or stopped."""
        result = Shard(plan, self).run()
        result.node = self._hostname
        return result

    def tell_time(self) -> float:
        """This node's monotonic clock."""
        return monotonic()

    def read_state(self) -> tuple[bool, ShardProgress]:
        """Whether it is prepared, and how far it is."""
        return self._prepared, self._progress

    def begin(self, start: float) -> None:
        """Begin at this moment of the node's own clock."""
        self._start = start
        self._may_start.set()

    def stop(self) -> None:
        """End now, and return what was seen."""
        self._stopped.set()
        self._may_start.set()

    # What the shard asks of its starter (shard_plan.ShardControl):

    def wait_for_start(self) -> float | None:
        """See ShardControl."""
        self._prepared = True
        self._may_start.wait()
        return None if self._stopped.is_set() else self._start

    def is_stopped(self) -> bool:
        """See ShardControl."""
        return self._stopped.is_set()

    def report(self, progress: ShardProgress) -> None:
        """See ShardControl."""
        self._progress = progress


def measure_offset(ask: Callable[[], float], clock: Callable[[], float] = monotonic) -> tuple[float, float]:
    """How far another clock is ahead of this one, and how wrong that can be, in seconds.

    Args:
        ask: asks the other clock.
    """
    best = (float("inf"), 0.0)
    for _ in range(_PINGS):
        sent = clock()
        theirs = ask()
        back = clock()
        best = min(best, (back - sent, theirs - (sent + back) / 2))
    return best[1], best[0] / 2


class RayShards:
    """Shards on the nodes of the Ray cluster that this process joined, in turn.

    Args:
        nodes: where to.
    """

    def __init__(self, nodes: Sequence[ClusterNode]) -> None:
        self._nodes = nodes

    def run(
        self, plans: Sequence[ShardPlan], *, report: Callable[[ShardProgress], None], started: Callable[[float], None]
    ) -> list[ShardResult]:
        """See ShardRunner. A node that is lost meanwhile costs its rows, and the result shows it (ended: "lost")."""
        import ray

        actors = [_start_actor(self._nodes[number % len(self._nodes)]) for number in range(len(plans))]
        try:
            runs = [actor.run.remote(plan) for actor, plan in zip(actors, plans, strict=True)]
            before = self._begin(actors, runs, started)
            results = self._follow(actors, runs, report)
            for number, (actor, result) in enumerate(zip(actors, results, strict=True)):
                offset, error = before[number]
                if result.ended != "lost":
                    after = measure_offset(lambda actor=actor: float(ray.get(actor.tell_time.remote())))  # type: ignore[misc]
                    offset, error = (offset + after[0]) / 2, max(error, after[1]) + abs(offset - after[0]) / 2
                result.clock_offset_s, result.clock_error_s = offset, error
            return results
        finally:
            for actor in actors:
                ray.kill(actor)

    def _begin(
        self, actors: Sequence[Any], runs: Sequence[Any], started: Callable[[float], None]
    ) -> list[tuple[float, float]]:
        """Wait until all are prepared, measure their clocks, and begin at one moment."""
        import ray

        until = monotonic() + _ANSWER_S
        try:
            while not all(
                prepared for prepared, _ in ray.get([actor.read_state.remote() for actor in actors], timeout=_ANSWER_S)
            ):
                if done := ray.wait(list(runs), timeout=0)[0]:
                    ray.get(done)  # a shard that ended before it began: what it raised
                if monotonic() > until:
                    raise BenchError("the load's shards did not start", fix="`ray status` shows the nodes")
                time.sleep(0.05)
            offsets = [
                measure_offset(lambda actor=actor: float(ray.get(actor.tell_time.remote(), timeout=_ANSWER_S)))  # type: ignore[misc]
                for actor in actors
            ]
        except ray.exceptions.RayError as error:
            raise BenchError(
                f"a node cannot run the load: {str(error).strip().splitlines()[-1]}",
                fix="every node needs this raylaunch; or keep the load here with --here",
            ) from error
        start = monotonic() + _LEAD_S
        started(start)
        ray.get([actor.begin.remote(start + offset) for actor, (offset, _) in zip(actors, offsets, strict=True)])
        return offsets

    def _follow(
        self, actors: Sequence[Any], runs: Sequence[Any], report: Callable[[ShardProgress], None]
    ) -> list[ShardResult]:
        import ray

        latest = [ShardProgress(0, 0, 0, 0) for _ in actors]
        results: dict[int, ShardResult] = {}
        stopped = False
        while len(results) < len(actors):
            try:
                left = [number for number in range(len(actors)) if number not in results]
                ray.wait([runs[number] for number in left], num_returns=len(left), timeout=_EACH_S)
                for number in left:
                    if ray.wait([runs[number]], timeout=0)[0]:
                        results[number] = _take(runs[number])
                        continue
                    answer = actors[number].read_state.remote()
                    if ray.wait([answer], timeout=_EACH_S)[0]:
                        latest[number] = _try(answer, latest[number])
                report(add_up(latest))
            except KeyboardInterrupt:
                if stopped:
                    raise
                stopped = True
                for number, actor in enumerate(actors):
                    if number not in results:
                        actor.stop.remote()
        return [results[number] for number in range(len(actors))]


def find_own_ip() -> str:
    """The address by which Ray knows this machine."""
    import ray

    return str(ray.util.get_node_ip_address())


def _try(answer: Any, otherwise: ShardProgress) -> ShardProgress:
    import ray

    try:
        _, progress = ray.get(answer)
    except ray.exceptions.RayError:
        return otherwise
    assert isinstance(progress, ShardProgress)
    return progress


def _take(run: Any) -> ShardResult:
    import ray

    try:
        result = ray.get(run)
    except ray.exceptions.RayActorError:
        now = monotonic()
        return ShardResult([], SelfCheck(began_s=now, ended_s=now), now, now, "lost")
    assert isinstance(result, ShardResult)
    return result


def _start_actor(node: ClusterNode) -> Any:
    import ray

    return (
        ray.remote(num_cpus=0, max_restarts=0, max_task_retries=0, max_concurrency=4)(ShardActor)
        .options(scheduling_strategy=ship.on_node(node.node_id))
        .remote(f"{node.hostname} {node.ip}")
    )
