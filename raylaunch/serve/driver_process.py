"""The driver process as its supervisor sees it: started with a launch, followed, ended."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from raylaunch.base.errors import ClusterError, RaylaunchError
from raylaunch.base.ipc import ChildLink, Failed
from raylaunch.serve.messages import DriverPulse, Joined, Placed, PlaceRanks

_STOP_S = 20.0
"""Returning the GPUs takes one second; Ray's disconnect from a dead head longer."""
_STUCK_AFTER_S = 1.9
_STUCK_STOP_S = 2.0


@dataclass(eq=False)
class DriverProcess(ChildLink):
    """A running `python -m raylaunch.serve.driver_main`; its output goes where the supervisor's goes."""

    @classmethod
    def start(cls, order: PlaceRanks, environment: Mapping[str, str]) -> "DriverProcess":
        """Start it with its order."""
        child = cls.launch("raylaunch.serve.driver_main", environment=environment, output=sys.stderr.buffer)
        child.send(order)
        return child

    @property
    def address(self) -> str:
        """Of Ray's head; "" until it has joined."""
        joined = self.last(Joined)
        return joined.address if joined else ""

    @property
    def placed(self) -> Placed | None:
        """Where the ranks run; None until they have their places."""
        return self.last(Placed)

    @property
    def pulse(self) -> DriverPulse:
        """What Ray's side saw last."""
        return self.last(DriverPulse) or DriverPulse()

    def find_failure(self) -> RaylaunchError | None:
        """Why it ended early; None while it runs."""
        if self.is_alive():
            return None
        self.receive()
        if failed := self.last(Failed):
            return failed.error
        return ClusterError("the process that joins Ray ended " + self.describe_end())

    def stop(self, is_forced: Callable[[], bool] = lambda: False) -> None:
        """Return the GPUs and leave Ray; killed if it does not end. Safe to repeat.

        Args:
            is_forced: whether the grace period is over.
        """
        # A call into a Ray whose head is gone blocks for a minute, signals and all (2.60).
        stuck = self.last(DriverPulse) is not None and self.silent_s() > _STUCK_AFTER_S
        self.request_end()
        self.wait_end(_STUCK_STOP_S if stuck else _STOP_S, is_forced)
