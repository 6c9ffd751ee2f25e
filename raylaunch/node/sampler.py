"""One node at this moment: its host, its GPUs, and what the sampling itself costs."""

import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from raylaunch.node.gpu_sample import GpuSampler, GpusSample
from raylaunch.node.host import read_process_name
from raylaunch.node.host_sample import HostSample, HostSampler

_WORKERS_EACH_S = 5.0


@dataclass(frozen=True, slots=True)
class NodeSample:
    """A node at one moment."""

    node_id: str
    """Ray's; "" without Ray."""
    ip: str
    hostname: str
    at: float
    """Wall clock of that node, seconds since 1970."""
    host: HostSample
    """Its `processes` are the engine's workers on this node."""
    gpus: GpusSample
    sampler_cpu_s: float
    """CPU seconds of the sampling process since it started, including Ray's part of it."""
    sampler_age_s: float
    """How long it has sampled."""


class NodeSampler:
    """Samples the node it runs on; as a Ray actor, by one call of `run`."""

    def __init__(self, node_id: str, ip: str) -> None:
        self._node_id, self._ip, self._hostname = node_id, ip, socket.gethostname()
        self._host, self._gpus = HostSampler(ip), GpuSampler()
        self._workers: tuple[int, ...] = ()
        self._workers_at = -_WORKERS_EACH_S
        self._began, self._began_cpu = time.monotonic(), time.process_time()
        self.sample()  # so that the first sample of `run` has rates

    def run(self, interval_s: float) -> Iterator[NodeSample]:
        """The node every `interval_s` seconds, endlessly.

        One streaming call instead of a call per sample: the main thread of an idle actor costs 0.5 % of a core (Ray
        2.60), one that sleeps inside a call nothing.
        """
        due = time.monotonic()
        while True:
            due = max(due + interval_s, time.monotonic())
            time.sleep(due - time.monotonic())
            yield self.sample()

    def sample(self) -> NodeSample:
        """The node now."""
        now = time.monotonic()
        if now - self._workers_at >= _WORKERS_EACH_S:
            self._workers, self._workers_at = _find_workers(), now
        return NodeSample(
            node_id=self._node_id,
            ip=self._ip,
            hostname=self._hostname,
            at=time.time(),
            host=self._host.sample(self._workers),
            gpus=self._gpus.sample(),
            sampler_cpu_s=time.process_time() - self._began_cpu,
            sampler_age_s=now - self._began,
        )


def _find_workers() -> tuple[int, ...]:
    """Pids of this Ray node's processes that carry an engine's rank: children of the raylet, as this actor is."""
    raylet = os.getppid()
    try:
        children = Path(f"/proc/{raylet}/task/{raylet}/children").read_text().split()
    except OSError:
        return ()
    return tuple(pid for pid in map(int, children) if read_process_name(pid).startswith("ray::RayWorker"))
