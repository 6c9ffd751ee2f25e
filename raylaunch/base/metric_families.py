"""The metrics that raylaunch adds to vLLM's: their kinds, their help, and Prometheus' text format."""

from collections.abc import Sequence

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
