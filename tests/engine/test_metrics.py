"""Rates between two readings of a server's counters."""

from dataclasses import replace

import pytest

from raylaunch.engine.metrics import EngineFigures, EngineHistory, parse_metrics

TEXT = """\
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 3.0
vllm:num_requests_running{engine="1",model_name="m"} 2.0
vllm:num_requests_waiting{engine="0",model_name="m"} 7.0
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.25
vllm:kv_cache_usage_perc{engine="1",model_name="m"} 0.5
vllm:prompt_tokens_total{engine="0",model_name="m"} 100.0
vllm:generation_tokens_total{engine="0",model_name="m"} 40.0
vllm:time_to_first_token_seconds_bucket{engine="0",le="0.001",model_name="m"} 1.0
vllm:time_to_first_token_seconds_count{engine="0",model_name="m"} 4.0
vllm:time_to_first_token_seconds_sum{engine="0",model_name="m"} 2.0
vllm:prefix_cache_queries_total{engine="0",model_name="m"} 90.0
vllm:prefix_cache_hits_total{engine="0",model_name="m"} 30.0
raylaunch_up 1
"""


class Clock:
    """A clock that the test moves."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_figures_are_summed_over_engines() -> None:
    """Counters and requests add up; the cache's use is a mean."""
    assert parse_metrics(TEXT) == EngineFigures(5, 7, 0.375, 100.0, 40.0, 4.0, 2.0, 90.0, 30.0)


def test_a_supervisor_without_an_engine_has_no_figures() -> None:
    """Only our own metrics on the port: no engine, and not one at rest."""
    assert parse_metrics("raylaunch_up 0\nraylaunch_restarts_total 3\n") is None


def test_rates() -> None:
    """Tokens over the last 5 s, requests over the last minute; where nothing happened, nothing is claimed."""
    clock = Clock()
    history = EngineHistory(clock)
    start = EngineFigures(1, 0, 0.1, 100.0, 40.0, 4.0, 2.0, 90.0, 30.0)
    first = history.add(start)
    assert (first.tokens_in_per_s, first.ttft_s, first.prefix_hits) == (None, None, None)
    clock.now = 30.0
    assert history.add(replace(start, prompt_tokens=130.0)).tokens_in_per_s is None
    clock.now = 32.0
    busy = replace(
        start, prompt_tokens=150.0, generation_tokens=60.0, first_tokens=8.0, first_tokens_s=5.0,
        prefix_queries=190.0, prefix_hits=80.0,
    )  # fmt: skip
    rates = history.add(busy)
    assert rates.tokens_in_per_s == pytest.approx(10.0)
    assert rates.tokens_out_per_s == pytest.approx(10.0)
    assert rates.ttft_s == pytest.approx(0.75)
    assert rates.prefix_hits == pytest.approx(0.5)
    assert rates.window_s == 32.0
    clock.now = 200.0
    assert history.add(busy).ttft_s is None


def test_a_server_that_started_anew_has_no_negative_rates() -> None:
    """Counters fall back to 0 with a restart of the engine."""
    clock = Clock()
    history = EngineHistory(clock)
    history.add(EngineFigures(1, 0, 0.1, 100.0, 40.0))
    clock.now = 1.0
    assert history.add(EngineFigures(0, 0, 0.0, 0.0, 0.0)).tokens_out_per_s is None
