"""A whole load test: warm-up, one level after another, what was sampled meanwhile, and the result of it all."""

import platform
import time
import urllib.error
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any

from raylaunch.base.errors import BenchError
from raylaunch.bench import result as result_file
from raylaunch.bench import stats
from raylaunch.bench.load import Level, LoadTest, describe_load
from raylaunch.bench.local_shards import ShardRunner
from raylaunch.bench.sampling import LoadSampler, cut_moments
from raylaunch.bench.self_check import MAX_FAILED_SHARE, find_client_limits
from raylaunch.bench.shard_plan import ShardPlan, ShardProgress, ShardResult
from raylaunch.bench.target import Target

ENDS = {
    "stopped": "stopped before its end",
    "gone": "the server stopped answering",
    "stalled": "the server fell silent: no byte for any request under way",
    "lost": "a node that carried part of the load was lost, with its rows",
}


@dataclass
class Outcome:
    """The result and its rows, as written."""

    result: dict[str, Any]
    rows: list[list[Any]]


def run_test(
    test: LoadTest, runner: ShardRunner, sampler: LoadSampler | None, *, show: Callable[[Sequence[str]], None]
) -> Outcome:
    """Run all levels, and tell how they went.

    Args:
        show: is given lines that replace each other: what goes on.
    """
    if not test.levels:
        raise BenchError("there is no load to offer", fix="say --concurrency or --rate")
    bodies = test.request.make_bodies(test.target.model, test.prompts)
    made_at = time.time()
    if test.warmup:
        show([f"warm-up: {test.warmup} requests"])
        at_once = Level(concurrency=min(test.warmup, max(level.concurrency or 8 for level in test.levels)))
        shards, _ = _offer(test, at_once, bodies, runner, show, requests=test.warmup, title="warm-up")
        _raise_for_warmup(shards)
    outcome = Outcome({}, [])
    levels: list[dict[str, Any]] = []
    asked = test.warmup  # each level goes on where the one before ended: no prompt is met twice before all were
    for number, level in enumerate(test.levels):
        requests = test.count_requests(level)
        shards, began = _offer(test, level, bodies, runner, show, requests=requests, first_body=asked)
        asked += sum(len(shard.rows) + len(shard.rows_cut) for shard in shards)
        figures = summarise_level(test, level, shards, began)
        if sampler is not None:
            figures |= cut_moments(sampler.moments, began, began + figures["duration_s"])
        levels.append(figures)
        for shard in shards:
            rows = [*shard.rows, *shard.rows_cut]
            outcome.rows += [result_file.pack_row(row, began, number) for row in rows]
        if figures["ended"] != "whole":
            break
    outcome.result = make_result(test, levels, made_at, sampler)
    return outcome


def _raise_for_warmup(shards: Sequence[ShardResult]) -> None:
    """Nothing is measured yet: whatever ends a warm-up early ends it all."""
    ended = next((shard.ended for shard in shards if shard.ended != "whole"), None)
    if ended == "stopped":
        raise KeyboardInterrupt
    if ended:
        raise BenchError(
            f"warm-up: {ENDS[ended]}", fix="`raylaunch status` and its log say why; --warmup 0 leaves it out"
        )


def _offer(
    test: LoadTest,
    level: Level,
    bodies: tuple[bytes, ...],
    runner: ShardRunner,
    show: Callable[[Sequence[str]], None],
    *,
    requests: int | None,
    first_body: int = 0,
    title: str = "",
) -> tuple[list[ShardResult], float]:
    """Run one level; returns what the shards saw, and the common start on this machine's clock."""
    shards = test.count_shards(level)
    addresses, head = test.target.find_addresses(), test.target.make_head(test.request.path)
    plans = [
        ShardPlan(
            addresses, head, bodies, test.timeout_s, first_body, shard, shards,
            concurrency=level.concurrency, rate_per_s=level.rate_per_s, requests=requests,
            duration_s=None if title else test.duration_s, seed=test.seed,
        )
        for shard in range(shards)
    ]  # fmt: skip
    starts = [monotonic()]

    def report(progress: ShardProgress) -> None:
        took_s = max(0.0, monotonic() - starts[-1])
        share = 0.0
        if requests:
            share = progress.done / requests
        elif test.duration_s:
            share = took_s / test.duration_s
        failed = f", {progress.failed} FAILED" if progress.failed else ""
        counted = f"{progress.done} done{failed}, {progress.running} running, {took_s:.0f} s"
        show([f"{title or level.describe()}: {int(min(share, 1.0) * 10 + 1e-9) * 10}% | {counted}"])

    results = runner.run(plans, report=report, started=starts.append)
    return results, starts[-1]


