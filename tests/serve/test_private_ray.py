"""The private Ray that outlives the engines in it: when it is used again, and when there is a fresh one. Real Ray."""

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from raylaunch.base.errors import ClusterError
from raylaunch.base.processes import MARK_VARIABLE, list_group_names, list_marked, wait_until
from raylaunch.engine.load_table import LoadTable
from raylaunch.engine.rehearsal.plan import ResolvedLaunch
from raylaunch.serve import faults
from raylaunch.serve.attempts import AttemptFactory
from raylaunch.serve.listener import listen
from raylaunch.serve.private_ray import PrivateRays
from raylaunch.serve.private_ray_process import PrivateRayProcess
from tests.config import launches

pytestmark = pytest.mark.ray
_UP_S, _END_S = 60.0, 30.0
LAUNCH = launches.load(None, "cluster.nodes=2", "engine.pipeline_parallel_size=2", "model.path=/nowhere/model")


@pytest.fixture
def rays(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[PrivateRays]:
    """None yet; no cluster can be joined."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    rays = PrivateRays(lambda: False)
    yield rays
    rays.close()


def find_up(rays: PrivateRays, **env_vars: str) -> PrivateRayProcess:
    """The current one, all its daemons there."""
    ray = rays.find(LAUNCH, "cpu", env_vars)
    assert ray is not None
    assert wait_until(ray.is_complete, _UP_S), ray.find_failure()
    return ray


def kill_in_group(leader: int, name: str) -> None:
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):  # gone meanwhile
            pid = int(entry.name) if entry.name.isdigit() else 0
            if pid and os.getpgid(pid) == leader and (entry / "comm").read_text().strip() == name:
                os.kill(pid, signal.SIGKILL)


def assert_gone(ray: PrivateRayProcess) -> None:
    assert list_marked(MARK_VARIABLE, ray.mark) == []
    assert not any(leader.is_alive() for leader in ray.leaders)
    assert ray.up is not None
    assert not Path(ray.up.folder).exists()


def test_it_carries_the_next_engine_unless_it_is_doubtful(rays: PrivateRays) -> None:
    """After a fault of the engine's own; not after one of Ray's, or a start that failed, for the next would fail too.

    Another environment of its nodes needs another, as `raylaunch restart` may bring. They end, folder and all.
    """
    ray = find_up(rays)
    for cause in ("worker", "engine", "wedge", "canary"):
        rays.judge(cause, was_serving=True)
        assert rays.find(LAUNCH, "cpu", {}) is ray
    for cause, was_serving in (("gcs", True), ("driver", True), ("worker", False)):
        assert not rays.is_fit(cause, was_serving=was_serving), cause
    rays.judge("node", was_serving=True)
    assert rays.current is None
    rays.end_retired()
    fresh = find_up(rays)
    assert rays.find(LAUNCH, "cpu", {"A": "1"}) is not fresh
    rays.judge("worker", was_serving=False)
    assert rays.current is None
    rays.close()
    assert fresh.mark != ray.mark
    assert_gone(ray)
    assert_gone(fresh)


@pytest.mark.parametrize(("at", "daemon"), [(0, "gcs_server"), (1, "raylet")])
def test_dead_daemon_is_seen_whatever_the_cause_is_called(rays: PrivateRays, at: int, daemon: str) -> None:
    """At once: Ray itself takes a second or two to report it, and its node's process another."""
    ray = find_up(rays)
    leader = ray.leaders[1 + at]
    kill_in_group(leader.pid, daemon)
    assert wait_until(lambda: daemon not in list_group_names(leader.pid), 5.0)
    assert not ray.is_complete()
    rays.judge("worker", was_serving=True)
    assert rays.find(LAUNCH, "cpu", {}) is not ray


def test_none_where_a_cluster_can_be_joined(rays: PrivateRays, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    assert rays.find(LAUNCH, "cpu", {}) is None


def test_death_of_a_node_ends_a_start_with_its_last_words(rays: PrivateRays, tmp_path: Path) -> None:
    """While its GPUs are awaited: not a wait of ten minutes."""
    ray = find_up(rays)
    os.kill(ray.leaders[2].pid, signal.SIGKILL)
    assert wait_until(lambda: ray.find_failure() is not None, _END_S)
    with listen("127.0.0.1", 0) as bound:
        attempt = AttemptFactory(ResolvedLaunch(LAUNCH, "cpu"), bound, tmp_path, loads=LoadTable.create(1)).begin()
    attempt.ray = ray
    try:
        with pytest.raises(ClusterError, match=r"a Ray node of this launch's own died: 127\.0\.0\.2: "):
            faults.raise_on_failed_start(attempt)
    finally:
        attempt.end()
    assert rays.find(LAUNCH, "cpu", {}) is not ray


def test_killed_keeper_leaves_nothing(rays: PrivateRays) -> None:
    """The kernel tells its nodes; one that waits for a head that went first is killed with the rest."""
    ray = find_up(rays)
    os.kill(ray.process.identity.pid, signal.SIGKILL)
    assert wait_until(lambda: not ray.is_complete(), _END_S)
    assert "the process that keeps the private Ray of this launch ended by signal 9" in str(ray.find_failure())
    rays.close()
    assert_gone(ray)
