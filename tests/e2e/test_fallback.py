"""A node is lost and stays away: the fallback layout serves on the other one, and makes room when the node is back.

Real engines on CPU over two logical nodes of a Ray cluster of the test. Needs 6 GB of memory.
"""

import contextlib
import json
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from raylaunch.base.http_client import fetch_text
from raylaunch.base.ports import find_free_ports
from raylaunch.base.processes import Child, wait_until
from raylaunch.cluster import private
from raylaunch.cluster.private import PrivateRay
from raylaunch.engine.rehearsal import plan
from raylaunch.engine.rehearsal.standin_model import Shape, write_standin

from . import harness
from .faults.clients import Clients, Hammer, Sent
from .faults.stage import MODEL

pytestmark = [pytest.mark.engine, pytest.mark.alone, pytest.mark.faults, pytest.mark.whole]
BACK_S = 200.0


def write_launch(folder: Path) -> Path:
    write_standin(folder / "model", Shape(heads=8, kv_heads=8, layers=4))
    launch = folder / "launch.yaml"
    launch.write_text(f"""\
model: {{repo: {MODEL}, path: {folder / "model"}}}
cluster: {{nodes: 2, gpus_per_node: 1, local: true}}
engine:
  pipeline_parallel_size: 2
  dtype: float32
  enforce_eager: true
  max_model_len: 1024
  kv_cache_memory_bytes: 33554432
keep: {{progress_limit_s: 30, drain_s: 60, stand_by: false}}
fallback:
  after_s: 10
  steady_s: 10
  layouts:
    - cluster: {{nodes: 1}}
      engine: {{pipeline_parallel_size: 1, max_model_len: 512}}
""")
    return launch


@contextlib.contextmanager
def steady_client(url: str) -> Iterator[list[Sent]]:
    """A client that asks again and again, one request at a time; all that it sent."""
    sent: list[Sent] = []
    is_over = threading.Event()

    def ask() -> None:
        while not is_over.wait(0.2):
            clients = Clients(url, MODEL)
            clients.start(streaming=1, plain=0, max_tokens=30)
            clients.wait()
            sent.extend(clients.sent)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield sent
    finally:
        is_over.set()
        thread.join(120)


def start_second_node(cluster: PrivateRay, environment: dict[str, str]) -> Child:
    names = private._NODE_PORTS
    ports = [f"--{name}={port}" for name, port in zip(names, find_free_ports(len(names)), strict=True)]
    node_environment = private.make_environment("127.0.0.2", environment, real_gpus=False)
    return private._start_node(
        cluster.folder, "127.0.0.2", 1, [f"--address={cluster.address}", *ports], node_environment
    )


@dataclass
class Stage:
    """A service over two nodes of a cluster, and a client that asks all the time."""

    served: harness.Serving
    sent: list[Sent]

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(harness.run("status", "--json", home=self.served.home).stdout)
        return found

    def serves(self, layout: int) -> bool:
        (path,) = self.served.home.glob("services/*/service.json")
        record = json.loads(path.read_text())
        return bool(record["state"] == "ready" and record["layout"] == layout)

    def wait_for(self, layout: int) -> dict[str, Any]:
        """Wait until it serves in a layout, and until the client has had answers; its status then."""
        assert wait_until(lambda: self.serves(layout), BACK_S), self.served.text()
        before = len(self.sent)
        assert wait_until(lambda: [one.error for one in self.sent[before:]].count(None) > 2, 60)
        return self.status()

    def check_degraded(self, found: dict[str, Any]) -> None:
        """Status, top and metrics say that a fallback is served, and why."""
        assert found["degraded"] == (
            "1 of 2 nodes with 1 GPU(s) are there: fallback layout 1 of 1 (1 node(s) x 1 GPU(s), TP=1 x PP=1, "
            "max_model_len 512)"
        )
        assert (found["layout"], found["max_model_len"], found["models"][0]) == (1, 512, MODEL)
        assert [rank["ip"] == "127.0.0.2" for rank in found["ranks"]] == [False]
        for words in (["status"], ["top", "--once"]):
            assert f"degraded: {found['degraded']}" in harness.run(*words, home=self.served.home).stdout
        metrics = fetch_text(f"{self.served.url}/metrics", 10.0) or ""
        assert "raylaunch_degraded 1.0" in metrics
        assert "raylaunch_gpus_expected 2.0" in metrics

    def check_client(self) -> None:
        """It had answers, the service's own errors, and 503s that name the fallback."""
        errors = {(one.status, str(one.error)) for one in self.sent if one.error}
        assert {status for status, _ in errors} <= {200, 500, 503}
        assert not [error for _, error in errors if "TIMED OUT" in error or "connection closed" in error], errors
        assert [error for status, error in errors if status == 503 and "; degraded: 1 of 2 nodes" in error]
        assert self.sent[-1].error is None


@pytest.mark.timeout(900)
def test_a_lost_node_and_its_return(tmp_path: Path) -> None:
    """PP=2 over two nodes, then one stage on the node that is left, then PP=2 again."""
    environment = plan.make_environment("cpu", 2)
    cluster = PrivateRay.start(nodes=2, gpus_per_node=1, env_vars=environment)
    second: Child | None = None
    launch = str(write_launch(tmp_path))
    try:
        with harness.serving(tmp_path / "home", launch, RAY_ADDRESS=cluster.address) as served:
            served.wait_ready()
            with Hammer(served.url) as hammer, steady_client(served.url) as sent:
                stage = Stage(served, sent)
                found = stage.wait_for(0)
                assert (found["degraded"], found["max_model_len"]) == ("", 1024)
                os.killpg(cluster.nodes[1].popen.pid, signal.SIGKILL)
                stage.check_degraded(stage.wait_for(1))
                second = start_second_node(cluster, environment)
                found = stage.wait_for(0)
            assert (found["degraded"], found["layout"], found["max_model_len"]) == ("", 0, 1024)
            assert [rank["ip"] == "127.0.0.2" for rank in found["ranks"]] == [False, True]
            stage.check_client()
            assert hammer.refused == []
            assert set(hammer.statuses) <= {200, 503}
            incidents = json.loads(harness.run("incidents", "--json", home=served.home).stdout)
            assert "node" in [one["cause"] for one in incidents]  # Ray may hold the GPUs of a dead node for longer
            assert {one["outcome"] for one in incidents} == {"serving again"}
            assert served.end(signal.SIGTERM) == 0
            assert "SIGTERM handler" not in served.text(), "a thread joined Ray again"
    finally:
        if second is not None:
            second.send(signal.SIGTERM)
            second.wait_or_kill(10)
        cluster.stop()
