"""The supervisor's own figures, as Prometheus reads them: on /metrics beside vLLM's, and alone while no engine runs."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

STATES = ("starting", "ready", "restarting", "draining", "stopping")
_HELP = {
    "raylaunch_up": ("gauge", "1 while an engine is ready, else 0."),
    "raylaunch_state": ("gauge", "1 for the state the service is in."),
    "raylaunch_restarts_total": ("counter", "Starts of an engine after the first one."),
    "raylaunch_incidents_total": ("counter", "Deaths and wedges of the engine, by cause."),
    "raylaunch_last_incident_timestamp_seconds": ("gauge", "When the last incident began."),
    "raylaunch_ready_timestamp_seconds": ("gauge", "When the engine became ready."),
    "raylaunch_gpus_expected": ("gauge", "GPUs that the launch needs."),
    "raylaunch_gpus_present": ("gauge", "GPUs of the nodes that are alive, as Ray counts them."),
    "raylaunch_progress_age_seconds": ("gauge", "Since tokens last moved while requests run; 0 when idle."),
    "raylaunch_gpu_throttled": ("gauge", "1 for a GPU that is slowed down, by reason."),
}


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


def to_text(samples: Sequence[tuple[str, dict[str, str], float]]) -> str:
    """Samples in Prometheus' text format, one family after the other."""
    lines: list[str] = []
    told = ""
    for name, labels, value in samples:
        if name != told:
            kind, words = _HELP[name]
            lines += [f"# HELP {name} {words}", f"# TYPE {name} {kind}"]
            told = name
        inside = ",".join(f'{key}="{_escape(text)}"' for key, text in labels.items())
        lines.append(f"{name}{'{' + inside + '}' if inside else ''} {value:.17g}")
    return "\n".join(lines) + "\n"


def find_kind(name: str) -> tuple[str, str]:
    """Kind ("gauge" or "counter") and help of a figure of ours."""
    return _HELP[name]


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
