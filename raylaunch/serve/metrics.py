"""The supervisor's own figures, as Prometheus reads them: on /metrics beside vLLM's, and alone while no engine runs."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

STATES = ("starting", "ready", "restarting", "draining", "stopping")


@dataclass
class Figures:
    """What the supervisor counts; written from its main thread, read by the door's."""

    state: str = "starting"
    restarts: int = 0
    incidents: Counter[str] = field(default_factory=Counter)
    """Cause (watch.Trouble.cause) -> how often."""
    last_incident_at: float = 0.0
    ready_at: float = 0.0
    gpus_expected: int = 0
    gpus_present: int = 0
    progress_age_s: float = 0.0
    throttled: Sequence[tuple[str, int, str]] = ()
    """Node, GPU, reason."""

    def to_samples(self) -> list[tuple[str, dict[str, str], float]]:
        """Name, labels and value of every figure."""
        samples: list[tuple[str, dict[str, str], float]] = [("raylaunch_up", {}, float(self.state == "ready"))]
        samples += [("raylaunch_state", {"state": state}, float(state == self.state)) for state in STATES]
        samples.append(("raylaunch_restarts_total", {}, self.restarts))
        samples += [
            ("raylaunch_incidents_total", {"cause": cause}, count) for cause, count in sorted(self.incidents.items())
        ]
        samples += [
            ("raylaunch_last_incident_timestamp_seconds", {}, self.last_incident_at),
            ("raylaunch_ready_timestamp_seconds", {}, self.ready_at),
            ("raylaunch_gpus_expected", {}, self.gpus_expected),
            ("raylaunch_gpus_present", {}, self.gpus_present),
            ("raylaunch_progress_age_seconds", {}, self.progress_age_s),
        ]
        samples += [
            ("raylaunch_gpu_throttled", {"node": node, "gpu": str(gpu), "reason": reason}, 1.0)
            for node, gpu, reason in self.throttled
        ]
        return samples
