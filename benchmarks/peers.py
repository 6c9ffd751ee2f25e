"""Other load clients, each run as its users run it and measured from outside."""

import contextlib
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
    reported = json.loads(result.read_text())
    return {
        "version": reported["aiperf_version"],
        "requests_ok": int(reported["request_count"]["avg"]),
        "duration_s": reported["benchmark_duration"]["avg"],
        "ttft_p50_ms": reported["time_to_first_token"]["p50"],
        "ttft_p99_ms": reported["time_to_first_token"]["p99"],
        "itl_p50_ms": reported["inter_token_latency"]["p50"],
        "output_tokens_per_s": reported["output_token_throughput"]["avg"],
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
    reported = json.loads(result.read_text())
    told_load = reported["benchmarks"][0]
    metrics = told_load["metrics"]
    return {
        "version": reported["metadata"]["guidellm_version"],
        "requests_ok": metrics["request_totals"]["successful"],
        "duration_s": told_load["duration"],
        "ttft_p50_ms": metrics["time_to_first_token_ms"]["successful"]["percentiles"]["p50"],
        "ttft_p99_ms": metrics["time_to_first_token_ms"]["successful"]["percentiles"]["p99"],
        "itl_p50_ms": metrics["inter_token_latency_ms"]["successful"]["percentiles"]["p50"],
        "output_tokens_per_s": metrics["output_tokens_per_second"]["total"]["mean"],
        "cpu_s": cpu_s,
    }
