"""The folder through which several API servers of one engine tell one /metrics (prometheus_client's multiprocess mode).

It lies in memory where the system has /dev/shm: its files are mapped, and a full disk would kill their processes.
"""

import os
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from prometheus_client import multiprocess
from prometheus_client.metrics_core import Metric

VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
_MEMORY = Path("/dev/shm")


def find(mark: str) -> Path:
    """The folder of one start of an engine, which need not exist.

    Args:
        mark: RAYLAUNCH_MARK of that start.
    """
    place = _MEMORY if os.access(_MEMORY, os.W_OK) else Path(tempfile.gettempdir())
    return place / f"raylaunch-metrics-{mark}"


def make(mark: str) -> Path:
    """Create the folder, readable by its owner only.

    Raises:
        OSError: it cannot be created.
    """
    folder = find(mark)
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def collect(folders: Sequence[str]) -> Iterable[Metric]:
    """The metrics that the processes of several replicas wrote, each sample with the number of its replica."""
    merged: dict[str, Metric] = {}
    for index, folder in enumerate(folders):
        files = [str(file) for file in Path(folder).glob("*.db")]
        for metric in multiprocess.MultiProcessCollector.merge(files):  # type: ignore[no-untyped-call]
            family = merged.setdefault(metric.name, Metric(metric.name, metric.documentation, metric.type))
            family.samples += [
                sample._replace(labels={**sample.labels, "replica": str(index)}) for sample in metric.samples
            ]
    return merged.values()


def remove(mark: str) -> None:
    """Remove the folder of one start, if it exists; `mark` may have a "*", for those of several."""
    pattern = find(mark)
    for folder in pattern.parent.glob(pattern.name):
        shutil.rmtree(folder, ignore_errors=True)
