"""A result in words, for a terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from raylaunch.bench.load import describe_load

MEASURES = (
    ("ttft_ms", "time to first token"),
    ("tpot_ms", "time per output token"),
    ("itl_ms", "between tokens"),
    ("e2e_ms", "end to end"),
)
_COLUMNS = ("mean", "p50", "p90", "p95", "p99")


def tell_result(result: Mapping[str, Any]) -> list[str]:
    """Lines that say how it went: a block for each level, then whether the figures hold."""
    lines = [f"{result['server']['model']} at {result['server']['url']}"]
    for level in result["levels"]:
        lines += ["", *tell_level(level)]
    lines.append("")
    if result["valid"]:
        lines.append("valid: the client kept up")
    else:
        lines += [f"INVALID: {reason}" for reason in result["invalid_because"]]
    return lines


def tell_level(level: Mapping[str, Any]) -> list[str]:
    """One level."""
    failed = level["requests_failed"]
    lines = [
        f"{describe_load(level['load'])}: {level['requests_ok']} requests in {level['duration_s']:.1f} s"
        + (f", {failed} FAILED" if failed else "")
        + (f", {level['requests_cut_off']} cut off" if level["requests_cut_off"] else ""),
        f"  {level['output_tokens_per_s']:,.0f} output tokens/s, {level['requests_per_s']:.2f} requests/s",
        f"  {'ms':<24}" + "".join(f"{name:>12}" for name in _COLUMNS),
    ]
    for key, name in MEASURES:
        if level[key]["count"]:
            lines.append(f"  {name:<24}" + "".join(f"{level[key][column]:>12,.1f}" for column in _COLUMNS))
    if goodput := level.get("goodput"):
        asked = ", ".join(f"{key[:-2]} {value:g} s" for key, value in goodput["slo_s"].items())
        lines.append(f"  goodput ({asked}): {goodput['requests_per_s']:.2f} requests/s, {goodput['share']:.0%} of all")
    if engine := level.get("engine"):
        queue = f", {engine['queue_ms_mean']:,.0f} ms in its queue" if engine["queue_ms_mean"] is not None else ""
        lines.append(
            f"  engine: up to {engine['running_max']:.0f} running, {engine['waiting_max']:.0f} waiting{queue}, "
            f"KV cache up to {engine['kv_cache_use_max']:.0%}"
        )
    lines += tell_errors(level["errors"])
    client = level["client"]
    lines.append(
        f"  client: {client['cpu_s']:.2f} s of CPU in {len(client['shards'])} shard(s), "
        f"longest turn {client['max_loop_lag_ms']:.1f} ms"
    )
    return lines


def tell_errors(errors: Mapping[str, Mapping[str, Any]]) -> Sequence[str]:
    """Failures by kind."""
    return [f"  {entry['count']} x {kind}: {entry['said']}" for kind, entry in errors.items()]
