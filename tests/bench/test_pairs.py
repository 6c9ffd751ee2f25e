"""What the reference run concludes from its pairs."""

import math

import pytest

from benchmarks.pairs import FIGURES, conclude, find_interval


def test_interval_of_ratios() -> None:
    """Logarithms -0.02, -0.01, 0, 0.01, 0.02: their mean's standard error is 0.00707, t of 4 degrees 2.776."""
    low, high = find_interval([math.exp(step / 100) for step in range(-2, 3)]) or (0.0, 0.0)
    assert high == pytest.approx(math.exp(2.776 * 0.0158114 / math.sqrt(5)), rel=1e-3)
    assert low == pytest.approx(1 / high)


def test_few_pairs_have_no_interval() -> None:
    assert find_interval([1.0, 1.1, 0.9, 1.0]) is None


def test_ratios_are_ours_by_theirs() -> None:
    ours, theirs = dict.fromkeys(FIGURES, 10.0), dict.fromkeys(FIGURES, 8.0)
    found = conclude([{"raylaunch": ours, "vllm": theirs}] * 5)
    assert found["throughput_ratio"] == 1.25
    assert found["ttft_p50_interval"] == pytest.approx((1.25, 1.25))
