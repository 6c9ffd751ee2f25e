"""Figures from rows that one can check by hand."""

from array import array

import pytest

from raylaunch.bench import stats
from raylaunch.bench.connection import RequestRow
from raylaunch.bench.figures import FailureKind


def row(due: float, arrivals: list[float], *, tokens: int | None = None, error: str | None = None) -> RequestRow:
    return RequestRow(
        0, due, due, arrivals[-1] if arrivals else due, 200, 10,
        len(arrivals) if tokens is None else tokens, error, arrivals=array("d", arrivals),
    )  # fmt: skip


def test_measures_are_those_of_vllms_benchmark() -> None:
    """TTFT from the moment it was due; TPOT over output tokens less one; ITL between events."""
    one = row(1.0, [1.5, 1.6, 1.6, 2.0], tokens=6)
    assert stats.ttft_s(one) == pytest.approx(0.5)
    assert stats.e2e_s(one) == pytest.approx(1.0)
    assert stats.tpot_s(one) == pytest.approx(0.5 / 5)
    assert stats.list_gaps([one]) == pytest.approx([0.1, 0.0, 0.4])


def test_percentiles_are_numpys() -> None:
    numpy = pytest.importorskip("numpy")
    values = [0.3, 0.1, 7.0, 2.5, 2.5, 9.0, 0.01]
    found = stats.make_distribution(values)
    for percent in stats.PERCENTILES:
        assert getattr(found, f"p{percent}") == pytest.approx(numpy.percentile(values, percent) * 1e3)
    assert found.mean == pytest.approx(numpy.mean(values) * 1e3, abs=1e-3)
    assert found.std == pytest.approx(numpy.std(values) * 1e3, abs=1e-3)


def test_nothing_measured_is_none_and_not_zero() -> None:
    assert stats.make_distribution([]).p50 is None


def test_histogram_counts_all() -> None:
    counts = stats.make_histogram([0.0, 0.5, 1.0, 1.01, 10.0, 1e5])
    assert sum(count for _, count in counts) == 6
    assert (1.0, 2) in counts


def test_series_add_up() -> None:
    """Tokens over the slices come to all tokens; running is busy time."""
    rows = [row(0.0, [0.5, 1.5, 2.5]), row(1.0, [1.2, 1.4], tokens=4), row(2.0, [], error="connect")]
    series = stats.make_series(rows, 0.0, 3.0)
    assert series.slice_s == 0.1
    assert sum(series.output_tokens_per_s) * 0.1 == pytest.approx(7)
    assert sum(series.running) * 0.1 == pytest.approx(2.5 + 0.4)
    assert sum(series.failed) == 1


def test_goodput_counts_what_keeps_all_of_it() -> None:
    slo = stats.Slo(ttft_s=0.6, tpot_s=0.2)
    rows = [row(0.0, [0.5, 0.6]), row(0.0, [0.7, 0.8]), row(0.0, [0.5, 0.9]), row(0.0, [0.5])]
    figures = stats.summarise(rows, start_s=0.0, duration_s=2.0, slo=slo)
    assert figures.goodput.requests_ok == 2
    assert figures.goodput.requests_per_s == 1.0


def test_failed_requests_are_counted_and_left_out() -> None:
    rows = [row(0.0, [0.5, 1.0]), row(0.0, [0.1], error="reset")]
    figures = stats.summarise(rows, start_s=0.0, duration_s=1.0, slo=stats.Slo())
    assert (figures.requests_ok, figures.requests_failed, figures.output_tokens) == (1, 1, 2)
    assert figures.ttft_ms.max == pytest.approx(500)
    assert figures.errors == {"reset": FailureKind(1, "")}
