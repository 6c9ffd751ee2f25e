"""The private Ray of a service (demo, rehearsal) as its supervisor sees it."""

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from raylaunch.base import processes
from raylaunch.base.errors import ClusterError
from raylaunch.base.ipc import TalkingChild
from raylaunch.base.processes import MARK_VARIABLE, ProcessId

_STOP_S = 20.0
"""Two nodes take four; longer where Ray hangs, and then its keeper kills it."""
_SWEEP_PATIENCE_S = 1.0
_DAEMONS = frozenset({"raylet"})
_HEAD_DAEMONS = frozenset({"raylet", "gcs_server"})


@dataclass
class RayChild(TalkingChild):
    """A running `python -m raylaunch.serve.private_ray_main`."""

    mark: str = ""
    """RAYLAUNCH_MARK of its nodes; their workers have that of the engine they carry."""
    order: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def start(cls, mark: str, order: Mapping[str, Any]) -> "RayChild":
        """Start it with its order (PrivateRay.start's arguments)."""
        environment = os.environ | {MARK_VARIABLE: mark, **processes.KEEP_VISIBLE}
        child = cls.launch(
            "raylaunch.serve.private_ray_main",
            environment=environment,
            output=sys.stderr.buffer,
            mark=mark,
            order=order,
        )
        child.tell(order, patient=True)
        return child

    @property
    def place(self) -> dict[str, str] | None:
        """The address of its head and the folder of its sockets and logs; None until it is up."""
        up = self.events.get("up")
        return {"address": up["address"], "folder": up["folder"]} if up else None

    @property
    def leaders(self) -> tuple[ProcessId, ...]:
        """Processes that lead a process group: itself, and its nodes."""
        nodes = self.events["up"]["leaders"] if "up" in self.events else ()
        return (self.process.identity, *(ProcessId(*entry) for entry in nodes))

    def find_failure(self) -> ClusterError | None:
        """Why it is not up, or not whole any more; None while nothing is known of that."""
        self.read_events()
        if failed := self.events.get("failed"):
            return ClusterError(failed["what"], fix=failed["fix"])
        if not self.is_alive():
            return ClusterError(f"the process that keeps the private Ray of this launch ended {self.describe_end()}")
        return None

    def is_whole(self) -> bool:
        """Whether every daemon of every node lives; for one whose nodes have all been up."""
        if self.find_failure() is not None or "up" not in self.events:
            return False
        _, *nodes = self.leaders
        names = [processes.list_group_names(node.pid) for node in nodes]
        return all(names[at] >= (_DAEMONS if at else _HEAD_DAEMONS) for at in range(len(nodes)))

    def stop(self, hurried: Callable[[], bool] = lambda: False) -> None:
        """End every node; kill what does not go. Safe to repeat."""
        self.read_events()  # it may have come up a moment ago
        self.ask_to_end()
        self.wait_end(_STOP_S, hurried)
        # Ray's agents outlive raylet and leader by minutes where the GCS is gone (2.60).
        processes.kill_led(self.leaders, MARK_VARIABLE, self.mark)
        processes.kill_marked(MARK_VARIABLE, self.mark, 0.0 if hurried() else _SWEEP_PATIENCE_S)
        if self.place is not None:
            processes.remove_folder(Path(self.place["folder"]))
