"""Memory of a rank beside weights and KV cache, as a range: what vLLM's profile run sees, and what it adds.

vLLM runs one batch of max_num_batched_tokens and one sampling of max_num_seqs requests, and takes the peak of both from
the budget, with what stays allocated and (since 0.21) an estimate of the CUDA graphs. A first start takes more than a
later one: while torch.compile has no cache, inductor times combined kernels with random copies of their arguments, and
one argument is the embedding (Qwen3-8B on a 4090: 1.18 GiB at the peak instead of 0.19, in each of 100 starts).
"""

from dataclasses import dataclass

from raylaunch.plan.gpus import GIB, GpuKind
from raylaunch.plan.shape import ModelShape

_ACTIVATION_HIGH = 1.2
_TOWER_LOW, _TOWER_HIGH = 0.6, 1.2
"""Of a vision tower's largest batch: its kernels differ more."""
_RANKS_LOW = 0.092 * GIB
"""NCCL's least, where ranks talk."""
_NVLINK_HIGH = 0.9 * GIB
"""NCCL with NVLink, custom all-reduce and symmetric memory buffers."""
_EXPERTS_HIGH = 0.2 * GIB
"""The workspace of fused experts grows in steps."""
_SCANS_HIGH = 0.5 * GIB
"""Triton kernels of linear attention, tuned in the profile run."""
_OLD_GRAPHS_HIGH, _LARGE_GIB = 0.9 * GIB, 50.0
"""Before graphs were estimated: what was seen more on cards of 70 GB and up."""
_GRAPH_LOW, _GRAPH_HIGH, _MIXED_GRAPH_HIGH, _FIRST_GRAPH_HIGH = 1 << 20, 0.004 * GIB, 0.01 * GIB, 0.35 * GIB
"""Of each CUDA graph (low is vLLM's own floor), of a model with experts, images or states; and of the first, whose
pool the others share."""

_COPIES_SINCE = (0, 12)
"""torch 2.9: combined kernels, timed while they are compiled."""
_NO_SORT_SINCE = (0, 19)
"""Before, PyTorch's sort for top-k and top-p."""
_GRAPHS_SINCE, _ALL_GRAPHS_SINCE = (0, 21), (0, 29)
"""Graphs are estimated and taken from the budget; by the second runner too."""
_QWEN3_SINCE, _DENSE_SINCE = (0, 22), (0, 26)
"""The second runner's first models: Qwen3 in 16 bit, then what has neither experts, images nor states."""


@dataclass(frozen=True, slots=True)
class _Runner:
    """What one of vLLM's model runners takes, from least to most."""

    activation_low: float
    copies: tuple[float, float]
    """Of float32 logits at the sampler's peak; FlashInfer needs least."""
    base: tuple[float, float]
    """GiB: small buffers, workspaces of kernels, blocks that the allocator cannot give back."""
    counts: bool = False
    """It keeps a count of each token for each request (0.32: PenaltiesState)."""


_SORTING = _Runner(0.75, (3.0, 9.5), (0.02, 0.45))
_FIRST = _Runner(0.75, (3.0, 7.0), (0.02, 0.45))
_SECOND = _Runner(0.85, (1.0, 5.0), (0.1, 0.18), counts=True)


@dataclass(frozen=True, slots=True)
class Range:
    """From low to high."""

    low: float
    high: float

    def to_list(self, digits: int | None = None) -> list[float]:
        """[low, high] for --json."""
        return [round(self.low, digits), round(self.high, digits)]


@dataclass(frozen=True, slots=True)
class Overhead(Range):
    """Of a rank: a later start is nearer to low, a first one to high."""

    first_start: float = 0.0
    """What a first start may take more than a later one."""


@dataclass(frozen=True, slots=True)
class RunSettings:
    """What the profile run depends on."""

    max_num_batched_tokens: int
    max_num_seqs: int
    enforce_eager: bool = False
    sees_images: bool = True
    """Whether a vision tower's run is at its defaults; else it may be smaller or none."""

    @property
    def graphs(self) -> int:
        """CUDA graphs that are captured: in pieces up to twice max_num_seqs (512 at most), whole up to max_num_seqs."""
        most = min(self.max_num_seqs, 512)
        return 0 if self.enforce_eager else _count_sizes(min(2 * most, 512)) + _count_sizes(most)


