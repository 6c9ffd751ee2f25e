"""Which private Ray the next engine runs in: the one that carried the last engine, or a new one where it is in doubt.

A demo or a rehearsal brings its own Ray. Like a cluster that is joined it outlives the engines: a killed worker is no
reason to start it anew, and a start of Ray costs two cores eight seconds.
"""

import os
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from raylaunch.base import console
from raylaunch.base.processes import ProcessId
from raylaunch.cluster import ray_session
from raylaunch.config.launch import LaunchConfig
from raylaunch.engine.rehearsal import plan
from raylaunch.serve.messages import StartNodes
from raylaunch.serve.private_ray_process import PrivateRayProcess

_ENGINES_OWN = ("worker", "engine", "wedge", "canary")
"""Causes (faults.Fault) that lie in the engine: its Ray is used again if all its daemons run."""


class PrivateRays:
    """At most one in use, and those that are being ended. For the supervisor's main thread."""

    def __init__(self, is_forced: Callable[[], bool], name: str = "") -> None:
        """Begin without one.

        Args:
            is_forced: whether the grace period is over.
            name: tells those of several replicas apart.
        """
        self._is_forced, self._name = is_forced, name
        self.current: PrivateRayProcess | None = None
        self._retired: list[PrivateRayProcess] = []
        self._shutdowns = ThreadPoolExecutor(thread_name_prefix="shutdown")
        self._count = 0

    def find(self, launch: LaunchConfig, standin: str | None, env_vars: Mapping[str, str]) -> PrivateRayProcess | None:
        """The private Ray of this launch, started if need be; None where a cluster is joined, or has to be.

        Raises:
            OSError: there is no process or memory for it.
        """
        block = launch.cluster
        node_variables = {**env_vars, **plan.stay_on_loopback(standin)}
        order = StartNodes(block.nodes, block.gpus_per_node, node_variables, real_gpus=standin is None)
        if self.current is not None and (self.current.order != order or self.current.find_failure() is not None):
            self.retire()
        if self.current is None and (standin or block.local) and ray_session.find_address() is None:
            logical = "logical " if standin else ""
            console.say(f"starting a private Ray: {block.nodes} x {block.gpus_per_node} {logical}GPUs on this machine")
            self._count += 1
            self.current = PrivateRayProcess.start(f"{launch.port}-{os.getpid()}{self._name}-ray{self._count}", order)
        return self.current

    def judge(self, cause: str, *, was_serving: bool) -> None:
        """After a failure: keep the Ray that carried the engine only if it is surely not the cause."""
        if not self.is_fit(cause, was_serving=was_serving):
            self.retire()

    def is_fit(self, cause: str, *, was_serving: bool) -> bool:
        """Whether the current one may carry an engine again, after this failure of the one that it carries."""
        return was_serving and cause in _ENGINES_OWN and self.current is not None and self.current.is_complete()

    def retire(self) -> None:
        """The next engine gets another one; this one ends with `end_retired`, when the engine in it has ended."""
        if self.current is not None:
            self._retired.append(self.current)
        self.current = None

    def end_retired(self) -> None:
        """End those that carry nothing any more, in the background."""
        for ray in self._retired:
            shutdown = self._shutdowns.submit(ray.stop, self._is_forced)
            shutdown.add_done_callback(Future.result)  # an exception is logged
        self._retired.clear()

    def close(self) -> None:
        """End all, and wait until all have ended."""
        self.retire()
        self.end_retired()
        self._shutdowns.shutdown()

    @property
    def leaders(self) -> tuple[ProcessId, ...]:
        """Processes that lead a process group."""
        return self.current.leaders if self.current else ()

    @property
    def folder(self) -> Path | None:
        """Of the one in use, once it is up."""
        up = self.current.up if self.current else None
        return Path(up.folder) if up else None
