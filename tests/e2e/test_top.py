"""`raylaunch top` and Prometheus on a real service: two vLLM workers on two Ray nodes of this machine."""

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from raylaunch.base.processes import wait_until
from tests.deploy import prometheus

from . import harness
from .harness import Serving

pytestmark = pytest.mark.engine
DEADLINE_S = 60.0
_SAMPLING = ("raylaunch.cluster.monitor_process", "ray::NodeSampler")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> Iterator[Serving]:
    """A pipeline of two stages, one on each node."""
    folder = tmp_path_factory.mktemp("top")
    launch = folder / "launch.yaml"
    launch.write_text(
        f"model: {{repo: example/stand-in, path: {tiny_llama}}}\n"
        "cluster: {nodes: 2, gpus_per_node: 1, local: true}\n"
        "engine: {pipeline_parallel_size: 2, dtype: float32, enforce_eager: true, max_model_len: 1024,"
        " kv_cache_memory_bytes: 67108864}\n"
    )
    with harness.serving(folder / "home", str(launch)) as serving:
        serving.wait_ready()
        yield serving


def find_sampling(home: Path) -> dict[int, str]:
    """Processes that sample for a view or, all the time, for the supervisor, on all nodes of the service."""
    return {
        pid: command
        for pid, command in harness.list_processes(home).items()
        if any(name in command for name in _SAMPLING)
    }


@pytest.fixture
def samplers(served: Serving) -> set[int]:
    """Those of the supervisor, which are there with a view and without."""
    return set(find_sampling(served.home))


def read_health(url: str) -> int:
    with urllib.request.urlopen(f"{url}/health", timeout=30) as response:
        return int(response.status)


def complete(served: Serving) -> None:
    body = {"model": "example/stand-in", "prompt": "Hello world", "max_tokens": 16, "ignore_eos": True}
    request = urllib.request.Request(
        f"{served.url}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=120) as response:
        assert response.status == 200


@pytest.mark.timeout(600)
def test_once_tells_every_rank_and_leaves_nothing(served: Serving, samplers: set[int]) -> None:
    """Both nodes with their machine's figures, each rank with its worker's, the engine's counters; as JSON and text."""
    complete(served)
    done = harness.run("top", "--once", "--json", home=served.home)
    assert done.returncode == 0, done.stderr
    view = json.loads(done.stdout)
    assert view["service"]["state"] == "ready"
    assert view["engine"]["generation_tokens"] >= 16
    assert len(view["nodes"]) == 2
    for rank, node in enumerate(view["nodes"]):
        assert node["host"]["ram_total_bytes"] > node["host"]["ram_used_bytes"] > 0
        assert 0 <= node["host"]["cpu_percent"] <= 100
        assert "logical GPUs" in node["logical"]
        [gpu] = [gpu for gpu in node["gpus"] if gpu["sample"] is None]
        assert gpu["ranks"] == [rank]
        assert gpu["worker"]["rss_bytes"] > 100 << 20
        assert gpu["worker"]["cpu_percent"] is not None
    text = harness.run("top", "--once", home=served.home).stdout
    for shown in ("ready for", "running ", "r0", "r1", "logical GPUs"):
        assert shown in text
    assert wait_until(lambda: set(find_sampling(served.home)) == samplers, DEADLINE_S)


def start_top(served: Serving, *arguments: str) -> tuple["subprocess.Popen[bytes]", int]:
    """`raylaunch top` on a terminal of 80 x 24, and the terminal's other end."""
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    process = subprocess.Popen(
        [harness.RAYLAUNCH, "top", *arguments],
        env=os.environ | {harness.MARK: str(served.home), "TERM": "xterm"},
        stdin=its, stdout=its, stderr=its, start_new_session=True,
    )  # fmt: skip
    os.close(its)
    return process, ours


def read_until(terminal: int, pattern: str) -> str:
    """What the terminal was sent until it matches."""
    until, text = time.monotonic() + DEADLINE_S, ""
    while time.monotonic() < until:
        if select.select([terminal], [], [], 0.5)[0]:
            text += os.read(terminal, 1 << 16).decode(errors="replace")
        if re.search(pattern, text, re.DOTALL):
            return text
    raise AssertionError(f"no {pattern!r} in {text!r}")


@pytest.mark.timeout(600)
def test_ctrl_c_leaves_the_view_and_not_the_service(served: Serving, samplers: set[int]) -> None:
    """On a terminal of 80 x 24 the screen is drawn anew each second; Ctrl-C ends it with 0, and all samplers."""
    process, terminal = start_top(served)
    text = read_until(terminal, r"r0 .*r1 .*Ctrl-C leaves.*r0 .*r1 .*Ctrl-C leaves")
    rows = [re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", row) for row in text.split("\r\n")]
    assert max(map(len, rows)) <= 80 * 2  # a redrawn frame's first line comes behind the last one's
    assert len(find_sampling(served.home)) == len(samplers) + 3
    process.send_signal(signal.SIGINT)
    assert process.wait(DEADLINE_S) == 0
    os.close(terminal)
    assert wait_until(lambda: set(find_sampling(served.home)) == samplers, DEADLINE_S), find_sampling(served.home)
    assert read_health(served.url) == 200


@pytest.mark.timeout(600)
def test_a_view_that_is_killed_leaves_nothing(served: Serving, samplers: set[int]) -> None:
    """kill -9 of the view: its child and the samplers on all nodes go, too; the service stays."""
    process, terminal = start_top(served, "--json")
    read_until(terminal, r"\"worker\"")
    process.kill()
    process.wait()
    os.close(terminal)
    assert wait_until(lambda: set(find_sampling(served.home)) == samplers, DEADLINE_S), find_sampling(served.home)
    assert read_health(served.url) == 200


@pytest.mark.timeout(600)
def test_prometheus_reads_the_servers_metrics(served: Serving, tmp_path: Path) -> None:
    """Every metric of vLLM's and of ours that dashboard and rules name is published by this server; no alert fires."""
    complete(served)
    with prometheus.running(tmp_path, served.url.removeprefix("http://")) as watching:
        watching.wait_for(lambda: watching.query('up{job="raylaunch"} == 1') != [], "not scraped")
        named = prometheus.find_names("\n".join([*prometheus.list_queries(), prometheus.RULES.read_text()]))
        published = set(watching.ask("label/__name__/values"))
        only_when_there_are_any = {"raylaunch_incidents_total", "raylaunch_gpu_throttled"}
        assert {name for name in named if not name.startswith("ray_")} - published <= only_when_there_are_any
        assert watching.list_alerts("firing") == set()
