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


@pytest.mark.parametrize(
    "name", ["num_scheduler_steps", "swap_space", "task", "enable_reasoning", "guided_decoding_backend", "ubatch"]
)
@pytest.mark.parametrize("block", ["engine", "server"])
def test_no_nearest_name_of_another_sense(block: str, name: str) -> None:
    """A few letters in common make no misspelling: neither a key nor a variable is suggested."""
    for problem in (
        *problems_of(None, f"{block}.{name}=1"), *problems_of(None, **{f"RAYLAUNCH_{block}_{name}".upper(): "1"})
    ):  # fmt: skip
        assert "nearest" not in problem


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("max_model_length", "max_model_len"),
        ("max-model-length", "max_model_len"),
        ("max_seq_len", "max_model_len"),
        ("gpu_memory_utilisation", "gpu_memory_utilization"),
        ("tensor_parallel", "tensor_parallel_size"),
        ("tp_size", "tensor_parallel_size"),
        ("dytpe", "dtype"),
    ],
)
def test_misspellings(name: str, meant: str) -> None:
    """What has most letters right, or is another common name for it."""
    (problem,) = problems_of(None, f"engine.{name}=1")
    assert f"nearest is {meant} " in problem
    (problem,) = problems_of(None, **{f"RAYLAUNCH_ENGINE_{name}".upper().replace("-", "_"): "1"})
    assert f"nearest is RAYLAUNCH_ENGINE__{meant.upper()} " in problem
