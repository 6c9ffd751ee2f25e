"""How one service's engines are started: each start is numbered, and has a mark of its own."""

import contextlib
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

from raylaunch.base.errors import NoProcessError
from raylaunch.config.launch import LaunchConfig
from raylaunch.engine.rehearsal import plan
from raylaunch.serve.attempt import Attempt
from raylaunch.serve.private_ray import Rays

_FOREVER_S = 86400.0
"""A restart waits for GPUs that went away; after a day it looks anew."""


class Starts:
    """Begins attempts for the launch that is served."""

    def __init__(
        self,
        launch: LaunchConfig,
        standin: str | None,
        listening: socket.socket,
        folder: Path,
        *,
        rehearse: bool,
        hurried: Callable[[], bool] = lambda: False,
    ) -> None:
        """Begin for `launch`.

        Args:
            standin: plan.choose_standin's answer.
            listening: what engines accept on.
            folder: what they log into.
            hurried: whether patience is over.
        """
        self.launch, self.standin, self.rehearse = launch, standin, rehearse
        self.log = folder / "engine.log"
        self.rays = Rays(hurried)
        self._listening = listening
        self._count = 0

    def take_launch(self, launch: LaunchConfig) -> None:
        """Another one is served from now on."""
        self.standin = plan.choose_standin(launch, rehearse=self.rehearse)
        self.launch = launch

    def begin(self, log: Path | None = None) -> Attempt:
        """Start the next serving child importing, with the service's own log or another.

        Raises:
            NoProcessError: there is no process or memory for it.
        """
        self._count += 1
        mark = f"{self.launch.port}-{os.getpid()}-{self._count}"
        with _no_process():
            return Attempt.begin(mark, log or self.log, self._make_environment(), self._listening)

    def begin_spare(self) -> Attempt:
        """A start that waits to be needed, with a log of its own; raises NoProcessError as begin does."""
        log = self.log.with_name("engine.next.log")
        with contextlib.suppress(OSError):  # none is there; and no log ends a service
            log.unlink()
        return self.begin(log)

    def place(self, attempt: Attempt, *, again: bool, hold: bool = False) -> None:
        """See to the cluster and the places of an attempt.

        Args:
            again: an engine has been ready before: wait for GPUs that went away.
            hold: go no further than joining Ray.

        Raises:
            NoProcessError: there is no process or memory for the driver process.
        """
        env_vars = self._make_environment()
        with _no_process():
            attempt.place(
                self.launch,
                self.rays.find(self.launch, self.standin, env_vars),
                rehearse=self.rehearse,
                standin=self.standin,
                env_vars=env_vars,
                wait_s=_FOREVER_S if again else None,
                hold=hold,
            )
        if not hold:  # the engine before has ended
            self.rays.end_retired()

    def _make_environment(self) -> dict[str, str]:
        return plan.make_environment(self.standin, self.launch.world_size)


@contextlib.contextmanager
def _no_process() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise NoProcessError(
            f"no process can be started: {error.strerror}",
            fix="free memory, or raise the limit of processes (ulimit -u; docker's --pids-limit) or files (ulimit -n)",
        ) from error
