"""What earlier starts on this machine's cluster took beside weights: it narrows the next forecast.

Kept in ~/.raylaunch/plan.json, by GPU, vLLM version, model and the settings that the profile run depends on.
"""

import contextlib
import hashlib
import json
from dataclasses import dataclass, replace

from raylaunch.base import paths
from raylaunch.plan.layout import Layout, Planner
from raylaunch.plan.overhead import Overhead, Range

_SPREAD = 0.03
"""How far a start of the same key is from the one before, where the compile cache is as warm."""
_COMPILE_SHARE = 0.05
"""Of the KV cache: what a compile cache gives back is told apart from here on, until two starts are known."""
_KEPT_AT_MOST = 1000


@dataclass(frozen=True, slots=True)
class Forecast:
    """What `serve` expects of one engine's KV cache, and what it needs to learn from what vLLM takes."""

    tokens: tuple[int, int]
    """From low to high."""
    weights_gib: float
    """Of a rank of the heaviest stage."""
    stage: int
    source: str
    key: str
    kv_bytes: float
    """KV cache of a rank at the high end of the range, where `overhead_bytes` are beside it and `most_tokens` fit."""
    most_tokens: float
    overhead_bytes: float

    def describe(self) -> str:
        """One line, before the load."""
        low, high = self.tokens
        return (
            f"plan: weights {self.weights_gib:.2f} GiB a GPU (stage {self.stage}), "
            f"KV cache {low:,} to {high:,} tokens ({self.source})"
        )


def make_key(planner: Planner, layout: Layout, model: str) -> str:
    """What has to be equal for one start to tell about the next."""
    kinds = sorted({(m.kind.name, round(m.kind.memory_gib, 1)) for m in planner.fleet.machines})
    run = layout.run
    parts = [
        kinds, planner.settings.vllm, model, run.max_num_batched_tokens, run.max_num_seqs, layout.tp, layout.pp,
        layout.dtype, layout.kv_dtype, run.enforce_eager, layout.sizes,
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]


def recall(planner: Planner, layout: Layout, model: str) -> Layout:
    """The layout with what the last start of the same key took, within 3 %; unchanged where there was none.

    The only start that is known may have compiled: the next one can have what that took as KV cache.
    """
    known = _read().get(make_key(planner, layout, model))
    most = layout.kv_cache.high
    if not known or most <= 0 or planner.settings.kv_cache_memory_bytes:
        return layout
    overhead, more = known[-1], layout.overhead.first_start
    size = most - (overhead - layout.overhead.low)
    if size <= 0:
        return layout
    reach = min(most, size + more) if len(known) == 1 and more > _COMPILE_SHARE * size else size
    share = Range(size / most * (1 - _SPREAD), max(size, reach) / most * (1 + _SPREAD))
    return replace(
        layout,
        overhead=Overhead(overhead, overhead),
        kv_cache=_scale(most, share),
        tokens=_scale(layout.tokens.high, share),
        requests=_scale(layout.requests.high, share),
        source="measured at an earlier start",
    )


def _scale(most: float, share: Range) -> Range:
    return Range(most * share.low, most * share.high)


def make_forecast(planner: Planner, layout: Layout, model: str) -> Forecast:
    """The forecast of a launch's own layout, with what earlier starts took."""
    known = recall(planner, layout, model)
    return Forecast(
        tokens=(int(known.tokens.low), int(known.tokens.high)),
        weights_gib=max(layout.weights) / (1 << 30),
        stage=layout.heaviest,
        source=known.source,
        key=make_key(planner, layout, model),
        kv_bytes=layout.kv_cache.high,
        most_tokens=layout.tokens.high,
        overhead_bytes=layout.overhead.low,
    )


def remember(forecast: Forecast, tokens: int) -> None:
    """Keep what vLLM took, for the next forecast; a file that cannot be written is a warning."""
    if not tokens or not forecast.most_tokens:
        return
    taken = forecast.kv_bytes * tokens / forecast.most_tokens
    known = _read()
    before = known.pop(forecast.key, [])[-1:]
    known[forecast.key] = [*before, forecast.overhead_bytes + forecast.kv_bytes - taken]
    kept = dict(list(known.items())[-_KEPT_AT_MOST:])
    paths.write_quietly(paths.home() / "plan.json", json.dumps(kept) + "\n")


def _read() -> dict[str, list[float]]:
    """The overheads of the last two starts of each key; a file of an older version has one."""
    with contextlib.suppress(OSError, ValueError):
        read = json.loads((paths.home() / "plan.json").read_text())
        if isinstance(read, dict):
            listed = {str(key): value if isinstance(value, list) else [value] for key, value in read.items()}
            return {key: [float(n) for n in ns if isinstance(n, (int, float))] for key, ns in listed.items()}
    return {}
