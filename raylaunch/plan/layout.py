"""One layout of a model on a fleet: what each rank holds, how many tokens fit, why it cannot start."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from raylaunch.plan.gpus import GIB, Fleet
from raylaunch.plan.kv_cache import CachePlan, CacheSettings, find_longest, measure_tokens, plan_cache
from raylaunch.plan.overhead import Overhead, Range, RunSettings, choose_run_settings, estimate_overhead
from raylaunch.plan.partition import spread_layers
from raylaunch.plan.refusals import Budget, list_refusals, list_warnings
from raylaunch.plan.settings import PlanSettings, measure_element
from raylaunch.plan.weights import WeightModel, measure_stages, partition_layers
from raylaunch.plan.wire import Stage, Wire, estimate_rate, measure_wire, place_stages

_BY_CONCURRENCY_SINCE = (0, 20, 2)
_WINDOWS_HOLD_MORE_SINCE, _STATES_HOLD_MORE_SINCE = (0, 32), (0, 28)
"""A window holds a batch for each stage, and with prefix caching a state two blocks; logs of older versions do not."""
_UNBOUNDED = Range(2.0**40, 2.0**40)
"""Blocks of a stage that keeps nothing of a token."""
_QUANTIZED_SLACK = 0.02
"""Kernels repack and pad quantized weights."""


@dataclass(frozen=True, slots=True)
class Layout:
    """A layout with its forecast; sizes in bytes, of a rank of the stage that decides, ranges from low to high."""

    tp: int
    pp: int
    replicas: int
    dtype: str
    kv_dtype: str
    sizes: tuple[int, ...]
    """Layers of each stage."""
    is_partitioned: bool
    """Whether vLLM would divide the layers otherwise: it needs VLLM_PP_LAYER_PARTITION."""
    is_named: bool
    weights: tuple[int, ...]
    """Of a rank of each stage."""
    overhead: Overhead
    kv_cache: Range
    tokens: Range
    """Of all replicas."""
    requests: Range
    """Of `context` tokens each, at once."""
    longest: int
    """The longest request that fits, at most."""
    max_model_len: int
    context: int
    wire: Wire
    lost: str
    """What one lost machine costs."""
    refusals: tuple[str, ...]
    warnings: tuple[str, ...]
    rate: float
    """For ranking: requests per second."""
    run: RunSettings
    source: str = "formulas"
    """Where weights and tokens come from."""

    @property
    def heaviest(self) -> int:
        """The stage whose ranks hold most."""
        return max(range(self.pp), key=lambda stage: self.weights[stage])

    @property
    def fits(self) -> bool:
        """Whether it may start: False only where it surely cannot."""
        return not self.refusals

    @property
    def surely_fits(self) -> bool:
        """Whether one request of max_model_len fits even at the low end."""
        return self.fits and self.tokens.low / self.replicas >= self.max_model_len


@dataclass(frozen=True, slots=True)
class Planner:
    """A model on a fleet, and the settings of all its layouts."""

    model: WeightModel
    fleet: Fleet
    settings: PlanSettings
    context: int | None = None
    """Tokens of the requests that are counted; None: max_model_len."""

    def plan(self, tp: int, pp: int, replicas: int = 1, *, is_named: bool = False) -> Layout:
        """The forecast of a layout, whether it fits or not."""
        shape, settings = self.model.shape, self.settings
        across = settings.tp_across_nodes or (is_named and tp > max(m.gpus for m in self.fleet.machines))
        stages = place_stages(self.fleet, tp, pp * replicas, across=across)
        here = stages or [Stage((0,) * tp, self.fleet.machines[0].kind)] * (pp * replicas)
        run = choose_run_settings(
            here[0].kind, settings.max_num_batched_tokens, settings.max_num_seqs, eager=settings.enforce_eager,
            images=settings.sees_images,
        )  # fmt: skip
        max_len = settings.max_model_len or shape.max_len
        by_concurrency = settings.vllm >= _BY_CONCURRENCY_SINCE
        batches = pp if settings.vllm >= _WINDOWS_HOLD_MORE_SINCE else 1
        held = 2 if settings.prefix_caching and settings.vllm >= _STATES_HOLD_MORE_SINCE else 1
        cache = CacheSettings(
            tp, max_len, run.max_num_batched_tokens * batches, measure_element(self.kv_dtype), settings.block_size,
            held,
        )  # fmt: skip
        plan = plan_cache(shape, cache)
        sizes, is_partitioned = self._divide(here[:pp], tp, pp, is_named=is_named)
        weights = measure_stages(self.model, tp, sizes)
        ends = [self._fill(here[at * pp :][:pp], sizes, weights, plan, cache, run) for at in range(replicas)]
        worst = min(ends, key=lambda end: end.blocks.low)
        budget = Budget(here, weights, worst.overhead, settings, stages is not None)
        longest = find_longest(plan, int(worst.blocks.high), cache)
        context = min(self.context or max_len, max_len)
        each = max(1, plan.count_request(context, cache.in_flight))
        low, high = (
            sum(measure_tokens(plan, int(blocks), cache, by_concurrency=by_concurrency) for blocks in counts)
            for counts in ([end.blocks.low for end in ends], [end.blocks.high for end in ends])
        )
        requests = Range(sum(end.blocks.low / each for end in ends), sum(end.blocks.high / each for end in ends))
        running = max(1, min(run.max_num_seqs, int(requests.low / replicas)))
        wire = measure_wire(shape, self.fleet, here[:pp], run.max_num_batched_tokens, running)
        used = min(1.0, running * each / max(1.0, worst.blocks.low))
        return Layout(
            tp=tp, pp=pp, replicas=replicas, dtype=self.dtype, kv_dtype=self.kv_dtype, sizes=sizes,
            is_partitioned=is_partitioned, is_named=is_named, weights=weights, overhead=worst.overhead,
            kv_cache=worst.size, tokens=Range(low, high), requests=requests, longest=longest, max_model_len=max_len,
            context=context, wire=wire, lost=_describe_loss(here, pp, replicas),
            refusals=tuple(list_refusals(shape, tp, pp, budget, longest, max_len, worst.size)),
            warnings=tuple(list_warnings(shape, tp, here[:pp], settings)),
            rate=replicas * estimate_rate(
                here[:pp], self._list_read(weights), wire, running=running, kv_bytes=used * max(0.0, worst.size.low),
                chunk=run.max_num_batched_tokens, context=context,
            ),
            run=run,
        )  # fmt: skip

    @property
    def dtype(self) -> str:
        """The dtype of weights that are not quantized."""
        return self.settings.choose_dtype(self.model.shape.dtype)

    @property
    def kv_dtype(self) -> str:
        """The KV cache's."""
        return self.settings.choose_kv_dtype(self.model.shape.quantization.kv_dtype or self.dtype)

    def _list_read(self, weights: Sequence[int]) -> list[float]:
        """Bytes of each stage that a token reads: of a model with experts only those that it is sent to."""
        shape = self.model.shape
        if not shape.is_moe:
            return [float(size) for size in weights]
        total = sum(m.elements for layer in shape.layers for m in layer.matrices)
        experts = sum(m.elements for layer in shape.layers for m in layer.matrices if m.part == "expert")
        count = next((m.elements for layer in shape.layers for m in layer.matrices if m.part == "expert"), 0)
        each = 3 * shape.hidden * shape.widest_expert
        share = shape.experts_per_token * each / count if count else 1.0
        return [size * (1 - experts / total * (1 - share)) for size in weights]

    def _divide(self, stages: Sequence[Stage], tp: int, pp: int, *, is_named: bool) -> tuple[tuple[int, ...], bool]:
        """Layers of each stage: vLLM's own division, the user's, or one for cards that are not equal."""
        count = len(self.model.shape.layers)
        own = partition_layers(count, pp)
        asked = self.settings.partition
        if is_named and asked and len(asked) == pp and sum(asked) == count:
            return asked, asked != own
        if len({round(stage.kind.memory_gib, 2) for stage in stages}) == 1 or pp > count or (is_named and asked):
            return own, False
        budgets = [stage.kind.memory_gib * GIB * self.settings.gpu_memory_utilization for stage in stages]
        sizes = spread_layers(self.model, tp, budgets)
        return (own, False) if is_named else (sizes, sizes != own)

    def _fill(
        self, stages: Sequence[Stage], sizes: Sequence[int], weights: Sequence[int], plan: CachePlan,
        cache: CacheSettings, run: RunSettings,
    ) -> "_Filled":  # fmt: skip
        """Overhead, KV cache and blocks of one replica, of the stage with the fewest blocks."""
        settings, pp, begin = self.settings, len(stages), 0
        found: list[_Filled] = []
        for at, (stage, size, weight) in enumerate(zip(stages, sizes, weights, strict=True)):
            overhead = estimate_overhead(
                self.model.shape, run, stage.kind, tp=cache.tp, world=cache.tp * pp, is_first=at == 0,
                is_last=at == pp - 1, vllm=settings.vllm,
            )  # fmt: skip
            if self.model.shape.quantization.is_quantized:
                overhead = replace(overhead, high=overhead.high + _QUANTIZED_SLACK * weight)
            budget = math.ceil(stage.kind.memory_gib * GIB * settings.gpu_memory_utilization)
            kept = settings.kv_cache_memory_bytes
            low, high = (kept, kept) if kept else (budget - weight - overhead.high, budget - weight - overhead.low)
            layers = range(begin, begin + size)
            begin += size
            block = plan.measure_block(layers)
            blocks = Range(max(0.0, low) // block, max(0.0, high) // block) if block else _UNBOUNDED
            found.append(_Filled(overhead, Range(low, high), blocks))
        hopeless = [end for end in found if end.size.high <= 0]  # decides, whatever the others' low ends
        lowest = min(hopeless or found, key=lambda end: end.blocks.low)
        return replace(lowest, blocks=Range(lowest.blocks.low, min(end.blocks.high for end in found)))


@dataclass(frozen=True, slots=True)
class _Filled:
    overhead: Overhead
    size: Range
    blocks: Range


def _describe_loss(stages: Sequence[Stage], pp: int, replicas: int) -> str:
    """What the machine costs whose loss costs most."""
    touched: dict[int, set[int]] = {}
    for at, stage in enumerate(stages):
        for machine in stage.machines:
            touched.setdefault(machine, set()).add(at // pp)
    worst = max(map(len, touched.values()))
    return "all" if worst == replicas else f"{worst}/{replicas}"
