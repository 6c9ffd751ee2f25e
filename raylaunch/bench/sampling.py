"""What the machines and the engine did while a load ran: sampled each second, on the load's own time axis."""

import threading
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any

from raylaunch.bench.target import Target
from raylaunch.monitor import ClusterSample, Watcher
from raylaunch.node_sample import NodeSample

_ENGINE = {
    "vllm:num_requests_running": "running",
    "vllm:num_requests_waiting": "waiting",
    "vllm:kv_cache_usage_perc": "kv_cache_use",
    "vllm:prompt_tokens_total": "prompt_tokens",
    "vllm:generation_tokens_total": "generation_tokens",
    "vllm:request_queue_time_seconds_sum": "queue_s",
    "vllm:request_queue_time_seconds_count": "queued",
    "vllm:prefix_cache_queries_total": "prefix_queries",
    "vllm:prefix_cache_hits_total": "prefix_hits",
}
"""vLLM's metric (names of 0.25 to 0.33) -> ours; engines are summed, KV cache use is that of the fullest."""
_TIMEOUT_S = 2.0


def parse_engine(text: str) -> dict[str, float]:
    """The figures of _ENGINE out of Prometheus text; empty where the server is no vLLM."""
    found: dict[str, float] = {}
    for line in text.splitlines():
        if not line.startswith("vllm:"):
            continue
        name, _, value = line.partition("}") if "{" in line else line.partition(" ")
        key = _ENGINE.get(name.partition("{")[0])
        if key is None:
            continue
        number = float(value.split()[0])
        found[key] = max(found.get(key, 0.0), number) if key == "kv_cache_use" else found.get(key, 0.0) + number
    return found


@dataclass(frozen=True)
class Moment:
    """One look at everything."""

    at_s: float
    """Monotonic clock here."""
    nodes: tuple[dict[str, Any], ...]
    engine: dict[str, float]


class Sampler:
    """A thread that looks each second until it is stopped; use as a context.

    Args:
        watcher: samples the machines; None leaves them out.
    """

    def __init__(self, target: Target, watcher: Watcher | None, *, interval_s: float = 1.0) -> None:
        self._target, self._watcher, self._interval_s = target, watcher, interval_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="bench-sampler", daemon=True)
        self.moments: list[Moment] = []
        self.facts: dict[str, dict[str, Any]] = {}
        """What each node has, by its address."""

    def __enter__(self) -> "Sampler":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(timeout=40.0)

    def _run(self) -> None:
        try:
            due = monotonic()
            while not self._stop.is_set():
                self.look()
                due = max(due + self._interval_s, monotonic())
                self._stop.wait(due - monotonic())
        finally:
            if self._watcher is not None:
                self._watcher.close()

    def look(self) -> None:
        """Take one look."""
        nodes: tuple[dict[str, Any], ...] = ()
        if self._watcher is not None:
            sample = self._watcher.sample()
            self._note_facts(sample)
            nodes = tuple(describe_node(node) for node in sample.nodes)
        engine = parse_engine(self._fetch_metrics())
        self.moments.append(Moment(monotonic(), nodes, engine))

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

    def _fetch_metrics(self) -> str:
        request = urllib.request.Request(f"{self._target.url}/metrics")
        if self._target.api_key:
            request.add_header("Authorization", f"Bearer {self._target.api_key}")
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as response:
                return str(response.read().decode(errors="replace"))
        except (urllib.error.URLError, OSError, ValueError):
            return ""


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
    shown = ("running", "waiting", "kv_cache_use")
    samples = [
        {
            "t_s": round(moment.at_s - start_s, 3),
            "nodes": list(moment.nodes),
            "engine": {key: moment.engine[key] for key in shown if key in moment.engine},
        }
        for moment in seen
    ]
    told = [moment.engine for moment in seen if "running" in moment.engine]
    engine: dict[str, Any] = {}
    if told:
        first, last = told[0], told[-1]

        def grown(key: str) -> float:
            return last.get(key, 0.0) - first.get(key, 0.0)

        waiting = [moment.get("waiting", 0.0) for moment in told]
        engine = {
            "waiting_mean": round(sum(waiting) / len(waiting), 2),
            "waiting_max": max(waiting),
            "running_max": max(moment["running"] for moment in told),
            "kv_cache_use_max": max(moment.get("kv_cache_use", 0.0) for moment in told),
            "queue_ms_mean": round(grown("queue_s") / grown("queued") * 1e3, 3) if grown("queued") > 0 else None,
            "prefix_cache_hit_share": (
                round(grown("prefix_hits") / grown("prefix_queries"), 4) if grown("prefix_queries") > 0 else None
            ),
        }
    return {"samples": samples, "engine": engine}
