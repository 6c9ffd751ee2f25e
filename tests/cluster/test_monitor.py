"""The sampling actors against real Ray: two nodes on this machine, each a process tree of its own."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from raylaunch.base.processes import wait_until
from raylaunch.cluster import monitor, ray_session
from raylaunch.cluster.private import PrivateRay

pytestmark = pytest.mark.ray
DEADLINE_S = 60.0


@pytest.fixture(scope="module")
def two_nodes() -> Iterator[PrivateRay]:
    """A cluster of two nodes, joined by this process."""
    ray_nodes = PrivateRay.start(nodes=2, gpus_per_node=1, env_vars={})
    ray_session.join(ray_nodes.address, env_vars={})
    deadline = time.monotonic() + DEADLINE_S
    while len(ray_session.list_nodes()) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    yield ray_nodes
    ray_session.leave()
    ray_nodes.stop()


def count_samplers() -> int:
    import ray

    actors = ray._private.state.state.actor_table(None, None, "ALIVE").values()
    return sum(actor["ActorClassName"] == "NodeSampler" for actor in actors)


def test_every_node_each_second_until_told_to_stop(two_nodes: PrivateRay) -> None:
    """Three rounds: both nodes in order, rates from the first on, wall clocks that advance; then no actor is left."""
    stop = threading.Event()
    rounds = []
    deadline = time.monotonic() + 2 * DEADLINE_S
    for seen in monitor.follow(stop, interval_s=0.2):
        assert time.monotonic() < deadline, seen
        if not seen.silent:  # a node that is slow to start a process is reported as silent meanwhile
            rounds.append(seen)
        if len(rounds) == 3:
            stop.set()
    for seen in rounds:
        assert [node.node_id for node in seen.nodes] == [node.node_id for node in ray_session.list_nodes()]
        assert seen.nodes[1].ip == "127.0.0.2"
        for node in seen.nodes:
            assert node.host.cpu_percent is not None
            assert node.host.ram_total_bytes > node.host.ram_used_bytes > 0
            assert abs(node.at - time.time()) < DEADLINE_S
            assert node.gpus.gpus or node.gpus.error
    assert rounds[0].nodes[0].at < rounds[1].nodes[0].at < rounds[2].nodes[0].at
    assert isinstance(rounds[0].nodes[0], monitor.NodeSample)
    assert wait_until(lambda: count_samplers() == 0, DEADLINE_S)


def test_a_node_whose_sampler_hangs_is_silent_and_comes_back(two_nodes: PrivateRay) -> None:
    """A stopped process does not delay the other node's samples, and is sampled again when it continues."""
    import ray

    with contextlib.closing(monitor.Monitor()) as watching:
        assert wait_until(lambda: len(watching.sample().nodes) == 2, DEADLINE_S)
        actors = ray._private.state.state.actor_table(None, None, "ALIVE").values()
        pids = {actor["Address"]["IPAddress"]: actor["Pid"] for actor in actors}
        os.kill(pids["127.0.0.2"], signal.SIGSTOP)
        try:
            seen = watching.sample()
            assert [node.ip for node in seen.nodes] == [ray_session.list_nodes()[0].ip]
            assert [(node.ip, "no answer" in node.why) for node in seen.silent] == [("127.0.0.2", True)]
        finally:
            os.kill(pids["127.0.0.2"], signal.SIGCONT)
        assert wait_until(lambda: len(watching.sample().nodes) == 2, DEADLINE_S)


def test_samplers_end_with_a_watcher_that_is_killed(two_nodes: PrivateRay) -> None:
    """kill -9 of the watching process: Ray ends its actors on all nodes."""
    script = (
        "import sys, threading; from raylaunch.cluster import monitor, ray_session as cluster\n"
        "cluster.join(sys.argv[1], env_vars={})\n"
        "for seen in monitor.follow(threading.Event(), interval_s=0.2): print(len(seen.nodes), flush=True)"
    )
    watcher = subprocess.Popen(
        [sys.executable, "-c", script, two_nodes.address], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert watcher.stdout is not None
    assert any(line == b"2\n" for line in watcher.stdout)
    assert count_samplers() == 2
    watcher.kill()
    watcher.wait()
    assert wait_until(lambda: count_samplers() == 0, DEADLINE_S)


def test_a_node_that_leaves_is_reported(two_nodes: PrivateRay) -> None:
    """A lost node stays on the list, with since when; the living ones are sampled on."""
    head, other = ray_session.list_nodes()
    living = [head, other]
    with contextlib.closing(monitor.Monitor(list_nodes=lambda: tuple(living))) as watching:
        assert wait_until(lambda: len(watching.sample().nodes) == 2, DEADLINE_S)
        living.remove(other)
        seen = watching.sample()
        assert [node.node_id for node in seen.nodes] == [head.node_id]
        [silent] = seen.silent
        assert silent.ip == other.ip
        assert silent.why.startswith("gone from Ray for ")


def test_without_ray_this_machine_alone() -> None:
    """One node, without an id of Ray's."""
    stop = threading.Event()
    [seen] = [seen for seen in monitor.follow(stop, watcher=monitor.LocalMonitor()) if not stop.set()]
    [node] = seen.nodes
    assert (node.node_id, node.ip) == ("", "127.0.0.1")
    assert node.host.cores == os.cpu_count()
