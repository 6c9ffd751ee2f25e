"""From rows to figures: percentiles, histograms, series over time, goodput. Names and definitions: docs/bench.md."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from raylaunch.bench.connection import RequestRow

PERCENTILES = (50, 90, 95, 99)
_MAX_SLICES = 120
_SLICE_LENGTHS_S = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0)
_BUCKETS_PER_DECADE = 20


def find_percentile(ordered: Sequence[float], percent: float) -> float:
    """The percentile of sorted values, interpolated linearly between ranks (numpy's default, as vLLM's benchmark)."""
    at = (len(ordered) - 1) * percent / 100
    low = math.floor(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (at - low)


@dataclass(frozen=True)
class Distribution:
    """A measure over all requests (or all gaps between tokens), in milliseconds; all None where there is no value."""

    count: int
    mean: float | None = None
    std: float | None = None
    min: float | None = None
    p50: float | None = None
    p90: float | None = None
    p95: float | None = None
    p99: float | None = None
    max: float | None = None
    histogram: tuple[tuple[float, int], ...] = ()
    """Lower edge in ms and count of each bucket that is not empty; edges at 10^(k/20)."""

    @classmethod
    def of(cls, values_s: Iterable[float]) -> "Distribution":
        """The distribution of values in seconds."""
        ordered = sorted(value * 1e3 for value in values_s)
        if not ordered:
            return cls(0)
        mean = math.fsum(ordered) / len(ordered)
        spread = math.sqrt(math.fsum((value - mean) ** 2 for value in ordered) / len(ordered))
        p50, p90, p95, p99 = (round(find_percentile(ordered, percent), 4) for percent in PERCENTILES)
        return cls(
            len(ordered), round(mean, 4), round(spread, 4), round(ordered[0], 4), p50, p90, p95, p99,
            round(ordered[-1], 4), make_histogram(ordered),
        )  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        """For the result file."""
        return asdict(self)


def make_histogram(values_ms: Sequence[float]) -> tuple[tuple[float, int], ...]:
    """Counts in buckets of equal width on a logarithmic scale; what is below 0.01 ms counts as that."""
    counts = Counter(math.floor(math.log10(max(value, 0.01)) * _BUCKETS_PER_DECADE) for value in values_ms)
    return tuple((round(10 ** (bucket / _BUCKETS_PER_DECADE), 5), counts[bucket]) for bucket in sorted(counts))


def ttft_s(row: RequestRow) -> float | None:
    """Time to first token: from the moment the request was meant to leave to its first output event."""
    return row.arrivals[0] - row.due_s if row.arrivals else None


def e2e_s(row: RequestRow) -> float:
    """End to end: from the moment the request was meant to leave to its last output event."""
    return row.end_s - row.due_s


def tpot_s(row: RequestRow) -> float | None:
    """Time per output token after the first: (e2e - TTFT) / (output tokens - 1), as vLLM's benchmark has it."""
    first = ttft_s(row)
    if first is None or count_tokens(row) < 2:
        return None
    return (e2e_s(row) - first) / (count_tokens(row) - 1)


def count_tokens(row: RequestRow) -> int:
    """Output tokens by the server's usage; where it tells none, its output events."""
    return row.tokens_out if row.tokens_out is not None else len(row.arrivals)


def list_gaps(rows: Iterable[RequestRow]) -> list[float]:
    """Inter-token latencies: the gaps between output events of one request; 0 between events of one read."""
    gaps: list[float] = []
    for row in rows:
        times = row.arrivals
        gaps += [after - before for before, after in pairwise(times)]
    return gaps


@dataclass(frozen=True)
class Slo:
    """What a request must keep to count as good; None asks nothing."""

    ttft_s: float | None = None
    tpot_s: float | None = None
    e2e_s: float | None = None

    def is_kept(self, row: RequestRow) -> bool:
        """Whether a successful request kept it. A request of one token has no TPOT and keeps any."""
        first, each = ttft_s(row), tpot_s(row)
        if self.ttft_s is not None and (first is None or first > self.ttft_s):
            return False
        if self.tpot_s is not None and (each or 0.0) > self.tpot_s:
            return False
        return self.e2e_s is None or e2e_s(row) <= self.e2e_s

    def to_json(self) -> dict[str, float]:
        """What was asked, in seconds."""
        return {key: value for key, value in asdict(self).items() if value is not None}


