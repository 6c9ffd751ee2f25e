"""A child process that samples the cluster for a view, so that the view outlives Ray and its terminal stays clean.

A process that has joined Ray is ended by Ray, without a word to Python, when its node's raylet goes.
"""

import os
import pickle
import sys
import tempfile
import threading
from typing import IO

from raylaunch.base.errors import ClusterError
from raylaunch.base.processes import Child
from raylaunch.cluster import monitor, ray_session
from raylaunch.cluster.monitor import ClusterSample

_END_PATIENCE_S = 5.0


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
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (closed by `close`)
        reading, writing = os.pipe()
        self._child = Child.start(
            [sys.executable, "-m", "raylaunch.cluster.monitor_process", str(writing), *([address] if address else [])],
            environment=os.environ,
            output=self._log,
            pass_fds=(writing,),
        )
        os.close(writing)
        self.arrived = threading.Event()
        """Set with each sample, and at the end; whoever waits for it clears it."""
        self._reader = threading.Thread(target=self._read, args=(os.fdopen(reading, "rb"),), daemon=True)
        self._reader.start()

    def close(self) -> None:
        """End the child, and with it the samplers on all nodes."""
        self._child.popen.terminate()
        self._child.wait_or_kill(_END_PATIENCE_S)
        self._reader.join()
        self._log.close()

    def _read(self, stream: IO[bytes]) -> None:
        why = ""
        with stream:
            while True:
                try:
                    told = pickle.load(stream)
                except (EOFError, pickle.UnpicklingError, OSError):
                    break
                if isinstance(told, str):
                    why = told
                    continue
                self.newest = told
                self.arrived.set()
        self.newest = None
        self.ended = why or self._read_last_words() or "the sampling process ended"
        self.arrived.set()

    def _read_last_words(self) -> str:
        self._log.seek(0)
        lines = [line for line in self._log.read().decode(errors="replace").splitlines() if line.strip()]
        return lines[-1] if lines else ""


def main(writing: int, address: str | None) -> None:
    """What the child does: sample and write until the reader goes away."""
    with os.fdopen(writing, "wb", buffering=0) as stream:
        try:
            if address is not None:
                ray_session.join(address, env_vars={})
            watcher = None if address is not None else monitor.LocalMonitor()
            for seen in monitor.follow(threading.Event(), watcher=watcher):
                pickle.dump(seen, stream)
        except ClusterError as error:
            pickle.dump(f"{error.what}; {error.fix}", stream)
        except BrokenPipeError:
            return


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else None)
