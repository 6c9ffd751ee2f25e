"""A result as text, for a terminal."""

from raylaunch.bench.figures import BenchResult, Goodput, LevelResult

MEASURES = (
    ("ttft_ms", "time to first token"),
    ("tpot_ms", "time per output token"),
    ("itl_ms", "between tokens"),
    ("e2e_ms", "end to end"),
)
_COLUMNS = ("mean", "p50", "p90", "p95", "p99")


def describe_result(result: BenchResult) -> list[str]:
    """A block of lines for each level, then whether the figures are valid."""
    lines = [f"{result.server.model} at {result.server.url}"]
    for level in result.levels:
        lines += ["", *describe_level(level)]
    lines.append("")
    if result.valid:
        lines.append("valid: the client kept up")
    return lines + [f"INVALID: {reason}" for reason in result.invalid_because]


def describe_level(level: LevelResult) -> list[str]:
    """One level."""
    lines = [
        f"{level.load.describe()}: {level.requests_ok} requests in {level.duration_s:.1f} s"
        + (f", {level.requests_failed} FAILED" if level.requests_failed else "")
        + (f", {level.requests_cut_off} cut off" if level.requests_cut_off else ""),
        f"  {level.output_tokens_per_s:,.0f} output tokens/s, {level.requests_per_s:.2f} requests/s",
        f"  {'ms':<23}" + "".join(f"{name:>11}" for name in _COLUMNS),
    ]
    for key, name in MEASURES:
        measured = getattr(level, key)
        if measured.count:
            lines.append(f"  {name:<23}" + "".join(f"{getattr(measured, column):>11,.1f}" for column in _COLUMNS))
    if goodput := level.goodput:
        limits = describe_limits(goodput)
        lines.append(f"  goodput ({limits}): {goodput.requests_per_s:.2f} requests/s, {goodput.share:.0%} of all")
    if (engine := level.engine).running_max is not None:
        queue = f", {engine.queue_ms_mean:,.0f} ms in its queue" if engine.queue_ms_mean is not None else ""
        lines.append(
            f"  engine: up to {engine.running_max:.0f} running, {engine.waiting_max:.0f} waiting{queue}, "
            f"KV cache up to {engine.kv_cache_use_max:.0%}"
        )
    lines += [f"  {failures.count} x {kind}: {failures.said}" for kind, failures in level.errors.items()]
    client = level.client
    lines.append(
        f"  client: {client.cpu_s:.2f} s of CPU in {len(client.shards)} shard(s), "
        f"longest turn {client.max_loop_lag_ms:.1f} ms"
    )
    return lines


def describe_limits(goodput: Goodput) -> str:
    """The limits of --slo: "ttft 2 s, tpot 0.05 s"."""
    return ", ".join(f"{key.removesuffix('_s')} {value:g} s" for key, value in goodput.slo_s.items())
