"""The reference run: `raylaunch bench` sweeps a server, beside `vllm bench serve` on the same one, level by level.

    python -m benchmarks.reference_run [--loops closed] [--out FOLDER]    a Llama of 8B, dummy weights, one GPU
    python -m benchmarks.reference_run demo --levels 1,4 --duration 10    the demo model on CPU

First the sweep, with its report; then pairs: at each level both clients send the same questions, text of exact length,
in the same order, and take answers of exact length, in turns. Ratios are of medians, and those of the single pairs have
an interval in which their mean lies (95 %): many short pairs (--requests 1000 --pairs 20) make it narrow, for on a
shared machine the CPU, and with it the server, is now faster and now slower (benchmarks.pairs). Levels take turns, so
that each has its pairs wherever time ends. Twice:

- closed loop, so many at once. Equal requests then go in waves: all end in one step, and what a client sends again at
  once is one large prefill, behind which all of them wait. A client that is slow to send again may spread its waves
  out, and the server itself then answers sooner: likely, not proven. With --uneven, answers are of half to three halves
  of --tokens-out, as real ones differ, and do not end together.
- open loop, Poisson arrivals at a share (OPEN_SHARE) of what the sweep reached at that level: both clients offer the
  same load whatever they are like. Their arrivals are drawn apart (vLLM's client stretches its draw to take exactly
  requests / rate seconds), so times to first token scatter with the bursts: more pairs, or the server's own beside it.

Beside it stands each client's own error: what it reports on average less what the server counted meanwhile (vLLM's own
histograms of the time to first token and of the time per output token). A client that sees first tokens late reports
too much of the one and too little of the other.

Where one process of vLLM's client is the limit (its `cpu_s` per second of `duration_s` nears 1), --vllm-processes 4
lets four offer the load in equal parts. That the server had the same work shows in its own CPU time (`server_cpu_s`).

Written: reference-<case>-<loop>.json (the pairs; -uneven, and -split4 with four processes), and the sweep's result,
rows and report.
"""

import argparse
import json
import os
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from benchmarks import servers
from benchmarks.load import DEMO_ENGINE, GPU_ENGINE, write_8b_model
from benchmarks.pairs import conclude
from benchmarks.questions import Question, make_questions, write_questions
from benchmarks.reference_loads import Load, plan_loads
from benchmarks.servers import Server
from benchmarks.vllm_peer import WarmVllmBenches

KV_CACHE_BYTES = 40 << 30
"""Of the 8B shape: 327,680 tokens, so that 500 requests of 384 run at once and none waits for memory."""
ROOMY = GPU_ENGINE | {
    "kv_cache_memory_bytes": KV_CACHE_BYTES, "gpu_memory_utilization": 0.9, "enable_prefix_caching": False,
}  # fmt: skip
"""No prefix cache: vLLM's client makes few different prompts of the stand-in's small vocabulary, and they hit it."""
DECODE_GRAPHS = {"enforce_eager": False, "compilation_config": {"mode": 0, "cudagraph_mode": "FULL_DECODE_ONLY"}}
"""Without them each step of so small a model is as long as Python takes to launch its kernels, and that varies."""
CASES = {"gpu-8b": ROOMY | DECODE_GRAPHS, "gpu-8b-eager": ROOMY, "demo": DEMO_ENGINE}


