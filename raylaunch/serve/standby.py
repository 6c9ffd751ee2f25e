"""The standby: the next API server, with its imports done while an engine serves.

Importing vLLM is a good part of a restart. The standby waits with its imports done, for about 0.5 GB of host memory;
there is none where that is short.
"""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from raylaunch.base.errors import NoProcessError
from raylaunch.engine.messages import Imported
from raylaunch.node.host import measure_ram
from raylaunch.serve.attempt import Attempt, rotate_log
from raylaunch.serve.attempts import AttemptFactory

_AFTER_S = 5.0
"""Of serving: the first requests get the machine's CPU."""
_RETRY_S = 600.0
_START_BYTES, _KEEP_BYTES = 4 << 30, 2 << 30
"""Available host memory to start one, and to keep it: it must never cause memory pressure."""


class Standby:
    """At most one start in advance. For the supervisor's main thread."""

    def __init__(self, factory: AttemptFactory, is_forced: Callable[[], bool]) -> None:
        """`is_forced` returns whether the grace period is over."""
        self._factory, self._is_forced = factory, is_forced
        self._attempt: Attempt | None = None
        self._retry_at = 0.0
        self._shutdowns = ThreadPoolExecutor(thread_name_prefix="shutdown")

    @property
    def pid(self) -> int | None:
        """Of the standby, once its imports are done."""
        if self._attempt is None or self._attempt.engine.last(Imported) is None:
            return None
        return self._attempt.engine.process.identity.pid

    def update(self, ready_s: float) -> None:
        """Start one, or end it, as memory allows.

        Args:
            ready_s: how long the engine has served, in seconds.
        """
        try:
            if self._attempt is not None:
                self._attempt.receive(0.0)
                if not self._attempt.engine.is_alive() or measure_ram()[1] < _KEEP_BYTES:
                    self._give_up()
            elif self._is_due(ready_s) and measure_ram()[1] >= _START_BYTES:
                self._attempt = self._factory.begin_standby()
        except (NoProcessError, OSError):  # the engine that serves has priority
            self._give_up()

    def _is_due(self, ready_s: float) -> bool:
        is_wanted = self._factory.resolved.launch.keep.stand_by
        return is_wanted and ready_s >= _AFTER_S and time.monotonic() >= self._retry_at

    def _give_up(self) -> None:
        self._retry_at = time.monotonic() + _RETRY_S
        self.dismiss()

    def begin(self, attempts: Sequence[Attempt]) -> Attempt:
        """The standby, or where there is none a new start; it gets the log of `attempts`, which keep theirs aside.

        Raises:
            NoProcessError: there is no process or memory for it.
        """
        attempt = self.take()
        rotate_log(self._factory.log, attempts)
        if attempt is None:
            return self._factory.begin()
        attempt.count_from_here(self._factory.log)
        return attempt

    def take(self) -> Attempt | None:
        """Hand over the start, if there is one."""
        attempt, self._attempt = self._attempt, None
        return attempt

    def dismiss(self) -> None:
        """End it in the background."""
        if (attempt := self.take()) is not None:
            shutdown = self._shutdowns.submit(attempt.end, is_forced=self._is_forced)
            shutdown.add_done_callback(Future.result)  # an exception is logged

    def close(self) -> None:
        """End it, and wait until its processes have ended."""
        self.dismiss()
        self._shutdowns.shutdown()
