"""The reference run: `raylaunch bench` sweeps a server, beside `vllm bench serve` on the same one, level by level.

    python -m benchmarks.reference_run [--out FOLDER]                     a Llama of 8B, dummy weights, one GPU
    python -m benchmarks.reference_run demo --levels 1,4 --duration 10    the demo model on CPU

First the sweep, with its report; then pairs: at each level both clients send the same number of random prompts of
exact length and take answers of exact length, in turns, and ratios are of medians. A closed loop of equal requests goes
in waves, and a client that is slow to send again spreads its waves out, so their times to first token differ by more
than the clients' own error: that one is what a client reports on average less what the server counted meanwhile
(vLLM's own histograms of the time to first token and of the time per output token). A client that sees first tokens
late reports too much of the one and too little of the other.

Written: reference-<case>.json (the pairs), and the sweep's own result, rows and report.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from benchmarks import peers, servers
from benchmarks.load import DEMO_ENGINE, GPU_ENGINE, write_8b_model
from benchmarks.servers import Server

KV_CACHE_BYTES = 40 << 30
"""Of the 8B shape: 327,680 tokens, so that 500 requests of 384 run at once and none waits for memory."""
CASES = {
    "gpu-8b": GPU_ENGINE | {"kv_cache_memory_bytes": KV_CACHE_BYTES, "gpu_memory_utilization": 0.9},
    "demo": DEMO_ENGINE,
}
FIGURES = ("ttft_p50_ms", "tpot_p50_ms", "output_tokens_per_s", "ttft_error_ms", "tpot_error_ms", "server_tpot_mean_ms")


@dataclass(frozen=True)
class Bench:
    """What both clients are asked for, and where they leave it."""

    server: Server
    options: argparse.Namespace
    folder: Path

    def run_ours(self, output: Path, *arguments: str) -> dict[str, Any]:
        """`raylaunch bench` as a user runs it; returns its result."""
        command = [sys.executable, "-m", "raylaunch.cli", "bench", "--url", self.server.url, "--here"]
        command += ["--model", self.server.model, "-o", str(output), *arguments]
        command += ["--input-tokens", str(self.options.tokens_in), "--output-tokens", str(self.options.tokens_out)]
        environ = os.environ | {"RAYLAUNCH_HOME": str(self.folder / "home")}
        done = subprocess.run(
            command, env=environ, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, check=False
        )
        if not output.exists():
            raise SystemExit(f"raylaunch bench ended with {done.returncode} and left no result:\n{done.stdout}")
        told: dict[str, Any] = json.loads(output.read_text())
        return told

    def measure_ours(self, at_once: int, requests: int, seed: int) -> dict[str, Any]:
        """One load by `raylaunch bench`."""
        told = self.run_ours(
            *(self.folder / "ours.json", "-c", str(at_once), "-n", str(requests), "--seed", str(seed)),
            *("--warmup", "1", "--no-report", "--no-sample"),
        )
        return {
            "requests_ok": told["requests_ok"],
            "duration_s": told["duration_s"],
            "ttft_mean_ms": told["ttft_ms"]["mean"],
            "ttft_p50_ms": told["ttft_ms"]["p50"],
            "ttft_p99_ms": told["ttft_ms"]["p99"],
            "tpot_p50_ms": told["tpot_ms"]["p50"],
            "tpot_mean_ms": told["tpot_ms"]["mean"],
            "output_tokens_per_s": told["output_tokens_per_s"],
            "cpu_s_of_shards": told["client"]["cpu_s"],
            "valid": told["valid"],
            "invalid_because": told["invalid_because"],
        }

    def measure_vllm(self, at_once: int, requests: int, seed: int) -> dict[str, Any]:
        """One load by `vllm bench serve`."""
        model = Path(self.server.model)
        return peers.run_vllm(
            self.server.url, str(model), model, self.folder, at_once=at_once, requests=requests,
            tokens_in=self.options.tokens_in, tokens_out=self.options.tokens_out, seed=seed,
        )  # fmt: skip


SERVER_HISTOGRAMS = {
    "ttft": "vllm:time_to_first_token_seconds",
    "tpot": "vllm:request_time_per_output_token_seconds",
}
"""What a client reports, and the histogram in which vLLM counts the same by itself, request by request."""


def read_server(url: str) -> dict[str, tuple[float, int]]:
    """Sum (seconds) and count of each of SERVER_HISTOGRAMS, as the server has counted them so far."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=30) as response:
        text = response.read().decode()
    found = {
        sample.name: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.endswith(("_sum", "_count"))
    }
    return {
        figure: (found.get(f"{name}_sum", 0.0), int(found.get(f"{name}_count", 0)))
        for figure, name in SERVER_HISTOGRAMS.items()
    }


