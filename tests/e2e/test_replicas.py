"""Two replicas behind one socket, real engines on CPU: what ends one must not reach the clients of the other.

Each has a private Ray of its own, as in a demo, but for the test that joins a cluster. Needs the CPU engine and 8 GB of
memory.
"""

import contextlib
import http.client
import json
import os
import select
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from raylaunch.base.http_client import fetch_text
from raylaunch.base.processes import wait_until
from raylaunch.cluster.private import PrivateRay
from raylaunch.engine.rehearsal import plan
from raylaunch.engine.rehearsal.standin_model import Shape, write_standin

from . import harness
from .faults.clients import Clients, Hammer
from .faults.stage import MODEL, list_cores

pytestmark = [pytest.mark.engine, pytest.mark.alone, pytest.mark.faults]
BACK_S = 120.0


def write_launch(folder: Path, **cluster: object) -> Path:
    write_standin(folder / "model", Shape(heads=8, kv_heads=8, layers=4))
    block = {"nodes": 2, "gpus_per_node": 1, "local": True, "replicas": 2} | cluster
    launch = folder / "launch.yaml"
    launch.write_text(f"""\
model: {{repo: {MODEL}, path: {folder / "model"}}}
cluster: {json.dumps(block)}
engine: {{dtype: float32, enforce_eager: true, max_model_len: 1024, kv_cache_memory_bytes: 67108864}}
server: {{api_server_count: 2}}
keep: {{progress_limit_s: 30, canary_s: 5, drain_s: 60, stand_by: false}}
""")
    return launch


@dataclass
class Two:
    """A service of two replicas."""

    served: harness.Serving
    hammer: Hammer
    launch: Path

    def record(self) -> dict[str, Any]:
        (path,) = self.served.home.glob("services/*/service.json")
        found: dict[str, Any] = json.loads(path.read_text())
        return found

    def replica(self, index: int) -> dict[str, Any]:
        found: dict[str, Any] = self.record()["replicas"][index]
        return found

    def is_complete(self) -> bool:
        return all(one["state"] == "ready" and len(one["api_servers"]) == 2 for one in self.record()["replicas"])

    def find_rank(self, replica: int) -> int:
        return next(int(rank["pid"]) for rank in self.record()["ranks"] if rank["replica"] == replica)

    def find_host(self, replica: int) -> int:
        """The process that started the engine and forked its API servers."""
        server = self.replica(replica)["api_servers"][0]
        return int(Path(f"/proc/{server}/stat").read_text().rpartition(")")[2].split()[1])

    def find_core(self, replica: int) -> int:
        (core,) = list_cores(self.find_host(replica))
        return core

    def find_raylet(self, replica: int) -> int:
        port = self.replica(replica)["ray_address"].rpartition(":")[2]
        (raylet,) = harness.find_processes(self.served.home, "raylet/raylet", f":{port}")
        return raylet

    def count_streams(self, replica: int) -> int:
        """Requests that the replica's engine runs."""
        text = fetch_text(f"{self.served.url}/metrics", 10.0) or ""
        lines = [line for line in text.splitlines() if line.startswith("vllm:num_requests_running{")]
        return int(sum(float(line.rpartition(" ")[2]) for line in lines if f'replica="{replica}"' in line))

    def are_up(self) -> bool:
        """Whether /metrics says so of both."""
        text = fetch_text(f"{self.served.url}/metrics", 10.0) or ""
        return all(f'raylaunch_replica_up{{replica="{index}"}} 1.0' in text for index in (0, 1))

    def strike(self, find: Callable[[int], int], *, cuts: bool = False) -> None:
        """kill -9 something of replica 1 under eight streams: those of replica 0 run on, and it comes back.

        New requests go to replica 0 at once, those on connections to replica 1 too.

        Args:
            cuts: its clients' connections break off; else each client gets an error.
        """
        clients = Clients(self.served.url, MODEL)
        clients.start(streaming=8, plain=0, max_tokens=900)
        assert wait_until(lambda: self.count_streams(0) + self.count_streams(1) == 8, 20)
        hit = self.count_streams(1)
        assert 2 <= hit <= 6, hit  # shared out
        with steady_clients(self.served.url, 4) as wrong:
            os.kill(find(1), signal.SIGKILL)
            clients.wait()
        assert all(len(errors) <= 1 for errors in wrong), wrong  # the one in flight, and the next is served
        lost = [sent for sent in clients.sent if sent.error]
        assert 1 <= len(lost) <= hit, clients.describe()
        assert {"connection closed" in str(sent.error) for sent in lost} == {cuts}, clients.describe()
        assert wait_until(self.is_complete, BACK_S), self.served.text()
        assert self.hammer.refused == []


@contextlib.contextmanager
def two_replicas(folder: Path, **environ: str) -> Iterator[Two]:
    launch = write_launch(folder)
    with harness.serving(folder / "home", str(launch), **environ) as served:
        served.wait_ready()
        two = Two(served, Hammer(served.url), launch)
        assert wait_until(two.is_complete, BACK_S), served.text()
        with two.hammer:
            yield two