@dataclass(frozen=True)
class Bench:
    """What both clients are asked for, and where they leave it."""

    server: Server
    options: argparse.Namespace
    folder: Path
    vllm: WarmVllmBenches

    def run_ours(self, output: Path, *arguments: str) -> dict[str, Any]:
        """`raylaunch bench` as a user runs it; returns its result."""
        command = servers.bench_command(self.server, output, *arguments)
        environ = os.environ | {"RAYLAUNCH_HOME": str(self.folder / "home")}
        done = subprocess.run(
            command, env=environ, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, check=False
        )
        if not output.exists():
            raise SystemExit(f"raylaunch bench ended with {done.returncode} and left no result:\n{done.stdout}")
        reported: dict[str, Any] = json.loads(output.read_text())
        return reported

    def measure_ours(self, load: Load, asked: list[Question], seed: int) -> dict[str, Any]:
        """One load by `raylaunch bench`."""
        offered = ("--rate", str(load.rate)) if load.rate else ("-c", str(load.at_once))
        questions = write_questions(self.folder / "ours.asked.json", asked)
        reported = self.run_ours(
            *(self.folder / "ours.json", *offered, "-n", str(load.requests), "--seed", str(seed)),
            *("--api", "completions", "--questions", str(questions)),
            *("--warmup", "0", "--no-report", "--no-sample", "--force"),
        )
        return {
            "requests_ok": reported["requests_ok"],
            "input_tokens": reported["input_tokens"],
            "output_tokens": reported["output_tokens"],
            "duration_s": reported["duration_s"],
            "ttft_mean_ms": reported["ttft_ms"]["mean"],
            "ttft_p50_ms": reported["ttft_ms"]["p50"],
            "ttft_p99_ms": reported["ttft_ms"]["p99"],
            "tpot_p50_ms": reported["tpot_ms"]["p50"],
            "tpot_mean_ms": reported["tpot_ms"]["mean"],
            "output_tokens_per_s": reported["output_tokens_per_s"],
            "cpu_s": reported["client"]["cpu_s"],
            "valid": reported["valid"],
            "invalid_because": reported["invalid_because"],
        }

    def measure_vllm(self, load: Load, asked: list[Question], seed: int) -> dict[str, Any]:
        """One load by `vllm bench serve`."""
        at_once = None if load.rate else load.at_once
        model = self.server.model
        return self.vllm.run(
            self.server.url, model, Path(model), asked=asked, seed=seed, at_once=at_once, rate=load.rate
        )


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


Client = Callable[[Load, list[Question], int], dict[str, Any]]
"""Offers a load with these questions and this seed, and says what it saw."""


def measure(bench: Bench, client: Client, load: Load, asked: list[Question], seed: int) -> dict[str, Any]:
    """What a client says of one load, by how much its means differ from the server's own, and the server's CPU."""
    api_server = servers.find_process(bench.folder / "home", "raylaunch.engine.api_server")
    before, before_s = read_server(bench.server.url), servers.read_cpu_s(api_server)
    reported = client(load, asked, seed)
    reported["server_cpu_s"] = servers.read_cpu_s(api_server) - before_s
    for figure, (total_s, count) in read_server(bench.server.url).items():
        mean_ms = (total_s - before[figure][0]) / max(1, count - before[figure][1]) * 1e3
        reported[f"server_{figure}_mean_ms"] = mean_ms
        reported[f"{figure}_error_ms"] = reported[f"{figure}_mean_ms"] - mean_ms
    return reported


def refuse_other_work(pair: Mapping[str, Mapping[str, Any]]) -> None:
    """A pair is one only where both clients had the same answers.

    Raises:
        SystemExit: they had not; a failed request, too, is seen here.
    """
    for figure in ("requests_ok", "input_tokens", "output_tokens"):
        had = [pair[name][figure] for name in ("raylaunch", "vllm")]
        if had[0] != had[1]:
            raise SystemExit(f"not the same work: {figure} {had[0]} of raylaunch, {had[1]} of vLLM's client")


def run_pair(bench: Bench, load: Load, number: int) -> dict[str, Any]:
    """One run of each client; who goes first changes from pair to pair."""
    options = bench.options
    clients = {"raylaunch": bench.measure_ours, "vllm": bench.measure_vllm}
    names = list(clients) if number % 2 else list(reversed(clients))
    seed = 1000 * load.at_once + number
    asked = make_questions(
        Path(bench.server.model), count=load.requests, tokens=options.tokens_in,
        answer_tokens=find_answer_tokens(options), seed=seed,
    )  # fmt: skip
    pair = {name: measure(bench, clients[name], load, asked, seed) for name in names}
    refuse_other_work(pair)
    return pair


def sweep(bench: Bench) -> dict[str, Any]:
    """All levels by `raylaunch bench`, with its report."""
    options = bench.options
    result = options.out / f"reference-{options.case}-sweep.json"
    asked = ("--input-tokens", str(options.tokens_in), "--output-tokens", str(options.tokens_out))
    return bench.run_ours(result, "-c", options.levels, "--duration", f"{options.duration}s", *asked)


