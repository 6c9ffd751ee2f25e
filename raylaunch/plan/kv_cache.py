"""How many tokens fit into a KV cache: vLLM's blocks and groups (0.32: v1/core/kv_cache_utils.py).

Layers of one kind form a group. Groups share one pool of blocks, so each group has equally many layers; a model with
several kinds is cut into more groups, and a request takes blocks of each.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from raylaunch.plan.layer_kinds import Mixer
from raylaunch.plan.shape import ModelShape

_KERNEL_BLOCK = 16
"""Tokens of a block, and what FlashAttention's blocks are multiples of."""


@dataclass(frozen=True, slots=True)
class CacheSettings:
    """What the size of the cache depends on beside the model."""

    tp: int
    max_model_len: int
    in_flight: int
    """Tokens that are scheduled and not settled: a batch for each stage (0.32: VllmConfig.max_in_flight_tokens)."""
    kv_bytes: float = 2.0
    """Of an element."""
    block: int = _KERNEL_BLOCK
    state_blocks: int = 1
    """That a request holds of a state: 2 with prefix caching (0.32: MambaSpec in mode "align")."""


@dataclass(frozen=True, slots=True)
class Group:
    """Layers that share a block table."""

    layers: tuple[int, ...]
    mixer: Mixer
    block: int
    """Tokens of a block; of a state any number."""
    state_blocks: int = 1

    def count_blocks(self, tokens: int, in_flight: int) -> int:
        """Blocks that a request of `tokens` holds at most."""
        if self.mixer.is_state and not self.mixer.has_attention:
            return self.state_blocks
        if self.mixer.kind == "sliding":
            return -(-min(self.mixer.window - 1 + in_flight, tokens) // self.block) + 1
        if self.mixer.kind == "chunked":
            return -(-min(self.mixer.window + in_flight, tokens) // self.block)
        return -(-tokens // self.block)


@dataclass(frozen=True, slots=True)
class CachePlan:
    """The groups of a model at one TP size, and the bytes of a block of one layer."""

    groups: tuple[Group, ...]
    page: int

    def measure_block(self, layers: range) -> int:
        """Bytes of one block on a rank that has `layers`: its largest group decides."""
        return self.page * max((sum(at in layers for at in group.layers) for group in self.groups), default=0)

    def count_request(self, tokens: int, in_flight: int) -> int:
        """Blocks of a request of `tokens`."""
        return sum(group.count_blocks(tokens, in_flight) for group in self.groups)

    def count_blocks(self, stages: Sequence[range], available: Sequence[float]) -> int:
        """Blocks of the engine: the stage with the fewest decides.

        Args:
            available: bytes on a rank of each stage.
        """
        counts = [
            max(0, int(size // block))
            for layers, size in zip(stages, available, strict=True)
            if (block := self.measure_block(layers))
        ]
        return min(counts, default=0)


def plan_cache(shape: ModelShape, settings: CacheSettings) -> CachePlan:
    """Group the layers, as vLLM does."""
    tp = settings.tp
    buckets: dict[tuple[str, int, int], list[int]] = {}
    for at, layer in enumerate(shape.layers):
        mixer = layer.mixer
        if mixer.kind != "none":
            buckets.setdefault((mixer.kind, mixer.window, mixer.head_size), []).append(at)
        if mixer.has_attention:  # a state and attention in one layer: two entries of their own
            buckets.setdefault(("state", 0, 0), []).append(at)
    mixers = {layers[0]: shape.layers[layers[0]].mixer for layers in buckets.values()}
    token = max((m.measure_token(tp, shape.kv_heads, settings.kv_bytes) for m in mixers.values()), default=0.0)
    state = max((mixer.measure_state(tp) for mixer in mixers.values()), default=0)
    block = settings.block
    if state and token:  # attention's page is made at least as large as a state, which is padded to it
        block *= max(1, -(-state // int(block * token)))
    page = int(block * token) or state
    counts = [len(layers) for layers in buckets.values()]
    size = max(counts) if max(counts, default=0) < 1.5 * min(counts, default=0) else min(counts, default=1)
    groups: list[Group] = []
    for (kind, _, _), layers in buckets.items():
        mixer = shape.layers[layers[0]].mixer
        own = mixer.measure_token(tp, shape.kv_heads, settings.kv_bytes)
        ratio = int(token // own) if own and token % own == 0 else 1
        number = -(-len(layers) // size)
        kept = Mixer("mamba2", shapes=mixer.shapes) if kind == "state" else mixer
        held = settings.state_blocks if token else 1
        if held > 1 and kept.kind == "mamba2":  # and one for checkpoints of a prefill (0.32: MambaMixer2)
            held += 1
        groups += [Group(tuple(layers[start::number]), kept, block * ratio, held) for start in range(number)]
    return CachePlan(tuple(groups), page)


def measure_tokens(plan: CachePlan, blocks: int, settings: CacheSettings, *, by_concurrency: bool = True) -> int:
    """vLLM's "GPU KV cache size" in tokens, for that many blocks.

    Args:
        by_concurrency: requests of max_model_len that fit, times that length (0.30 and later); else blocks by tokens.
    """
    if by_concurrency:
        held = plan.count_request(settings.max_model_len, settings.in_flight)
        return int(blocks / held * settings.max_model_len) if held else 0
    return blocks // max(1, len(plan.groups)) * min((group.block for group in plan.groups), default=0)


def find_longest(plan: CachePlan, blocks: int, settings: CacheSettings) -> int:
    """The longest request that fits, in tokens, up to max_model_len."""
    low, high = 0, settings.max_model_len
    while low < high:
        middle = (low + high + 1) // 2
        fits = plan.count_request(middle, settings.in_flight) <= blocks
        low, high = (middle, high) if fits else (low, middle - 1)
    return low
