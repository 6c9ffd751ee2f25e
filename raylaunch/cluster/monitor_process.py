"""A child process that samples the cluster for a view, so that the view survives Ray and its terminal stays clean.

Ray ends a process that has joined it, without an exception in Python, when its node's raylet dies.
"""

import os
import sys
import tempfile
import threading

from raylaunch.base.errors import ClusterError
from raylaunch.base.ipc import ChildLink, Failed, ParentLink
from raylaunch.cluster import monitor, ray_session
from raylaunch.cluster.monitor import ClusterSample

_END_GRACE_S = 5.0
_WAIT_S = 0.5


class ChildMonitor:
    """Samples of a Ray cluster, from a child process that joined it.

    Args:
        address: of the cluster; None: this machine alone, without Ray.
    """

    def __init__(self, address: str | None) -> None:
        self.address = address
        self.newest: ClusterSample | None = None
        self.ended = ""
        """Why no more samples come; "" while they may."""
        self.arrived = threading.Event()
        """Set with each sample, and at the end; the reader clears it."""
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (closed by `close`)
        self._child = ChildLink.launch(
            "raylaunch.cluster.monitor_process",
            arguments=[address] if address else [],
            environment=os.environ,
            output=self._log,
        )
        self._stopping = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def close(self) -> None:
        """End the child, and with it the samplers on all nodes."""
        self._stopping = True
        self._child.request_end()
        self._reader.join()
        self._child.wait_end(_END_GRACE_S)
        self._log.close()

    def _read(self) -> None:
        while not (self._child.is_closed or self._stopping):
            for message in self._child.wait(_WAIT_S):
                if isinstance(message, ClusterSample):
                    self.newest = message
                    self.arrived.set()
        failed = self._child.last(Failed)
        self.newest = None
        self.ended = f"{failed.error.what}; {failed.error.fix}" if failed else self._read_last_line()
        self.arrived.set()

    def _read_last_line(self) -> str:
        self._log.seek(0)
        lines = [line for line in self._log.read().decode(errors="replace").splitlines() if line.strip()]
        return lines[-1] if lines else "the sampling process ended"


def main(address: str | None) -> None:
    """Sample and send until the parent is gone."""
    parent = ParentLink()
    try:
        if address is not None:
            ray_session.join(address, env_vars={})
        watcher = None if address is not None else monitor.LocalMonitor()
        for sample in monitor.follow(threading.Event(), watcher=watcher):
            parent.send(sample)
    except ClusterError as error:
        parent.send(Failed(error))
    except BrokenPipeError:
        return


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
