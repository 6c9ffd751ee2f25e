"""What a result file holds: the fields' names are the file's keys; docs/bench.md defines the figures."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Level:
    """One load: closed loop at `concurrency`, or open loop at `rate_per_s`."""

    concurrency: int | None = None
    rate_per_s: float | None = None

    def describe(self) -> str:
        """As text: "8 at once" or "2.5 requests/s"."""
        return f"{self.concurrency} at once" if self.concurrency else f"{self.rate_per_s:g} requests/s"


@dataclass(frozen=True, kw_only=True)
class OfferedLoad(Level):
    """A level and what limited it."""

    kind: str
    """"closed" or "open"."""
    requests: int | None = None
    duration_s: float | None = None


@dataclass(frozen=True)
class Distribution:
    """A measure over all requests (or all gaps between tokens), in milliseconds; all None where there is no value."""

    count: int
    mean: float | None = None
    std: float | None = None
    min: float | None = None
    p50: float | None = None
    p90: float | None = None
    p95: float | None = None
    p99: float | None = None
    max: float | None = None
    histogram: tuple[tuple[float, int], ...] = ()
    """Lower edge in ms and count of each bucket that is not empty; edges at 10^(k/20)."""


@dataclass(frozen=True)
class Spread:
    """A measure of the client's own, in milliseconds."""

    p50: float | None
    p99: float | None
    max: float | None


@dataclass(frozen=True)
class FailureKind:
    """Failures of one kind."""

    count: int
    said: str
    """Message of the first one (the key's name belongs to the file's format)."""


@dataclass(frozen=True)
class Goodput:
    """Requests that kept all of --slo."""

    slo_s: dict[str, float]
    requests_ok: int
    requests_per_s: float
    share: float
    """Of all requests, failed ones included."""


@dataclass(frozen=True)
class TimeSeries:
    """Figures of each slice of the run."""

    slice_s: float
    output_tokens_per_s: tuple[float, ...]
    """An answer's tokens are spread over its output events."""
    requests_per_s: tuple[float, ...]
    """Completed."""
    failed: tuple[int, ...]
    running: tuple[float, ...]
    """Requests under way, mean over the slice."""


@dataclass(frozen=True)
class ShardFigures:
    """How one shard of the client fared."""

    node: str
    clock_error_ms: float
    cpu_s: float
    cpu_share: float
    """Of one core."""
    max_loop_lag_ms: float
    slow_share: float
    turns: int
    reads: int
    runnable_wait_s: float | None


@dataclass(frozen=True)
class ClientFigures:
    """How the client fared."""

    cpu_s: float
    max_loop_lag_ms: float
    connections: int
    connect_ms: Spread
    shards: tuple[ShardFigures, ...]
    late_ms: Spread | None = None
    """Open loop: how late requests left."""


@dataclass(frozen=True)
class SampledGpu:
    """A GPU at one moment."""

    gpu: int
    use_percent: float | None
    memory_gib: float | None
    power_w: float | None
    temperature_c: float | None


@dataclass(frozen=True)
class SampledNode:
    """A node at one moment; network is that of the interface which carries its address."""

    node: str
    cpu_percent: float | None
    ram_used_gib: float | None
    net_in_mb_s: float | None
    net_out_mb_s: float | None
    gpus: tuple[SampledGpu, ...] = ()


@dataclass(frozen=True)
class SampledEngine:
    """The engine at one moment; None where the server has no such metrics."""

    running: float | None = None
    waiting: float | None = None
    kv_cache_use: float | None = None


@dataclass(frozen=True)
class LoadSample:
    """Nodes and engine at one moment."""

    t_s: float
    """Since the level's start."""
    nodes: tuple[SampledNode, ...]
    engine: SampledEngine


@dataclass(frozen=True)
class EngineSummary:
    """The engine's own figures over a level; None where the server has no such metrics."""

    running_max: float | None = None
    waiting_max: float | None = None
    waiting_mean: float | None = None
    kv_cache_use_max: float | None = None
    queue_ms_mean: float | None = None
    prefix_cache_hit_share: float | None = None


@dataclass(frozen=True)
class LoadFigures:
    """All figures that follow from a level's requests. Distributions are of successful requests."""

    requests_ok: int
    requests_failed: int
    errors: dict[str, FailureKind]
    duration_s: float
    requests_per_s: float
    output_tokens_per_s: float
    total_tokens_per_s: float
    input_tokens: int
    output_tokens: int
    tokens_counted_by: str
    """"usage" (the server's) or "events"."""
    ttft_ms: Distribution
    tpot_ms: Distribution
    itl_ms: Distribution
    e2e_ms: Distribution
    series: TimeSeries
    goodput: Goodput | None = None


@dataclass(frozen=True, kw_only=True)
class LevelResult(LoadFigures):
    """Everything about one level."""

    valid: bool
    invalid_because: tuple[str, ...]
    load: OfferedLoad
    ended: str
    """"whole", or how it ended early (shard_plan.ShardResult.ended)."""
    requests_cut_off: int
    client: ClientFigures
    samples: tuple[LoadSample, ...] = ()
    engine: EngineSummary = EngineSummary()


@dataclass(frozen=True)
class TestedServer:
    """The server under load."""

    url: str
    model: str
    version: str | None


@dataclass(frozen=True)
class RequestSettings:
    """What the requests were."""

    api: str
    stream: bool
    max_tokens: int
    exact_tokens: bool
    temperature: float | None
    prompts: str
    """Where they come from."""
    distinct_prompts: int
    warmup: int
    timeout_s: float
    seed: int
    own_output_tokens: list[int] | None = None
    """Shortest and longest, where prompts have lengths of their own."""


@dataclass(frozen=True)
class ServerGpu:
    """A GPU of a node."""

    name: str
    memory_gib: float | None
    power_cap_w: float | None


@dataclass(frozen=True)
class NodeHardware:
    """What a node has."""

    hostname: str
    cores: int
    ram_gib: float | None
    gpus: tuple[ServerGpu, ...]


@dataclass(frozen=True)
class BenchResult:
    """A load test."""

    made_at: str
    """UTC."""
    valid: bool
    invalid_because: tuple[str, ...]
    server: TestedServer
    asked: RequestSettings
    versions: dict[str, str | None]
    nodes: dict[str, NodeHardware]
    """By address."""
    sampling_problem: str
    levels: tuple[LevelResult, ...]
    launch: dict[str, Any] | None = None
    """Path and content of the launch file, secrets masked."""
