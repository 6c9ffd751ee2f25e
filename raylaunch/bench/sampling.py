"""What the machines and the engine did while a load ran: sampled each second, on the load's own time axis."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any, Protocol

from raylaunch.bench.target import Target
from raylaunch.cluster.monitor import ClusterSample
from raylaunch.engine.metrics import EngineFigures, fetch_text, parse_metrics
from raylaunch.node.sampler import NodeSample

_METRICS_TIMEOUT_S = 2.0
_PATIENCE = 1.5
"""A sample that is so many intervals late is not waited for."""
_FIRST_SAMPLE_S = 20.0
"""Longest wait for the machines' first sample: where Ray is, it starts a process on each node."""


class SampleSource(Protocol):
    """What samples the machines: monitor_child.ChildMonitor."""

    newest: ClusterSample | None
    arrived: threading.Event
    """Set with each sample, and at the end; whoever waits for it clears it."""
    ended: str
    """Why no more samples come; "" while they may."""

    def close(self) -> None:
        """End it."""


@dataclass(frozen=True)
class Moment:
    """One look at everything."""

    at_s: float
    """Monotonic clock here."""
    nodes: tuple[dict[str, Any], ...]
    engine: EngineFigures | None


class LoadSampler:
    """A thread that looks whenever the machines were sampled until it is stopped; use as a context.

    A beat of its own would run through that of the source: now and then a look would find nothing new.

    Args:
        source: samples the machines each second, in a process of its own.
        interval_s: between looks at the engine alone, where no sample comes.
    """

    def __init__(self, target: Target, source: SampleSource, *, interval_s: float = 1.0) -> None:
        self._target, self._source, self._interval_s = target, source, interval_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="bench-sampler", daemon=True)
        self._seen: ClusterSample | None = None
        self.moments: list[Moment] = []
        self.facts: dict[str, dict[str, Any]] = {}
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
            self._look()
            if self._source.ended:
                self._stop.wait(self._interval_s)
            else:
                self._source.arrived.wait(_PATIENCE * self._interval_s)

    def _look(self) -> None:
        nodes: tuple[dict[str, Any], ...] = ()
        sample, at_s = self._source.newest, monotonic()
        if sample is not None and sample is not self._seen:
            self._seen = sample
            self._note_facts(sample)
            nodes = tuple(describe_node(node) for node in sample.nodes)
        self.problem = self._source.ended
        text = fetch_text(f"{self._target.url}/metrics", _METRICS_TIMEOUT_S)
        self.moments.append(Moment(at_s, nodes, parse_metrics(text) if text else None))

    def _note_facts(self, sample: ClusterSample) -> None:
        for node in sample.nodes:
            self.facts[node.ip] = {
                "hostname": node.hostname,
                "cores": node.host.cores,
                "ram_gib": _gib(node.host.ram_total_bytes),
                "gpus": [
                    {"name": gpu.name, "memory_gib": _gib(gpu.memory_total_bytes), "power_cap_w": gpu.power_cap_w}
                    for gpu in node.gpus.gpus
                ],
            }


def _gib(value: int | None) -> float | None:
    return None if value is None else round(value / 2**30, 3)


def describe_node(node: NodeSample) -> dict[str, Any]:
    """A node's sample as it stands in the result file; network is that of the interface which carries its address."""
    network = [one for one in node.host.interfaces if one.is_nodes] or list(node.host.interfaces)

    def rate(values: Sequence[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return round(sum(known) / 1e6, 4) if known else None

    return {
        "node": node.ip,
        "cpu_percent": node.host.cpu_percent,
        "ram_used_gib": _gib(node.host.ram_used_bytes),
        "net_in_mb_s": rate([one.in_bytes_per_s for one in network]),
        "net_out_mb_s": rate([one.out_bytes_per_s for one in network]),
        "gpus": [
            {
                "gpu": gpu.index,
                "use_percent": gpu.use_percent,
                "memory_gib": _gib(gpu.memory_used_bytes),
                "power_w": gpu.power_w,
                "temperature_c": gpu.temperature_c,
            }
            for gpu in node.gpus.gpus
        ],
    }


def cut_moments(moments: Sequence[Moment], start_s: float, end_s: float) -> dict[str, Any]:
    """What was seen between two moments of this machine's clock, and what it says about queueing.

    Returns:
        samples: t_s (since the start), nodes, engine (running, waiting, kv_cache_use). engine: mean and most waiting,
        mean time in the engine's queue, prefix cache hits; {} where the server tells none.
    """
    seen = [moment for moment in moments if start_s - 1.0 <= moment.at_s <= end_s + 1.0]
    samples = [
        {
            "t_s": round(moment.at_s - start_s, 3),
            "nodes": list(moment.nodes),
            "engine": {}
            if moment.engine is None
            else {
                "running": moment.engine.running,
                "waiting": moment.engine.waiting,
                "kv_cache_use": round(moment.engine.kv_cache_use, 5),
            },
        }
        for moment in seen
    ]
    told = [moment.engine for moment in seen if moment.engine is not None]
    return {"samples": samples, "engine": summarise_engine(told) if told else {}}


def summarise_engine(told: Sequence[EngineFigures]) -> dict[str, Any]:
    """What the engine's own figures say of a run."""
    first, last = told[0], told[-1]
    queued, queries = last.queued - first.queued, last.prefix_queries - first.prefix_queries
    return {
        "running_max": max(figures.running for figures in told),
        "waiting_max": max(figures.waiting for figures in told),
        "waiting_mean": round(sum(figures.waiting for figures in told) / len(told), 2),
        "kv_cache_use_max": round(max(figures.kv_cache_use for figures in told), 5),
        "queue_ms_mean": round((last.queued_s - first.queued_s) / queued * 1e3, 3) if queued > 0 else None,
        "prefix_cache_hit_share": (round((last.prefix_hits - first.prefix_hits) / queries, 4) if queries > 0 else None),
    }
