"""The private Ray of a service (demo, rehearsal) as its supervisor sees it."""

import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field

from raylaunch.base import processes
from raylaunch.base.errors import ClusterError, RaylaunchError
from raylaunch.base.ipc import ChildLink, Failed
from raylaunch.base.processes import MARK_VARIABLE, ProcessId
from raylaunch.serve.messages import PrivateRayUp, StartNodes

_STOP_S = 20.0
"""Two nodes take four; longer where Ray hangs, and then its keeper kills it."""
_SWEEP_GRACE_S = 1.0
_DAEMONS = frozenset({"raylet"})
_HEAD_DAEMONS = frozenset({"raylet", "gcs_server"})


@dataclass(eq=False)
class PrivateRayProcess(ChildLink):
    """A running `python -m raylaunch.serve.private_ray_main`."""

    mark: str = ""
    """RAYLAUNCH_MARK of its nodes; their workers have that of the engine they carry."""
    order: StartNodes = field(default_factory=lambda: StartNodes(1, 1, {}))

    @classmethod
    def start(cls, mark: str, order: StartNodes) -> "PrivateRayProcess":
        """Start it with its order."""
        environment = os.environ | {MARK_VARIABLE: mark, **processes.KEEP_VISIBLE}
        child = cls.launch(
            "raylaunch.serve.private_ray_main",
            environment=environment,
            output=sys.stderr.buffer,
            mark=mark,
            order=order,
        )
        child.send(order)
        return child

    @property
    def up(self) -> PrivateRayUp | None:
        """Its address, folder and nodes; None until all nodes are up."""
        return self.last(PrivateRayUp)

    @property
    def leaders(self) -> tuple[ProcessId, ...]:
        """Processes that lead a process group: itself, and its nodes."""
        return (self.process.identity, *(self.up.leaders if self.up else ()))

    def find_failure(self) -> RaylaunchError | None:
        """Why it is not up, or not complete any more; None while no failure is known."""
        self.receive()
        if failed := self.last(Failed):
            return failed.error
        if not self.is_alive():
            return ClusterError(f"the process that keeps the private Ray of this launch ended {self.describe_end()}")
        return None

    def is_complete(self) -> bool:
        """Whether every daemon of every node runs; for one whose nodes have all been up."""
        if self.find_failure() is not None or self.up is None:
            return False
        names = [processes.list_group_names(node.pid) for node in self.up.leaders]
        return all(names[at] >= (_DAEMONS if at else _HEAD_DAEMONS) for at in range(len(names)))

    def stop(self, is_forced: Callable[[], bool] = lambda: False) -> None:
        """End every node; kill what does not end. Safe to repeat."""
        self.receive()  # it may have come up a moment ago
        self.request_end()
        self.wait_end(_STOP_S, is_forced)
        # Ray's agents outlive raylet and leader by minutes where the GCS is gone (2.60).
        processes.kill_led(self.leaders, self.mark)
        processes.kill_marked(self.mark, 0.0 if is_forced() else _SWEEP_GRACE_S)
        if self.up is not None:
            shutil.rmtree(self.up.folder, ignore_errors=True)