def summarise_level(test: LoadTest, level: Level, shards: Sequence[ShardResult], began: float) -> dict[str, Any]:
    """The figures of one level; rows of other machines are brought to this one's clock first."""
    for shard in shards:
        if shard.ended != "lost":  # such a one was noted here, on this clock
            _shift(shard)
    rows = [row for shard in shards for row in shard.rows]
    ended = next((shard.ended for shard in shards if shard.ended != "whole"), "whole")
    duration_s = max(1e-6, max(shard.ended_s for shard in shards) - began)
    late_s = [row.sent_s - row.due_s for row in rows if row.sent_s] if level.rate_per_s else []
    checks = [shard.self_check for shard in shards]
    figures = {
        "load": {
            "kind": "closed" if level.concurrency else "open",
            "concurrency": level.concurrency,
            "rate_per_s": level.rate_per_s,
            "requests": test.count_requests(level),
            "duration_s": test.duration_s,
        },
        "ended": ended,
        "requests_cut_off": sum(shard.cut_off for shard in shards),
        **stats.summarise(rows, start_s=began, duration_s=duration_s, slo=test.slo),
        "client": describe_client(shards, late_s),
    }
    late = sorted(late_s)
    reasons = find_client_limits(checks, stats.find_percentile(late, 99) if late else None)
    if ended != "whole":
        reasons.append(f"{ENDS[ended]}, {duration_s:.1f} s after the start")
    if not figures["requests_ok"]:
        reasons.append("no request succeeded")
    elif (share := figures["requests_failed"] / len(rows)) > MAX_FAILED_SHARE:
        reasons.append(f"{share:.0%} of the requests failed: the figures are those of the others")
    return {"valid": not reasons, "invalid_because": reasons, **figures}


def _shift(shard: ShardResult) -> None:
    """Bring a shard's times to this machine's clock."""
    by_s, shard.clock_offset_s = -shard.clock_offset_s, 0.0
    if not by_s:
        return
    shard.began_s += by_s
    shard.ended_s += by_s
    for row in (*shard.rows, *shard.rows_cut):
        row.due_s += by_s
        row.end_s += by_s
        row.sent_s += by_s if row.sent_s else 0.0
        row.arrivals = array("d", [time + by_s for time in row.arrivals])


def describe_client(shards: Sequence[ShardResult], late_s: Sequence[float]) -> dict[str, Any]:
    """How the client itself fared."""

    def describe(shard: ShardResult) -> dict[str, Any]:
        notes = shard.self_check
        return {
            "node": shard.node,
            "clock_error_ms": round(shard.clock_error_s * 1e3, 3),
            "cpu_s": round(notes.cpu_s, 3),
            "cpu_share": round(notes.cpu_s / notes.duration_s, 4),
            "max_loop_lag_ms": round(notes.max_loop_lag_s * 1e3, 3),
            "slow_share": round(notes.slow_s / notes.duration_s, 5),
            "turns": notes.turns,
            "reads": notes.reads,
            "runnable_wait_s": None if notes.runnable_wait_s is None else round(notes.runnable_wait_s, 3),
        }

    each = [describe(shard) for shard in shards]
    connect = stats.Distribution.of(value for shard in shards for value in shard.self_check.connects_s)
    described: dict[str, Any] = {
        "cpu_s": round(sum(one["cpu_s"] for one in each), 3),
        "max_loop_lag_ms": max(one["max_loop_lag_ms"] for one in each),
        "connections": connect.count,
        "connect_ms": {"p50": connect.p50, "p99": connect.p99, "max": connect.max},
        "shards": each,
    }
    if late_s:
        late = stats.Distribution.of(late_s)
        described["late_ms"] = {"p50": late.p50, "p99": late.p99, "max": late.max}
    return described


def make_result(
    test: LoadTest, levels: list[dict[str, Any]], made_at: float, sampler: LoadSampler | None
) -> dict[str, Any]:
    """The whole result: what was asked, of what, on what; the figures of the last level on top."""
    from raylaunch.base import versions

    last = levels[-1]
    reasons = [
        f"{describe_load(level['load'])}: {reason}" if len(levels) > 1 else reason
        for level in levels
        for reason in level["invalid_because"]
    ]
    figures = {key: value for key, value in last.items() if key not in ("samples", "series", "load")}
    return {
        "format_version": result_file.FORMAT_VERSION,
        "kind": result_file.KIND,
        "made_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(made_at)),
        **figures,
        "valid": not reasons,
        "invalid_because": reasons,
        "server": {"url": test.target.url, "model": test.target.model, "version": find_server_version(test.target)},
        "asked": {
            "api": test.request.api,
            "stream": test.request.stream,
            "max_tokens": test.request.max_tokens,
            "exact_tokens": test.request.exact,
            "own_output_tokens": test.request.find_own_lengths(test.prompts),
            "temperature": test.request.temperature,
            "prompts": test.source,
            "distinct_prompts": len(test.prompts),
            "warmup": test.warmup,
            "timeout_s": test.timeout_s,
            "seed": test.seed,
        },
        "versions": {name: versions.find_version(name) for name in ("ray", "vllm", "torch")}
        | {"raylaunch": versions.find_version("raylaunch"), "python": platform.python_version()},
        "nodes": {} if sampler is None else sampler.facts,
        "sampling_problem": sampler.problem if sampler is not None else "not asked for",
        "levels": levels,
    }


def find_server_version(target: Target) -> str | None:
    """What the server says it is (vLLM's /version), or None."""
    try:
        return str(target.ask("/version")["version"])
    except (BenchError, urllib.error.HTTPError, KeyError, TypeError):
        return None
