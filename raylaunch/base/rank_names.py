"""The names that vLLM (0.25 to 0.33) gives to ranks."""

import re

CLASSES = ("RayWorkerProc", "RayWorkerWrapper")
"""Of the actors that are ranks, in its executor for Ray and in the one before (VLLM_USE_RAY_V2_EXECUTOR_BACKEND=0)."""


def read_ranks(name: str) -> tuple[int, int] | None:
    """TP and PP rank from "vllm_Worker_<id>_TP1_PP3" (an actor) or "Worker_PP3_TP1" (a log's prefix).

    vLLM leaves out a rank that is the only one of its kind: it is 0 here. None where the name has neither.
    """
    tp, pp = re.search(r"_TP(\d+)", name), re.search(r"_PP(\d+)", name)
    return (int(tp[1]) if tp else 0, int(pp[1]) if pp else 0) if tp or pp else None


def find_number(tp_rank: int, pp_rank: int, tensor_parallel_size: int) -> int:
    """The global rank in vLLM's order: stages of `tensor_parallel_size` ranks, one after the other."""
    return pp_rank * tensor_parallel_size + tp_rank
