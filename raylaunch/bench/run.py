"""A complete load test: warm-up, one level after another, the samples of the machines, and the result of it all."""

import platform
import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic

from raylaunch.base.console import ProgressLine
from raylaunch.base.errors import BenchError
from raylaunch.base.http_client import RequestError
from raylaunch.bench import result as result_file
from raylaunch.bench import stats
from raylaunch.bench.figures import (
    BenchResult,
    ClientFigures,
    Level,
    LevelResult,
    OfferedLoad,
    RequestSettings,
    ShardFigures,
    Spread,
    TestedServer,
)
from raylaunch.bench.load import LoadTest
from raylaunch.bench.local_shards import ShardRunner
from raylaunch.bench.sampling import LoadSampler, cut_moments
from raylaunch.bench.self_check import MAX_FAILED_SHARE, find_client_limits
from raylaunch.bench.shard_plan import ShardPlan, ShardProgress, ShardResult
from raylaunch.bench.target import Target

ENDS = {
    "stopped": "stopped before its end",
    "gone": "the server stopped answering",
    "stalled": "no byte came for any request under way",
    "lost": "a node that carried part of the load was lost, with its rows",
}


@dataclass
class Outcome:
    """The result and its rows (result.pack_row)."""

    result: BenchResult
    rows: list[list[object]]


def run_test(
    test: LoadTest, runner: ShardRunner, sampler: LoadSampler | None, *, show: Callable[[Sequence[ProgressLine]], None]
) -> Outcome:
    """Run all levels and return the figures of each.

    Args:
        show: gets lines of progress; each call replaces the lines before.
    """
    bodies = tuple(test.request.make_body(test.target.model, prompt) for prompt in test.prompts)
    made_at = time.time()
    if test.warmup:
        show([ProgressLine("warm-up", f"{test.warmup} requests")])
        at_once = Level(concurrency=min(test.warmup, max(level.concurrency or 8 for level in test.levels)))
        shards, _ = _offer(test, at_once, bodies, runner, show, requests=test.warmup, title="warm-up")
        _raise_for_warmup(shards)
    levels: list[LevelResult] = []
    packed: list[list[object]] = []
    asked = test.warmup  # each level goes on where the one before ended: no prompt comes twice before all were asked
    for number, level in enumerate(test.levels):
        requests = test.count_requests(level)
        shards, began = _offer(test, level, bodies, runner, show, requests=requests, first_body=asked)
        asked += sum(len(shard.rows) + len(shard.rows_cut) for shard in shards)
        levels.append(summarise_level(test, level, shards, began, sampler))
        for shard in shards:
            packed += [result_file.pack_row(row, began, number) for row in (*shard.rows, *shard.rows_cut)]
        if levels[-1].ended != "whole":
            break
    return Outcome(make_result(test, levels, made_at, sampler), packed)


def _raise_for_warmup(shards: Sequence[ShardResult]) -> None:
    """Raise if the warm-up ended early: there is nothing to measure then."""
    ended = next((shard.ended for shard in shards if shard.ended != "whole"), None)
    if ended == "stopped":
        raise KeyboardInterrupt
    if ended:
        raise BenchError(
            f"warm-up: {ENDS[ended]}", fix="see `raylaunch status` and the server's log; --warmup 0 skips the warm-up"
        )


def _offer(
    test: LoadTest,
    level: Level,
    bodies: tuple[bytes, ...],
    runner: ShardRunner,
    show: Callable[[Sequence[ProgressLine]], None],
    *,
    requests: int | None,
    first_body: int = 0,
    title: str = "",
) -> tuple[list[ShardResult], float]:
    """Run one level; returns the shards' results, and the common start on this machine's clock."""
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
        show([ProgressLine(title or level.describe(), f"{int(min(share, 1.0) * 10 + 1e-9) * 10}%", counted)])

    results = runner.run(plans, report=report, started=starts.append)
    return results, starts[-1]


