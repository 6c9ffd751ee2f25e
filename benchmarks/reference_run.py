"""The reference run: `raylaunch bench` sweeps a server, beside `vllm bench serve` on the same one, level by level.

    python -m benchmarks.reference_run [--out FOLDER]                     a Llama of 8B, dummy weights, one GPU
    python -m benchmarks.reference_run demo --levels 1,4 --duration 10    the demo model on CPU

Both send random prompts of exact length and take answers of exact length; vLLM's client gets as many requests as ours
had answered. Written: reference-<case>.json (both, and their ratios), and the sweep's own result, rows and report.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks import peers, servers
from benchmarks.load import DEMO_ENGINE, GPU_ENGINE, write_8b_model
from benchmarks.servers import Server

KV_CACHE_BYTES = 40 << 30
"""Of the 8B shape: 327,680 tokens, so that 500 requests of 384 run at once and none waits for memory."""
CASES = {
    "gpu-8b": GPU_ENGINE | {"kv_cache_memory_bytes": KV_CACHE_BYTES, "gpu_memory_utilization": 0.9},
    "demo": DEMO_ENGINE,
}


def sweep(server: Server, options: argparse.Namespace, home: Path) -> dict[str, Any]:
    """`raylaunch bench` over all levels, as a user runs it; returns its result."""
    result = options.out / f"reference-{options.case}-sweep.json"
    command = [sys.executable, "-m", "raylaunch.cli", "bench", "--url", server.url, "--model", server.model]
    command += ["-c", options.levels, "--duration", f"{options.duration}s", "--here", "-o", str(result)]
    command += ["--input-tokens", str(options.tokens_in), "--output-tokens", str(options.tokens_out)]
    environ = os.environ | {"RAYLAUNCH_HOME": str(home)}
    done = subprocess.run(command, env=environ, stdin=subprocess.DEVNULL, check=False)
    if not result.exists():
        raise SystemExit(f"raylaunch bench ended with {done.returncode} and left no result")
    told: dict[str, Any] = json.loads(result.read_text())
    return told


def pair(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    """Both at one level; ratios are ours / vLLM's."""
    row: dict[str, Any] = {
        "at_once": ours["load"]["concurrency"],
        "raylaunch": {
            "requests_ok": ours["requests_ok"],
            "duration_s": ours["duration_s"],
            "input_tokens": ours["input_tokens"],
            "ttft_p50_ms": ours["ttft_ms"]["p50"],
            "ttft_p99_ms": ours["ttft_ms"]["p99"],
            "tpot_p50_ms": ours["tpot_ms"]["p50"],
            "output_tokens_per_s": ours["output_tokens_per_s"],
            "cpu_s_of_shards": ours["client"]["cpu_s"],
            "valid": ours["valid"],
            "invalid_because": ours["invalid_because"],
        },
        "vllm": theirs,
    }
    if "failed" not in theirs:
        row["throughput_ratio"] = ours["output_tokens_per_s"] / theirs["output_tokens_per_s"]
        row["ttft_p50_ratio"] = ours["ttft_ms"]["p50"] / theirs["ttft_p50_ms"]
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", choices=tuple(CASES), nargs="?", default="gpu-8b")
    parser.add_argument("--levels", default="1,8,64,256,500")
    parser.add_argument("--duration", type=float, default=12.0, help="seconds in which a level's requests begin")
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
        home = folder / "home"
        serving = servers.start(
            "raylaunch", servers.raylaunch_command(launch, port), port=port, model=model,
            environ={"RAYLAUNCH_HOME": str(home)}, log=folder / "raylaunch.log",
        )  # fmt: skip
        with serving as server:
            print(f"ready after {server.ready_s:.0f} s", flush=True)
            swept = sweep(server, options, home)
            rows = []
            for number, level in enumerate(swept["levels"]):
                theirs = peers.run_vllm(
                    server.url, model, Path(model), folder, at_once=level["load"]["concurrency"],
                    requests=level["requests_ok"], tokens_in=options.tokens_in, tokens_out=options.tokens_out,
                    seed=1000 + number,
                )  # fmt: skip
                rows.append(pair(level, theirs))
                print(json.dumps(rows[-1]), flush=True)
        shutil.copy(folder / "raylaunch.log", options.out / f"reference-{options.case}-serve.txt")
    result = {"case": options.case, "engine": engine, "took_s": time.monotonic() - began, "levels": rows}
    servers.write_result(f"reference-{options.case}", result, options.out)


if __name__ == "__main__":
    main()
