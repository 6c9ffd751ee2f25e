"""Load from two Ray nodes, their clocks apart."""

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from raylaunch.base.processes import kill_group, wait_until
from raylaunch.bench import run
from raylaunch.bench.figures import Level
from raylaunch.bench.load import LoadTest
from raylaunch.bench.prompts import RequestOptions
from raylaunch.bench.ray_shards import RayShards, measure_offset
from raylaunch.bench.target import Target
from raylaunch.cluster import ray_session
from raylaunch.cluster.private import PrivateRay
from tests.bench import odd_server
from tests.e2e import harness


def test_offset_of_a_clock_is_found() -> None:
    """A clock 1,000 s ahead, over a line that is slow at random: as exact as the quickest answer."""
    now = [0.0]
    delays = iter([0.2, 0.01, 0.3, 0.002, 0.1] * 4)

    def ask() -> float:
        delay = next(delays)
        now[0] += delay * 0.7
        reported = now[0] + 1000.0
        now[0] += delay * 0.3
        return reported

    offset, error = measure_offset(ask, lambda: now[0])
    assert abs(offset - 1000.0) <= error <= 0.001 + 1e-9


@pytest.fixture(scope="module")
def private() -> Iterator[PrivateRay]:
    """Two nodes."""
    private = PrivateRay.start(nodes=2, gpus_per_node=0, env_vars={})
    try:
        yield private
    finally:
        private.stop()


@pytest.fixture(scope="module")
def address(private: PrivateRay) -> str:
    """Of its head."""
    return private.address


@pytest.fixture(scope="module")
def nodes(address: str) -> Iterator[tuple[ray_session.ClusterNode, ...]]:
    """Both nodes, joined."""
    ray_session.join(address, env_vars={})
    assert wait_until(lambda: len(ray_session.list_nodes()) == 2, 180.0)
    yield ray_session.list_nodes()
    ray_session.leave()


def make_test(url: str, **changes: object) -> LoadTest:
    test = LoadTest(
        Target(url, "odd"), RequestOptions("chat", 6), ["Hi"] * 10, (Level(8),), warmup=0, timeout_s=300.0, seed=0,
        requests=60, machines=2,
    )  # fmt: skip
    return replace(test, **changes)  # type: ignore[arg-type]


@pytest.mark.ray
def test_both_nodes_carry_the_load(nodes: tuple[ray_session.ClusterNode, ...]) -> None:
    """One shard on each, half of the requests each, one time axis; 1 % errors counted across both."""
    with odd_server.serve(lambda number: "503" if number == 30 else "") as server:
        outcome = run.run_test(make_test(server.url), RayShards(nodes), None, show=lambda _: None)
    [level] = outcome.result.levels
    assert (level.ended, level.requests_ok, level.requests_failed) == ("whole", 59, 1)
    assert [shard.node.split()[-1] for shard in level.client.shards] == [node.ip for node in nodes]
    assert all(shard.clock_error_ms > 0 for shard in level.client.shards)
    shards = [row[2] for row in outcome.rows]
    assert (shards.count(0), shards.count(1)) == (30, 30)
    due_us = [row[3] for row in outcome.rows]
    assert -20_000 < min(due_us) < max(due_us) < level.duration_s * 1e6


@pytest.mark.ray
def test_ctrl_c_brings_home_what_there_is(nodes: tuple[ray_session.ClusterNode, ...]) -> None:
    def interrupt() -> None:
        time.sleep(1.5)
        os.kill(os.getpid(), signal.SIGINT)

    seen = threading.Thread(target=interrupt)

    def show(lines: object) -> None:
        if not seen.is_alive() and not seen.ident:
            seen.start()

    with odd_server.serve() as server:
        outcome = run.run_test(make_test(server.url, requests=10**6), RayShards(nodes), None, show=show)
    seen.join()
    assert outcome.result.levels[-1].ended == "stopped"
    assert outcome.result.levels[-1].requests_ok > 0
    assert {row[2] for row in outcome.rows} == {0, 1}


@pytest.mark.ray
def test_every_node_is_sampled_meanwhile(
    nodes: tuple[ray_session.ClusterNode, ...], address: str, tmp_path: Path
) -> None:
    """`raylaunch bench` on a machine of the cluster: load from here alone (a loopback server), samples of all nodes."""
    result = tmp_path / "load.json"
    with odd_server.serve() as server:
        done = harness.run(
            "bench", "--url", server.url, "-c", "2", "--duration", "4s", "--warmup", "0", "--force", "-o", str(result),
            home=tmp_path, RAY_ADDRESS=address,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    reported = json.loads(result.read_text())
    assert reported["sampling_problem"] == ""
    assert sorted(reported["nodes"]) == sorted(node.ip for node in nodes)
    sampled = [sample for sample in reported["levels"][0]["samples"] if len(sample["nodes"]) == 2]
    assert len(sampled) >= 2
    assert len(reported["client"]["shards"]) == 1


@pytest.mark.ray
def test_a_lost_node_costs_its_rows_and_is_told(
    nodes: tuple[ray_session.ClusterNode, ...], private: PrivateRay
) -> None:
    """The second node dies under load (the last test that has it): the first one's rows are there, marked invalid."""

    def kill_node() -> None:
        time.sleep(1.5)
        kill_group(private.nodes[1].popen.pid)

    killer = threading.Thread(target=kill_node)

    def show(lines: object) -> None:
        if not killer.ident:
            killer.start()

    with odd_server.serve() as server:
        test = make_test(server.url, requests=None, duration_s=6.0)
        outcome = run.run_test(test, RayShards(nodes), None, show=show)
    killer.join()
    [level] = outcome.result.levels
    assert level.ended == "lost"
    assert outcome.result.valid is False
    assert "lost" in " ".join(outcome.result.invalid_because)
    assert level.requests_ok > 0
    assert {row[2] for row in outcome.rows} == {0}


def test_a_service_on_all_interfaces_is_named_by_its_address() -> None:
    """Other nodes cannot use 127.0.0.1."""
    target = Target("https://127.0.0.1:8080", "m", on_all_interfaces=True)
    assert target.is_local
    assert target.seen_from_afar("10.0.0.7").url == "https://10.0.0.7:8080"
    assert target.seen_from_afar("fd00::7").url == "https://[fd00::7]:8080"
    assert not target.seen_from_afar("10.0.0.7").is_local


def test_shards_follow_load_and_machines(tmp_path: Path) -> None:
    """One for each 500 streams, one on each machine at least, never more than streams."""
    test = make_test("http://127.0.0.1:1", machines=1)
    assert test.count_shards(Level(8)) == 1
    assert replace(test, machines=4).count_shards(Level(8)) == 4
    assert replace(test, machines=4).count_shards(Level(2)) == 2
    assert replace(test, shards=3).count_shards(Level(100)) == 3
    assert test.count_shards(Level(rate_per_s=5.0)) == 1
