"""Removed options of vLLM: since when, what to write now, and never a name of the opposite sense."""

import re
from pathlib import Path

import pytest

from raylaunch.config.removed_options import find_ignored, read_removed
from raylaunch.config.schema import read_shipped
from tests.config.launches import BASE, load, problems_of, write

REMOVED = read_removed()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "disable_log_requests",
            "disable_log_requests was removed in vLLM 0.10: leave it out (requests are logged only ",
        ),
        ("disable-log-requests", "disable_log_requests was removed in vLLM 0.10: leave it out"),
        ("--disable-log-requests", "disable_log_requests was removed in vLLM 0.10: leave it out"),
        ("enable_reasoning", "removed in vLLM 0.10: leave it out (reasoning_parser alone"),
        ("rope_scaling", "removed in vLLM 0.11: write hf_overrides: {rope_parameters: "),
        ("task", "removed in vLLM 0.13: write runner: pooling"),
        ("swap_space", "removed in vLLM 0.18: leave it out"),
        ("max_num_partial_prefills", "removed in vLLM 0.27: leave it out"),
        ("compilation_config: {level", "engine.compilation_config.level: level was removed in vLLM 0.18: write "),
        ("compilation_config: {pass_config: {enable_sp", "enable_sp was removed in vLLM 0.32: leave it out"),
    ],
)
def test_removed_options(tmp_path: Path, name: str, said: str) -> None:
    """The release that removed it and what to write now, in blocks too, and never another name."""
    (problem,) = problems_of(write(tmp_path, BASE + f"  {name}: 8{'}' * name.count('{')}\n"))
    assert said in problem
    assert "nearest" not in problem


@pytest.mark.parametrize("name", REMOVED)
def test_what_to_write_now_is_accepted(tmp_path: Path, name: str) -> None:
    """The pinned vLLM has no removed option, and has each option that is to be written instead."""
    removed = REMOVED[name]
    fields = read_shipped().list_fields("engine", *name.split(".")[:-1])
    assert removed.name not in fields
    assert removed.note or removed.write
    if not removed.write or re.fullmatch(r"VLLM_\w+=\S+", removed.write):
        return
    key, _, value = removed.write.partition(": ")
    load(write(tmp_path), f"{key if '.' in key else f'engine.{key}'}={value}")


def test_variables_that_vllm_ignores() -> None:
    """Reported for the releases that removed them."""
    environ = {"VLLM_ATTENTION_BACKEND": "FLASHINFER", "VLLM_MM_HASHER_ALGORITHM": "sha256", "VLLM_HOST_IP": "10.0.0.1"}
    assert [removed.name for removed in find_ignored(environ, "0.32.0+cpu")] == [*environ][:2]
    (removed,) = find_ignored(environ, "0.29.1")
    assert str(removed) == (
        "VLLM_ATTENTION_BACKEND was removed in vLLM 0.15: write engine.attention_backend: FLASH_ATTN"
    )
    assert not find_ignored(environ, "0.14.1")


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
