"""`raylaunch bench` and other load clients against a server whose truth is known, on the same cores.

    python -m benchmarks.client [--peers none] [--runs 3]

The server (benchmarks/truth_server.py) answers each stream with the first token after 50 ms and then one each 20 ms,
128 in all: 500 streams take 2.59 s a round, so 1,500 requests can reach 24,710 tokens/s. Each client runs as its users
run it, in a process of its own; CPU is that of the command. Peers are measured where they are installed: vLLM and
openai in this Python, aiperf and guidellm beside it or on PATH, where each may have an environment of its own:

    PATH="$PATH:$PWD/.cache/peers/aiperf/bin:$PWD/.cache/peers/guidellm/bin" python -m benchmarks.client
"""

import argparse
import importlib.metadata
import importlib.util
import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import peers, servers, vllm_peer

FIRST_S, EACH_S, TOKENS = 0.050, 0.020, 128
OPENAI_CLIENT = """
import asyncio, json, statistics, sys, time
import openai
async def main(url, streams, requests):
    client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=600)
    gate, firsts, tokens = asyncio.Semaphore(streams), [], 0
    async def ask():
        nonlocal tokens
        async with gate:
            began, first = time.perf_counter(), None
            stream = await client.completions.create(model="truth", prompt="Hello " * 20, max_tokens=128, stream=True)
            async for chunk in stream:
                if chunk.choices:
                    first = first or time.perf_counter() - began
                    tokens += 1
            firsts.append(first * 1e3)
    began = time.perf_counter()
    await asyncio.gather(*(ask() for _ in range(requests)))
    took = time.perf_counter() - began
    p50, p99 = statistics.median(firsts), statistics.quantiles(firsts, n=100)[98]
    print(json.dumps({"ttft_p50_ms": p50, "ttft_p99_ms": p99, "output_tokens_per_s": tokens / took}))
asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
"""


def ask_truth(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"{url}/truth") as response:
        reported: dict[str, Any] = json.loads(response.read())
    return reported


def run_ours(url: str, streams: int, requests: int, shards: int, folder: Path) -> dict[str, Any]:
    """`raylaunch bench`; what it is not sure of it says itself."""
    result = folder / "ours.json"
    command = [sys.executable, "-m", "raylaunch", "bench", "--url", url, "-c", str(streams), "-n", str(requests)]
    command += ["--api", "completions", "--max-tokens", str(TOKENS), "--warmup", "0", "--shards", str(shards)]
    cpu_s, status, text = peers.run_measured([*command, "--no-sample", "--no-report", "-o", str(result)], folder)
    if not result.exists():
        return peers.tell_failure(status, text)
    reported = json.loads(result.read_text())
    return {
        "ttft_p50_ms": reported["ttft_ms"]["p50"],
        "ttft_p99_ms": reported["ttft_ms"]["p99"],
        "itl_p50_ms": reported["itl_ms"]["p50"],
        "output_tokens_per_s": reported["output_tokens_per_s"],
        "cpu_s": cpu_s,
        "cpu_s_of_shards": [shard["cpu_s"] for shard in reported["client"]["shards"]],
        "max_loop_lag_ms": reported["client"]["max_loop_lag_ms"],
        "valid": reported["valid"],
        "invalid_because": reported["invalid_because"],
        "exit_status": status,
    }


def run_openai(url: str, streams: int, requests: int, folder: Path) -> dict[str, Any]:
    """The openai package, one process."""
    command = [sys.executable, "-c", OPENAI_CLIENT, url, str(streams), str(requests)]
    cpu_s, status, text = peers.run_measured(command, folder)
    last = text.strip().splitlines()[-1] if text.strip() else ""
    if not last.startswith("{"):
        return peers.tell_failure(status, text)
    return {"version": importlib.metadata.version("openai"), **json.loads(last), "cpu_s": cpu_s}


def find_peers(url: str, streams: int, requests: int, folder: Path) -> dict[str, Callable[[], dict[str, Any]]]:
    """The other clients that are installed, each ready to offer the load; any tokenizer does: the server reads none."""
    from raylaunch.engine.rehearsal.standin_model import Shape, write_standin

    tokenizer = folder / "tokenizer"
    write_standin(tokenizer, Shape(heads=8, kv_heads=8, layers=1))
    load = peers.Load(at_once=streams, requests=requests, tokens_in=20, tokens_out=TOKENS)
    found: dict[str, Callable[[], dict[str, Any]]] = {}
    if servers.describe_machine()["versions"]["vllm"]:
        found["vllm bench serve"] = lambda: vllm_peer.run_vllm(url, "truth", tokenizer, folder, load)
    if aiperf := peers.find_command("aiperf"):
        found["aiperf"] = lambda: peers.run_aiperf(aiperf, url, "truth", tokenizer, folder, load)
    if guidellm := peers.find_command("guidellm"):
        found["guidellm"] = lambda: peers.run_guidellm(guidellm, url, "truth", tokenizer, folder, load)
    if importlib.util.find_spec("openai"):
        found["openai, one process"] = lambda: run_openai(url, streams, requests, folder)
    return found


def judge(row: dict[str, Any]) -> dict[str, bool]:
    """Our bars for the client, at 500 streams."""
    return {
        "median TTFT at most 70 ms": row["ttft_p50_ms"] <= 70,
        "p99 TTFT at most 120 ms": row["ttft_p99_ms"] <= 120,
        "at least 24,500 tokens/s": row["output_tokens_per_s"] >= 24500,
        "at most 4 s of CPU": row["cpu_s"] <= 4,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", choices=("all", "none"), default="all")
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    port = servers.find_free_port()
    url = f"http://127.0.0.1:{port}"
    server = subprocess.Popen([sys.executable, "-m", "benchmarks.truth_server", "--port", str(port)])
    rows: dict[str, Any] = {}
    with servers.scratch() as folder:

        def measure(name: str, run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
            time.sleep(1.0)
            before = ask_truth(url)["cpu_s"]
            row = run()
            truth = ask_truth(url)
            rows[name] = row | {"server": truth | {"cpu_s": truth["cpu_s"] - before}}
            print(name, json.dumps(rows[name]), flush=True)
            return row

        try:
            time.sleep(1.0)
            bars = []
            for number in range(options.runs):
                row = measure(f"raylaunch {number + 1}", lambda: run_ours(url, 500, 1500, 1, folder))
                bars.append(judge(row))
            measure("raylaunch, two shards", lambda: run_ours(url, 500, 1500, 2, folder))
            measure("raylaunch, 2,000 at once", lambda: run_ours(url, 2000, 6000, 1, folder))
            if options.peers == "all":
                for name, run in find_peers(url, 500, 1500, folder).items():
                    measure(name, run)
        finally:
            server.terminate()
            server.wait()
    held = {name: sum(bar[name] for bar in bars) for name in bars[0]}
    kept = {name: f"{count} of {len(bars)}" for name, count in held.items()}
    servers.write_result("client", {"bars_held": kept, "rows": rows})


if __name__ == "__main__":
    main()