def find_answer_tokens(options: argparse.Namespace) -> tuple[int, int]:
    """Shortest and longest answer."""
    tokens = options.tokens_out
    return (tokens - tokens // 2, tokens + tokens // 2) if options.uneven else (tokens, tokens)


def read_kept(path: Path, facts: Mapping[str, Any]) -> dict[str, Any]:
    """A result to go on with.

    Raises:
        SystemExit: it is of another engine, or of other requests.
    """
    kept: dict[str, Any] = json.loads(path.read_text())
    if other := [fact for fact, value in facts.items() if kept.get(fact) != value]:
        raise SystemExit(f"{path}: of another {', '.join(other)}; go on in another --out, or without --go-on")
    return kept


def run_pairs(bench: Bench, swept: dict[str, Any], loop: str) -> None:
    """All levels in turn, pair by pair; what is known is written after each, for time may end before the run does."""
    options, began = bench.options, time.monotonic()
    split = f"-split{options.vllm_processes}" if options.vllm_processes > 1 else ""
    name = f"reference-{options.case}-{loop}{'-uneven' if options.uneven else ''}{split}"
    facts = {"case": options.case, "engine": CASES[options.case], "vllm_processes": options.vllm_processes}
    facts |= {"tokens_in": options.tokens_in, "answer_tokens": [*find_answer_tokens(options)]}
    levels: dict[Load, dict[str, Any]] = {}
    if options.go_on and (path := options.out / f"{name}.json").exists():
        kept = read_kept(path, facts)
        levels = {Load(level["at_once"], level["requests"], level["rate"]): level for level in kept["levels"]}
        facts["goes_on_from"] = [*kept.get("goes_on_from", ()), kept["command"]]
    loads = list(plan_loads(swept, options.levels, options.requests, loop))
    for load in loads * options.pairs:
        pairs = levels[load]["pairs"] if load in levels else []
        pairs.append(run_pair(bench, load, len(pairs)))
        levels[load] = {**asdict(load), **conclude(pairs), "pairs": pairs}
        took_s = time.monotonic() - began
        servers.write_result(name, {**facts, "took_s": took_s, "levels": list(levels.values())}, options.out)
        print(json.dumps({key: value for key, value in levels[load].items() if key != "pairs"}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", choices=tuple(CASES), nargs="?", default="gpu-8b")
    parser.add_argument("--levels", default="1,8,64,256,500")
    parser.add_argument("--duration", type=float, default=10.0, help="seconds in which a level's requests begin")
    parser.add_argument("--requests", help="a number, or one for each level; else as many as the sweep had in its time")
    parser.add_argument("--pairs", type=int, default=2)
    parser.add_argument("--go-on", action="store_true", help="add to the result in --out, pairs and levels")
    parser.add_argument("--vllm-processes", type=int, default=1)
    parser.add_argument("--swept", type=Path, help="a kept sweep's result: pairs only, with its loads")
    parser.add_argument("--loops", default="closed,open")
    parser.add_argument("--tokens-in", type=int, default=256)
    parser.add_argument("--tokens-out", type=int, default=128)
    parser.add_argument("--uneven", action="store_true", help="answers of half to three halves of --tokens-out")
    parser.add_argument("--out", type=Path, default=servers.RESULTS)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    swept = json.loads(options.swept.read_text()) if options.swept else None
    if swept is not None:
        list(plan_loads(swept, options.levels, options.requests, "closed"))  # fails before a start
    port = servers.find_free_port()
    with servers.scratch() as folder:
        model = servers.find_demo_model() if options.case == "demo" else str(write_8b_model(folder / "model"))
        launch = servers.write_launch(folder, model, CASES[options.case])
        serving = servers.start(
            "raylaunch", servers.raylaunch_command(launch, port), port=port, model=model,
            environ={"RAYLAUNCH_HOME": str(folder / "home")}, log=folder / "raylaunch.log",
        )  # fmt: skip
        with serving as server:
            print(f"ready after {server.ready_s:.0f} s", flush=True)
            vllm = WarmVllmBenches(folder, options.vllm_processes)
            bench = Bench(server, options, folder, vllm)
            if swept is None:
                swept = sweep(bench)
            for loop in options.loops.split(","):
                run_pairs(bench, swept, loop)
            vllm.close()
        shutil.copy(folder / "raylaunch.log", options.out / f"reference-{options.case}-serve.txt")


if __name__ == "__main__":
    main()
