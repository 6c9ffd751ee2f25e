"""Which private Ray the next engine runs in: the one that carried the last engine, or a fresh one where it is in doubt.

A demo or a rehearsal brings its own Ray. Like a cluster that is joined it outlives the engines: a killed worker is no
reason to start it anew, and a start of Ray costs two cores eight seconds.
"""

import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from raylaunch.base import console
from raylaunch.base.processes import Endings, ProcessId
from raylaunch.cluster import ray_session
from raylaunch.config.launch import LaunchConfig
from raylaunch.engine.rehearsal import plan
from raylaunch.serve.private_ray_process import RayChild

_ENGINES_OWN = ("worker", "engine", "wedge", "canary")
"""Causes of trouble (watch.Trouble) that lie in the engine: its Ray is used again if all its daemons live."""


class Rays:
    """At most one that counts, and those that are being ended. For the supervisor's main thread."""

    def __init__(self, hurried: Callable[[], bool]) -> None:
        """`hurried` says whether patience is over."""
        self._hurried = hurried
        self.current: RayChild | None = None
        self._retired: list[RayChild] = []
        self._endings = Endings()
        self._count = 0

    def find(self, launch: LaunchConfig, standin: str | None, env_vars: Mapping[str, str]) -> RayChild | None:
        """The private Ray of this launch, started if need be; None where a cluster is joined, or has to be.

        Raises:
            OSError: there is no process or memory for it.
        """
        block = launch.cluster
        env_vars = {**env_vars, **plan.stay_on_loopback(standin)}
        order = {"nodes": block.nodes, "gpus_per_node": block.gpus_per_node, "env_vars": env_vars}
        if self.current is not None and (self.current.order != order or self.current.find_failure() is not None):
            self.retire()
        if self.current is None and (standin or block.local) and ray_session.find_address() is None:
            logical = "logical " if standin else ""
            console.say(f"starting a private Ray: {block.nodes} x {block.gpus_per_node} {logical}GPUs on this machine")
            self._count += 1
            self.current = RayChild.start(f"{launch.port}-{os.getpid()}-ray{self._count}", order)
        return self.current

    def judge(self, cause: str, *, was_serving: bool) -> None:
        """After a failure: keep the Ray that carried the engine only if it is surely none of Ray's making."""
        if not self.is_fit(cause, was_serving=was_serving):
            self.retire()

    def is_fit(self, cause: str, *, was_serving: bool) -> bool:
        """Whether the current one may carry an engine again, after this trouble of the one that it carries."""
        return was_serving and cause in _ENGINES_OWN and self.current is not None and self.current.is_whole()

    def retire(self) -> None:
        """The next engine gets another one; this one ends with `end_retired`, when the engine in it has ended."""
        if self.current is not None:
            self._retired.append(self.current)
        self.current = None

    def end_retired(self) -> None:
        """End those that carry nothing any more, without waiting."""
        for ray in self._retired:
            self._endings.begin(partial(ray.stop, self._hurried))
        self._retired.clear()

    def close(self) -> None:
        """End all, and wait until nothing of any is left."""
        self.retire()
        self.end_retired()
        self._endings.wait()

    @property
    def leaders(self) -> tuple[ProcessId, ...]:
        """Processes that lead a process group."""
        return self.current.leaders if self.current else ()

    @property
    def folder(self) -> Path | None:
        """Of the one that counts, once it is up."""
        place = self.current.place if self.current else None
        return Path(place["folder"]) if place else None
