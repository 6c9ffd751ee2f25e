"""What is done beside a service, one start for all: top, Prometheus, a load test, clients with and without the key.

Two vLLM workers on two Ray nodes of this machine, two API servers. Needs the CPU engine and about 4 GB of memory.
"""

import fcntl
import http.client
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
from raylaunch.engine.key_guard import OPEN_PATHS
from tests.deploy import prometheus

from . import harness
from .harness import Serving

pytestmark = pytest.mark.engine
DEADLINE_S = 60.0
KEY = "sk-5a1f-only-here"
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
        "server: {api_server_count: 2}\n"
    )
    with harness.serving(folder / "home", str(launch), RAYLAUNCH_SERVER__API_KEY=KEY) as serving:
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
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"}
    request = urllib.request.Request(f"{served.url}/v1/completions", json.dumps(body).encode(), headers)
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


@pytest.mark.timeout(600)
def test_bench_measures_the_service(served: Serving, tmp_path: Path) -> None:
    """A sweep in chat with our own questions, and exact synthetic prompts: counts, files, the engine's figures."""
    result = tmp_path / "sweep.json"
    done = harness.run(
        "bench", "-c", "1,4", "-n", "8", "--max-tokens", "100", "--warmup", "2", "-o", str(result), home=served.home,
        timeout_s=300, RAYLAUNCH_SERVER__API_KEY=KEY,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "valid: the client kept up" in done.stdout
    sweep = json.loads(result.read_text())
    assert [level["requests_ok"] for level in sweep["levels"]] == [8, 8]
    assert sweep["tokens_counted_by"] == "usage"
    assert 0 < sweep["output_tokens"] <= 8 * 100
    assert max(level["engine"]["running_max"] for level in sweep["levels"]) >= 1, sweep  # each lasts many samples
    assert sweep["levels"][1]["samples"][0]["nodes"][0]["cpu_percent"] is not None

    exact = harness.run(
        "bench", "--input-tokens", "40", "--output-tokens", "16", "-c", "4", "-n", "8", "--warmup", "0", "--json",
        "-o", str(tmp_path / "exact.json"), home=served.home, timeout_s=300, RAYLAUNCH_SERVER__API_KEY=KEY,
    )  # fmt: skip
    assert exact.returncode == 0, exact.stderr
    result = json.loads(exact.stdout)
    assert (result["input_tokens"], result["output_tokens"]) == (8 * 40, 8 * 16)
    assert result["asked"]["prompts"] == "synthetic text, 40 tokens"
    assert result["versions"]["vllm"]


def ask_all_routes(url: str) -> dict[str, int]:
    """Verb and path of every route of the app -> the status that a client without a key gets."""
    server = http.client.HTTPConnection(url.removeprefix("http://"), timeout=60)
    server.request("GET", "/openapi.json")
    answers = {}
    for path, verbs in json.load(server.getresponse())["paths"].items():
        for verb in map(str.upper, verbs):
            server.request(verb, path, "{}", {"Content-Type": "application/json"})
            with server.getresponse() as response:
                response.read()
                answers[f"{verb} {path}"] = response.status
    return answers


@pytest.mark.timeout(300)
def test_api_key_guards_the_server_and_is_written_nowhere(served: Serving) -> None:
    """No answer without the key, an answer with it, and the key in no log, record, argument list or printed line.

    The last test: it ends the service.
    """
    home = served.home
    refused = harness.run("ask", "Hello", home=home)
    assert refused.returncode == 1
    assert "API key" in refused.stderr
    answers = ask_all_routes(served.url)
    assert answers["POST /invocations"] == answers["POST /tokenize"] == 401
    assert answers["GET /health"] == answers["GET /version"] == 200
    assert {name.split()[1] for name, status in answers.items() if status != 401} <= OPEN_PATHS
    wrong = harness.run("ask", "Hello", home=home, OPENAI_API_KEY="sk-wrong")
    assert wrong.returncode == 1
    assert "sk-wrong" not in wrong.stderr
    asked = harness.run("ask", "Hello", "--max-tokens", "4", home=home, RAYLAUNCH_SERVER__API_KEY=KEY)
    assert asked.returncode == 0, asked.stderr
    assert not [line for line in harness.list_processes(home).values() if KEY in line]
    printed = served.text() + harness.run("status", "--json", home=home).stdout
    assert KEY not in printed
    assert served.end() == 0
    assert served.wait_gone() == {}
    kept = [path for path in home.rglob("*") if path.is_file()]
    assert any(path.name == "engine.log" for path in kept)
    assert [path for path in kept if KEY in path.read_text(errors="replace")] == []
