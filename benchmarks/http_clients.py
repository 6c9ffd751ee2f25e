"""The load loop of `raylaunch bench` and a plain aiohttp client, offering the same load to the same server in turns.

    python -m benchmarks.http_clients [--pairs 6] [--streams 500] [--requests 1500]

Both run in a process of their own with the same request bodies, note when each token's event was read, count output
tokens by the server's usage and keep one row a request. The server is benchmarks/truth_server.py: first token after
50 ms, then one each 20 ms, 128 in all. CPU is that of the load alone: imports and connecting come before it. The
question behind it: is our own HTTP client worth its lines? It is if it saves more than 15 % of CPU or of tokens/s.
"""

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import Any

from benchmarks import servers

TOKENS = 128
BODY = {"model": "truth", "prompt": "Hello " * 20, "max_tokens": TOKENS, "stream": True,
        "stream_options": {"include_usage": True}}  # fmt: skip


@dataclass
class Request:
    """What the aiohttp client keeps of a request; our client keeps the same in its own rows."""

    sent_s: float
    arrivals: list[float] = field(default_factory=list)
    tokens_out: int = 0


def describe(rows: list[Any], firsts_s: list[float], took_s: float, cpu_s: float) -> dict[str, Any]:
    gaps = [after - before for row in rows for before, after in zip(row.arrivals, row.arrivals[1:], strict=False)]
    return {
        "requests_ok": sum(row.tokens_out == TOKENS == len(row.arrivals) for row in rows),
        "output_tokens_per_s": sum(row.tokens_out for row in rows) / took_s,
        "cpu_s": cpu_s,
        "ttft_p50_ms": statistics.median(firsts_s) * 1e3,
        "ttft_p99_ms": statistics.quantiles(firsts_s, n=100)[98] * 1e3,
        "itl_p50_ms": statistics.median(gaps) * 1e3,
        "itl_p99_ms": statistics.quantiles(gaps, n=100)[98] * 1e3,
    }


def run_ours(url: str, streams: int, requests: int) -> dict[str, Any]:
    from raylaunch.bench.shard import Shard
    from raylaunch.bench.shard_plan import ShardPlan, ShardProgress
    from raylaunch.bench.target import Target

    class Now:
        """Begins when the connections are open; follows nothing."""

        def wait_for_start(self) -> float:
            return time.monotonic()

        def is_stopped(self) -> bool:
            return False

        def report(self, progress: ShardProgress) -> None:
            pass

    target = Target(url, "truth")
    addresses, head = target.find_addresses(), target.make_head("/v1/completions")
    plan = ShardPlan(addresses, head, (json.dumps(BODY).encode(),), 300.0, concurrency=streams, requests=requests)
    result = Shard(plan, Now()).run()
    rows = [row for row in result.rows if row.error is None]
    firsts = [row.arrivals[0] - row.due_s for row in rows]
    return describe(rows, firsts, result.ended_s - result.began_s, result.self_check.cpu_s)


async def ask(session: Any, url: str, body: bytes) -> Request:
    """One request: events split at the blank line, JSON decoded only where usage is (as our client does)."""
    request, rest = Request(time.monotonic()), b""
    async with session.post(url, data=body, headers={"Content-Type": "application/json"}) as response:
        assert response.status == 200
        async for data in response.content.iter_any():
            now = time.monotonic()
            *events, rest = (rest + data).split(b"\n\n")
            for event in events:
                if b'"usage":{' in event:
                    request.tokens_out = json.loads(event[6:])["usage"]["completion_tokens"]
                elif b'"choices":[{' in event:
                    request.arrivals.append(now)
                elif b'"error"' in event:
                    raise RuntimeError(event)
    return request


async def offer(url: str, streams: int, requests: int) -> dict[str, Any]:
    import aiohttp

    body, rows, left = json.dumps(BODY).encode(), [], iter(range(requests))
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=None, sock_read=300)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:

        async def check() -> None:
            async with session.get(f"{url}/v1/models") as response:
                await response.read()

        async def work() -> None:
            for _ in left:
                rows.append(await ask(session, f"{url}/v1/completions", body))

        await asyncio.gather(*(check() for _ in range(streams)))  # the connections are open before the load begins
        began, cpu = time.monotonic(), time.process_time()
        await asyncio.gather(*(work() for _ in range(streams)))
        cpu_s, took_s = time.process_time() - cpu, max(row.arrivals[-1] for row in rows) - began
    return describe(rows, [row.arrivals[0] - row.sent_s for row in rows], took_s, cpu_s)


def run_aiohttp(url: str, streams: int, requests: int) -> dict[str, Any]:
    return asyncio.run(offer(url, streams, requests))


def run_aiohttp_uvloop(url: str, streams: int, requests: int) -> dict[str, Any]:
    import uvloop

    return uvloop.run(offer(url, streams, requests))  # type: ignore[no-any-return]


CLIENTS = {"ours": run_ours, "aiohttp": run_aiohttp, "aiohttp with uvloop": run_aiohttp_uvloop}


def measure(client: str, url: str, streams: int, requests: int) -> dict[str, Any]:
    """One run in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.http_clients", "--client", client, "--url", url]
    command += ["--streams", str(streams), "--requests", str(requests)]
    row: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    print(f"{client}: {row['cpu_s']:.2f} s of CPU, {row['output_tokens_per_s']:,.0f} tokens/s", file=sys.stderr)
    return row


def compare(rounds: list[dict[str, Any]], other: str) -> dict[str, Any]:
    """Geometric means of another client's figures over ours; the extremes are single rounds'."""
    found = {}
    for key in ("cpu_s", "output_tokens_per_s", "ttft_p50_ms", "ttft_p99_ms"):
        ratios = [one[other][key] / one["ours"][key] for one in rounds]
        found[key] = {"mean": statistics.geometric_mean(ratios), "min": min(ratios), "max": max(ratios)}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=6)
    parser.add_argument("--streams", type=int, default=500)
    parser.add_argument("--requests", type=int, default=1500)
    parser.add_argument("--client", choices=tuple(CLIENTS), help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.client:
        print(json.dumps(CLIENTS[options.client](options.url, options.streams, options.requests)))
        return
    port = servers.find_free_port()
    server = subprocess.Popen([sys.executable, "-m", "benchmarks.truth_server", "--port", str(port)])
    rounds = []
    try:
        time.sleep(1.0)
        for number in range(options.pairs):
            order = list(CLIENTS)[number % len(CLIENTS) :] + list(CLIENTS)[: number % len(CLIENTS)]
            url = f"http://127.0.0.1:{port}"
            rounds.append({client: measure(client, url, options.streams, options.requests) for client in order})
    finally:
        server.terminate()
        server.wait()
    ratios = {f"{other} / ours": compare(rounds, other) for other in CLIENTS if other != "ours"}
    servers.write_result("http-clients", {"ratios": ratios, "rounds": rounds})


if __name__ == "__main__":
    main()
