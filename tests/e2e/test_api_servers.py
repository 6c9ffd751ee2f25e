"""Several API servers around one real engine, on one socket. Needs the CPU engine and about 4 GB of memory."""

import contextlib
import json
import os
import signal
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from raylaunch.base.http_client import fetch_text
from raylaunch.base.processes import wait_until
from raylaunch.engine.metrics import parse_metrics
from raylaunch.engine.rehearsal.standin_model import Shape, write_standin

from . import harness
from .faults.clients import LONG_ENOUGH_TOKENS, Clients, Hammer
from .faults.stage import MODEL, list_cores

pytestmark = [pytest.mark.engine, pytest.mark.alone]  # a server that waits for a core gets fewer connections
DEADLINE_S = 60.0
SERVERS = 3


def write_launch(folder: Path) -> Path:
    write_standin(folder / "model", Shape(heads=8, kv_heads=8, layers=4))
    launch = folder / "launch.yaml"
    launch.write_text(f"""\
model: {{repo: {MODEL}, path: {folder / "model"}}}
cluster: {{nodes: 1, gpus_per_node: 1, local: true}}
engine: {{dtype: float32, enforce_eager: true, max_model_len: 1024, kv_cache_memory_bytes: 134217728}}
server: {{api_server_count: {SERVERS}, enable_auto_tool_choice: true, tool_call_parser: hermes}}
keep: {{progress_limit_s: 20, canary_s: 0, drain_s: 60}}
""")
    return launch


def list_servers(served: harness.Serving) -> list[int]:
    status = json.loads(harness.run("status", "--json", home=served.home).stdout)
    (replica,) = status["replicas"]
    assert (replica["index"], replica["ranks"]) == (0, [0])
    return list(replica["api_servers"])


def find_owners(served: harness.Serving, servers: list[int]) -> dict[int, int]:
    """Server pid -> its established connections on the service's port."""
    port = int(served.url.rpartition(":")[2])
    return {
        pid: sum(
            found.status == psutil.CONN_ESTABLISHED and found.laddr.port == port
            for found in psutil.Process(pid).net_connections("tcp")
        )
        for pid in servers
    }


@contextlib.contextmanager
def nine_streams(served: harness.Serving, servers: list[int], core: int) -> Iterator[tuple[Clients, dict[int, int]]]:
    """Nine that have begun, and which server has how many; the engine stands still meanwhile, so that none ends."""
    clients = Clients(served.url, MODEL)
    clients.start(streaming=9, plain=0, max_tokens=LONG_ENOUGH_TOKENS)
    os.kill(core, signal.SIGSTOP)
    try:
        owners = find_owners(served, servers)
        assert not any(sent.ended for sent in clients.sent), (owners, clients.describe())
        assert all(2 <= count <= 5 for count in owners.values()), owners  # shared out; the hammer's beside them
        yield clients, owners
    finally:
        os.kill(core, signal.SIGCONT)


def read_metrics(served: harness.Serving) -> str:
    text = fetch_text(f"{served.url}/metrics", 5.0)
    assert text is not None
    return text


def call_tool(served: harness.Serving) -> None:
    """The launch's tool parser is in every process."""
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
    body = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "tools": [tool], "max_tokens": 4}
    request = urllib.request.Request(
        f"{served.url}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        assert json.loads(response.read())["choices"]


def count_tokens(served: harness.Serving) -> float:
    figures = parse_metrics(read_metrics(served))
    assert figures is not None
    return figures.generation_tokens


def check_metrics(served: harness.Serving) -> None:
    """One truth, whichever process answers: ours beside vLLM's."""
    clients = Clients(served.url, MODEL)
    clients.start(streaming=4, plain=0, max_tokens=8)
    clients.wait()
    assert wait_until(lambda: count_tokens(served) == 4 * 8 + 1, DEADLINE_S), count_tokens(served)  # one made it ready
    texts = [read_metrics(served) for _ in range(2 * SERVERS)]
    assert all("raylaunch_up 1.0" in text and "vllm:kv_cache_usage_perc" in text for text in texts)


@pytest.mark.timeout(400)
def test_one_of_several_dies_and_nobody_else_notices(tmp_path: Path) -> None:
    """kill -9 of one, SIGTERM of each: the streams of the others run on, the engine stays; then a drain."""
    before = harness.list_shared_memory()
    with harness.serving(tmp_path / "home", str(write_launch(tmp_path))) as served, Hammer(served.url) as hammer:
        served.wait_ready()
        assert wait_until(lambda: len(list_servers(served)) == SERVERS, DEADLINE_S)
        first = list_servers(served)
        (host,) = [
            pid for pid in harness.find_processes(served.home, "-m raylaunch.engine.api_server") if list_cores(pid)
        ]
        core = list_cores(host)

        check_metrics(served)

        with nine_streams(served, first, *core) as (clients, owners):
            victim = max(owners, key=owners.__getitem__)
            os.kill(victim, signal.SIGKILL)
        clients.wait()
        lost = [sent for sent in clients.sent if sent.error]
        assert 1 <= len(lost) <= owners[victim], clients.describe()
        assert all("connection closed" in str(sent.error) for sent in lost), clients.describe()

        assert wait_until(lambda: len(list_servers(served)) == SERVERS, DEADLINE_S), served.text()
        second = list_servers(served)
        assert {*first} - {*second} == {victim}
        served.wait_for(rf"API server {first.index(victim)} \(pid {victim}\) died")
        assert list_cores(host) == core
        assert wait_until(lambda: parse_metrics(read_metrics(served)).running == 0, DEADLINE_S)  # type: ignore

        with nine_streams(served, second, *core) as (again, _):  # the new one serves its share
            pass
        again.wait()
        assert again.describe() == "9 x stream: HTTP 200, complete"
        call_tool(served)

        def is_replaced(server: int) -> bool:
            living = list_servers(served)
            return server not in living and len(living) == SERVERS

        for server in second:
            os.kill(server, signal.SIGTERM)
            assert wait_until(lambda: is_replaced(server), DEADLINE_S), served.text()  # noqa: B023
        status = json.loads(harness.run("status", "--json", home=served.home).stdout)
        assert (status["restarts"], status["last_incident"]) == (0, None)
        assert hammer.refused == []

        hammer.pause()
        last = Clients(served.url, MODEL)
        last.start(streaming=6, plain=0, max_tokens=200)
        assert served.end(signal.SIGTERM) == 0
        assert last.wait()
        assert last.describe() == "6 x stream: HTTP 200, complete"
        assert served.wait_gone() == {}
    assert harness.list_shared_memory() - before == set()
