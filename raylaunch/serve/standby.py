"""The next start, before it is needed: a serving child that stands by, and on suspicion the way into Ray as well.

Importing vLLM is a good part of a restart. So while an engine serves, the next serving child does it in advance and
then waits, for about 0.5 GB of host memory; where that is short there is none.

And a wedge is only one after the whole progress limit. So at a quarter of the limit the other child of the next start
goes ahead, too, as far as it comes without the GPUs. If the engine moves again that start ends, and for ten minutes
nothing is suspected; the engine that serves never waits for any of it.
"""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from raylaunch.base import console
from raylaunch.base.errors import NoProcessError
from raylaunch.engine.messages import Imported
from raylaunch.node.host import measure_ram
from raylaunch.serve.attempt import Attempt
from raylaunch.serve.attempts import Starts

_AFTER_S = 5.0
"""Of serving: the first requests have the machine for themselves."""
_CALM_S = 600.0
_ROOM_BYTES, _NEED_BYTES = 4 << 30, 2 << 30
"""Of host memory that has to be available to begin one, and to keep it: it must bring nobody into need."""


class Spare:
    """At most one start that waits to be needed. For the supervisor's main thread."""

    def __init__(self, starts: Starts, hurried: Callable[[], bool]) -> None:
        """`hurried` says whether patience is over."""
        self._starts, self._hurried = starts, hurried
        self._attempt: Attempt | None = None
        self._no_other_until = self._calm_until = 0.0
        self._shutdowns = ThreadPoolExecutor(thread_name_prefix="shutdown")

    @property
    def standing_by(self) -> int | None:
        """The pid of a serving child that has nothing left to import."""
        if self._attempt is None or self._attempt.engine.last(Imported) is None:
            return None
        return self._attempt.engine.process.identity.pid

    def turn(self, *, suspicious: bool, ready_s: float) -> None:
        """Begin what there is reason for, end it where there is none any more.

        Args:
            suspicious: the engine that serves stands still.
            ready_s: for how long it has served.
        """
        calm = time.monotonic() < self._calm_until
        try:
            self._see_to_child(suspicious and not calm, ready_s)
            self._see_to_driver(suspicious and not calm)
        except (NoProcessError, OSError):  # the engine that serves goes before
            self._give_up()

    def _see_to_child(self, suspicious: bool, ready_s: float) -> None:
        stands_by = self._starts.resolved.launch.keep.stand_by and ready_s >= _AFTER_S
        if self._attempt is None:
            if (
                (suspicious or stands_by)
                and time.monotonic() >= self._no_other_until
                and measure_ram()[1] >= _ROOM_BYTES
            ):
                self._attempt = self._starts.begin_spare()
            return
        self._attempt.receive(0.0)
        if not self._attempt.engine.is_alive() or measure_ram()[1] < _NEED_BYTES:
            self._give_up()

    def _see_to_driver(self, suspicious: bool) -> None:
        if self._attempt is None:
            return
        if suspicious and self._attempt.driver is None:
            console.say("nothing moves: another start is got ready, in case this is a wedge", style="dim")
            self._starts.place(self._attempt, again=True, hold=True)
        elif not suspicious and self._attempt.driver is not None:
            console.say("it moves again: the other start is not needed", style="dim")
            self._calm_until = time.monotonic() + _CALM_S
            self.dismiss()

    def _give_up(self) -> None:
        self._no_other_until = time.monotonic() + _CALM_S
        self.dismiss()

    def take(self) -> Attempt | None:
        """The one that was begun, if there is one: it is the caller's now."""
        attempt, self._attempt = self._attempt, None
        return attempt

    def dismiss(self) -> None:
        """End it, without waiting."""
        if (attempt := self.take()) is not None:
            shutdown = self._shutdowns.submit(attempt.end, is_forced=self._hurried)
            shutdown.add_done_callback(Future.result)  # an exception is logged

    def close(self) -> None:
        """End it, and wait until nothing of any is left."""
        self.dismiss()
        self._shutdowns.shutdown()
