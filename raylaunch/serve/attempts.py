"""How one service's engines are started: each start is numbered, and has a mark of its own."""

import contextlib
import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from raylaunch.base import console
from raylaunch.base.errors import NoProcessError
from raylaunch.base.processes import MARK_VARIABLE
from raylaunch.config.launch import LaunchConfig
from raylaunch.engine import api_servers
from raylaunch.engine.load_table import LoadTable
from raylaunch.engine.messages import SocketShare
from raylaunch.engine.rehearsal import plan
from raylaunch.engine.rehearsal.plan import ResolvedLaunch
from raylaunch.serve.attempt import Attempt
from raylaunch.serve.listener import listen
from raylaunch.serve.logs import name_log
from raylaunch.serve.messages import PlaceRanks
from raylaunch.serve.private_ray import PrivateRays
from raylaunch.serve.service_record import make_url

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
        loads: LoadTable,
        index: int = 0,
        is_forced: Callable[[], bool] = lambda: False,
    ) -> None:
        """Begin for one replica of a launch.

        Args:
            listening: the socket that engines accept on.
            folder: of their logs.
            loads: of all processes that accept on the socket.
            index: the replica's.
            is_forced: whether the grace period is over.
        """
        self.resolved = resolved
        """What is served, by all replicas; replaced by a reload."""
        self.log = folder / name_log(index)
        self.rays = PrivateRays(is_forced, f"-{index}" if index else "")
        self._index, self._loads, self._is_forced = index, loads, is_forced
        self._listening = listening
        self._private = listen("127.0.0.1", 0) if resolved.launch.replicas > 1 else None
        self._count = 0

    @property
    def launch(self) -> LaunchConfig:
        """The launch of one replica."""
        return self.resolved.launch.for_replica()

    @property
    def private_url(self) -> str | None:
        """Where this replica alone answers, on this machine; None: it is the only one."""
        if self._private is None:
            return None
        return make_url("127.0.0.1", self._private.getsockname()[1], tls=self.launch.uses_tls)

    def begin(self, log: Path | None = None) -> Attempt:
        """Start the next API server process importing, with the service's own log or another.

        Raises:
            NoProcessError: there is no process or memory for it.
        """
        self._count += 1
        count = count_api_servers(self.resolved)
        share = SocketShare(self._listening.fileno(), count)
        if count > 1 or self._private is not None:
            share = replace(share, loads_fd=self._loads.descriptor, first_slot=self._index * api_servers.MOST)
        if self._private is not None:
            share = replace(share, private_fd=self._private.fileno())
        mark = f"{self._mark}-{f'{self._index}.' if self._index else ''}{self._count}"
        with _no_process():
            return Attempt.begin(mark, log or self.log, self._make_environment(), share)

    def begin_standby(self) -> Attempt:
        """A start that waits until it is needed, with a log of its own; raises NoProcessError as begin does."""
        log = self.log.with_suffix(".next.log")
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
        launch, standin = self.launch, self.resolved.standin
        env_vars = self._make_environment()
        with _no_process():
            ray = self.rays.find(launch, standin, env_vars | self._choose_gpus())
            is_checked = again or self.resolved.is_rehearsal
            order = PlaceRanks(
                launch=launch,
                standin=standin,
                is_rehearsal=self.resolved.is_rehearsal,
                wait_s=_FOREVER_S if again else None,
                env_vars={**env_vars, MARK_VARIABLE: attempt.mark},
                hold=hold,
                is_private=ray is not None,
                fallbacks=() if is_checked else tuple(one.launch for one in self.resolved.fallbacks),
                first_node=self._find_first_node() if ray is None and self._private is not None else None,
                speaker=self.speaker,
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
        """End the private Ray and free what is left; all attempts must have ended."""
        self.rays.close()
        if self._private is not None:
            self._private.close()

    @property
    def speaker(self) -> str:
        """What the lines of progress begin with; "" where there is one replica."""
        return f"replica {self._index}" if self.resolved.launch.replicas > 1 else ""

    def _find_first_node(self) -> int:
        launch = self.resolved.launch
        return self._index // launch.replicas_per_node * launch.nodes_per_replica

    def _choose_gpus(self) -> dict[str, str]:
        """For the private Ray of one of several replicas on real GPUs of this machine: which of them are its own."""
        if self._private is None or self.resolved.standin is not None:
            return {}
        size, visible = self.launch.world_size, os.environ.get("CUDA_VISIBLE_DEVICES")
        own = range(self._index * size, (self._index + 1) * size)
        names = visible.split(",")[own.start : own.stop] if visible else map(str, own)
        return {"CUDA_VISIBLE_DEVICES": ",".join(names)}

    @property
    def _mark(self) -> str:
        """The beginning of the mark of every start of this service."""
        return f"{self.resolved.launch.port}-{os.getpid()}"

    def _make_environment(self) -> dict[str, str]:
        launch = self.resolved.launch
        return plan.make_environment(self.resolved.standin, launch.world_size * launch.replicas)


def check_api_servers(resolved: ResolvedLaunch) -> None:
    """Check the number of API servers of a launch and of its fallback layouts.

    Raises:
        LaunchFileError: one cannot have as many as it sets.
    """
    if api_servers.is_on(api_servers.RUST):
        console.say(f"warning: {api_servers.RUST} has no effect: {api_servers.KEY} says how many processes serve")
    for layout in (resolved, *resolved.fallbacks):
        count_api_servers(layout)


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
