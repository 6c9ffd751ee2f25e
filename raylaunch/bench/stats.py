"""From rows to figures: percentiles, histograms, series over time, goodput. Names and definitions: docs/bench.md."""

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise

from raylaunch.bench.connection import RequestRow
from raylaunch.bench.figures import Distribution, FailureKind, Goodput, LoadFigures, TimeSeries

PERCENTILES = (50, 90, 95, 99)
_MAX_SLICES = 120
_SLICE_LENGTHS_S = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0)
_BUCKETS_PER_DECADE = 20


def find_percentile(values: Sequence[float], percent: int) -> float:
    """The percentile, interpolated linearly between ranks (numpy's default, as vLLM's benchmark)."""
    if len(values) == 1:
        return values[0]
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def make_distribution(values_s: Iterable[float]) -> Distribution:
    """The distribution of values in seconds."""
    ordered = sorted(value * 1e3 for value in values_s)
    if not ordered:
        return Distribution(0)
    mean = statistics.fmean(ordered)
    spread = math.sqrt(math.fsum((value - mean) ** 2 for value in ordered) / len(ordered))
    p50, p90, p95, p99 = (round(find_percentile(ordered, percent), 4) for percent in PERCENTILES)
    return Distribution(
        len(ordered), round(mean, 4), round(spread, 4), round(ordered[0], 4), p50, p90, p95, p99,
        round(ordered[-1], 4), make_histogram(ordered),
    )  # fmt: skip


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
    """Output tokens by the server's usage; without one, its output events."""
    return row.tokens_out if row.tokens_out is not None else len(row.arrivals)


def list_gaps(rows: Iterable[RequestRow]) -> list[float]:
    """Inter-token latencies: the gaps between output events of one request; 0 between events of one read."""
    return [after - before for row in rows for before, after in pairwise(row.arrivals)]


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


def choose_slice_s(duration_s: float) -> float:
    """The length of a slice of time: short enough to see what happens, at most 120 of them."""
    return next((length for length in _SLICE_LENGTHS_S if duration_s / length <= _MAX_SLICES), duration_s / _MAX_SLICES)


def make_series(rows: Sequence[RequestRow], start_s: float, duration_s: float) -> TimeSeries:
    """What happened in each slice of the run."""
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

    def divide(values: Sequence[float], digits: int) -> tuple[float, ...]:
        return tuple(round(value / length, digits) for value, length in zip(values, lengths, strict=True))

    return TimeSeries(slice_s, divide(tokens, 2), divide(done, 3), tuple(failed), divide(busy_s, 2))


def count_errors(rows: Iterable[RequestRow]) -> dict[str, FailureKind]:
    """Failures by kind: how many, and the message of the first."""
    failed = [row for row in rows if row.error]
    counts = Counter(row.error for row in failed)
    first = {row.error: row.detail for row in reversed(failed)}
    return {kind: FailureKind(count, first[kind]) for kind, count in counts.items() if kind}


def summarise(rows: Sequence[RequestRow], *, start_s: float, duration_s: float, slo: Slo) -> LoadFigures:
    """All figures of one load. Distributions are of successful requests; the duration is that of all of them."""
    good = [row for row in rows if row.error is None]
    tokens_in = sum(row.tokens_in or 0 for row in good)
    tokens_out = sum(count_tokens(row) for row in good)
    return LoadFigures(
        requests_ok=len(good),
        requests_failed=len(rows) - len(good),
        errors=count_errors(rows),
        duration_s=round(duration_s, 4),
        requests_per_s=round(len(good) / duration_s, 4),
        output_tokens_per_s=round(tokens_out / duration_s, 3),
        total_tokens_per_s=round((tokens_in + tokens_out) / duration_s, 3),
        input_tokens=tokens_in,
        output_tokens=tokens_out,
        tokens_counted_by="usage" if all(row.tokens_out is not None for row in good) else "events",
        ttft_ms=make_distribution(value for row in good if (value := ttft_s(row)) is not None),
        tpot_ms=make_distribution(value for row in good if (value := tpot_s(row)) is not None),
        itl_ms=make_distribution(list_gaps(good)),
        e2e_ms=make_distribution(e2e_s(row) for row in good),
        series=make_series(rows, start_s, duration_s),
        goodput=count_goodput(good, len(rows), duration_s, slo),
    )


def count_goodput(good: Sequence[RequestRow], requests: int, duration_s: float, slo: Slo) -> Goodput | None:
    """Successful requests that kept all limits; None without limits."""
    limits = {key: value for key, value in asdict(slo).items() if value is not None}
    if not limits:
        return None
    kept = sum(slo.is_kept(row) for row in good)
    return Goodput(limits, kept, round(kept / duration_s, 4), round(kept / requests, 4) if requests else 0.0)
