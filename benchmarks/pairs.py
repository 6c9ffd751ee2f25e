"""What follows from pairs of runs: the same load offered by two clients, in turns, to one server."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from raylaunch.bench.compare import find_t

FIGURES = (
    "ttft_p50_ms",
    "ttft_mean_ms",
    "tpot_p50_ms",
    "output_tokens_per_s",
    "ttft_error_ms",
    "tpot_error_ms",
    "server_tpot_mean_ms",
    "cpu_s",
    "server_cpu_s",
)
RATIOS = {"throughput": "output_tokens_per_s", "ttft_p50": "ttft_p50_ms", "ttft_mean": "ttft_mean_ms"}
FEWEST = 5
"""Pairs for an interval."""


def conclude(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Medians of some pairs, and ratios ours / vLLM's: of these medians, and the interval of the mean pair's."""
    medians = {
        name: {figure: statistics.median(row[name][figure] for row in rows) for figure in FIGURES}
        for name in ("raylaunch", "vllm")
    }
    found: dict[str, Any] = {}
    for name, figure in RATIOS.items():
        found[f"{name}_ratio"] = medians["raylaunch"][figure] / medians["vllm"][figure]
        found[f"{name}_interval"] = find_interval([row["raylaunch"][figure] / row["vllm"][figure] for row in rows])
    return found | {"medians": medians}


def find_interval(ratios: Sequence[float]) -> tuple[float, float] | None:
    """Where their geometric mean lies, at 95 % (Student's t of the logarithms); None for fewer than FEWEST."""
    if len(ratios) < FEWEST:
        return None
    logs = [math.log(ratio) for ratio in ratios]
    middle = statistics.fmean(logs)
    reach = find_t(0.975, len(logs) - 1) * statistics.stdev(logs) / math.sqrt(len(logs))
    return math.exp(middle - reach), math.exp(middle + reach)
