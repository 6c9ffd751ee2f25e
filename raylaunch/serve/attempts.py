"""How one service's engines are started: each start is numbered, and has a mark of its own."""

import contextlib
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

from raylaunch.base.errors import NoProcessError
from raylaunch.base.processes import MARK_VARIABLE
from raylaunch.engine import api_servers, metrics_folder
from raylaunch.engine.load_table import LoadTable
from raylaunch.engine.messages import SocketShare
from raylaunch.engine.rehearsal import plan
from raylaunch.engine.rehearsal.plan import ResolvedLaunch
from raylaunch.serve.attempt import Attempt
from raylaunch.serve.messages import PlaceRanks
from raylaunch.serve.private_ray import PrivateRays

_FOREVER_S = 86400.0
"""A restart waits for GPUs that are missing; after a day it counts again."""


class AttemptFactory:
    """Begins attempts for the launch that is served."""

    def __init__(
        self,
        resolved: ResolvedLaunch,
        listening: socket.socket,
        folder: Path,
        *,
        is_forced: Callable[[], bool] = lambda: False,
    ) -> None:
        """Begin for one launch.

        Args:
            listening: the socket that engines accept on.
            folder: of their logs.
            is_forced: whether the grace period is over.
        """
        self.resolved = resolved
        """What is served; replaced by a reload."""
        self.log = folder / "engine.log"
        self.rays = PrivateRays(is_forced)
        self._is_forced = is_forced
        self._listening = listening
        self._loads = LoadTable.create(api_servers.MOST)
        self._count = 0

    def begin(self, log: Path | None = None) -> Attempt:
        """Start the next API server process importing, with the service's own log or another.

        Raises:
            NoProcessError: there is no process or memory for it.
        """
        self._count += 1
        count = count_api_servers(self.resolved)
        loads_fd = self._loads.descriptor if count > 1 else None
        share = SocketShare(self._listening.fileno(), count, loads_fd)
        with _no_process():
            return Attempt.begin(f"{self._mark}-{self._count}", log or self.log, self._make_environment(), share)

    def begin_standby(self) -> Attempt:
        """A start that waits until it is needed, with a log of its own; raises NoProcessError as begin does."""
        log = self.log.with_name("engine.next.log")
        with contextlib.suppress(OSError):  # there is none; and no log ends a service
            log.unlink()
        return self.begin(log)

    def place(self, attempt: Attempt, *, again: bool, hold: bool = False) -> None:
        """Prepare the cluster and place the ranks of an attempt.

        Args:
            again: an engine has been ready before: wait for GPUs that are missing.
            hold: only join Ray.

        Raises:
            NoProcessError: there is no process or memory for the driver process.
        """
        launch, standin = self.resolved.launch, self.resolved.standin
        env_vars = self._make_environment()
        with _no_process():
            ray = self.rays.find(launch, standin, env_vars)
            order = PlaceRanks(
                launch=launch,
                standin=standin,
                is_rehearsal=self.resolved.is_rehearsal,
                wait_s=_FOREVER_S if again else None,
                env_vars={**env_vars, MARK_VARIABLE: attempt.mark},
                hold=hold,
                is_private=ray is not None,
            )
            attempt.place(order, ray)
        if not hold:  # the engine before has ended
            self.rays.end_retired()

    def end(self, attempt: Attempt, *, failing: bool = False, wedged: bool = False) -> list[int]:
        """End everything of an attempt, as Attempt.end does, and the Ray that carries nothing any more."""
        killed = attempt.end(failing=failing, wedged=wedged, is_forced=self._is_forced)
        self._loads.clear(attempt.share.first_slot, attempt.share.api_servers)
        self.rays.end_retired()
        return killed

    def close(self) -> None:
        """End the private Ray and free what is shared; all attempts must have ended."""
        self.rays.close()
        self._loads.close()
        metrics_folder.remove(f"{self._mark}-*")

    @property
    def _mark(self) -> str:
        """The beginning of the mark of every start of this service."""
        return f"{self.resolved.launch.port}-{os.getpid()}"

    def _make_environment(self) -> dict[str, str]:
        return plan.make_environment(self.resolved.standin, self.resolved.launch.world_size)


def count_api_servers(resolved: ResolvedLaunch) -> int:
    """How many API servers serve an engine of this launch on this machine.

    Raises:
        LaunchFileError: as many as the launch sets cannot.
    """
    cores = len(os.sched_getaffinity(0))
    return api_servers.choose_count(resolved.launch, is_real=resolved.standin is None, cores=cores)


@contextlib.contextmanager
def _no_process() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise NoProcessError(
            f"no process can be started: {error.strerror}",
            fix="free memory, or raise the limit of processes (ulimit -u; docker's --pids-limit) or files (ulimit -n)",
        ) from error
