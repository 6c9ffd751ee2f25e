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


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The mark of two nodes that this process has joined."""
    home = tmp_path_factory.mktemp("home")
    private = PrivateRay.start(nodes=2, gpus_per_node=1, env_vars={harness.MARK: str(home)})
    try:
        ray_session.join(private.address, env_vars={})
        yield home
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


class NetworkProber:
    def answer(self) -> int:
        return os.getpid()


class RayWorkerProc(NetworkProber):
    """Named as vLLM's."""


@pytest.mark.ray
def test_actors_of_the_network_check_are_no_ranks(home: Path) -> None:
    """They were in the ranks' places and have ended when the ranks come: only a rank's death is one."""
    import ray
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    group = ray.util.placement_group([{"GPU": 1, "CPU": 1}] * 2, strategy="SPREAD")
    assert group.wait(60)
    watcher = RankWatcher(group.id.hex(), {}, tensor_parallel_size=1)
    for kind, dead in ((NetworkProber, 0), (RayWorkerProc, 1)):
        place = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=1)
        actor = ray.remote(num_gpus=1)(kind).options(scheduling_strategy=place).remote()
        pid = ray.get(actor.answer.remote(), timeout=60)
        assert list(watcher.make_pulse().pids.values()) == [pid] * dead
        ray.kill(actor)
        assert wait_until(lambda pid=pid: ProcessId.of(pid) is None, 30)
        assert wait_until(lambda: not watcher.make_pulse().pids, 30)
        assert len(watcher.make_pulse().dead) == dead
    ray.util.remove_placement_group(group)


@pytest.mark.ray
def test_dead_raylet_is_seen_by_its_refused_port(home: Path) -> None:
    """Its node is named as soon as its port refuses, whatever Ray's own table says for seconds more."""
    assert wait_until(lambda: len(ray_session.list_nodes()) == 2, 60)
    nodes = {node.node_id: node.ip for node in ray_session.list_nodes()}
    watcher = RankWatcher("00" * 18, nodes, tensor_parallel_size=1)
    assert watcher.make_pulse().gone == ()
    raylet = find_raylet(home, "127.0.0.2")
    os.kill(raylet.pid, signal.SIGKILL)
    assert wait_until(lambda: not raylet.is_alive(), 10)
    pulse = watcher.make_pulse()
    assert (pulse.gone, pulse.gpus) == (("127.0.0.2",), len(ray_session.list_nodes()))  # a GPU each


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
