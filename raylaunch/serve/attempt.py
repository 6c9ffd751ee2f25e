"""One start of an engine, from two fresh processes to their end."""

import contextlib
import os
import selectors
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from raylaunch.base import processes
from raylaunch.base.ipc import PULSE, TalkingChild
from raylaunch.base.processes import MARK_VARIABLE, RANK_TITLE, ProcessId
from raylaunch.config.launch import LaunchConfig
from raylaunch.explain import log_lines
from raylaunch.serve import readiness
from raylaunch.serve.driver_process import DriverChild
from raylaunch.serve.engine_process import EngineChild
from raylaunch.serve.private_ray_process import RayChild

_SWEEP_PATIENCE_S = 2.0


@dataclass
class Attempt:
    """The serving child and the driver process of one start; the child's imports run while the cluster is seen to."""

    mark: str
    """RAYLAUNCH_MARK of everything it starts, on every node."""
    engine: EngineChild
    driver: DriverChild | None = None
    ray: RayChild | None = None
    """The private Ray that it runs in; it outlives it."""
    is_introduced: bool = False
    """Whether the driver process has been told where that is."""
    began: float = field(default_factory=time.monotonic)
    ahead_s: float = 0.0
    """For how long it had been there when it was needed."""

    @classmethod
    def begin(cls, mark: str, log: Path, env_vars: Mapping[str, str], listening: Any) -> "Attempt":
        """Start the serving child importing."""
        environment = os.environ | dict(env_vars) | {MARK_VARIABLE: mark, **processes.KEEP_VISIBLE}
        return cls(mark, EngineChild.start(log, environment, listening))

    def count_from_here(self, log: Path) -> None:
        """It was begun before it was needed: its log takes the place of `log`, and its time begins."""
        now = time.monotonic()
        self.ahead_s, self.began = now - self.began, now
        with contextlib.suppress(OSError):  # a full disk, or none was made
            self.engine.log.replace(log)
        self.engine.log = log

    def place(self, launch: LaunchConfig, ray: RayChild | None, *, rehearse: bool, standin: str | None,
              env_vars: Mapping[str, str], wait_s: float | None, hold: bool = False) -> None:  # fmt: skip
        """Start the driver process: weights, Ray, GPUs, checks, places; or let one go on that was held.

        Args:
            ray: the private Ray to place it in; None: the cluster that is joined.
            hold: join Ray, and wait there.
        """
        if self.driver is not None and self.ray is ray and (hold or self.driver.tell({"do": "place"})):
            return
        if self.driver is not None:  # it failed while it was held, or its Ray did: what was wrong may be over
            self.driver.stop()
        self.ray, self.is_introduced = ray, False
        sys.stderr.flush()
        order = {
            "launch": launch.to_json(),
            "rehearse": rehearse,
            "standin": standin,
            "wait_s": wait_s,
            "hold": hold,
            "private": ray is not None,
            "env_vars": {**env_vars, MARK_VARIABLE: self.mark},
        }
        self.driver = DriverChild.start(order, os.environ | {MARK_VARIABLE: self.mark})

    def order_engine(self, socket_fd: int) -> None:
        """Tell the serving child what to serve, once the places are there."""
        assert self.driver is not None
        placed = self.driver.events["placed"]
        order = {
            "launch": placed["launch"],
            "reservation": placed["reservation"],
            "ray_address": self.driver.address,
            "env_vars": placed["env_vars"],
            "socket_fd": socket_fd,
        }
        if not self.engine.tell(order, patient=True):
            raise self.engine.explain_death()

    @property
    def children(self) -> tuple[TalkingChild, ...]:
        """Those that have something to tell."""
        return tuple(child for child in (self.engine, self.driver, self.ray) if child is not None)

    def read_events(self, wait_s: float) -> None:
        """Take in what they have told; with nothing to take in, wait so long for it."""
        with selectors.PollSelector() as selector:
            for child in self.children:
                if child.is_alive():
                    selector.register(child.pipe, selectors.EVENT_READ)
            selector.select(wait_s)
        for child in self.children:
            child.read_events()
        if self.driver is not None and self.ray is not None and self.ray.place and not self.is_introduced:
            self.is_introduced = self.driver.tell({"do": "join", **self.ray.place})

    @property
    def is_placed(self) -> bool:
        """Whether every rank has its GPU."""
        return self.driver is not None and "placed" in self.driver.events

    @property
    def served(self) -> LaunchConfig:
        """The launch with its weights found, or its stand-in."""
        assert self.driver is not None
        return LaunchConfig.from_json(self.driver.events["placed"]["launch"])

    def describe_wait(self, carried: Sequence[str], since_s: float) -> str:
        """What is waited for before the ranks are placed; "" where nothing is missing.

        Args:
            carried: addresses of the nodes that carried the last engine: those that are gone are named.
            since_s: for how long nothing has been served.
        """
        if self.driver is None or self.is_placed or (waiting := self.driver.events.get("waiting")) is None:
            return ""
        return describe_missing(waiting["lines"], carried, since_s)

    @property
    def leaders(self) -> tuple[ProcessId, ...]:
        """Processes that lead a process group of this attempt."""
        return (self.engine.process.identity, *([self.driver.process.identity] if self.driver else []))

    @property
    def seen(self) -> dict[str, Any]:
        """What Ray's side told last."""
        return dict(self.driver.events.get(PULSE, {})) if self.driver else {}

    def read_times(self, first_s: float) -> readiness.StartupTimes:
        """Where the start-up time went."""
        assert self.driver is not None
        seconds, events = self.driver.events["placed"]["seconds"], self.engine.events
        load_s, profile_s = log_lines.read_engine_times(self.engine.log)
        return readiness.StartupTimes(
            join_s=seconds["join"] + seconds["wait"],
            check_s=seconds["check"],
            import_s=max(0.0, events["imported"]["at"] - self.engine.started_at - self.ahead_s),
            fetch_s=seconds["fetch"],
            workers_s=events["engine"]["at"] - events["starting"]["at"] - (load_s or 0.0) - (profile_s or 0.0),
            load_s=load_s,
            profile_s=profile_s,
            first_completion_s=first_s,
            total_s=time.monotonic() - self.began,
        )

    def end(
        self, *, failing: bool = False, wedged: bool = False, hurried: Callable[[], bool] = lambda: False
    ) -> list[int]:
        """End everything of this attempt, but for the Ray it ran in; safe to repeat.

        Args:
            failing: the serving child was told to fail its clients.
            wedged: its workers here are killed at once: one that stands still does not go, and Ray waits for it.
            hurried: whether patience is over.

        Returns:
            Pids of this machine that did not go by themselves.
        """
        if self.driver is not None:
            self.driver.ask_to_end()
        self.engine.stop(failing=failing, hurried=hurried)
        left = processes.kill_marked(MARK_VARIABLE, self.mark, title=RANK_TITLE) if wedged else []
        if self.driver is not None:
            self.driver.stop(hurried)
        return left + processes.kill_marked(MARK_VARIABLE, self.mark, 0.0 if hurried() else _SWEEP_PATIENCE_S)


def rotate_log(log: Path, attempts: Sequence[Attempt]) -> None:
    """Give the next attempt an empty log; the one before it keeps its own as engine.1.log."""
    aside = log.with_suffix(".1.log")
    with contextlib.suppress(OSError):  # a full disk, or none yet
        log.replace(aside)
    for attempt in attempts:
        attempt.engine.log = aside


def describe_missing(lines: Sequence[str], carried: Sequence[str], since_s: float) -> str:
    """What lines of `cluster.wait_for_gpus` say is missing, and which of the nodes that `carried` the last engine."""
    missing = next((line for line in lines if line.startswith("missing:")), "")
    if not missing:
        return ""
    here = {line.partition(":")[0] for line in lines}
    named = "".join(f", node {ip} gone since {since_s:.0f} s" for ip in carried if ip not in here)
    return f"waiting for GPUs: {missing.removeprefix('missing: ').partition(' | ')[0]}{named}"