def measure(server: Server, client: Callable[[int, int, int], dict[str, Any]], *load: int) -> dict[str, Any]:
    """What a client says of one load, and by how much its means differ from the server's own."""
    before = read_server(server.url)
    told = client(*load)
    if "failed" in told:
        raise SystemExit(f"vllm bench serve failed:\n{told['failed']}")
    for figure, (total_s, count) in read_server(server.url).items():
        mean_ms = (total_s - before[figure][0]) / max(1, count - before[figure][1]) * 1e3
        told[f"server_{figure}_mean_ms"] = mean_ms
        told[f"{figure}_error_ms"] = told[f"{figure}_mean_ms"] - mean_ms
    return told


def compare(bench: Bench, at_once: int, requests: int) -> dict[str, Any]:
    """All pairs of one level, the order changing, and ratios of medians: ours / vLLM's."""
    rows: list[dict[str, Any]] = []
    clients = {"raylaunch": bench.measure_ours, "vllm": bench.measure_vllm}
    for pair in range(bench.options.pairs):
        names = list(clients) if pair % 2 else list(reversed(clients))
        seed = 1000 * at_once + pair
        rows.append({name: measure(bench.server, clients[name], at_once, requests, seed) for name in names})
    medians = {
        name: {figure: statistics.median(row[name][figure] for row in rows) for figure in FIGURES} for name in clients
    }
    ours, theirs = medians["raylaunch"], medians["vllm"]
    return {
        "at_once": at_once,
        "requests": requests,
        "throughput_ratio": ours["output_tokens_per_s"] / theirs["output_tokens_per_s"],
        "ttft_p50_ratio": ours["ttft_p50_ms"] / theirs["ttft_p50_ms"],
        "medians": medians,
        "pairs": rows,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", choices=tuple(CASES), nargs="?", default="gpu-8b")
    parser.add_argument("--levels", default="1,8,64,256,500")
    parser.add_argument("--duration", type=float, default=10.0, help="seconds in which a level's requests begin")
    parser.add_argument("--pairs", type=int, default=2)
    parser.add_argument("--tokens-in", type=int, default=256)
    parser.add_argument("--tokens-out", type=int, default=128)
    parser.add_argument("--out", type=Path, default=servers.RESULTS)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    engine = CASES[options.case]
    port = servers.find_free_port()
    with servers.scratch() as folder:
        model = servers.find_demo_model() if options.case == "demo" else str(write_8b_model(folder / "model"))
        launch = servers.write_launch(folder, model, engine)
        serving = servers.start(
            "raylaunch", servers.raylaunch_command(launch, port), port=port, model=model,
            environ={"RAYLAUNCH_HOME": str(folder / "home")}, log=folder / "raylaunch.log",
        )  # fmt: skip
        with serving as server:
            print(f"ready after {server.ready_s:.0f} s", flush=True)
            bench = Bench(server, options, folder)
            swept = bench.run_ours(
                *(options.out / f"reference-{options.case}-sweep.json", "-c", options.levels),
                *("--duration", f"{options.duration}s"),
            )
            rows = []
            for level in swept["levels"]:
                at_once = level["load"]["concurrency"]
                rows.append(compare(bench, at_once, max(4, level["requests_ok"])))
                print(json.dumps({key: value for key, value in rows[-1].items() if key != "pairs"}), flush=True)
        shutil.copy(folder / "raylaunch.log", options.out / f"reference-{options.case}-serve.txt")
    result = {"case": options.case, "engine": engine, "took_s": time.monotonic() - began, "levels": rows}
    servers.write_result(f"reference-{options.case}", result, options.out)


if __name__ == "__main__":
    main()
