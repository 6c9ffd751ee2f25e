"""`raylaunch weights` over three hosts, each with a network and a file system of its own: real Ray, client and HTTP."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.islands import GATEWAY, Island, Islands
from raylaunch.node.manifest import Manifest
from tests.hub_server import Hub

from .conftest import REPO, wanted_of

NOWHERE = f"http://{GATEWAY}:9"
DEADLINE_S = 120


def write_command(hosts: Islands, model: Path, *words: str, nodes: int = 3) -> list[str]:
    """`raylaunch weights WORDS`."""
    launch = hosts.scratch / "launch.yaml"
    launch.write_text(
        f"model: {{repo: {REPO}, path: {model}}}\ncluster: {{nodes: {nodes}, gpus_per_node: 1, wait_s: 90}}\n"
    )
    return [sys.executable, "-m", "raylaunch", "weights", words[0], str(launch), *words[1:]]


def start(
    hosts: Islands, model: Path, *words: str, endpoint: str = NOWHERE, nodes: int = 3, token: str = ""
) -> "subprocess.Popen[str]":
    """The same on the head."""
    command = write_command(hosts, model, *words, nodes=nodes)
    return hosts.run(hosts.islands[0], command, HF_ENDPOINT=endpoint, HF_TOKEN=token)


def run(
    hosts: Islands, model: Path, *words: str, endpoint: str = NOWHERE, nodes: int = 3, token: str = ""
) -> tuple[int, str]:
    """The same to its end: exit status and output."""
    process = start(hosts, model, *words, endpoint=endpoint, nodes=nodes, token=token)
    text, _ = process.communicate(timeout=DEADLINE_S)
    return process.returncode, text


def pull(hosts: Islands, model: Path, *words: str, endpoint: str = NOWHERE) -> str:
    """A pull that must end well."""
    status, text = run(hosts, model, "pull", *words, endpoint=endpoint)
    assert status == 0, text
    return text


def read_all(island: Island, folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in island.find(folder).glob("[!.]*")}


def assert_whole(hosts: Islands, model: Path, hub: Hub, *, without: Island | None = None) -> None:
    """Every host has the same files, the same manifest, and nothing next to them but a lock."""
    manifests: list[Manifest | None] = []
    for island in hosts.islands:
        if island is not without:
            assert read_all(island, model) == wanted_of(hub)
            manifests.append(Manifest.read(island.find(model)))
            assert {path.name for path in island.find(hosts.data).iterdir()} <= {model.name, f"{model.name}.lock"}
    assert None not in manifests
    assert manifests == manifests[:1] * len(manifests)  # equal but for the marks of what was fetched on each


def measure(island: Island, model: Path) -> int:
    """Bytes of the model on a host, partial or complete."""
    total = 0
    for folder in (model, model.with_name(f"{model.name}.download")):
        for path in island.find(folder).glob("[!.]*"):
            with contextlib.suppress(FileNotFoundError):
                total += path.stat().st_size
    return total


def wait_until(condition: Callable[[], bool], process: "subprocess.Popen[str] | None" = None) -> None:
    until = time.monotonic() + DEADLINE_S
    while not condition() and (process is None or process.poll() is None):
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.005)


def kill_agent(island: Island) -> None:
    """Kill the node's agent."""
    for pid in island.list_pids():
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"ray::NodeAgent"):
                os.kill(pid, signal.SIGKILL)
