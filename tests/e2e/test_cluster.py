"""Joining a Ray cluster that raylaunch did not start: real `ray start` processes of the test's own."""

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from raylaunch.cluster import ray_session
from raylaunch.cluster.private import PrivateRay

from . import harness

pytestmark = pytest.mark.ray
_Answer = TypeVar("_Answer")


@pytest.fixture(scope="module")
def foreign_ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateRay]:
    """A cluster of one node with two logical GPUs that raylaunch did not start."""
    running = PrivateRay.start(nodes=1, gpus_per_node=2, env_vars={harness.MARK: str(tmp_path_factory.mktemp("ray"))})
    yield running
    running.stop()


def write_launch(folder: Path, *, nodes: int = 1, gpus: int = 1, wait_s: float = 2) -> Path:
    launch = folder / "launch.yaml"
    launch.write_text(
        "model: {repo: example/missing, path: /nonexistent/model}\n"
        f"cluster: {{nodes: {nodes}, gpus_per_node: {gpus}, wait_s: {wait_s}, local: true}}\n"
    )
    return launch


def test_missing_gpus_are_reported_with_what_was_seen(tmp_path: Path, foreign_ray: PrivateRay) -> None:
    """Two nodes required, one joined: exit 1 after wait_s with seen, expected, and the command to run."""
    ended = harness.run(
        "serve", str(write_launch(tmp_path, nodes=2, gpus=2)), "--set", f"server.port={harness.find_free_port()}",
        home=tmp_path / "home", RAY_ADDRESS=foreign_ray.address,
    )  # fmt: skip
    assert ended.returncode == 1, ended.stderr
    assert "expected 2 nodes with 2 GPUs each (4 in all), saw 2 GPUs" in ended.stderr
    assert "waiting: 1 of 2 nodes missing" in ended.stderr
    assert "ray status" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_foreign_cluster_is_left_alone(tmp_path: Path, foreign_ray: PrivateRay) -> None:
    """A service that joins a cluster and fails leaves every process of that cluster running."""
    ended = harness.run(
        "serve", str(write_launch(tmp_path)), "--set", f"server.port={harness.find_free_port()}",
        home=tmp_path / "home", RAY_ADDRESS=foreign_ray.address,
    )  # fmt: skip
    assert ended.returncode == 1, ended.stderr
    assert "/nonexistent/model" in ended.stderr
    assert foreign_ray.find_failure() is None
    assert all(node.identity.is_alive() for node in foreign_ray.nodes)


def ask_a_worker(private: PrivateRay, question: Callable[[], _Answer]) -> _Answer:
    """What a worker of this Ray answers."""
    import ray

    ray_session.join(private.address, env_vars={})
    try:
        answer: _Answer = ray.get(ray.remote(question).remote())
    finally:
        ray_session.leave()
    return answer


def test_private_ray_opens_more_files_than_a_login_shell_may(tmp_path: Path) -> None:
    """From a soft limit of 1,024, as on a fresh Debian, Ray's workers have what a server of many streams needs."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
    private = PrivateRay.start(nodes=1, gpus_per_node=1, env_vars={harness.MARK: str(tmp_path)})
    try:
        assert ask_a_worker(private, lambda: resource.getrlimit(resource.RLIMIT_NOFILE))[0] == min(65536, hard)
    finally:
        private.stop()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_ranks_of_a_private_ray_have_the_priority_of_their_server(foreign_ray: PrivateRay) -> None:
    """Ray's own default is niceness 15: behind the very processes that wait for them."""
    seen = ask_a_worker(foreign_ray, lambda: os.getpriority(os.PRIO_PROCESS, 0))
    assert seen == os.getpriority(os.PRIO_PROCESS, 0)


def test_dead_address_is_reported_at_once(tmp_path: Path) -> None:
    """Nothing at RAY_ADDRESS: Ray would retry for minutes."""
    address = f"127.0.0.1:{harness.find_free_port()}"
    ended = harness.run(
        "serve", str(write_launch(tmp_path)), "--set", f"server.port={harness.find_free_port()}",
        home=tmp_path / "home", RAY_ADDRESS=address, timeout_s=60,
    )  # fmt: skip
    assert ended.returncode == 1
    assert f"Ray at {address}: nothing accepts connections there" in ended.stderr


def test_private_ray_dies_with_its_starter(tmp_path: Path) -> None:
    """kill -9 of the process that started a private Ray takes the Ray nodes along."""
    script = (
        "import time; from raylaunch.cluster.private import PrivateRay;"
        "PrivateRay.start(nodes=1, gpus_per_node=1, env_vars={}); print('up', flush=True); time.sleep(600)"
    )
    starter = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, env=os.environ | {harness.MARK: str(tmp_path)}
    )
    assert starter.stdout is not None
    assert starter.stdout.readline() == b"up\n"
    starter.send_signal(signal.SIGKILL)
    starter.wait()
    until = time.monotonic() + 60
    while (left := harness.list_processes(tmp_path)) and time.monotonic() < until:
        time.sleep(0.2)
    assert left == {}
