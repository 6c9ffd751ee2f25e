"""What the machines and the engine did while a load ran: sampled each second, on the load's own time axis."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from time import monotonic

from raylaunch.base.http_client import fetch_text
from raylaunch.bench.figures import (
    EngineSummary,
    LoadSample,
    NodeHardware,
    SampledEngine,
    SampledGpu,
    SampledNode,
    ServerGpu,
)
from raylaunch.bench.target import Target
from raylaunch.cluster.monitor import ClusterSample
from raylaunch.cluster.monitor_process import ChildMonitor
from raylaunch.engine.metrics import EngineFigures, parse_metrics
from raylaunch.node.sampler import NodeSample

_METRICS_TIMEOUT_S = 2.0
_LATEST = 1.5
"""Intervals after which a sample is no longer waited for."""
_FIRST_SAMPLE_S = 20.0
"""Longest wait for the machines' first sample: Ray starts a process on each node."""


@dataclass(frozen=True)
class Moment:
    """Nodes and engine at one moment."""

    at_s: float
    """Monotonic clock here."""
    nodes: tuple[SampledNode, ...]
    engine: EngineFigures | None


class LoadSampler:
    """A thread that collects samples until it is stopped; use as a context.

    It waits for the source's samples: a timer of its own would miss some of them.

    Args:
        source: samples the machines each second, in a process of its own; closed at the end.
        interval_s: between samples of the engine alone, where the source has ended.
    """

    def __init__(self, target: Target, source: ChildMonitor, *, interval_s: float = 1.0) -> None:
        self._target, self._source, self._interval_s = target, source, interval_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="bench-sampler", daemon=True)
        self._seen: ClusterSample | None = None
        self.moments: list[Moment] = []
        self.hardware: dict[str, NodeHardware] = {}
        """What each node has, by its address."""
        self.problem = ""
        """Why machines were not sampled, or not to the end."""

    def __enter__(self) -> "LoadSampler":
        self._source.arrived.wait(_FIRST_SAMPLE_S)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._source.arrived.set()
        self._thread.join()
        self._source.close()

    def _run(self) -> None:
        while not self._stop.is_set():
            self._source.arrived.clear()
            self._sample()
            if self._source.ended:
                self._stop.wait(self._interval_s)
            else:
                self._source.arrived.wait(_LATEST * self._interval_s)

    def _sample(self) -> None:
        nodes: tuple[SampledNode, ...] = ()
        sample, at_s = self._source.newest, monotonic()
        if sample is not None and sample is not self._seen:
            self._seen = sample
            self.hardware |= {node.ip: describe_hardware(node) for node in sample.nodes}
            nodes = tuple(describe_node(node) for node in sample.nodes)
        self.problem = self._source.ended
        text = fetch_text(f"{self._target.url}/metrics", _METRICS_TIMEOUT_S, self._target.tls.client_cert)
        self.moments.append(Moment(at_s, nodes, parse_metrics(text) if text else None))


def _gib(value: int | None) -> float | None:
    return None if value is None else round(value / 2**30, 3)


def describe_hardware(node: NodeSample) -> NodeHardware:
    """What a node has."""
    gpus = [ServerGpu(gpu.name, _gib(gpu.memory_total_bytes), gpu.power_cap_w) for gpu in node.gpus.gpus]
    return NodeHardware(node.hostname, node.host.cores, _gib(node.host.ram_total_bytes), tuple(gpus))


def describe_node(node: NodeSample) -> SampledNode:
    """A node's sample as it stands in the result file."""
    network = [one for one in node.host.interfaces if one.is_nodes] or list(node.host.interfaces)

    def add_up(values: Sequence[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return round(sum(known) / 1e6, 4) if known else None

    return SampledNode(
        node.ip,
        node.host.cpu_percent,
        _gib(node.host.ram_used_bytes),
        add_up([one.in_bytes_per_s for one in network]),
        add_up([one.out_bytes_per_s for one in network]),
        tuple(
            SampledGpu(gpu.index, gpu.use_percent, _gib(gpu.memory_used_bytes), gpu.power_w, gpu.temperature_c)
            for gpu in node.gpus.gpus
        ),
    )


def cut_moments(
    moments: Sequence[Moment], start_s: float, end_s: float
) -> tuple[tuple[LoadSample, ...], EngineSummary]:
    """The samples between two moments of this machine's clock, and the engine's figures over that time."""
    found = [moment for moment in moments if start_s - 1.0 <= moment.at_s <= end_s + 1.0]
    samples = [
        LoadSample(round(moment.at_s - start_s, 3), moment.nodes, _describe_engine(moment.engine)) for moment in found
    ]
    figures = [moment.engine for moment in found if moment.engine is not None]
    return tuple(samples), summarise_engine(figures) if figures else EngineSummary()


def _describe_engine(figures: EngineFigures | None) -> SampledEngine:
    if figures is None:
        return SampledEngine()
    return SampledEngine(figures.running, figures.waiting, round(figures.kv_cache_use, 5))


def summarise_engine(figures: Sequence[EngineFigures]) -> EngineSummary:
    """The engine's own figures over a run; counters as what they grew by."""
    first, last = figures[0], figures[-1]
    queued, queries = last.queued - first.queued, last.prefix_queries - first.prefix_queries
    return EngineSummary(
        running_max=max(one.running for one in figures),
        waiting_max=max(one.waiting for one in figures),
        waiting_mean=round(sum(one.waiting for one in figures) / len(figures), 2),
        kv_cache_use_max=round(max(one.kv_cache_use for one in figures), 5),
        queue_ms_mean=round((last.queued_s - first.queued_s) / queued * 1e3, 3) if queued > 0 else None,
        prefix_cache_hit_share=round((last.prefix_hits - first.prefix_hits) / queries, 4) if queries > 0 else None,
    )
