"""A running server's metrics, from the Prometheus text of its /metrics (vLLM's names, 0.25 to 0.33)."""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

_TOKENS_WINDOW_S = 5.0
_REQUESTS_WINDOW_S = 60.0


@dataclass(frozen=True, slots=True)
class EngineFigures:
    """The engine's metrics at one moment; counters since the server started, summed over its engines.

    vLLM reports nothing for each rank; its samples have a label `replica` only where a launch has several.
    """

    running: int
    waiting: int
    kv_cache_use: float
    """0 to 1."""
    prompt_tokens: float = 0.0
    generation_tokens: float = 0.0
    first_tokens: float = 0.0
    """Requests that have their first token."""
    first_tokens_s: float = 0.0
    """Their times to first token, summed."""
    prefix_queries: float = 0.0
    """Prompt tokens for which the prefix cache was queried."""
    prefix_hits: float = 0.0
    queued: float = 0.0
    """Requests that left the engine's queue."""
    queued_s: float = 0.0
    """Their times in it, summed."""


@dataclass(frozen=True, slots=True)
class EngineRates:
    """Recent rates; None where nothing happened."""

    tokens_in_per_s: float | None
    tokens_out_per_s: float | None
    """Both over the last 5 s."""
    ttft_s: float | None
    """Mean of the last minute's requests."""
    prefix_hits: float | None
    """Share of the last minute's prompt tokens found in the prefix cache, 0 to 1."""
    window_s: float
    """Length of "the last minute": less while the history is shorter."""


def parse_metrics(text: str) -> EngineFigures | None:
    """The engine's metrics; None where the text has none (no engine behind the port)."""
    from prometheus_client.parser import text_string_to_metric_families

    wanted = "\n".join(line for line in text.splitlines() if line.startswith("vllm:") and "_bucket{" not in line)
    found: dict[str, list[float]] = {}
    for family in text_string_to_metric_families(wanted):
        for sample in family.samples:
            found.setdefault(sample.name, []).append(sample.value)
    if "vllm:num_requests_running" not in found:
        return None

    def total(name: str) -> float:
        return sum(found.get(name, []))

    uses = found.get("vllm:kv_cache_usage_perc", [0.0])
    return EngineFigures(
        running=int(total("vllm:num_requests_running")),
        waiting=int(total("vllm:num_requests_waiting")),
        kv_cache_use=sum(uses) / len(uses),
        prompt_tokens=total("vllm:prompt_tokens_total"),
        generation_tokens=total("vllm:generation_tokens_total"),
        first_tokens=total("vllm:time_to_first_token_seconds_count"),
        first_tokens_s=total("vllm:time_to_first_token_seconds_sum"),
        prefix_queries=total("vllm:prefix_cache_queries_total"),
        prefix_hits=total("vllm:prefix_cache_hits_total"),
        queued=total("vllm:request_queue_time_seconds_count"),
        queued_s=total("vllm:request_queue_time_seconds_sum"),
    )


class EngineHistory:
    """The metrics of the last minute, and their rates.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: deque[tuple[float, EngineFigures]] = deque()

    def add(self, figures: EngineFigures) -> EngineRates:
        """Add the current metrics; counters that fell (a restart) clear the history."""
        now = self._clock()
        if self._seen and figures.generation_tokens < self._seen[-1][1].generation_tokens:
            self._seen.clear()
        self._seen.append((now, figures))
        while now - self._seen[0][0] > _REQUESTS_WINDOW_S:
            self._seen.popleft()
        lately_at, lately = next((at, old) for at, old in self._seen if now - at <= _TOKENS_WINDOW_S)
        began_at, began = self._seen[0]
        elapsed_s = now - lately_at
        first_tokens = figures.first_tokens - began.first_tokens
        queries = figures.prefix_queries - began.prefix_queries
        return EngineRates(
            tokens_in_per_s=(figures.prompt_tokens - lately.prompt_tokens) / elapsed_s if elapsed_s else None,
            tokens_out_per_s=(figures.generation_tokens - lately.generation_tokens) / elapsed_s if elapsed_s else None,
            ttft_s=(figures.first_tokens_s - began.first_tokens_s) / first_tokens if first_tokens else None,
            prefix_hits=(figures.prefix_hits - began.prefix_hits) / queries if queries else None,
            window_s=now - began_at,
        )
