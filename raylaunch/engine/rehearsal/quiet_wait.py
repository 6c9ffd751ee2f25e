"""vLLM's shared-memory queues without their busy loop, for more ranks than cores.

A reader of vLLM's MessageQueue spins for a second after each message (0.25 to 0.33): eight of them starve two cores. It
cannot simply sleep: the wake-up is a ZeroMQ message on a socket with a high-water mark of one, and is lost while the
previous one is in transit; the reader then sleeps until its timeout. So it sleeps, but checks every 2 ms.
"""

import os
import time

from vllm.distributed.device_communicators import shm_broadcast

_CHECK_MS = 2


def _wait(self: shm_broadcast.SpinCondition, timeout_ms: int | None = None) -> None:
    """Wait for data: in short sleeps where vLLM spins, as vLLM does after that."""
    if time.monotonic() > self.last_read + self.busy_loop_s:
        _wait_idle(self, timeout_ms)
    elif self.local_notify_socket in dict(self.poller.poll(timeout=_CHECK_MS)):
        self.local_notify_socket.recv(copy=False)


_wait_idle = shm_broadcast.SpinCondition.wait


def install(world_size: int) -> None:
    """Replace the wait of every queue of this process, and of those it forks, where ranks outnumber the cores.

    With a core for each rank, vLLM's own wait has less latency.
    """
    if world_size > (os.cpu_count() or 1):
        shm_broadcast.SpinCondition.wait = _wait
