"""Samples of the cluster, every second: a small Ray actor on each node, which ends with the watching process.

::

    cluster.join(address, env_vars={})
    for sample in monitor.follow(stop):      # stop: threading.Event
        for node in sample.nodes:
            node.host.cpu_percent, [gpu.power_w for gpu in node.gpus.gpus]

The actors need no CPU in Ray's accounts and are not detached: Ray ends them when this process leaves or dies.
"""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from raylaunch.cluster import ray_session, ship
from raylaunch.cluster.ranks import Rank, list_living_ranks
from raylaunch.node.sampler import NodeSample, NodeSampler

_LATE_S = 0.9
"""A node whose sample is this much later than the others' is reported as silent, until it sends the next one."""
_START_S = 30.0
"""Longest wait for the first answer: Ray starts a process on each node (1 to 3 s, more where a disk is cold)."""
_WORKERS_EACH_S = 5.0
_UNREAD = 4
"""Samples that wait for a watcher that does not read (Ctrl-Z); then the actor pauses."""
_AGAIN_S = 10.0
"""From an actor's death to the start of another one on that node."""


@dataclass(frozen=True, slots=True)
class SilentNode:
    """A known node without a sample this time."""

    ip: str
    why: str


@dataclass(frozen=True, slots=True)
class ClusterSample:
    """All nodes at one moment."""

    at: float
    """Wall clock here, seconds since 1970."""
    nodes: tuple[NodeSample, ...]
    """The head first, then by address."""
    silent: tuple[SilentNode, ...] = ()
    workers: tuple[Rank, ...] = ()
    """Of all engines in this cluster."""


@dataclass(slots=True)
class _Watched:
    node: ray_session.ClusterNode
    actor: Any = None
    stream: Any = None
    """The actor's samples: an ObjectRefGenerator; None where no actor runs."""
    heard: bool = False
    """Whether this actor has sent a sample already."""
    why: str = ""
    since: float = 0.0
    """When it became silent (monotonic)."""


class Monitor:
    """Samples every node of the Ray cluster that this process joined; new nodes are added, lost ones reported.

    Args:
        interval_s: seconds from one sample to the next, measured on the nodes.
        list_nodes: the living nodes.
    """

    def __init__(
        self,
        interval_s: float = 1.0,
        *,
        list_nodes: Callable[[], tuple[ray_session.ClusterNode, ...]] = ray_session.list_nodes,
    ) -> None:
        self._interval_s, self._list_nodes = interval_s, list_nodes
        self._watched: dict[str, _Watched] = {}
        self._workers: tuple[Rank, ...] = ()
        self._workers_at = -_WORKERS_EACH_S

    def sample(self) -> ClusterSample:
        """Wait for the next sample of each node; the first call also waits for the actors to start."""
        import ray

        self._update_nodes()
        if time.monotonic() - self._workers_at >= _WORKERS_EACH_S:
            self._workers, self._workers_at = list_living_ranks(), time.monotonic()
        watched = list(self._watched.values())
        due = [one for one in watched if one.stream is not None and not one.why]
        timeout_s = self._interval_s + (_LATE_S if any(one.heard for one in due) else _START_S)
        if due:
            ray.wait([one.stream for one in due], num_returns=len(due), timeout=timeout_s, fetch_local=True)
        else:
            time.sleep(self._interval_s)
        samples = [sample for one in watched if (sample := self._read_newest(one)) is not None]
        silent = tuple(
            SilentNode(one.node.ip, f"{one.why} for {time.monotonic() - one.since:.0f} s") for one in watched if one.why
        )
        return ClusterSample(time.time(), tuple(samples), silent, self._workers)

    def close(self) -> None:
        """End the actors."""
        import ray

        for watched in self._watched.values():
            if watched.actor is not None and ray.is_initialized():
                ray.kill(watched.actor)
        self._watched.clear()

    def _update_nodes(self) -> None:
        living = {node.node_id: node for node in self._list_nodes()}
        addresses = {node.ip for node in living.values()}
        for node_id, watched in list(self._watched.items()):
            if node_id in living:
                continue
            if watched.node.ip in addresses:  # it is back: a node that joins again has a new id
                del self._watched[node_id]
            else:
                self._lose(watched, "gone from Ray")
        for node_id, node in living.items():
            known = self._watched.setdefault(node_id, _Watched(node))
            if known.actor is None and (not known.why or time.monotonic() - known.since >= _AGAIN_S):
                known.actor = _start_actor(node)
                known.stream = known.actor.run.options(
                    num_returns="streaming", _generator_backpressure_num_objects=_UNREAD
                ).remote(self._interval_s)
                known.heard, known.why = False, ""

    def _read_newest(self, watched: _Watched) -> NodeSample | None:
        import ray

        newest: NodeSample | None = None
        while watched.stream is not None and ray.wait([watched.stream], timeout=0)[0]:
            try:
                newest = ray.get(next(watched.stream))
            except (ray.exceptions.RayError, StopIteration) as error:
                self._lose(watched, f"sampling ended ({type(error).__name__})")
                return None
        if newest is not None:
            watched.heard, watched.why = True, ""
        elif watched.stream is not None:
            self._mark_silent(watched, "no answer" if watched.heard else "no first sample")
        return newest

    def _lose(self, watched: _Watched, why: str) -> None:
        watched.actor = watched.stream = None
        self._mark_silent(watched, why)

    def _mark_silent(self, watched: _Watched, why: str) -> None:
        if not watched.why:
            watched.since = time.monotonic()
        watched.why = why


class LocalMonitor:
    """Samples this machine in this process, without Ray."""

    def __init__(self, interval_s: float = 1.0) -> None:
        self._stream = NodeSampler("", "127.0.0.1").run(interval_s)

    def sample(self) -> ClusterSample:
        """Wait for the next sample of this machine."""
        node = next(self._stream)
        return ClusterSample(node.at, (node,))

    def close(self) -> None:
        """Nothing to end: all runs in this process."""


Watcher = Monitor | LocalMonitor


def follow(
    stop: threading.Event, *, interval_s: float = 1.0, watcher: Watcher | None = None
) -> Iterator[ClusterSample]:
    """Sample all nodes every `interval_s` seconds until `stop` is set, then end the actors.

    Args:
        watcher: by default a Monitor of the Ray cluster that this process joined.
    """
    watcher = watcher or Monitor(interval_s)
    try:
        while not stop.is_set():
            yield watcher.sample()
    finally:
        watcher.close()


def _start_actor(node: ray_session.ClusterNode) -> Any:
    import ray

    with ship.node_code():
        return (
            ray.remote(num_cpus=0, max_restarts=0, max_task_retries=0)(NodeSampler)
            .options(scheduling_strategy=ship.on_node(node.node_id))
            .remote(node.node_id, node.ip)
        )