def choose_slice_s(duration_s: float) -> float:
    """The length of a slice of time: short enough to see what happens, at most 120 of them."""
    return next((length for length in _SLICE_LENGTHS_S if duration_s / length <= _MAX_SLICES), duration_s / _MAX_SLICES)


def make_series(rows: Sequence[RequestRow], start_s: float, duration_s: float) -> dict[str, Any]:
    """What happened in each slice of the run.

    Returns:
        slice_s, and by slice: output_tokens_per_s (an answer's tokens spread over its output events), requests_per_s
        (completed), failed, running (requests under way, mean over the slice).
    """
    slice_s = choose_slice_s(duration_s)
    count = max(1, math.ceil(duration_s / slice_s - 1e-9))
    tokens, done, failed, busy_s = [0.0] * count, [0] * count, [0] * count, [0.0] * count
    last = count - 1
    for row in rows:
        begin, end = max(0.0, row.due_s - start_s), max(0.0, row.end_s - start_s)
        at = min(last, int(end / slice_s))
        (failed if row.error else done)[at] += 1
        for number in range(min(last, int(begin / slice_s)), at + 1):
            busy_s[number] += max(0.0, min(end, (number + 1) * slice_s) - max(begin, number * slice_s))
        if row.arrivals:
            weight = count_tokens(row) / len(row.arrivals)
            for time in row.arrivals:
                tokens[min(last, max(0, int((time - start_s) / slice_s)))] += weight
        elif not row.error:
            tokens[at] += count_tokens(row)
    lengths = [min(slice_s, max(duration_s - number * slice_s, 1e-3)) for number in range(count)]
    return {
        "slice_s": slice_s,
        "output_tokens_per_s": [round(value / length, 2) for value, length in zip(tokens, lengths, strict=True)],
        "requests_per_s": [round(value / length, 3) for value, length in zip(done, lengths, strict=True)],
        "failed": failed,
        "running": [round(value / length, 2) for value, length in zip(busy_s, lengths, strict=True)],
    }


def count_errors(rows: Iterable[RequestRow]) -> dict[str, dict[str, Any]]:
    """Failures by kind: how many, and what was said about the first."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        if row.error:
            entry = found.setdefault(row.error, {"count": 0, "said": row.said})
            entry["count"] += 1
    return found


def summarise(rows: Sequence[RequestRow], *, start_s: float, duration_s: float, slo: Slo) -> dict[str, Any]:
    """All figures of one load. Distributions are of successful requests; the duration is that of all of them."""
    good = [row for row in rows if row.error is None]
    tokens_in = sum(row.tokens_in or 0 for row in good)
    tokens_out = sum(count_tokens(row) for row in good)
    kept = sum(slo.is_kept(row) for row in good)
    figures: dict[str, Any] = {
        "requests_ok": len(good),
        "requests_failed": len(rows) - len(good),
        "errors": count_errors(rows),
        "duration_s": round(duration_s, 4),
        "requests_per_s": round(len(good) / duration_s, 4),
        "output_tokens_per_s": round(tokens_out / duration_s, 3),
        "total_tokens_per_s": round((tokens_in + tokens_out) / duration_s, 3),
        "input_tokens": tokens_in,
        "output_tokens": tokens_out,
        "tokens_counted_by": "usage" if all(row.tokens_out is not None for row in good) else "events",
        "ttft_ms": Distribution.of(value for row in good if (value := ttft_s(row)) is not None).to_json(),
        "tpot_ms": Distribution.of(value for row in good if (value := tpot_s(row)) is not None).to_json(),
        "itl_ms": Distribution.of(list_gaps(good)).to_json(),
        "e2e_ms": Distribution.of(e2e_s(row) for row in good).to_json(),
    }
    if slo.to_json():
        figures["goodput"] = {
            "slo_s": slo.to_json(),
            "requests_ok": kept,
            "requests_per_s": round(kept / duration_s, 4),
            "share": round(kept / len(rows), 4) if rows else 0.0,
        }
    figures["series"] = make_series(rows, start_s, duration_s)
    return figures


def merge_slo(said: Mapping[str, float]) -> Slo:
    """An Slo from {"ttft": seconds, "tpot": seconds, "e2e": seconds}."""
    return Slo(said.get("ttft"), said.get("tpot"), said.get("e2e"))
