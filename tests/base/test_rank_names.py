"""Ranks are read from the names that vLLM gives them."""

import pytest

from raylaunch.base.rank_names import find_number, read_ranks


@pytest.mark.parametrize(
    ("name", "ranks"),
    [
        ("vllm_Worker_ab12_TP3_PP1", (3, 1)),
        ("vllm_Worker_ab12_PP2", (0, 2)),
        ("vllm_Worker_ab12", None),
        ("Worker_PP1_TP3", (3, 1)),
        ("Worker_TP2", (2, 0)),
        ("RayWorkerProc", None),
    ],
)
def test_ranks_are_read_from_vllms_names(name: str, ranks: tuple[int, int] | None) -> None:
    """An actor's name and a log's prefix; vLLM names ranks of which there is more than one."""
    assert read_ranks(name) == ranks


def test_global_rank() -> None:
    """Rank 3 of the second stage of four ranks is 7."""
    assert find_number(3, 1, 4) == 7
