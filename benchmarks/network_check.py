"""What the check of the network finds on real GPUs, and what it costs at a start.

    python -m benchmarks.network_check links OUT.json     two GPUs of one node: peer access, shared memory, sockets
    python -m benchmarks.network_check hops OUT.json      two Ray nodes with one GPU each: a pipeline's hop
    python -m benchmarks.network_check starts OUT.json    `raylaunch serve` with and without it, in turns: ready after
    python -m benchmarks.network_check starts OUT.json --rehearse    the same on logical GPUs of two Ray nodes

Starts Ray nodes of its own on loopback addresses, and serves a Llama of 8B parameters with dummy weights; in the
rehearsal `serve --rehearse` has nodes and a stand-in model of its own.
"""

import argparse
import json
import math
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import yaml

from benchmarks import servers
from benchmarks.load import write_8b_model

WAYS: Mapping[str, Mapping[str, str]] = {
    "as it is": {},
    "without peer access": {"NCCL_P2P_DISABLE": "1"},
    "over sockets": {"NCCL_P2P_DISABLE": "1", "NCCL_SHM_DISABLE": "1"},
}
_READY = re.compile(r"ready after ([\d.]+) s(?:.*?check ([\d.]+) s)?")
_DEADLINE_S = 400.0


def write_launch(folder: Path, *, nodes: int, gpus: int) -> Path:
    launch = {
        "model": {"repo": "example/llama-8b", "path": str(write_8b_model(folder / "model"))},
        "cluster": {"nodes": nodes, "gpus_per_node": gpus, "wait_s": 60},
        "engine": {
            "tensor_parallel_size": gpus, "pipeline_parallel_size": nodes, "load_format": "dummy", "dtype": "float16",
            "distributed_executor_backend": "ray", "gpu_memory_utilization": 0.5, "max_model_len": 4096,
        },
        "server": {"port": 18397},
    }  # fmt: skip
    path = folder / "launch.yaml"
    path.write_text(yaml.safe_dump(launch))
    return path


def run_netcheck(launch: Path, address: str, environment: Mapping[str, str]) -> dict[str, Any]:
    """The report of `raylaunch netcheck --json`."""
    command = [sys.executable, "-m", "raylaunch", "netcheck", str(launch), "--json"]
    own = {**os.environ, "RAY_ADDRESS": address, **environment}
    done = subprocess.run(command, env=own, capture_output=True, text=True, timeout=_DEADLINE_S, check=False)
    print(done.stderr[-3000:], file=sys.stderr)
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def time_start(launch: Path, folder: Path, address: str | None, *, check: bool) -> dict[str, Any]:
    """`raylaunch serve` to its "ready after" line, then stopped; nothing is remembered from earlier starts.

    Args:
        address: of the Ray to join; None: a rehearsal, with nodes of its own.
    """
    home = Path(tempfile.mkdtemp(dir=folder))
    own = {**os.environ, "RAYLAUNCH_HOME": str(home)} | ({"RAY_ADDRESS": address} if address else {})
    chosen = f"cluster.check_network={str(check).lower()}"
    command = [sys.executable, "-m", "raylaunch", "serve", str(launch), "--set", chosen]
    command += [] if address else ["--rehearse"]
    log = home / "serve.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=own, stdout=output, stderr=output)
    deadline = time.monotonic() + _DEADLINE_S
    while not (found := _READY.search(log.read_text())) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    process.wait()
    text = log.read_text()
    return {
        "check": check,
        "ready_s": float(found[1]) if found else None,
        "check_s": float(found[2]) if found and found[2] else None,
        "lines": [line for line in text.splitlines() if line.startswith(("network:", "ready after"))],
        "error": "" if found else text[-2000:],
    }


def time_starts(launch: Path, folder: Path, address: str | None, pairs: int) -> dict[str, Any]:
    """Starts in pairs, and by how much the check makes each pair's later."""
    time_start(launch, folder, address, check=True)  # the first reads everything from disk: not counted
    starts, differences = [], []
    for pair in range(pairs):
        by_check = {}
        for check in ((True, False), (False, True))[pair % 2]:
            starts.append(time_start(launch, folder, address, check=check))
            by_check[check] = starts[-1]["ready_s"]
        if None not in by_check.values():
            differences.append(round(by_check[True] - by_check[False], 1))
    return {"starts": starts, "later_by_s": differences, "median_s": statistics.median(differences or [math.nan])}


def main() -> None:
    """Run one of the three, and write its file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("links", "hops", "starts"))
    parser.add_argument("out", type=Path)
    parser.add_argument("--pairs", type=int, default=2)
    parser.add_argument("--rehearse", action="store_true", help="of starts: on logical GPUs")
    asked = parser.parse_args()
    if asked.rehearse and asked.what != "starts":
        parser.error(f"{asked.what} needs GPUs")
    folder = Path(tempfile.mkdtemp(prefix="net-"))
    nodes, gpus = (1, 2) if asked.what == "links" else (2, 1)
    launch = write_launch(folder, nodes=nodes, gpus=gpus)
    command = f"python -m benchmarks.network_check {asked.what} {asked.out}{' --rehearse' if asked.rehearse else ''}"
    result: dict[str, Any] = {"command": command}
    with nullcontext() if asked.rehearse else servers.ray_nodes(folder, nodes, gpus) as address:
        if address is None or asked.what == "starts":
            result |= time_starts(launch, folder, address, asked.pairs)
        else:
            ways = WAYS if asked.what == "links" else {"as it is": {}}
            result["reports"] = {name: run_netcheck(launch, address, environment) for name, environment in ways.items()}
    asked.out.write_text(json.dumps(result, indent=1) + "\n")
    print(asked.out.read_text())


if __name__ == "__main__":
    main()
