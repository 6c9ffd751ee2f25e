"""One node at this moment: its machine, its GPUs, and what the sampling itself costs.

Runs on nodes, shipped by value beside raylaunch.checks, gpu_sample.py and host_sample.py.
"""

import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass

from raylaunch.gpu_sample import GpuSampler, GpusSample
from raylaunch.host_sample import HostSample, HostSampler


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
    gpus: GpusSample
    sampler_cpu_s: float
    """Processor seconds of the sampling process since it started, Ray's part in it included."""
    sampler_age_s: float
    """Since when it samples."""


class NodeSampler:
    """Samples the node it runs on."""

    def __init__(self, node_id: str, ip: str) -> None:
        self._node_id, self._ip, self._hostname = node_id, ip, socket.gethostname()
        self._host, self._gpus = HostSampler(ip), GpuSampler()
        self._began, self._began_cpu = time.monotonic(), time.process_time()
        self._host.sample()  # so that the first sample that somebody sees has rates

    def sample(self, pids: Sequence[int] = ()) -> NodeSample:
        """The node now, with the processes `pids` of it."""
        return NodeSample(
            node_id=self._node_id,
            ip=self._ip,
            hostname=self._hostname,
            at=time.time(),
            host=self._host.sample(pids),
            gpus=self._gpus.sample(),
            sampler_cpu_s=time.process_time() - self._began_cpu,
            sampler_age_s=time.monotonic() - self._began,
        )
