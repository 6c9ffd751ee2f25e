"""Memory of a rank beside weights and KV cache, as a range: what vLLM's profile run sees, and what it adds.

vLLM runs one batch of max_num_batched_tokens and one sampling of max_num_seqs requests, and takes the peak of both from
the budget, with NCCL's buffers and (since 0.21) an estimate of the CUDA graphs. The same launch does not repeat to 5 %:
a cold torch.compile cache costs up to 1.2 GiB more than a warm one (L4, vLLM 0.28.0: 13.5 % of the KV cache).
"""

from dataclasses import dataclass

from raylaunch.plan.gpus import GIB, GpuKind
from raylaunch.plan.shape import ModelShape

_SAMPLER_LOW, _SAMPLER_HIGH, _SAMPLER_SORT = 3.0, 4.0, 9.5
"""Copies of float32 logits at the peak: without a sort, and with PyTorch's sort for top-k and top-p."""
_ACTIVATION_LOW, _ACTIVATION_HIGH = 0.75, 1.2
_TOWER_LOW = 0.6
"""Of a vision tower's largest batch: its kernels differ more."""
_BASE_LOW, _BASE_HIGH, _COLD_HIGH = 0.02 * GIB, 0.45 * GIB, 1.22 * GIB
"""Small buffers; the same after a cold compile, and where the compile itself set the peak."""
_SORTS_BEFORE = (0, 25)
"""Older versions always sort; from here on the cold compile is the larger part."""
_RANKS_LOW = 0.092 * GIB
"""NCCL's least, where ranks talk."""
_NVLINK_HIGH = 1.2 * GIB
"""NCCL with NVLink, custom all-reduce and symmetric memory buffers."""
_EXPERTS_HIGH = 0.2 * GIB
"""The workspace of fused experts grows in steps."""
_GRAPHS_HIGH = 0.9 * GIB
"""vLLM's estimate for up to 512 captured tokens on cards of 70 GB and more, where it was measured (0.81 GiB)."""
_LARGE_GIB = 50.0


@dataclass(frozen=True, slots=True)
class Range:
    """From low to high."""

    low: float
    high: float

    def to_list(self, digits: int | None = None) -> list[float]:
        """[low, high] for --json."""
        return [round(self.low, digits), round(self.high, digits)]


@dataclass(frozen=True, slots=True)
class RunSettings:
    """What the profile run depends on."""

    max_num_batched_tokens: int
    max_num_seqs: int
    enforce_eager: bool = False
    sees_images: bool = True
    """Whether a vision tower's run is at its defaults; else it may be smaller or none."""


def choose_run_settings(
    kind: GpuKind, batched: int | None, seqs: int | None, *, eager: bool = False, images: bool = True
) -> RunSettings:
    """The launch's, or vLLM's defaults of its API server for a card (0.32: EngineArgs.get_batch_defaults)."""
    large = kind.memory_gib >= 70 and not kind.name.upper().startswith("A100")
    huge = kind.memory_gib >= 160
    batched = batched or (16384 if huge else 8192 if large else 2048)
    seqs = seqs or (1024 if large else 256)
    return RunSettings(batched, min(seqs, batched), eager, images)


def estimate_overhead(
    shape: ModelShape,
    run: RunSettings,
    kind: GpuKind,
    *,
    tp: int,
    world: int,
    is_last: bool,
    vllm: tuple[int, ...],
) -> Range:
    """Bytes on a rank of a stage.

    Args:
        is_last: the last stage samples.
        vllm: its version.
    """
    batch = run.max_num_batched_tokens * 2.0
    activation = batch * (3 * shape.widest / tp + 4 * shape.hidden)
    routed = batch * shape.experts_per_token * (shape.hidden + 2 * shape.widest_expert / tp)
    logits = run.max_num_seqs * shape.vocab * 4.0 if is_last else 0.0
    seen = shape.tower.measure_run(run.max_num_batched_tokens, shape.hidden, tp)
    least = max(_ACTIVATION_LOW * activation, _SAMPLER_LOW * logits)
    if run.sees_images:
        least = max(least, _TOWER_LOW * seen.activation) + seen.output
    low = least + _BASE_LOW + (_RANKS_LOW if world > 1 else 0.0)
    largest = _ACTIVATION_HIGH * max(activation + routed, seen.activation)
    high = max(largest, _SAMPLER_SORT * logits) + _BASE_HIGH
    if vllm >= _SORTS_BEFORE:
        high = min(high, max(largest, _SAMPLER_HIGH * logits) + _COLD_HIGH)
    high += seen.output + (_EXPERTS_HIGH if shape.is_moe else 0.0)
    if world > 1 and kind.has_nvlink:
        high += _NVLINK_HIGH
    if not run.enforce_eager and kind.memory_gib >= _LARGE_GIB:
        high += _GRAPHS_HIGH
    return Range(low, high)
