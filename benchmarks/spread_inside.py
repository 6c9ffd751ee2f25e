"""What `benchmarks.spread` runs on the head's host: pulls one after the other, a line of JSON for each."""

import argparse
import asyncio
import json
import statistics
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from raylaunch.cluster import ray_session
from raylaunch.cluster.ray_session import ClusterNode
from raylaunch.weights.agents import RayAgents
from raylaunch.weights.expected_files import PullRequest
from raylaunch.weights.hub_types import HubAccess
from raylaunch.weights.pull import pull

REPO = "bench/model"


class Silent:
    """Discards all reports."""

    def report(self, line: str) -> None: ...

    def show(self, lines: Sequence[str]) -> None: ...


class FolderAgents(RayAgents):
    """Agents whose folders differ: for two nodes that see one file system."""

    def __init__(self, folder: Path, *, lanes: int | None, folders: Sequence[Path]) -> None:
        super().__init__(folder, lanes=lanes)
        self._left = list(folders)
        self._chosen: dict[str, Path] = {}

    def find_folder(self, node: ClusterNode) -> Path:
        if not self._left and not self._chosen:
            return self.folder
        if node.node_id not in self._chosen:
            self._chosen[node.node_id] = self._left.pop(0)
        return self._chosen[node.node_id]


@dataclass
class StorePeak:
    """Largest use of any node's object store while the block runs, in bytes."""

    peak: int = 0

    def __enter__(self) -> "StorePeak":
        from ray._private import internal_api

        nodes = [(node["NodeManagerAddress"], node["NodeManagerPort"]) for node in ray.nodes() if node["Alive"]]
        self._over = threading.Event()

        def inspect() -> None:
            while not self._over.wait(0.3):
                for address, port in nodes:
                    stats = internal_api.node_stats(address, port, include_memory_info=False)
                    self.peak = max(self.peak, stats.store_stats.object_store_bytes_used)

        self._thread = threading.Thread(target=inspect, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def read_busy_s() -> float:
    """CPU seconds that this machine's cores were busy."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    user, nice, system, _idle, _wait, irq, softirq = map(int, fields[:7])
    return (user + nice + system + irq + softirq) / 100


async def pull_once(request: PullRequest, agents: RayAgents, *, keep: str | None) -> dict[str, Any]:
    """One pull by fresh agents, and the folders removed again, but on the node `keep`."""
    began = time.monotonic()
    nodes = agents.refresh()
    every = [(node, lane) for node in nodes for lane in range(agents.lanes)]
    await asyncio.gather(*(agents.call(node, "inspect", lane=lane) for node, lane in every))
    started_s = time.monotonic() - began
    used = [await agents.call(node, "measure", lane=lane) for node, lane in every]
    porters_s = -sum(cpu_s for cpu_s, _ in used)
    busy = read_busy_s()
    with StorePeak() as store:
        result = await pull(request, agents, Silent())
    busy = read_busy_s() - busy
    received = result.from_hub_bytes + result.from_peers_bytes
    used = [await agents.call(node, "measure", lane=lane) for node, lane in every]
    porters_s += sum(cpu_s for cpu_s, _ in used)
    heaps = dict.fromkeys(nodes, 0)
    for (node, _), (_, rss) in zip(every, used, strict=True):
        heaps[node] += rss
    for node in nodes:
        if node != keep:
            await agents.call(node, "remove")
    return {
        "seconds": result.seconds,
        "porters_up_s": started_s,
        "bytes": result.total_bytes,
        "from_hub_bytes": result.from_hub_bytes,
        "cpu_s_per_gb": busy / (received / 1e9),
        "porters_cpu_s_per_gb": porters_s / (received / 1e9),
        "peak_store_bytes": store.peak,
        "peak_memory_bytes": store.peak + max(heaps.values()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--address", required=True)
    parser.add_argument("--folder", required=True, type=Path)
    parser.add_argument("--folders", nargs="*", type=Path, default=[], help="a folder for each node, the head first")
    parser.add_argument("--nodes", type=int, required=True)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--lanes", type=int, nargs="+", default=[1])
    parser.add_argument("--hub", default="http://127.0.0.1:9")
    parser.add_argument("--nobody-has-it", action="store_true")
    options = parser.parse_args()
    ray_session.join(options.address, env_vars={})
    request = PullRequest(REPO, None, options.folder, HubAccess(options.hub))
    nodes = ray_session.wait_for_gpus(nodes=options.nodes, gpus_per_node=1, wait_s=60, report=lambda _: None)
    keep = None if options.nobody_has_it else nodes[0].ip
    for lanes in options.lanes:
        runs = []
        for _ in range(options.repeat):
            agents = FolderAgents(options.folder, lanes=lanes, folders=options.folders)
            runs.append(asyncio.run(pull_once(request, agents, keep=keep)))
            time.sleep(1)
        median = statistics.median(run["seconds"] for run in runs)
        print(json.dumps({"lanes": lanes, "median_s": median, "runs": runs}), flush=True)


if __name__ == "__main__":
    main()
