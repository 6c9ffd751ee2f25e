"""What the reference run concludes from its pairs."""

import math

import pytest

from benchmarks.pairs import FIGURES, conclude, find_interval, find_interval_at_equal


def test_interval_of_ratios() -> None:
    """Logarithms -0.02, -0.01, 0, 0.01, 0.02: their mean's standard error is 0.00707, t of 4 degrees 2.776."""
    low, high = find_interval([math.exp(step / 100) for step in range(-2, 3)]) or (0.0, 0.0)
    assert high == pytest.approx(math.exp(2.776 * 0.0158114 / math.sqrt(5)), rel=1e-3)
    assert low == pytest.approx(1 / high)


def test_few_pairs_have_no_interval() -> None:
    assert find_interval([1.0, 1.1, 0.9, 1.0]) is None


def test_interval_at_equal_cpu() -> None:
    """Throughput that falls with the root of the CPU seconds, and is 2 % higher where these are equal."""
    cpu = [0.8, 0.9, 1.0, 1.1, 1.2, 1.3]
    found = find_interval_at_equal([1.02 / math.sqrt(one) for one in cpu], cpu)
    assert found == pytest.approx((1.02, 1.02))


def test_interval_at_equal_cpu_is_as_wide_as_the_line_is_loose() -> None:
    """Residuals of 0.01 around a flat line at 0: standard error 0.01 sqrt(6/4) / sqrt(6), t of 4 degrees 2.776."""
    cpu = [0.5, 1.0, 2.0, 0.5, 1.0, 2.0]
    low, high = find_interval_at_equal([math.exp(0.01 * sign) for sign in (1, 1, 1, -1, -1, -1)], cpu) or (0.0, 0.0)
    assert high == pytest.approx(math.exp(2.776 * 0.01 / math.sqrt(4)), rel=1e-3)
    assert low == pytest.approx(1 / high)


def test_no_line_through_few_pairs_or_equal_ones() -> None:
    assert find_interval_at_equal([1.0, 1.1, 0.9, 1.0, 1.0], [1.0, 1.1, 0.9, 1.0, 1.2]) is None
    assert find_interval_at_equal([1.0] * 6, [1.0] * 6) is None


def test_ratios_are_ours_by_theirs() -> None:
    ours, theirs = dict.fromkeys(FIGURES, 10.0), dict.fromkeys(FIGURES, 8.0)
    found = conclude([{"raylaunch": ours, "vllm": theirs}] * 5)
    assert found["throughput_ratio"] == 1.25
    assert found["ttft_p50_interval"] == pytest.approx((1.25, 1.25))


def test_what_clients_add_is_told_as_a_difference() -> None:
    """-2, -1, 0, 1, 2 around -3: standard error 0.7071, t of 4 degrees 2.776."""
    rows = [{name: dict.fromkeys(FIGURES, 10.0) for name in ("raylaunch", "vllm")} for _ in range(5)]
    for step, row in zip(range(-2, 3), rows, strict=True):
        row["raylaunch"]["ttft_error_ms"] = 7.0 + step
    assert conclude(rows)["ttft_error_difference_ms"] == pytest.approx((-3 - 1.963, -3 + 1.963), rel=1e-3)
