"""A hub with one repo, and the folder to fetch it into."""

import asyncio
import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from benchmarks.islands import GATEWAY, Islands, islands
from raylaunch.weights.agents import LocalAgents
from raylaunch.weights.expected_files import PullRequest
from raylaunch.weights.hub_types import HubAccess
from raylaunch.weights.own_files import OwnFilesChoice
from raylaunch.weights.pull import pull
from tests.hub_server import Hub, serve

REPO = "somebody/some-llama"
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
UNWANTED = {"README.md", "pytorch_model.bin", "some-llama.Q4_K.gguf"}


def make_safetensors(tensor_bytes: int) -> bytes:
    header = json.dumps({"w": {"dtype": "U8", "shape": [tensor_bytes], "data_offsets": [0, tensor_bytes]}}).encode()
    return struct.pack("<Q", len(header)) + header + os.urandom(1024) * (tensor_bytes // 1024)


def make_files(tensor_bytes: int = 4096) -> dict[str, bytes]:
    """Two shards and what a repo has around them, wanted and unwanted."""
    shards = {name: make_safetensors(tensor_bytes) for name in SHARDS}
    index = {"weight_map": {f"layer.{number}": name for number, name in enumerate(shards)}}
    return shards | {
        "model.safetensors.index.json": json.dumps(index).encode(),
        "config.json": b'{"model_type": "llama"}',
        "tokenizer.json": b"{}",
        "chat_template.jinja": b"{{ messages }}",
        "README.md": b"# some llama",
        "pytorch_model.bin": b"x" * 100,
        "some-llama.Q4_K.gguf": b"x" * 100,
        "onnx/model.onnx": b"x" * 100,
        "original/consolidated.safetensors": make_safetensors(1024),
    }


def wanted_of(hub: Hub) -> dict[str, bytes]:
    """What of a hub's files a server needs."""
    return {name: body for name, body in hub.files.items() if "/" not in name and name not in UNWANTED}


class Silent:
    """Discards all reports."""

    def report(self, line: str) -> None: ...

    def show(self, lines: Sequence[str]) -> None: ...


def run_pull(folder: Path, endpoint: str, choice: OwnFilesChoice = OwnFilesChoice.ASK) -> None:
    """One pull on this machine."""
    request = PullRequest(REPO, None, folder, HubAccess(endpoint), own_files=choice)
    asyncio.run(pull(request, LocalAgents(folder), Silent()))


def run_weights(launch: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    """The verb as a user types it, without a terminal."""
    command = [sys.executable, "-m", "raylaunch", "weights", words[0], str(launch), *words[1:]]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, stdin=subprocess.DEVNULL)


@pytest.fixture
def model_hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with one repo, and HF_ENDPOINT pointing at it."""
    with serve(Hub(REPO, make_files())) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        yield running


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "models" / "some--llama"


@pytest.fixture(scope="package")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Islands]:
    """Three hosts, 96 MiB of disk each. They stay up until the last test here: no other hosts can be made meanwhile."""
    with islands(3, tmp_path_factory.mktemp("data"), data_mib=96, is_reachable=True) as made:
        yield made


@pytest.fixture
def hub(hosts: Islands) -> Iterator[Hub]:
    """A hub that all hosts reach, with a model of two shards of 12 MiB."""
    files = make_files() | {name: make_safetensors(12 << 20) for name in SHARDS}
    with serve(Hub(REPO, files), GATEWAY) as running:
        yield running


@pytest.fixture
def model(hosts: Islands, tmp_path: Path) -> Iterator[Path]:
    """The model's path; whatever is there afterwards is removed."""
    folder = hosts.data / tmp_path.name
    yield folder
    for island in hosts.islands:
        subprocess.run(["find", island.find(hosts.data), "-mindepth", "1", "-delete"], check=True)
