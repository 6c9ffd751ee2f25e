"""What follows from pairs of runs: the same load offered by two clients, in turns, to one server.

    python -m benchmarks.pairs RESULT.json    what a kept result of benchmarks.reference_run says, level by level

On a shared machine the CPU is now faster and now slower, and with it the server: what its API process needed for the
same requests tells how fast it was. So the ratios are given twice: as measured, and as they are where the server was
equally fast in both runs of a pair (a line through the logarithms of both ratios, read where the server's CPU seconds
are equal). What a client itself may cost the server is taken out with it: `server_cpu` tells how much that could be.

A time to first token is the server's (`server_ttft`, which it counts by itself) and what the client adds in reading it.
The latter scatters less with the server's speed (up to 64 at once hardly): it is given as a difference in milliseconds.
"""

import argparse
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from raylaunch.bench.compare import find_t

FIGURES = (
    "ttft_p50_ms",
    "ttft_mean_ms",
    "tpot_p50_ms",
    "output_tokens_per_s",
    "ttft_error_ms",
    "tpot_error_ms",
    "server_ttft_mean_ms",
    "server_tpot_mean_ms",
    "cpu_s",
    "server_cpu_s",
)
RATIOS = {
    "throughput": "output_tokens_per_s",
    "ttft_p50": "ttft_p50_ms",
    "ttft_mean": "ttft_mean_ms",
    "server_ttft": "server_ttft_mean_ms",
}
FEWEST = 5
"""Pairs for an interval."""

Interval = tuple[float, float]
"""Where a mean ratio or difference lies, at 95 %."""


def conclude(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Medians of some pairs, and ratios ours / vLLM's: of these medians, and the intervals of the mean pair's.

    `ttft_error_difference_ms` is where the mean of ours less vLLM's lies.
    """
    medians = {
        name: {figure: statistics.median(row[name][figure] for row in rows) for figure in FIGURES}
        for name in ("raylaunch", "vllm")
    }
    found: dict[str, Any] = {}
    cpu = list_ratios(rows, "server_cpu_s")
    for name, figure in RATIOS.items():
        ratios = list_ratios(rows, figure)
        found[f"{name}_ratio"] = medians["raylaunch"][figure] / medians["vllm"][figure]
        found[f"{name}_interval"] = find_interval(ratios)
        found[f"{name}_at_equal_cpu"] = find_interval_at_equal(ratios, cpu)
    found["ttft_error_difference_ms"] = find_mean_interval(list_differences(rows, "ttft_error_ms"))
    return found | {"medians": medians}


def list_ratios(rows: Sequence[Mapping[str, Any]], figure: str) -> list[float]:
    """Ours / vLLM's of one figure, pair by pair."""
    return [row["raylaunch"][figure] / row["vllm"][figure] for row in rows]


def list_differences(rows: Sequence[Mapping[str, Any]], figure: str) -> list[float]:
    """Ours less vLLM's of one figure, pair by pair."""
    return [row["raylaunch"][figure] - row["vllm"][figure] for row in rows]


def find_mean_interval(values: Sequence[float]) -> Interval | None:
    """Where their mean lies, at 95 % (Student's t); None for fewer than FEWEST."""
    if len(values) < FEWEST:
        return None
    middle = statistics.fmean(values)
    reach = find_t(0.975, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return middle - reach, middle + reach


def find_interval(ratios: Sequence[float]) -> Interval | None:
    """Where their geometric mean lies, at 95 %: that of the mean of their logarithms; None for fewer than FEWEST."""
    found = find_mean_interval([math.log(ratio) for ratio in ratios])
    return found and (math.exp(found[0]), math.exp(found[1]))


def find_interval_at_equal(ratios: Sequence[float], others: Sequence[float]) -> Interval | None:
    """Where it lies for pairs in which the other ratio is 1 (intercept of a least-squares line of the logarithms).

    None for fewer than FEWEST + 1 pairs (the line takes a degree of freedom), and where the other ratio is always the
    same: there is no line then.
    """
    freedom = len(ratios) - 2
    if freedom < FEWEST - 1 or len(set(others)) == 1:
        return None
    x, y = [math.log(other) for other in others], [math.log(ratio) for ratio in ratios]
    slope, middle = statistics.linear_regression(x, y)
    left = sum((one - middle - slope * at) ** 2 for at, one in zip(x, y, strict=True)) / freedom
    spread = statistics.pvariance(x) * len(x)
    error = math.sqrt(left * (1 / len(x) + statistics.fmean(x) ** 2 / spread))
    reach = find_t(0.975, freedom) * error
    return math.exp(middle - reach), math.exp(middle + reach)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", type=Path)
    for level in json.loads(parser.parse_args().result.read_text())["levels"]:
        rows = level["pairs"]
        print(f"{level['at_once']} at once, {level['requests']} requests, {len(rows)} pairs")
        cpu = list_ratios(rows, "server_cpu_s")
        print(f"  server_cpu   {statistics.geometric_mean(cpu):.3f}, in single pairs {min(cpu):.2f} to {max(cpu):.2f}")
        for name, figure in RATIOS.items():
            ratios = list_ratios(rows, figure)
            reported = f"  {name:<11}  {statistics.geometric_mean(ratios):.3f}"
            for how, found in (("", find_interval(ratios)), (" at equal CPU", find_interval_at_equal(ratios, cpu))):
                reported += f"{how} [{found[0]:.3f}, {found[1]:.3f}]" if found else ""
            print(reported)
        added = list_differences(rows, "ttft_error_ms")
        lies = find_mean_interval(added)
        reported = f" [{lies[0]:+.2f}, {lies[1]:+.2f}]" if lies else ""
        print(f"  ttft_error   {statistics.fmean(added):+.2f} ms{reported}, ours less vLLM's")


if __name__ == "__main__":
    main()
