"""The driver process as its supervisor sees it: started with a launch, followed, ended whole."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raylaunch import errors, processes
from raylaunch.errors import ClusterError, LaunchFileError, RaylaunchError
from raylaunch.keep import MARK_VARIABLE
from raylaunch.keep.talking import PULSE, TalkingChild
from raylaunch.processes import ProcessId

_STOP_S = 20.0
"""A private Ray of two nodes takes four; Ray's own goodbye to a dead head longer."""

_STUCK_AFTER_S = 1.9
_STUCK_STOP_S = 2.0


@dataclass
class DriverChild(TalkingChild):
    """A running `python -m raylaunch.keep.driver_process`; its words for people go where the supervisor's go."""

    @classmethod
    def start(cls, order: Mapping[str, Any], environment: Mapping[str, str]) -> "DriverChild":
        """Start it with its order (driver_process.Order)."""
        child = cls.launch("raylaunch.keep.driver_process", environment=environment, output=sys.stderr.buffer)
        child.tell(order, patient=True)
        return child

    @property
    def address(self) -> str:
        """Of Ray's head; "" until it has joined."""
        return str(self.events.get("joined", {}).get("address", ""))

    @property
    def private_folder(self) -> Path | None:
        """The folder of the private Ray, where it started one."""
        folder = self.events.get("private", {}).get("folder")
        return Path(folder) if folder else None

    @property
    def private_leaders(self) -> tuple[ProcessId, ...]:
        """The private Ray's nodes: each leads a process group."""
        return tuple(ProcessId(*entry) for entry in self.events.get("private", {}).get("leaders", ()))

    def find_failure(self) -> RaylaunchError | None:
        """Why it ended before its time; None while it lives."""
        if self.is_alive():
            return None
        self.read_events()
        if failed := self.events.get("failed"):
            kind = getattr(errors, failed["type"])
            if kind is LaunchFileError:
                return LaunchFileError(failed["what"], fix=failed["fix"], problems=failed["problems"])
            error: RaylaunchError = kind(failed["what"], fix=failed["fix"], excerpt=failed["excerpt"])
            return error
        return ClusterError("the process that joins Ray ended: " + self.describe_end())

    def describe_end(self) -> str:
        """How it ended, in words."""
        status = self.process.popen.wait()
        return f"by signal {-status}" if status < 0 else f"with exit status {status}"

    def stop(self, mark: str, hurried: Callable[[], bool] = lambda: False) -> None:
        """Give the GPUs back, leave Ray and end a private one; kill what does not go. Safe to repeat.

        Args:
            mark: RAYLAUNCH_MARK of what it started.
            hurried: whether patience is over.
        """
        if self.pipe >= 0:
            self.read_events()  # it may have started a private Ray a moment ago
        # A call into a Ray whose head is gone blocks for a minute, signals and all (2.60).
        stuck = PULSE in self.events and self.silent_s() > _STUCK_AFTER_S
        self.ask_to_end()
        self.wait_end(_STUCK_STOP_S if stuck else _STOP_S, hurried)
        # Ray's agents outlive raylet and leader by minutes where the GCS is gone (2.60).
        processes.kill_led(self.private_leaders, MARK_VARIABLE, mark)
        if self.private_folder is not None:
            processes.remove_folder(self.private_folder)
