"""What the driver process sees of Ray: a real one of the test's own."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from raylaunch.base.processes import ProcessId, wait_until
from raylaunch.cluster import ray_session
from raylaunch.cluster.private import PrivateRay
from raylaunch.serve.rank_watch import RankWatcher
from tests.e2e import harness

pytestmark = pytest.mark.ray


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
