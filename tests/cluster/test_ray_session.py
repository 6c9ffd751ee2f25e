"""Waiting for GPUs, on a clock of the test's own."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from raylaunch.base.errors import NotEnoughGpusError
from raylaunch.cluster import ray_session
from raylaunch.cluster.ray_session import ClusterNode, GpuWait

HEAD = ClusterNode("a", "10.0.0.1", "head", 8, True)
WORKER = ClusterNode("b", "10.0.0.2", "worker", 8, False)
SMALL = ClusterNode("c", "10.0.0.3", "small", 2, False)


class Time:
    """A clock that moves only when the code sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


Nodes = tuple[ClusterNode, ...]


def wait(states: Iterator[Nodes], wait_s: float = 60, counts: Sequence[int] = ()) -> tuple[Nodes, list[list[str]]]:
    reported: list[list[str]] = []
    time = Time()
    counted = iter(counts)
    last: tuple[ClusterNode, ...] = ()

    def inspect() -> tuple[ClusterNode, ...]:
        nonlocal last
        last = next(states, last)
        return last

    def report(waiting: GpuWait) -> None:
        reported.append([*map(str, waiting.to_lines())])

    found = ray_session.wait_for_gpus(
        nodes=2, gpus_per_node=8, wait_s=wait_s, report=report, clock=time, sleep=time.sleep, inspect=inspect,
        count=lambda: next(counted, 16),
    )  # fmt: skip
    return found, reported


def test_waits_for_the_second_node_and_reports_it() -> None:
    """One line for each node, one for what is missing, with the time left."""
    found, reported = wait(iter([(), (HEAD,), (HEAD, WORKER)]))
    assert found == (HEAD, WORKER)
    assert reported[0] == ["waiting: 2 of 2 nodes missing, 0 of 16 GPUs found | 60 s left"]
    assert reported[1] == [
        "10.0.0.1: ready, 8 of 8 GPUs (head)",
        "waiting: 1 of 2 nodes missing, 8 of 16 GPUs found | 59 s left",
    ]
    assert reported[-1] == ["10.0.0.1: ready, 8 of 8 GPUs (head)", "10.0.0.2: ready, 8 of 8 GPUs"]


def test_rays_resources_confirm_the_nodes() -> None:
    """`ray.cluster_resources()` may lag behind the list of nodes: without its GPUs the wait goes on."""
    found, reported = wait(iter([(HEAD, WORKER)]), counts=[8, 8, 16])
    assert found == (HEAD, WORKER)
    assert len(reported) == 3
    with pytest.raises(NotEnoughGpusError, match="saw 8 GPUs after 0 s"):
        wait(iter([(HEAD, WORKER)]), wait_s=0, counts=[8])


def test_node_with_too_few_gpus_does_not_count() -> None:
    """Enough GPUs in all are not enough: they must be where the launch wants them."""
    big = ClusterNode("a", "10.0.0.1", "head", 14, True)
    with pytest.raises(NotEnoughGpusError) as raised:
        wait(iter([(big, SMALL)]), wait_s=3)
    assert "10.0.0.1 with 14 GPUs; 10.0.0.3 with 2 GPUs" in raised.value.what
    assert "expected 2 nodes with 8 GPUs each (16 in all)" in raised.value.what


def test_zero_wait_checks_once() -> None:
    """wait_s=0: one check, without waiting."""
    with pytest.raises(NotEnoughGpusError, match="no node at all"):
        wait(iter([()]), wait_s=0)
    assert wait(iter([(HEAD, WORKER)]), wait_s=0)[0] == (HEAD, WORKER)


def test_address_from_variable_wins_and_stale_notes_do_not_count(tmp_path: Path) -> None:
    """RAY_ADDRESS, else the note of a `ray start` whose cluster still answers."""
    assert ray_session.find_address({"RAY_ADDRESS": "10.0.0.1:6379"}) == "10.0.0.1:6379"
    assert ray_session.find_address({"RAY_TMPDIR": str(tmp_path)}) is None
    note = tmp_path / "ray" / "ray_current_cluster"
    note.parent.mkdir()
    note.write_text("127.0.0.1:1")
    assert ray_session.find_address({"RAY_TMPDIR": str(tmp_path)}) is None
