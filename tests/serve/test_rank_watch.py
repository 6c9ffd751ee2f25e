"""What the driver process sees of Ray: a real one of the test's own."""

import importlib.util
import os
import re
import signal
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from raylaunch.base import processes, rank_names
from raylaunch.base.processes import ProcessId, wait_until
from raylaunch.cluster import placement, ray_session, ship
from raylaunch.cluster.monitor import ClusterSample
from raylaunch.cluster.private import PrivateRay
from raylaunch.node.gpu_sample import GpuFault, GpuSample, GpusSample, XidEvent
from raylaunch.node.sampler import NodeSampler
from raylaunch.preflight.network.run import NetworkRequest, check_network
from raylaunch.serve.messages import DriverPulse
from raylaunch.serve.rank_watch import HealthSampler, RankWatcher
from tests.e2e import harness


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The mark of two nodes that this process has joined."""
    home = tmp_path_factory.mktemp("home")
    environment = {harness.MARK: str(home), "NCCL_SOCKET_IFNAME": "absent"}
    private = PrivateRay.start(nodes=2, gpus_per_node=1, env_vars=environment)
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


class RayWorkerProc:
    """Named as vLLM's."""

    def answer(self) -> int:
        return os.getpid()


def test_names_of_vllms_ranks() -> None:
    """The classes that vLLM makes actors of, in its source, and the titles that Ray gives to their processes."""
    spec = importlib.util.find_spec("vllm")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    folder = Path(spec.submodule_search_locations[0], "v1/executor")
    actors = re.compile(r"ray\.remote\((\w+)\)|\)\((\w+)\)\.remote\(")
    text = "".join(path.read_text() for path in folder.glob("ray_executor*.py"))
    found = {one or other for one, other in actors.findall(text)}
    assert "RayWorkerProc" in found
    assert found <= set(rank_names.CLASSES)
    assert (*(f"ray::{name}" for name in rank_names.CLASSES), "VLLM::Worker") == processes.RANK_TITLES


def list_actors(group_id: str) -> list[Any]:
    """All actors that have been in a placement group."""
    from ray._private.state import state
    from ray.core.generated import gcs_pb2

    table = state._connect_and_get_accessor().get_actor_table(None, None)
    actors = [gcs_pb2.ActorTableData.FromString(raw) for raw in table]
    return [actor for actor in actors if actor.placement_group_id == bytes.fromhex(group_id)]


@pytest.mark.ray
def test_actors_of_the_network_check_are_no_ranks(home: Path) -> None:
    """The check itself runs in the ranks' places, and has ended when they come: only a rank's death is one."""
    import ray

    assert wait_until(lambda: len(ray_session.list_nodes()) == 2, 60)
    places = placement.plan_places(ray_session.list_nodes(), tp=1, pp=2, gpus_per_node=1, tp_across_nodes=False)
    reservation = placement.reserve(places)
    watcher = RankWatcher(reservation.group_id, {}, tensor_parallel_size=1)
    request = NetworkRequest(reservation.places, reservation.group_id, shapes=None, is_logical=False, is_fresh=True)
    assert not check_network(request).has_passed  # no such interface: it ends before it tries anything
    assert wait_until(lambda: [actor.state for actor in list_actors(reservation.group_id)] == [4, 4], 30)  # DEAD
    pulse = watcher.make_pulse()
    assert (pulse.pids, pulse.dead) == ({}, ())
    where = ship.in_bundle(reservation.group_id, 1)
    actor = ray.remote(num_cpus=0, num_gpus=1)(RayWorkerProc).options(scheduling_strategy=where).remote()
    pid = ray.get(actor.answer.remote(), timeout=60)
    assert list(watcher.make_pulse().pids.values()) == [pid]
    ray.kill(actor)
    assert wait_until(lambda: len(watcher.make_pulse().dead) == 1, 30)
    assert watcher.make_pulse().pids == {}
    reservation.release()


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
