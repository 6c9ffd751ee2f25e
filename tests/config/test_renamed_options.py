"""Renamed and removed options of vLLM: what to write now, and never a name of the opposite sense."""

from pathlib import Path

import pytest

from tests.config.launches import BASE, problems_of, write


@pytest.mark.parametrize(
    ("name", "now"),
    [
        ("disable_log_requests", "enable_log_requests: true"),
        ("disable-log-requests", "enable_log_requests: true"),
        ("--disable-log-requests", "enable_log_requests: true"),
        ("num_scheduler_steps", "leave it out"),
        ("enable_reasoning", "reasoning_parser alone"),
        ("rope_scaling", "hf_overrides"),
        ("task", "runner: pooling"),
        ("swap_space", "leave it out"),
        ("guided_decoding_backend", "structured_outputs_config: {backend"),
        ("max_seq_len_to_capture", "max_cudagraph_capture_size"),
    ],
)
def test_old_names(tmp_path: Path, name: str, now: str) -> None:
    (problem,) = problems_of(write(tmp_path, BASE + f"  {name}: 8\n"))
    assert "no longer has it" in problem
    assert now in problem
    assert "nearest" not in problem


def test_no_nearest_name_of_the_opposite_sense() -> None:
    """`disable_prefix_caching` is not nearly `enable_prefix_caching`."""
    (problem,) = problems_of(None, "engine.disable_prefix_caching=true")
    assert "enable_prefix_caching" not in problem
