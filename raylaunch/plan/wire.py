"""What a layout sends: all-reduces of tensor parallelism, hops of the pipeline; and the decode rate that follows.

Hardware rates are round figures of each kind (gpus.py): they rank layouts, and are no promise.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from raylaunch.plan.gpus import Fleet, GpuKind
from raylaunch.plan.shape import ModelShape

_ELEMENT = 2.0
"""Bytes of a hidden state's element."""
_HOP_PARTS = 2
"""A hop carries hidden states and residual."""
_PER_LAYER = 2
"""All-reduces of a layer."""
_PEER_LATENCY_S, _NETWORK_LATENCY_S = 20e-6, 60e-6
_FLOPS_PER_BYTE = 150.0
"""16-bit operations per byte of memory traffic that current GPUs do, roughly."""


@dataclass(frozen=True, slots=True)
class Stage:
    """The GPUs of a pipeline stage."""

    machines: tuple[int, ...]
    """Machine of each rank."""
    kind: GpuKind
    """The one with the least memory."""

    @property
    def spans(self) -> bool:
        """Whether its ranks are on several machines."""
        return len(set(self.machines)) > 1


@dataclass(frozen=True, slots=True)
class Wire:
    """Seconds on the wire."""

    prefill_s: float
    """Of one chunk of max_num_batched_tokens, through all stages."""
    decode_s: float
    """Of one step of all running requests."""
    rate: float
    """The slowest link that it uses, in bytes per second; 0 without any."""


def place_stages(fleet: Fleet, tp: int, count: int, *, across: bool) -> list[Stage] | None:
    """GPUs for `count` stages, filling one machine after the other; None where they do not fit."""
    free = [machine.gpus for machine in fleet.machines]
    stages: list[Stage] = []
    at = 0
    for _ in range(count):
        machines: list[int] = []
        while len(machines) < tp:
            while at < len(free) and (free[at] == 0 or (not across and not machines and free[at] < tp)):
                at += 1
            if at == len(free):
                return None
            free[at] -= 1
            machines.append(at)
        kinds = [fleet.machines[machine].kind for machine in machines]
        stages.append(Stage(tuple(machines), min(kinds, key=lambda kind: kind.memory_gib)))
    return stages


def measure_wire(shape: ModelShape, fleet: Fleet, stages: Sequence[Stage], tokens: int, running: int) -> Wire:
    """The wire cost of one replica.

    Args:
        tokens: of a prefill chunk.
        running: requests of a decode step.
    """
    links = [_find_rate(fleet, stage, stage) for stage in stages] if len(stages[0].machines) > 1 else []
    hops = [_find_rate(fleet, before, after) for before, after in itertools.pairwise(stages)]
    rates = [*links, *hops]
    return Wire(
        _measure_step(shape, fleet, stages, tokens),
        _measure_step(shape, fleet, stages, max(1, running // len(stages))),
        min(rates, default=0.0),
    )


def _find_rate(fleet: Fleet, before: Stage, after: Stage) -> float:
    crosses = len({*before.machines, *after.machines}) > 1
    return fleet.network_rate if crosses else min(before.kind.peer_rate, after.kind.peer_rate)


def _measure_step(shape: ModelShape, fleet: Fleet, stages: Sequence[Stage], tokens: int) -> float:
    size, seconds = tokens * shape.hidden * _ELEMENT, 0.0
    per_stage = _PER_LAYER * len(shape.layers) / len(stages)
    for stage in stages:
        if (tp := len(stage.machines)) > 1:
            latency = _NETWORK_LATENCY_S if stage.spans else _PEER_LATENCY_S
            seconds += per_stage * (2 * (tp - 1) / tp * size / _find_rate(fleet, stage, stage) + latency)
    for before, after in itertools.pairwise(stages):
        crosses = before.machines[-1] != after.machines[0]
        seconds += _HOP_PARTS * size / _find_rate(fleet, before, after)
        seconds += _NETWORK_LATENCY_S if crosses else _PEER_LATENCY_S
    return seconds


def estimate_rate(
    stages: Sequence[Stage],
    weights: Sequence[float],
    wire: Wire,
    *,
    running: int,
    kv_bytes: float,
    chunk: int,
    context: int,
) -> float:
    """Requests per second of one replica, for ranking: three quarters of `context` is prompt, the rest is generated.

    Args:
        weights: bytes on a rank of each stage that a step reads.
        running: requests at once.
        kv_bytes: of all running requests on a rank of one stage.
    """  # fmt: skip
    count = len(stages)
    step = sum(size / stage.kind.memory_rate for size, stage in zip(weights, stages, strict=True))
    step += count * kv_bytes / stages[0].kind.memory_rate / count + wire.decode_s
    compute = max(
        size * chunk / (_FLOPS_PER_BYTE * stage.kind.memory_rate) for size, stage in zip(weights, stages, strict=True)
    )
    prefill = (compute + wire.prefill_s / count) / chunk
    return 1.0 / (0.75 * context * prefill + 0.25 * context * step / max(1, running))
