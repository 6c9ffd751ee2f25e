"""What is true of one API server is true of several: their options, their keys, and what ends a wedge.

Needs the CPU engine and about 4 GB of memory.
"""

import http.client
import json
import os
import signal
import ssl
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from raylaunch.base.processes import wait_until
from raylaunch.engine.rehearsal.standin_model import Shape, write_standin
from tests.private_ca import PrivateCa

from . import harness
from .faults.clients import Clients
from .faults.stage import MODEL
from .test_api_servers import find_owners, list_servers
from .test_other_models import write_adapter

pytestmark = [pytest.mark.engine, pytest.mark.alone, pytest.mark.whole]
DEADLINE_S = 120.0
KEY = "sk-several"
SHAPE = Shape(heads=8, kv_heads=8, layers=4)
PARSER = """
from vllm.reasoning import ReasoningParser, ReasoningParserManager

@ReasoningParserManager.register_module("whole")
class Whole(ReasoningParser):
    def is_reasoning_end(self, input_ids):
        return False
    def extract_content_ids(self, input_ids):
        return []
    def extract_reasoning(self, model_output, request):
        return model_output, "thought"
    def extract_reasoning_streaming(self, *texts):
        return None
"""
"""Takes the complete answer for reasoning."""


def write_launch(folder: Path, engine: dict[str, Any], server: dict[str, Any]) -> Path:
    write_standin(folder / "model", SHAPE)
    launch = folder / "launch.yaml"
    blocks = {
        "model": {"repo": MODEL, "path": str(folder / "model")},
        "cluster": {"nodes": 1, "gpus_per_node": 1, "local": True},
        "engine": {"dtype": "float32", "enforce_eager": True, "max_model_len": 1024,
                   "kv_cache_memory_bytes": 64 << 20, **engine},
        "server": {"api_server_count": 2, **server},
        "keep": {"progress_limit_s": 10, "canary_s": 3, "drain_s": 20, "stand_by": False},
    }  # fmt: skip
    launch.write_text(json.dumps(blocks))
    return launch


def ask(connection: http.client.HTTPSConnection, path: str, body: object = None, key: str = KEY) -> tuple[int, Any]:
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    connection.request("POST" if body else "GET", path, json.dumps(body) if body else None, headers)
    response = connection.getresponse()
    return response.status, json.loads(response.read())


def try_everything(connection: http.client.HTTPSConnection) -> dict[str, Any]:
    """One request for each option of the launch, all to the same API server."""

    def complete(model: str) -> Any:
        body = {"model": model, "prompt": "Hello", "max_tokens": 12, "temperature": 0}
        return ask(connection, "/v1/completions", body)[1]["choices"][0]["text"]

    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
    chat = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4, "temperature": 0}
    (choice,) = ask(connection, "/v1/chat/completions", chat)[1]["choices"]
    return {
        "without key": ask(connection, "/tokenize", {"model": MODEL, "prompt": "x"}, key="")[0],
        "models": [found["id"] for found in ask(connection, "/v1/models")[1]["data"]],
        "base": complete(MODEL),
        "adapter": complete("mine"),
        "content": choice["message"]["content"],
        "tool": ask(connection, "/v1/chat/completions", {**chat, "tools": [tool]})[0],
        "abort": ask(connection, "/inference/v1/abort_requests", {"request_ids": ["x"]})[0],
    }


@pytest.mark.timeout(400)
def test_each_has_the_options_of_the_launch(tmp_path: Path) -> None:
    """TLS, key, adapter, a tool parser, the user's own reasoning parser, and what is refused."""
    ca = PrivateCa.make(tmp_path / "ca")
    write_adapter(tmp_path / "adapter", SHAPE)
    (tmp_path / "parser.py").write_text(PARSER)
    engine = {"enable_lora": True, "reasoning_parser": "whole", "reasoning_parser_plugin": str(tmp_path / "parser.py")}
    server = {
        "api_key": KEY, "ssl_certfile": str(ca.server[0]), "ssl_keyfile": str(ca.server[1]),
        "lora_modules": [{"name": "mine", "path": str(tmp_path / "adapter")}],
        "enable_auto_tool_choice": True, "tool_call_parser": "hermes",
    }  # fmt: skip
    with harness.serving(tmp_path / "home", str(write_launch(tmp_path, engine, server))) as served:
        served.wait_ready()
        assert wait_until(lambda: len(list_servers(served)) == 2, DEADLINE_S), served.text()
        port, trust = int(served.url.rpartition(":")[2]), ssl.create_default_context(cafile=ca.certificate)
        connections = [http.client.HTTPSConnection("127.0.0.1", port, context=trust, timeout=60) for _ in range(6)]
        for connection in connections:
            connection.connect()
        assert min(find_owners(served, list_servers(served)).values()) > 0
        with ThreadPoolExecutor() as pool:
            found = [*pool.map(try_everything, connections)]
        assert all(one == found[0] for one in found), found
        assert found[0].pop("base") != found[0].pop("adapter")
        assert found[0] == {
            "without key": 401, "models": [MODEL, "mine"], "content": "thought", "tool": 200, "abort": 501,
        }  # fmt: skip


@pytest.mark.timeout(600)
def test_what_stands_still_is_found(tmp_path: Path) -> None:
    """SIGSTOP of one server: the other serves on, and it is replaced; of a rank: every client gets the error."""
    with harness.serving(tmp_path / "home", str(write_launch(tmp_path, {}, {}))) as served:
        served.wait_ready()
        assert wait_until(lambda: len(list_servers(served)) == 2, DEADLINE_S), served.text()
        stopped, other = list_servers(served)
        os.kill(stopped, signal.SIGSTOP)
        assert wait_until(lambda: len({*list_servers(served)} - {stopped}) == 2, DEADLINE_S), served.text()
        status = json.loads(harness.run("status", "--json", home=served.home).stdout)
        assert (other in list_servers(served), status["restarts"]) == (True, 0)

        for streaming in (6, 0):  # under load, and idle: the liveness probe
            clients = Clients(served.url, MODEL)
            clients.start(streaming=streaming, plain=0)
            again = served.text().count("again at http")
            (rank,) = json.loads(harness.run("status", "--json", home=served.home).stdout)["ranks"]
            os.kill(rank["pid"], signal.SIGSTOP)
            clients.wait()
            assert all("connection closed" not in (sent.error or "connection closed") for sent in clients.sent)
            assert wait_until(lambda: served.text().count("again at http") > again, DEADLINE_S), served.text()  # noqa: B023
            assert wait_until(lambda: len(list_servers(served)) == 2, DEADLINE_S), served.text()
        incidents = json.loads(harness.run("incidents", "--json", home=served.home).stdout)
        assert {one["cause"] for one in incidents} <= {"wedge", "canary"}
        assert len(incidents) == 2
