"""What the driver process sees of Ray: a real one of the test's own."""

import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from raylaunch.base.processes import ProcessId, wait_until
from raylaunch.cluster import ray_session
from raylaunch.cluster.monitor import ClusterSample
from raylaunch.cluster.private import PrivateRay
from raylaunch.node.gpu_sample import GpuFault, GpuSample, GpusSample, XidEvent
from raylaunch.node.sampler import NodeSampler
from raylaunch.serve.messages import DriverPulse
from raylaunch.serve.rank_watch import HealthSampler, RankWatcher
from tests.e2e import harness


@pytest.fixture
def two_nodes(tmp_path: Path) -> Iterator[PrivateRay]:
    private = PrivateRay.start(nodes=2, gpus_per_node=1, env_vars={harness.MARK: str(tmp_path)})
    try:
        ray_session.join(private.address, env_vars={})
        yield private
    finally:
        ray_session.leave()
        private.stop()


def find_raylet(home: Path, ip: str) -> ProcessId:
    (pid,) = (
        pid
        for pid in harness.list_processes(home)
        if (words := Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"))[0].endswith(b"/raylet")
        and f"--node_ip_address={ip}".encode() in words
    )
    identity = ProcessId.of(pid)
    assert identity is not None
    return identity


@pytest.mark.ray
def test_dead_raylet_is_seen_by_its_refused_port(two_nodes: PrivateRay, tmp_path: Path) -> None:
    """Its node is named as soon as its port refuses, whatever Ray's own table says for seconds more."""
    assert wait_until(lambda: len(ray_session.list_nodes()) == 2, 60)
    nodes = {node.node_id: node.ip for node in ray_session.list_nodes()}
    watcher = RankWatcher("00" * 18, nodes, tensor_parallel_size=1)
    assert watcher.make_pulse().gone == ()
    raylet = find_raylet(tmp_path, "127.0.0.2")
    os.kill(raylet.pid, signal.SIGKILL)
    assert wait_until(lambda: not raylet.is_alive(), 10)
    assert wait_until(lambda: watcher.make_pulse().gone == ("127.0.0.2",), 10)


class OneSample:
    """A watcher that has one sample to give."""

    def __init__(self, sample: ClusterSample) -> None:
        self._sample, self.given = sample, threading.Event()

    def sample(self) -> ClusterSample:
        self.given.set()
        return self._sample

    def close(self) -> None:
        pass


def test_a_lost_gpu_that_carries_no_rank_is_no_fault() -> None:
    """Nor are its heat and its Xids; those of a GPU with a rank are."""
    xid = XidEvent(79, "GPU has fallen off the bus", 0.0, of_the_gpu=True)
    hot = {"reasons": ("hw_thermal_slowdown",), "xids": (xid,)}
    gpus = tuple(GpuSample(index, fault=GpuFault.LOST, error="GPU is lost", **hot) for index in (0, 4))
    sampler = NodeSampler("n", "10.0.0.1").sample()
    watcher = OneSample(ClusterSample(0.0, (replace(sampler, gpus=GpusSample(gpus)),)))
    health = HealthSampler(watcher, {"10.0.0.1": frozenset({4, 5})})
    assert watcher.given.wait(10)
    assert wait_until(lambda: bool(health.complete(DriverPulse()).nodes), 10)
    pulse = health.complete(DriverPulse())
    health.stop()
    assert pulse.lost_gpus == ("GPU 4 of node 10.0.0.1 is lost: GPU is lost",)
    assert {gpu for _, gpu, _ in pulse.throttled} == {4}
    assert [warning for warning in pulse.warnings if "GPU 0" in warning] == []
    assert [gpu.gpu for gpu in pulse.nodes["10.0.0.1"].gpus] == [4]