def summarise_level(
    test: LoadTest, level: Level, shards: Sequence[ShardResult], began: float, sampler: LoadSampler | None
) -> LevelResult:
    """The figures of one level; rows of other machines are moved to this one's clock first."""
    for shard in shards:
        if shard.ended != "lost":  # its times were noted here, on this clock
            _shift(shard)
    rows = [row for shard in shards for row in shard.rows]
    ended = next((shard.ended for shard in shards if shard.ended != "whole"), "whole")
    duration_s = max(1e-6, max(shard.ended_s for shard in shards) - began)
    late_s = [row.sent_s - row.due_s for row in rows if row.sent_s] if level.rate_per_s else []
    figures = stats.summarise(rows, start_s=began, duration_s=duration_s, slo=test.slo)
    reasons = find_client_limits(
        [shard.self_check for shard in shards], stats.find_percentile(late_s, 99) if late_s else None
    )
    if ended != "whole":
        reasons.append(f"{ENDS[ended]}, {duration_s:.1f} s after the start")
    if not figures.requests_ok:
        reasons.append("no request succeeded")
    elif (share := figures.requests_failed / len(rows)) > MAX_FAILED_SHARE:
        reasons.append(f"{share:.0%} of the requests failed: the figures are those of the others")
    samples, engine = cut_moments(sampler.moments if sampler else (), began, began + duration_s)
    kind = "closed" if level.concurrency else "open"
    return LevelResult(
        **vars(figures),
        valid=not reasons,
        invalid_because=tuple(reasons),
        load=OfferedLoad(
            level.concurrency, level.rate_per_s, kind=kind, requests=test.count_requests(level),
            duration_s=test.duration_s,
        ),
        ended=ended,
        requests_cut_off=sum(shard.cut_off for shard in shards),
        client=describe_client(shards, late_s),
        samples=samples,
        engine=engine,
    )  # fmt: skip


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


def describe_client(shards: Sequence[ShardResult], late_s: Sequence[float]) -> ClientFigures:
    """How the client itself fared."""
    each = tuple(_describe_shard(shard) for shard in shards)
    connects_s = [value for shard in shards for value in shard.self_check.connects_s]
    return ClientFigures(
        cpu_s=round(sum(one.cpu_s for one in each), 3),
        max_loop_lag_ms=max(one.max_loop_lag_ms for one in each),
        connections=len(connects_s),
        connect_ms=_make_spread(connects_s),
        shards=each,
        late_ms=_make_spread(late_s) if late_s else None,
    )


def _make_spread(values_s: Sequence[float]) -> Spread:
    found = stats.make_distribution(values_s)
    return Spread(found.p50, found.p99, found.max)


def _describe_shard(shard: ShardResult) -> ShardFigures:
    notes = shard.self_check
    return ShardFigures(
        node=shard.node,
        clock_error_ms=round(shard.clock_error_s * 1e3, 3),
        cpu_s=round(notes.cpu_s, 3),
        cpu_share=round(notes.cpu_s / notes.duration_s, 4),
        max_loop_lag_ms=round(notes.max_loop_lag_s * 1e3, 3),
        slow_share=round(notes.slow_s / notes.duration_s, 5),
        turns=notes.turns,
        reads=notes.reads,
        runnable_wait_s=None if notes.runnable_wait_s is None else round(notes.runnable_wait_s, 3),
    )


def make_result(
    test: LoadTest, levels: Sequence[LevelResult], made_at: float, sampler: LoadSampler | None
) -> BenchResult:
    """The complete result: server, requests, machines, and the figures of all levels."""
    from raylaunch.base import versions

    reasons = [
        f"{level.load.describe()}: {reason}" if len(levels) > 1 else reason
        for level in levels
        for reason in level.invalid_because
    ]
    return BenchResult(
        made_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(made_at)),
        valid=not reasons,
        invalid_because=tuple(reasons),
        server=TestedServer(test.target.url, test.target.model, find_server_version(test.target)),
        asked=RequestSettings(
            api=test.request.api,
            stream=test.request.stream,
            max_tokens=test.request.max_tokens,
            exact_tokens=test.request.exact,
            temperature=test.request.temperature,
            prompts=test.source,
            distinct_prompts=len(test.prompts),
            warmup=test.warmup,
            timeout_s=test.timeout_s,
            seed=test.seed,
            own_output_tokens=test.request.find_own_lengths(test.prompts),
        ),
        versions={name: versions.find_version(name) for name in ("ray", "vllm", "torch", "raylaunch")}
        | {"python": platform.python_version()},
        nodes=sampler.hardware if sampler else {},
        sampling_problem=sampler.problem if sampler else "not asked for",
        levels=tuple(levels),
    )


def find_server_version(target: Target) -> str | None:
    """The server's version (vLLM's /version), or None."""
    try:
        return str(target.ask("/version")["version"])
    except (RequestError, KeyError, TypeError):
        return None
