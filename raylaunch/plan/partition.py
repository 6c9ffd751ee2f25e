"""Layers of each stage where cards differ: what VLLM_PP_LAYER_PARTITION is set to."""

from collections.abc import Sequence

from raylaunch.plan.weights import WeightModel


def spread_layers(model: WeightModel, tp: int, budgets: Sequence[float]) -> tuple[int, ...]:
    """Layers of each stage so that the stage with the least room has as much as possible.

    Each layer goes to the stage that has most room left per layer once it has it: KV cache grows with layers too.

    Args:
        budgets: bytes that a rank of each stage may use.
    """
    count, last = len(model.shape.layers), len(budgets) - 1
    layer = model.measure_stage(range(count), tp, is_first=False, is_last=False) / count
    room = [
        budget - model.measure_stage(range(0), tp, is_first=stage == 0, is_last=stage == last)
        for stage, budget in enumerate(budgets)
    ]
    sizes = [1] * len(budgets)
    for _ in range(count - len(budgets)):
        left = [has / (size + 1) - layer for has, size in zip(room, sizes, strict=True)]
        sizes[left.index(max(left))] += 1
    return tuple(sizes)
