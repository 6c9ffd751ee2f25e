"""What makes a result INVALID: each limit, just above it and just below."""

import dataclasses

import pytest

from raylaunch.bench import self_check
from raylaunch.bench.self_check import SelfCheck, find_client_limits

GOOD = SelfCheck(
    began_s=0.0, ended_s=10.0, cpu_s=8.4, max_loop_lag_s=0.02, slow_s=0.19, turns=1000, runnable_wait_s=4.9
)


def test_a_shard_that_kept_up() -> None:
    assert find_client_limits([GOOD, GOOD], 0.009) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"cpu_s": 8.6}, "86% of a core"),
        ({"slow_s": 0.25, "max_loop_lag_s": 0.09}, "longest 90 ms"),
        ({"runnable_wait_s": 5.1}, "waited 5.1 s for a core"),
        ({"refused_for_files": 3}, "ulimit -n"),
    ],
)
def test_each_limit(changes: dict[str, float], words: str) -> None:
    """The shard is named."""
    [reason] = find_client_limits([GOOD, dataclasses.replace(GOOD, **changes)], None)
    assert reason.startswith("shard 1 ")
    assert words in reason


def test_late_requests_of_an_open_loop() -> None:
    assert "p99 11 ms" in find_client_limits([GOOD], 0.0111)[0]


def test_kernel_without_schedstat_is_not_blamed() -> None:
    assert find_client_limits([dataclasses.replace(GOOD, runnable_wait_s=None)], None) == []


def test_file_limit_is_raised_as_far_as_it_goes() -> None:
    import resource

    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
        assert self_check.make_room(500) == 500
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 500 + self_check.FD_RESERVE
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_turns_are_noted() -> None:
    seen = SelfCheck()
    for lag_s in (0.001, 0.03, 0.002, 0.05):
        seen.note_turn(lag_s)
    assert (seen.turns, seen.max_loop_lag_s) == (4, 0.05)
    assert seen.slow_s == pytest.approx(0.08)
