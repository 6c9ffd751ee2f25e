"""The error classes. What a user can cause or fix is a RaylaunchError; any other exception is a bug of raylaunch.

::

    RaylaunchError                 exit 1: expected, printed without a traceback
    ├── LaunchFileError            the launch file, a --set or a RAYLAUNCH_* variable is wrong
    │   └── ClusterFileError       the cluster file is wrong
    ├── PortTakenError             the address to serve on is in use, or not available to this user
    ├── ClusterError               Ray cannot be joined, or is not the cluster the launch asks for
    │   └── NotEnoughGpusError     the GPUs did not come within cluster.wait_s
    ├── ChecksFailedError          nodes are not fit to serve (all findings, not the first)
    ├── WeightsError               the model cannot be fetched, or its folder is incomplete
    ├── EngineError                vLLM did not start, or died
    ├── NoProcessError             the system has no process, memory or file left
    ├── ServiceError               no service runs here, or it does not answer
    ├── LogError                   a log that is to be explained cannot be read
    └── BenchError                 a load test cannot be made, or its files cannot be read
"""

from collections.abc import Sequence
from enum import IntEnum
from pathlib import Path


class ExitCode(IntEnum):
    """What the exit status of `raylaunch` means."""

    STOPPED = 0
    """Success, or stopped on request."""
    FAILED = 1
    """An expected failure."""
    USAGE = 2
    """The command line was wrong (click's own code)."""
    BUG = 3
    """A bug of raylaunch; a report was written."""


class RaylaunchError(Exception):
    """An expected failure.

    Args:
        what: what failed and where (node, GPU, file:line: key), as one sentence.
        fix: what to do, as a command where there is one.
        log: the complete log.
        excerpt: the relevant lines of that log.
    """

    fault_key = ""
    """Which failure of its class it is, equal where the same one occurs again; "" where the class tells."""

    def __init__(self, what: str, *, fix: str = "", log: Path | None = None, excerpt: Sequence[str] = ()) -> None:
        super().__init__(what)
        self.what = what
        self.fix = fix
        self.log = log
        self.excerpt = tuple(excerpt)


class LaunchFileError(RaylaunchError):
    """The launch file, a `--set` or a RAYLAUNCH_* variable is wrong; `problems` holds every finding as a sentence."""

    def __init__(self, what: str, *, fix: str = "", problems: Sequence[str] = ()) -> None:
        super().__init__(what, fix=fix)
        self.problems = tuple(problems)


class ClusterFileError(LaunchFileError):
    """The cluster file is wrong; `problems` holds every finding as a sentence."""


class PortTakenError(RaylaunchError):
    """The address to serve on is in use, or not available to this user."""


class ClusterError(RaylaunchError):
    """Ray cannot be joined, or is not the cluster the launch asks for."""


class NotEnoughGpusError(ClusterError):
    """The GPUs that the launch needs did not come within `cluster.wait_s`."""


class ChecksFailedError(RaylaunchError):
    """Nodes are not fit to serve; every finding has been printed."""

    def __init__(self, what: str, *, fix: str = "", fault_key: str = "") -> None:
        super().__init__(what, fix=fix)
        self.fault_key = fault_key


class WeightsError(RaylaunchError):
    """The model cannot be fetched, or its folder is incomplete."""


class EngineError(RaylaunchError):
    """vLLM did not start, or died."""

    def __init__(
        self, what: str, *, fix: str = "", log: Path | None = None, excerpt: Sequence[str] = (), fault_key: str = ""
    ) -> None:
        super().__init__(what, fix=fix, log=log, excerpt=excerpt)
        self.fault_key = fault_key


class NoProcessError(RaylaunchError):
    """The system has no process, memory or file left: a shortage that may pass."""


class ServiceError(RaylaunchError):
    """No service runs here, or it does not answer."""


class LogError(RaylaunchError):
    """A log that is to be explained does not exist or cannot be read."""


class BenchError(RaylaunchError):
    """A load test cannot be made, or its files cannot be read."""