def ask_steadily(url: str, is_over: threading.Event, wrong: list[str], *, pause_s: float, keeps: bool) -> None:
    """Ask again and again: on one connection as pools do, which look whether it was closed, or on new ones."""
    host, _, port = url.removeprefix("http://").partition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=120)
    body = json.dumps({"model": MODEL, "prompt": "Hello", "max_tokens": 40, "ignore_eos": True})
    while not is_over.wait(pause_s):
        if connection.sock and (not keeps or select.select([connection.sock], [], [], 0)[0]):
            connection.close()
        try:
            connection.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            answer = response.read()
            if response.status != 200:
                wrong.append(f"HTTP {response.status}: {answer[:200]!r}")
        except (OSError, http.client.HTTPException) as error:
            wrong.append(repr(error))
            connection.close()
    connection.close()


@contextlib.contextmanager
def steady_clients(url: str, count: int, *, pause_s: float = 0.0) -> Iterator[list[list[str]]]:
    """Clients that ask again and again, every other one on a connection that it keeps; what went wrong for each.

    Args:
        pause_s: after each answer: without one they take both cores.
    """
    wrong: list[list[str]] = [[] for _ in range(count)]
    is_over = threading.Event()
    threads = [
        threading.Thread(
            target=ask_steadily, args=(url, is_over, found), kwargs={"pause_s": pause_s, "keeps": number % 2 == 0}
        )
        for number, found in enumerate(wrong)
    ]
    for thread in threads:
        thread.start()
    try:
        yield wrong
    finally:
        is_over.set()
        for thread in threads:
            thread.join(120)


@pytest.mark.timeout(600)
def test_a_rank_of_a_replica_dies(tmp_path: Path) -> None:
    """kill -9 of a rank under streams: those of the other run on, and the dead one comes back; then a drain of both."""
    before, folders = harness.list_shared_memory(), set(Path("/tmp").glob("raylaunch-*"))
    with two_replicas(tmp_path) as two:
        served = two.served
        two.strike(two.find_rank)
        (incident,) = json.loads(harness.run("incidents", "--json", home=served.home).stdout)
        assert (incident["replica"], incident["cause"]) == (1, "worker")
        assert wait_until(two.are_up, 20), served.text()  # the API servers hear of it a moment later

        two.hammer.pause()
        last = Clients(served.url, MODEL)
        last.start(streaming=6, plain=0, max_tokens=200)
        assert served.end(signal.SIGTERM) == 0
        last.wait()
        assert last.describe() == "6 x stream: HTTP 200, complete"
        assert served.wait_gone() == {}
    assert harness.list_shared_memory() - before == set()
    assert set(Path("/tmp").glob("raylaunch-*")) <= folders, "a private Ray's folder stayed"


@pytest.mark.whole
@pytest.mark.timeout(600)
def test_the_launch_changes_under_clients(tmp_path: Path) -> None:
    """Another launch, one replica after the other, under eight steady clients: no error, and no refused connection."""
    with two_replicas(tmp_path) as two:
        served = two.served
        cores = [two.find_core(0), two.find_core(1)]
        with steady_clients(served.url, 8, pause_s=0.2) as wrong:
            changed = harness.run("restart", str(two.launch), "--set", f"server.port={served.url.rpartition(':')[2]}",
                                  "--set", "engine.max_num_seqs=32", home=served.home, timeout_s=300)  # fmt: skip
            assert changed.returncode == 0, changed.stderr
            assert wait_until(two.is_complete, 60)
        assert not any(wrong), wrong
        assert not {two.find_core(0), two.find_core(1)} & {*cores}
        assert two.hammer.refused == []
        assert 503 not in two.hammer.statuses


@pytest.mark.whole
@pytest.mark.timeout(900)
def test_other_deaths_of_a_replica(tmp_path: Path) -> None:
    """kill -9 of EngineCore, its parent, a raylet, and of an API server, which costs its own clients only."""
    with two_replicas(tmp_path) as two:
        two.strike(two.find_core)
        two.strike(two.find_host)
        two.strike(two.find_raylet)
        core = two.find_core(1)
        two.strike(lambda index: int(two.replica(index)["api_servers"][1]), cuts=True)
        assert two.find_core(1) == core


@pytest.mark.whole
@pytest.mark.timeout(600)
def test_a_node_of_a_joined_cluster_dies(tmp_path: Path) -> None:
    """Each replica takes a node of the one cluster; the other's streams run on, and the dead one waits for a node."""
    cluster = PrivateRay.start(nodes=2, gpus_per_node=1, env_vars=plan.make_environment("cpu", 1))
    try:
        with two_replicas(tmp_path, RAY_ADDRESS=cluster.address) as two:
            nodes = [two.replica(index)["nodes"] for index in (0, 1)]
            away = nodes.index(["127.0.0.2"])
            assert len(nodes[1 - away]) == 1  # the head, by the machine's address
            clients = Clients(two.served.url, MODEL)
            clients.start(streaming=8, plain=0, max_tokens=900)
            assert wait_until(lambda: two.count_streams(0) + two.count_streams(1) == 8, 20)
            hit = two.count_streams(away)
            os.killpg(cluster.nodes[1].popen.pid, signal.SIGKILL)
            clients.wait()
            assert len([sent for sent in clients.sent if sent.error]) == hit, clients.describe()
            assert wait_until(lambda: "waiting for GPUs" in two.replica(away)["note"], BACK_S), two.record()
            again = Clients(two.served.url, MODEL)
            again.start(streaming=4, plain=0, max_tokens=50)
            again.wait()
            assert again.describe() == "4 x stream: HTTP 200, complete"
            assert two.hammer.refused == []
            assert json.loads(harness.run("status", "--json", home=two.served.home).stdout)["state"] == "ready"
    finally:
        cluster.stop()
