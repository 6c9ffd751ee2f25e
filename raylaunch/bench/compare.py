"""Two results side by side, with confidence intervals; a verdict only where the data support one.

Method: batch means (Law, Simulation Modeling and Analysis, ch. 9). Requests of one run are not independent:
concurrent ones share the server's state. So the loaded part of a run is cut into batches of time, each at least as long
as half a request, and a batch gives one value of each measure; Welch's t interval is taken over the batches' values. A
verdict needs the 99 % interval of the ratio to exclude 1; the interval shown is the 95 % one.
"""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from raylaunch.bench import stats
from raylaunch.bench.connection import RequestRow
from raylaunch.bench.figures import LevelResult
from raylaunch.bench.result import read_result, read_rows

MOST_BATCHES, FEWEST_BATCHES = 30, 5
FEWEST_PER_BATCH = 3
"""Requests that begin in a batch; a median of fewer is too coarse."""
_SAME = ("api", "stream", "max_tokens", "exact_tokens", "own_output_tokens", "temperature", "prompts")


@dataclass(frozen=True)
class ComparedMeasure:
    """One measure of both results."""

    name: str
    unit: str
    a: float
    b: float
    higher_is_better: bool
    ratio: float | None = None
    """b / a over the batches; None where there are too few of them."""
    low: float | None = None
    high: float | None = None
    """Its 95 % interval."""
    differs: bool = False
    """Whether the 99 % interval excludes 1."""

    @property
    def verdict(self) -> str:
        """As text; "" where there is none."""
        if not self.differs or self.ratio is None:
            return ""
        better = (self.ratio > 1) == self.higher_is_better
        return f"B is {abs(self.ratio - 1):.1%} {'better' if better else 'worse'}"


@dataclass(frozen=True)
class Comparison:
    """Both results at one load."""

    load: str
    lines: tuple[ComparedMeasure, ...]
    why_no_verdict: str = ""

    def to_fields(self) -> dict[str, object]:
        """For JSON, with each measure's verdict."""
        return asdict(self) | {"lines": [asdict(line) | {"verdict": line.verdict} for line in self.lines]}


def compare_files(a: Path, b: Path) -> tuple[list[str], list[Comparison]]:
    """Compare two result files, level by level.

    Returns:
        What differs between the two settings, as sentences (then there is no verdict), and the levels that both have.
    """
    first, second = read_result(a), read_result(b)
    differences = [
        f"{key}: {getattr(first.asked, key)!r} in A, {getattr(second.asked, key)!r} in B"
        for key in _SAME
        if getattr(first.asked, key) != getattr(second.asked, key)
    ]
    rows = [read_rows(path) for path in (a, b)]
    of_b = {level.load.describe(): number for number, level in enumerate(second.levels)}
    found = []
    for number, level in enumerate(first.levels):
        load = level.load.describe()
        if load in of_b:
            other = of_b[load]
            pair = (level, rows[0].get(number, [])), (second.levels[other], rows[1].get(other, []))
            found.append(compare_levels(load, *pair, may_judge=not differences))
    if not found:
        loads = [", ".join(level.load.describe() for level in one.levels) for one in (first, second)]
        differences.append(f"no load is in both: A has {loads[0]}; B has {loads[1]}")
    return differences, found


def compare_levels(
    load: str,
    a: tuple[LevelResult, Sequence[RequestRow]],
    b: tuple[LevelResult, Sequence[RequestRow]],
    *,
    may_judge: bool,
) -> Comparison:
    """Compare one load."""
    why = "" if may_judge else "their settings differ"
    for name, (level, _) in (("A", a), ("B", b)):
        if not level.valid:
            why = why or f"{name} is INVALID: {level.invalid_because[0]}"
    batches = [cut_batches([row for row in rows if row.error is None]) for _, rows in (a, b)]
    if not why and min(len(one) for one in batches) < FEWEST_BATCHES:
        why = f"too short: {min(len(one) for one in batches)} batches of time, {FEWEST_BATCHES} are needed"
    lines = []
    for name, unit, read, measure, higher in _MEASURES:
        of_a, of_b = read(a[0]), read(b[0])
        if of_a is None or of_b is None:
            continue
        line = ComparedMeasure(name, unit, of_a, of_b, higher)
        lines.append(line if why else judge(line, [[measure(batch) for batch in one] for one in batches]))
    return Comparison(load, tuple(lines), why)


@dataclass(frozen=True)
class Batch:
    """A stretch of a run."""

    length_s: float
    began: tuple[RequestRow, ...]
    """Requests that began in it."""
    tokens: float
    """Output tokens that came in it."""


