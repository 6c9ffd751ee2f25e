"""One start of an engine, from two new processes to their end."""

import contextlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from raylaunch.base import processes
from raylaunch.base.ipc import ChildLink
from raylaunch.base.message_pipe import wait_for_any
from raylaunch.base.processes import MARK_VARIABLE, RANK_TITLES, ProcessId
from raylaunch.cluster.ray_session import GpuWait
from raylaunch.config.launch import LaunchConfig
from raylaunch.engine import metrics_folder
from raylaunch.engine.messages import EngineReady, EngineStarting, Imported, ServeEngine, SocketShare
from raylaunch.explain.log_lines import read_engine_times
from raylaunch.serve import readiness
from raylaunch.serve.driver_process import DriverProcess
from raylaunch.serve.engine_process import EngineProcess
from raylaunch.serve.messages import GoOn, JoinPrivateRay, Placed, PlaceRanks
from raylaunch.serve.private_ray_process import PrivateRayProcess

_SWEEP_GRACE_S = 2.0


@dataclass
class Attempt:
    """The API server and driver processes of one start; the former imports while the cluster is prepared."""

    mark: str
    """RAYLAUNCH_MARK of everything it starts, on every node."""
    engine: EngineProcess
    share: SocketShare
    """Of the listening socket."""
    driver: DriverProcess | None = None
    ray: PrivateRayProcess | None = None
    """The private Ray that it runs in; it outlives the attempt."""
    is_introduced: bool = False
    """Whether the driver process knows where that is."""
    began: float = field(default_factory=time.monotonic)
    ahead_s: float = 0.0
    """How long before it was needed it was started."""

    @classmethod
    def begin(cls, mark: str, log: Path, env_vars: Mapping[str, str], share: SocketShare) -> "Attempt":
        """Start the API server process importing.

        Raises:
            OSError: there is no process, memory or file for it.
        """
        environment = os.environ | dict(env_vars) | {MARK_VARIABLE: mark, **processes.KEEP_VISIBLE}
        descriptors = [share.socket_fd]
        descriptors += [fd for fd in (share.loads_fd, share.private_fd) if fd is not None]
        if share.loads_fd is not None:
            environment[metrics_folder.VARIABLE] = str(metrics_folder.make(mark))
        return cls(mark, EngineProcess.start(log, environment, descriptors), share)

    def count_from_here(self, log: Path) -> None:
        """It was started before it was needed: its log becomes `log`, and its time begins."""
        now = time.monotonic()
        self.ahead_s, self.began = now - self.began, now
        with contextlib.suppress(OSError):  # a full disk, or none was made
            self.engine.log.replace(log)
        self.engine.log = log

    def place(self, order: PlaceRanks, ray: PrivateRayProcess | None) -> None:
        """Start the driver process with its order, or let one go on that was held.

        Args:
            ray: the private Ray to place the ranks in; None: the cluster that is joined.
        """
        if self.driver is not None and self.ray is ray and (order.hold or self.driver.send(GoOn())):
            return
        if self.driver is not None:  # it failed while it was held, or its Ray did: the cause may be gone
            self.driver.stop()
        self.ray, self.is_introduced = ray, False
        self.driver = DriverProcess.start(order, os.environ | {MARK_VARIABLE: self.mark})

    def order_engine(self, launch: LaunchConfig) -> None:
        """Send the API server what to serve, once the ranks have their places.

        Raises:
            EngineError: it has ended.
        """
        assert self.driver is not None
        order = ServeEngine(
            launch=launch.with_engine(self.placed.engine),
            reservation=self.placed.reservation,
            ray_address=self.driver.address,
            env_vars=self.placed.env_vars,
            share=self.share,
        )
        if not self.engine.send(order):
            raise self.engine.explain_death()

    @property
    def task(self) -> str:
        """What the model is served for, as vLLM names it."""
        return self.engine.ready.task if self.engine.ready else "generate"

    @property
    def children(self) -> tuple[ChildLink, ...]:
        """Those that send messages."""
        return tuple(child for child in (self.engine, self.driver, self.ray) if child is not None)

    def receive(self, wait_s: float) -> None:
        """Take the messages that have arrived; without any, wait `wait_s` seconds for one."""
        wait_for_any([child for child in self.children if child.is_alive() and not child.is_closed], wait_s)
        for child in self.children:
            child.receive()
        if self.driver is not None and self.ray is not None and self.ray.up and not self.is_introduced:
            self.is_introduced = self.driver.send(JoinPrivateRay(self.ray.up.address, self.ray.up.folder))

    @property
    def is_placed(self) -> bool:
        """Whether every rank has its GPU."""
        return self.driver is not None and self.driver.placed is not None

    @property
    def placed(self) -> Placed:
        """Where the ranks run; only once `is_placed`."""
        assert self.driver is not None
        assert self.driver.placed is not None
        return self.driver.placed

    @property
    def gpu_wait(self) -> GpuWait | None:
        """What was counted last of the GPUs that are waited for; None where the ranks are placed."""
        return None if self.driver is None or self.is_placed else self.driver.last(GpuWait)

    @property
    def leaders(self) -> tuple[ProcessId, ...]:
        """Processes that lead a process group of this attempt."""
        return (self.engine.process.identity, *([self.driver.process.identity] if self.driver else []))

    def read_times(self, first_s: float) -> readiness.StartupTimes:
        """Where the start-up time went."""
        placed, engine = self.placed, self.engine
        load_s, profile_s = read_engine_times(engine.log)
        start_s = engine.find_sent_at(EngineReady) - engine.find_sent_at(EngineStarting)
        return readiness.StartupTimes(
            join_s=placed.join_s + placed.wait_s,
            check_s=placed.check_s,
            import_s=max(0.0, engine.find_sent_at(Imported) - engine.started_at - self.ahead_s),
            fetch_s=placed.fetch_s,
            workers_s=start_s - (load_s or 0.0) - (profile_s or 0.0),
            load_s=load_s,
            profile_s=profile_s,
            first_completion_s=first_s,
            total_s=time.monotonic() - self.began,
        )

    def end(
        self, *, failing: bool = False, wedged: bool = False, is_forced: Callable[[], bool] = lambda: False
    ) -> list[int]:
        """End everything of this attempt, but for the Ray it ran in; safe to repeat.

        Args:
            failing: the API server is failing its clients.
            wedged: its workers here are killed at once: they do not end by themselves, and Ray waits for them.
            is_forced: whether the grace period is over.

        Returns:
            Pids of this machine that had to be killed.
        """
        if self.driver is not None:
            self.driver.request_end()
        self.engine.stop(failing=failing, is_forced=is_forced)
        left = processes.kill_marked(self.mark, titles=RANK_TITLES) if wedged else []
        if self.driver is not None:
            self.driver.stop(is_forced)
        left += processes.kill_marked(self.mark, 0.0 if is_forced() else _SWEEP_GRACE_S)
        metrics_folder.remove(self.mark)
        return left


def rotate_log(log: Path, attempts: Sequence[Attempt]) -> None:
    """Give the next attempt an empty log; the one before it keeps its own as engine.1.log."""
    aside = log.with_suffix(".1.log")
    with contextlib.suppress(OSError):  # a full disk, or none yet
        log.replace(aside)
    for attempt in attempts:
        attempt.engine.log = aside


def describe_missing(waiting: GpuWait, carried: Sequence[str], since_s: float) -> str:
    """How many GPUs are missing, and which of the nodes that `carried` the last engine; "" where none is.

    Args:
        since_s: how long nothing has been served.
    """
    if not waiting.missing_nodes:
        return ""
    present = {node.ip for node in waiting.found}
    gone = "".join(f", node {ip} gone since {since_s:.0f} s" for ip in carried if ip not in present)
    return f"waiting for GPUs: {waiting.describe_missing()}{gone}"
