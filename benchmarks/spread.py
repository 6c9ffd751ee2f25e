"""Time for all nodes to have a model's files, hashes checked, against the time one copy takes at the link's rate.

    python -m benchmarks.spread --nodes 4 --size-mib 2048 --link-gbit 1 --json     one node has it (root)
    python -m benchmarks.spread --nodes 4 --size-mib 1024 --link-gbit 1 --hub      no node has it; same rate for the hub
    python -m benchmarks.spread --loopback --lanes 1 2 4 8 --json                  two nodes without links, GB/s

Hosts are network namespaces with links held by tc, files lie on tmpfs. Beside it, in the same run and over the same
links: one source that sends to all at once over plain sockets, by scp and by rsync (`--baseline-mib` of them).
Agents are up before the clock starts; their start is reported as porters_up_s.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import servers, spread_baselines
from benchmarks.islands import Islands, islands
from benchmarks.spread_inside import REPO

ROOT = Path(__file__).parents[1]
DATA = Path("/tmp/raylaunch-spread")
PAYLOAD = 1448 / 1514
"""Bytes of a file in each byte on the wire: TCP over Ethernet, 1500 at most, timestamps on."""


def write_model(folder: Path, size_mib: int, files: int) -> None:
    """Shards that differ, an index, and the manifest of a finished pull."""
    from raylaunch.node.manifest import FileFacts, Manifest

    folder.mkdir(parents=True)
    block = os.urandom(1 << 20)
    names = [f"model-{number:05}-of-{files:05}.safetensors" for number in range(1, files + 1)]
    for number, name in enumerate(names):
        with (folder / name).open("wb") as file:
            for at in range(size_mib // files):
                file.write(number.to_bytes(4, "big") + at.to_bytes(4, "big") + block[8:])
    (folder / "config.json").write_text("{}")
    facts = {path.name: FileFacts.of(path) for path in sorted(folder.iterdir())}
    Manifest(REPO, None, "benchmarks.spread", facts).write(folder)


def run_json(process: "subprocess.Popen[str]") -> list[dict[str, Any]]:
    """The JSON lines that a command printed."""
    try:
        text, _ = process.communicate()
    finally:
        process.kill()  # needed if this process was terminated
    if process.returncode:
        raise SystemExit(text)
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def spread_over_links(options: argparse.Namespace) -> dict[str, Any]:
    """All modes between hosts whose links are held."""
    mbit = options.link_gbit * 1000
    size = options.size_mib << 20
    one_copy_s = size * 8 / (mbit * 1e6 * PAYLOAD)
    with islands(options.nodes, DATA, link_mbit=mbit, bare=1 if options.hub else 0) as made:
        head, model = made.islands[0], DATA / "model"
        python = [sys.executable, "-m"]
        write = [*python, "benchmarks.spread", "--write-model", str(model), "--size-mib", str(options.size_mib)]
        inside = [
            *(*python, "benchmarks.spread_inside", "--address", made.address, "--folder", str(model)),
            *("--nodes", str(options.nodes), "--repeat", str(options.repeat), "--lanes", *map(str, options.lanes)),
        ]
        if options.hub:
            host = made.islands[-1]
            hub = made.run(
                host, [*python, "benchmarks.spread_hub", host.ip, str(options.size_mib), str(options.files)],
                PYTHONPATH=str(ROOT / "tests"),
            )  # fmt: skip
            assert hub.stdout is not None
            url = hub.stdout.readline().strip()
            inside += ["--hub", url, "--nobody-has-it"]
        else:
            run_json(made.run(head, [*write, "--files", str(options.files)]))
        found = run_json(made.run(head, inside))
        baselines = [] if options.hub else measure_baselines(made, options)
    best = min(found, key=lambda entry: entry["median_s"])
    runs = best["runs"]
    return {
        "nodes": options.nodes,
        "size_mib": options.size_mib,
        "files": options.files,
        "link_gbit": options.link_gbit,
        "source": "hub" if options.hub else "one node",
        "one_copy_s": one_copy_s,
        "median_s": best["median_s"],
        "ratio_to_one_copy": best["median_s"] / one_copy_s,
        "ratios": sorted(run["seconds"] / one_copy_s for run in runs),
        "from_hub_over_size": max(run["from_hub_bytes"] / run["bytes"] for run in runs),
        "cpu_s_per_gb": statistics.median(run["cpu_s_per_gb"] for run in runs),
        "porters_cpu_s_per_gb": statistics.median(run["porters_cpu_s_per_gb"] for run in runs),
        "peak_memory_bytes_per_node": max(run["peak_memory_bytes"] for run in runs),
        "peak_store_bytes_per_node": max(run["peak_store_bytes"] for run in runs),
        "porters_up_s": statistics.median(run["porters_up_s"] for run in runs),
        "one_source_to_all": baselines,
    }


def measure_baselines(made: Islands, options: argparse.Namespace) -> list[dict[str, Any]]:
    """The same bytes from one source to all others at once, by other means."""
    size = options.baseline_mib << 20
    one_copy_s = size * 8 / (options.link_gbit * 1e9 * PAYLOAD)
    rows = []
    for way in options.baselines:
        seconds, busy_s = spread_baselines.WAYS[way](made, size)
        received = size * (len(made.islands) - 1)
        rows.append(
            {
                "way": way,
                "size_mib": options.baseline_mib,
                "seconds": seconds,
                "ratio_to_one_copy": seconds / one_copy_s,
                "cpu_s_per_gb": busy_s / (received / 1e9),
            }
        )
    return rows


def spread_on_loopback(options: argparse.Namespace) -> dict[str, Any]:
    """Two raylets of one machine: what a pair of nodes can do where the link does not hold it."""
    from raylaunch.cluster.private import PrivateRay

    size = options.size_mib << 20
    with tempfile.TemporaryDirectory(prefix="raylaunch-spread-", dir="/dev/shm") as place:
        folders = [Path(place) / "n1" / "model", Path(place) / "n2" / "model"]
        write_model(folders[0], options.size_mib, options.files)
        folders[1].parent.mkdir()
        cluster = PrivateRay.start(nodes=2, gpus_per_node=1, env_vars={"RAY_USAGE_STATS_ENABLED": "0"})
        try:
            command = [sys.executable, "-m", "benchmarks.spread_inside", "--address", cluster.address, "--nodes", "2"]
            command += ["--folder", str(folders[0]), "--folders", *map(str, folders), "--repeat", str(options.repeat)]
            command += ["--lanes", *map(str, options.lanes)]
            found = run_json(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
        finally:
            cluster.stop()
        shards = sorted(folders[0].glob("*.safetensors"))
        sockets = [
            {"streams": streams, "gb_s": size / 1e9 / spread_baselines.copy_by_sockets(shards, folders[1], streams)}
            for streams in sorted({1, *options.lanes})
        ]
    return {
        "size_mib": options.size_mib,
        "files": options.files,
        "lanes": [
            {
                "lanes": entry["lanes"],
                "gb_s": size / 1e9 / entry["median_s"],
                "cpu_s_per_gb": statistics.median(run["cpu_s_per_gb"] for run in entry["runs"]),
                "porters_cpu_s_per_gb": statistics.median(run["porters_cpu_s_per_gb"] for run in entry["runs"]),
                "peak_memory_bytes_per_node": max(run["peak_memory_bytes"] for run in entry["runs"]),
                "porters_up_s": statistics.median(run["porters_up_s"] for run in entry["runs"]),
            }
            for entry in found
        ],
        "plain_sockets": sockets,
    }


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument("--size-mib", type=int, default=2048)
    parser.add_argument("--files", type=int, default=16)
    parser.add_argument("--link-gbit", type=float, default=1.0)
    parser.add_argument("--repeat", type=int, default=5, help="runs; the median counts")
    parser.add_argument("--lanes", type=int, nargs="+", default=[1])
    parser.add_argument("--hub", action="store_true", help="no node has the model")
    parser.add_argument("--baselines", nargs="*", default=list(spread_baselines.WAYS), choices=spread_baselines.WAYS)
    parser.add_argument("--baseline-mib", type=int, default=256)
    parser.add_argument("--loopback", action="store_true")
    parser.add_argument("--json", action="store_true", help="print the result as JSON (always done)")
    parser.add_argument("--write-model", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def end(number: int, _frame: object) -> None:
    """End by a signal as by an error: hosts and folders are cleared away; a second signal does not stop that."""
    for other in (signal.SIGTERM, signal.SIGINT):
        signal.signal(other, signal.SIG_IGN)
    raise SystemExit(128 + number)


def main() -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    options = parse()
    if options.write_model:
        write_model(options.write_model, options.size_mib, options.files)
        return
    if options.loopback:
        name, result = "spread-loopback", spread_on_loopback(options)
    else:
        kind = "-hub" if options.hub else ""
        name, result = f"spread{kind}-{options.nodes}x{options.link_gbit:g}gbit", spread_over_links(options)
    servers.write_result(name, result)


if __name__ == "__main__":
    main()