def cut_batches(rows: Sequence[RequestRow]) -> list[Batch]:
    """Cut the loaded part of a run: from when the first requests all had their first token to when the last one began.

    The ramp and the tail are left out: they are not samples of the server's steady state.
    """
    if not rows:
        return []
    answer_s = statistics.mean(stats.e2e_s(row) for row in rows)
    first_wave = [row for row in rows if row.due_s <= min(row.due_s for row in rows) + 0.25 * answer_s]
    begin = max(row.arrivals[0] if row.arrivals else row.due_s for row in first_wave)
    end = max(row.due_s for row in rows)
    count = (
        min(MOST_BATCHES, int((end - begin) / (0.5 * answer_s)), len(rows) // FEWEST_PER_BATCH) if end > begin else 0
    )
    if count < 1:
        return []
    length = (end - begin) / count
    began: list[list[RequestRow]] = [[] for _ in range(count)]
    tokens = [0.0] * count
    for row in rows:
        weight = stats.count_tokens(row) / max(1, len(row.arrivals))
        for time in row.arrivals or (row.end_s,):
            if begin <= time < end:
                tokens[int((time - begin) / length)] += weight if row.arrivals else stats.count_tokens(row)
        if begin <= row.due_s < end:
            began[int((row.due_s - begin) / length)].append(row)
    return [Batch(length, tuple(mine), came) for mine, came in zip(began, tokens, strict=True)]


def _median(read: Callable[[RequestRow], float | None]) -> Callable[[Batch], float | None]:
    def measure(batch: Batch) -> float | None:
        values = [value for row in batch.began if (value := read(row)) is not None]
        return statistics.median(values) if len(values) >= FEWEST_PER_BATCH else None

    return measure


_MEASURES: tuple[
    tuple[str, str, Callable[[LevelResult], float | None], Callable[[Batch], float | None], bool], ...
] = (
    ("throughput", "output tokens/s", lambda level: level.output_tokens_per_s,
     lambda batch: batch.tokens / batch.length_s, True),
    ("first token, median", "ms", lambda level: level.ttft_ms.p50, _median(stats.ttft_s), False),
    ("each token, median", "ms", lambda level: level.tpot_ms.p50, _median(stats.tpot_s), False),
    ("complete answer, median", "ms", lambda level: level.e2e_ms.p50, _median(stats.e2e_s), False),
)  # fmt: skip


def judge(line: ComparedMeasure, batches: Sequence[Sequence[float | None]]) -> ComparedMeasure:
    """The line with the ratio of its batches' means, and whether it differs from 1."""
    values = [[value for value in one if value is not None] for one in batches]
    if min(len(one) for one in values) < FEWEST_BATCHES or min(statistics.mean(one) for one in values) <= 0:
        return line
    shares = [statistics.variance(one) / len(one) / statistics.mean(one) ** 2 for one in values]
    ratio = statistics.mean(values[1]) / statistics.mean(values[0])
    error = math.sqrt(sum(shares))
    if error == 0:
        freedom = math.inf
    else:
        freedom = sum(shares) ** 2 / sum(share**2 / (len(one) - 1) for share, one in zip(shares, values, strict=True))
    low, high = (ratio * math.exp(sign * find_t(0.975, freedom) * error) for sign in (-1, 1))
    wide = find_t(0.995, freedom) * error
    return replace(line, ratio=ratio, low=low, high=high, differs=abs(math.log(ratio)) > wide)


def find_t(probability: float, freedom: float) -> float:
    """The quantile of Student's t (Cornish-Fisher, Abramowitz and Stegun 26.7.5; within 1 % from 4 degrees on)."""
    z = statistics.NormalDist().inv_cdf(probability)
    if math.isinf(freedom):
        return z
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / freedom ** (power + 1) for power, term in enumerate(terms))


def describe_comparison(differences: Sequence[str], found: Sequence[Comparison]) -> list[str]:
    """Lines for people."""
    lines = [f"not comparable: {difference}" for difference in differences]
    for comparison in found:
        lines += ["", comparison.load, f"  {'':<24}{'A':>12}{'B':>12}   B / A (95 % interval)"]
        for line in comparison.lines:
            unit = "ms" if line.unit == "ms" else "/s"
            shown = f"  {line.name:<24}{line.a:>12,.1f}{line.b:>12,.1f} {unit}  "
            if line.ratio is not None:
                verdict = line.verdict or "no significant difference"
                shown += f"{line.ratio:.3f} ({line.low:.3f} to {line.high:.3f})  {verdict}"
            lines.append(shown)
        if comparison.why_no_verdict:
            lines.append(f"  no verdict: {comparison.why_no_verdict}")
    return lines
