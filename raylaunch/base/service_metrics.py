"""The metrics that raylaunch adds to vLLM's own on /metrics: names, kinds, help and values, for prometheus_client."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from prometheus_client import generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

STATES = ("starting", "ready", "restarting", "draining", "stopping")


@dataclass(frozen=True)
class ReplicaMetrics:
    """What the supervisor knows of one replica."""

    is_ready: bool
    api_servers: int
    folder: str
    """Of its engine's metrics, where several processes write them (engine/metrics_folder.py)."""


@dataclass(frozen=True)
class ServiceMetrics(Collector):
    """What the supervisor knows of its service at one moment."""

    state: str = "starting"
    """One of STATES."""
    restarts: int = 0
    incidents: Mapping[str, int] = field(default_factory=dict)
    """Cause (faults.Trouble.cause) -> count."""
    last_incident_at: float = 0.0
    """Wall clock, seconds since 1970; 0 before the first incident."""
    ready_at: float = 0.0
    """Wall clock, seconds since 1970; 0 before the first engine is ready."""
    gpus_expected: int = 0
    gpus_present: int = 0
    layout: int = 0
    """0: the launch's own one; else the fallback that is served, from 1."""
    progress_age_s: float = 0.0
    throttled: tuple[tuple[str, int, str], ...] = ()
    """Node, GPU, reason."""
    replicas: tuple[ReplicaMetrics, ...] = ()

    def collect(self) -> Iterator[Metric]:
        """One family per metric, as a registry of prometheus_client asks for them."""
        yield _gauge("up", "1 while an engine is ready, else 0.", self.state == "ready")
        states = [((state,), state == self.state) for state in STATES]
        yield _gauges("state", "1 for the state the service is in.", ("state",), states)
        yield CounterMetricFamily("raylaunch_restarts", "Starts of an engine after the first one.", self.restarts)
        incidents = CounterMetricFamily("raylaunch_incidents", "Deaths and wedges of the engine.", labels=("cause",))
        for cause, count in sorted(self.incidents.items()):
            incidents.add_metric((cause,), count)
        yield incidents
        yield _gauge("last_incident_timestamp_seconds", "When the last incident began.", self.last_incident_at)
        yield _gauge("ready_timestamp_seconds", "When the engine became ready.", self.ready_at)
        yield _gauge("gpus_expected", "GPUs that the launch needs.", self.gpus_expected)
        yield _gauge("gpus_present", "GPUs of the nodes that are alive, as Ray counts them.", self.gpus_present)
        layout_help = "0 while the launch's own layout is served, else the entry of fallback.layouts, from 1."
        yield _gauge("degraded", layout_help, self.layout)
        age_help = "Seconds without a token while requests run; 0 when idle."
        yield _gauge("progress_age_seconds", age_help, self.progress_age_s)
        up_help = "1 while the replica is ready, else 0."
        ups = [((str(index),), one.is_ready) for index, one in enumerate(self.replicas)]
        yield _gauges("replica_up", up_help, ("replica",), ups)
        servers = [((str(index),), one.api_servers) for index, one in enumerate(self.replicas)]
        yield _gauges("api_servers", "Processes that serve clients of the replica.", ("replica",), servers)
        throttled = [((node, str(gpu), reason), True) for node, gpu, reason in self.throttled]
        yield _gauges("gpu_throttled", "1 for a GPU that is slowed down.", ("node", "gpu", "reason"), throttled)

    def to_text(self) -> str:
        """Prometheus' text format, version 0.0.4."""
        return generate_latest(self).decode()


def _gauge(name: str, help_text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"raylaunch_{name}", help_text, float(value))


def _gauges(
    name: str, help_text: str, labels: tuple[str, ...], values: Iterable[tuple[tuple[str, ...], float]]
) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"raylaunch_{name}", help_text, labels=labels)
    for label_values, value in values:
        family.add_metric(label_values, float(value))
    return family
