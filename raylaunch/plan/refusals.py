"""Why a layout cannot start, with the arithmetic; and what is allowed but costs.

Refused is only what surely fails: a range that allows a start lets it through.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from raylaunch.plan.gpus import GIB
from raylaunch.plan.overhead import Range
from raylaunch.plan.settings import PlanSettings
from raylaunch.plan.shape import ModelShape
from raylaunch.plan.wire import Stage

_CONTEXT_GIB = 0.2
"""Least that a CUDA context takes beside the budget; with NCCL's first buffers 0.3 to 0.6."""


@dataclass(frozen=True, slots=True)
class Budget:
    """Where the memory of a layout goes."""

    stages: Sequence[Stage]
    weights: Sequence[int]
    overhead: Range
    settings: PlanSettings
    is_placed: bool
    """Whether every stage has GPUs."""


def list_refusals(
    shape: ModelShape, tp: int, pp: int, budget: Budget, longest: int, max_len: int, kv_cache: Range
) -> Iterator[str]:
    """What keeps a layout from starting; the first is the one to name."""
    problems = [*_list_divisions(shape, tp, pp), *_list_groups(shape, tp)]
    if not budget.is_placed:
        problems.append(
            f"TP={tp} x PP={pp} needs {pp} group{'s' * (pp > 1)} of {tp} GPUs, each inside one machine: there are fewer"
        )
    yield from problems
    if not problems and not budget.settings.is_partial:
        yield from _list_memory(budget, longest, max_len, kv_cache)


def _list_divisions(shape: ModelShape, tp: int, pp: int) -> Iterator[str]:
    if shape.heads % tp:
        yield f"{shape.heads} attention heads cannot be divided by TP={tp}"
    if not shape.is_mla and shape.kv_heads % tp and tp % shape.kv_heads:
        yield f"{shape.kv_heads} KV heads and TP={tp}: neither divides the other"
    if len(shape.layers) < pp:
        yield f"{pp} stages are more than the model's {len(shape.layers)} layers"


def _list_memory(budget: Budget, longest: int, max_len: int, kv_cache: Range) -> Iterator[str]:
    settings, share = budget.settings, budget.settings.gpu_memory_utilization
    memory = min(stage.kind.memory_gib for stage in budget.stages)
    weights, left = max(budget.weights), memory * (1 - share)
    if settings.kv_cache_memory_bytes:
        if weights + settings.kv_cache_memory_bytes > memory * GIB:
            yield (
                f"weights {weights / GIB:.2f} GiB and kv_cache_memory_bytes "
                f"{settings.kv_cache_memory_bytes / GIB:.2f} GiB exceed the card's {memory:.2f} GiB"
            )
    elif left < _CONTEXT_GIB:
        yield (
            f"gpu_memory_utilization {share:g} of {memory:.2f} GiB leaves {left:.2f} GiB for the CUDA context and "
            f"NCCL, which take at least {_CONTEXT_GIB} GiB"
        )
    elif kv_cache.high <= 0:
        yield (
            f"weights {weights / GIB:.2f} GiB + at least {budget.overhead.low / GIB:.2f} GiB overhead exceed "
            f"{memory:.2f} GiB x {share:g} = {memory * share:.2f} GiB"
        )
    if kv_cache.high > 0 and longest < max_len and not settings.fits_length:
        yield (
            f"a request of max_model_len {max_len:,} does not fit into {kv_cache.high / GIB:.2f} GiB of KV cache a "
            f"rank: at most {longest:,} tokens do"
        )


def _list_groups(shape: ModelShape, tp: int) -> Iterator[str]:
    """Quantization groups that TP would cut: of packed integers a rank's share is a number of complete groups."""
    group, width = shape.quantization.group, shape.widest_dense
    if group and tp > 1 and width and (width % tp or width // tp % group):
        yield f"a rank's {width / tp:g} of {width} columns are not a multiple of quantization groups of {group}"


def list_warnings(shape: ModelShape, tp: int, stages: Sequence[Stage], settings: PlanSettings) -> Iterator[str]:
    """What starts, and costs."""
    if any(stage.spans for stage in stages):
        yield "tensor parallelism across machines: every layer waits for the network"
    if shape.is_mla and tp > 1:
        yield "MLA under TP: every rank keeps the complete KV cache"
    elif tp > shape.kv_heads:
        yield f"TP={tp} is more than {shape.kv_heads} KV heads: each is kept {tp // shape.kv_heads} times"
    block, width = shape.quantization.block, shape.widest_expert
    if block and width and width % (tp * block) and not settings.expert_parallel:
        yield (
            f"a rank's {width / tp:g} columns of an expert are not a multiple of FP8 blocks of {block}: vLLM needs "
            "enable_expert_parallel"
        )
    if settings.is_partial:
        yield "the launch has settings that the arithmetic does not know (offloading, speculation): a rough plan"
    kinds = {stage.kind.name for stage in stages}
    if len(kinds) > 1:
        yield f"cards differ ({', '.join(sorted(kinds))}): every step waits for the slowest"
    if min(stage.kind.memory_gib for stage in stages) * (1 - settings.gpu_memory_utilization) < 3 * _CONTEXT_GIB:
        yield "little memory is left beside the budget for the CUDA context and NCCL"
