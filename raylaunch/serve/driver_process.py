"""The driver process as its supervisor sees it: started with a launch, followed, ended whole."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from raylaunch.base import errors
from raylaunch.base.errors import ClusterError, LaunchFileError, RaylaunchError
from raylaunch.base.ipc import PULSE, TalkingChild

_STOP_S = 20.0
"""Giving the GPUs back takes one; Ray's own goodbye to a dead head longer."""

_STUCK_AFTER_S = 1.9
_STUCK_STOP_S = 2.0


@dataclass
class DriverChild(TalkingChild):
    """A running `python -m raylaunch.serve.driver_main`; its words for people go where the supervisor's go."""

    @classmethod
    def start(cls, order: Mapping[str, Any], environment: Mapping[str, str]) -> "DriverChild":
        """Start it with its order (driver_process.Order)."""
        child = cls.launch("raylaunch.serve.driver_main", environment=environment, output=sys.stderr.buffer)
        child.tell(order, patient=True)
        return child

    @property
    def address(self) -> str:
        """Of Ray's head; "" until it has joined."""
        return str(self.events.get("joined", {}).get("address", ""))

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

    def stop(self, hurried: Callable[[], bool] = lambda: False) -> None:
        """Give the GPUs back and leave Ray; killed if it does not go. Safe to repeat.

        Args:
            hurried: whether patience is over.
        """
        # A call into a Ray whose head is gone blocks for a minute, signals and all (2.60).
        stuck = PULSE in self.events and self.silent_s() > _STUCK_AFTER_S
        self.ask_to_end()
        self.wait_end(_STUCK_STOP_S if stuck else _STOP_S, hurried)