def _count_sizes(most: int) -> int:
    """Sizes up to `most` (0.32: 1, 2, 4, each 8 below 256, each 16 above)."""
    return sum(size <= most for size in (1, 2, 4, *range(8, 256, 8), *range(256, 513, 16)))


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
    shape: ModelShape, run: RunSettings, kind: GpuKind, *, tp: int, world: int, is_first: bool, is_last: bool,
    vllm: tuple[int, ...],
) -> Overhead:  # fmt: skip
    """Bytes on a rank of a stage; low is a later start, high the first one.

    Args:
        is_first: the first stage holds the embedding.
        is_last: the last stage samples.
        vllm: its version.
    """
    batch = run.max_num_batched_tokens * 2.0
    activation = batch * (3 * shape.widest / tp + 4 * shape.hidden)
    routed = batch * shape.experts_per_token * (shape.hidden + 2 * shape.widest_expert / tp)
    logits = run.max_num_seqs * shape.vocab * 4.0 if is_last else 0.0
    seen = shape.tower.measure_run(run.max_num_batched_tokens, shape.hidden, tp)
    runner = _find_runner(shape, vllm)
    counts = logits if runner.counts else 0.0
    graphs = _estimate_graphs(shape, run, kind, vllm)
    least = max(runner.activation_low * activation, runner.copies[0] * logits)
    if run.sees_images:
        least = max(least, _TOWER_LOW * seen.activation) + seen.output
    low = least + counts + graphs.low + max(runner.base[0] * GIB, _RANKS_LOW if world > 1 else 0.0)
    copy = _measure_copy(shape, run, tp, vllm) if is_first else 0.0
    batches = max(_ACTIVATION_HIGH * (activation + routed), _TOWER_HIGH * seen.activation)
    high = max(batches, runner.copies[1] * logits, copy) + counts + graphs.high + seen.output + runner.base[1] * GIB
    high += (_EXPERTS_HIGH if shape.is_moe else 0.0) + (_SCANS_HIGH if shape.has_states else 0.0)
    if world > 1 and kind.has_nvlink:
        high += _NVLINK_HIGH
    return Overhead(low, high, max(0.0, copy - least))


def _find_runner(shape: ModelShape, vllm: tuple[int, ...]) -> _Runner:
    is_early = shape.architecture == "Qwen3ForCausalLM" and not shape.quantization.is_quantized
    since = _QWEN3_SINCE if is_early else _DENSE_SINCE
    if vllm >= (_ALL_GRAPHS_SINCE if _is_mixed(shape) else since):
        return _SECOND
    return _FIRST if vllm >= _NO_SORT_SINCE else _SORTING


def _is_mixed(shape: ModelShape) -> bool:
    return shape.is_moe or shape.has_states or shape.tower.patches > 0


def _measure_copy(shape: ModelShape, run: RunSettings, tp: int, vllm: tuple[int, ...]) -> float:
    """The copy of the embedding, with what its kernel reads and writes beside it.

    A model that sees images looks tokens up outside of what is compiled.
    """
    if run.enforce_eager or (shape.tower.patches and run.sees_images) or vllm < _COPIES_SINCE:
        return 0.0
    return 2.0 * shape.hidden * (shape.vocab / tp + 2 * run.max_num_batched_tokens)


def _estimate_graphs(shape: ModelShape, run: RunSettings, kind: GpuKind, vllm: tuple[int, ...]) -> Range:
    """vLLM captures two of each kind and multiplies, which does not repeat (one launch of a 4090: 0.62 to 1.59 GiB)."""
    if run.enforce_eager:
        return Range(0.0, 0.0)
    if vllm < _GRAPHS_SINCE:
        return Range(0.0, _OLD_GRAPHS_HIGH if kind.memory_gib >= _LARGE_GIB else 0.0)
    if vllm < _ALL_GRAPHS_SINCE and _find_runner(shape, vllm) is _SECOND:
        return Range(0.0, 0.0)
    each = _MIXED_GRAPH_HIGH if _is_mixed(shape) else _GRAPH_HIGH
    return Range(_GRAPH_LOW * run.graphs, _FIRST_GRAPH_HIGH + each * run.graphs)
