"""The next start, begun on suspicion: while an engine that serves stands still, imports and Ray are got ready.

A wedge is only one after the whole progress limit, and a start takes its own time after that. So at a quarter of the
limit the next start's two processes begin, as far as they come without the GPUs. If the engine moves again they end,
and for ten minutes nothing is suspected; the engine that serves never waits for any of it.
"""

import threading
import time
from collections.abc import Callable

from raylaunch import output
from raylaunch.checks.facts import measure_ram
from raylaunch.errors import NoProcessError
from raylaunch.keep.attempt import Attempt

_CALM_S = 600.0
_ROOM_BYTES = 4 << 30
"""Of host memory that has to be available: the spare takes a fifth of it, and must bring nobody into need."""


class Spare:
    """At most one start that waits to be needed. For the supervisor's main thread."""

    def __init__(self, hurried: Callable[[], bool]) -> None:
        """`hurried` says whether patience is over."""
        self._hurried = hurried
        self._attempt: Attempt | None = None
        self._calm_until = 0.0
        self._endings: list[threading.Thread] = []

    def turn(self, suspicious: bool, begin: Callable[[], Attempt]) -> None:
        """Begin one where there is reason to, end it where there is none any more."""
        if self._attempt is not None and not suspicious:
            self._calm_until = time.monotonic() + _CALM_S
            output.say("it moves again: the other start is not needed", style="dim")
            self.dismiss()
        elif suspicious and self._attempt is None and time.monotonic() >= self._calm_until:
            try:
                if measure_ram()[1] >= _ROOM_BYTES:
                    self._attempt = begin()
            except (NoProcessError, OSError):  # the engine that serves may move again, and goes before
                self._calm_until = time.monotonic() + _CALM_S

    def take(self) -> Attempt | None:
        """The one that was begun, if there is one: it is the caller's now."""
        attempt, self._attempt = self._attempt, None
        return attempt

    def dismiss(self) -> None:
        """End it, without waiting."""
        if (attempt := self.take()) is not None:
            ending = threading.Thread(target=lambda: attempt.end(hurried=self._hurried), name="spare-end")
            ending.start()
            self._endings.append(ending)

    def close(self) -> None:
        """End it, and wait until nothing of any is left."""
        self.dismiss()
        for ending in self._endings:
            ending.join()
        self._endings.clear()
