"""The process that keeps the private Ray of a service: its nodes are its children, and end with it.

    python -m raylaunch.serve.private_ray_main --events FD        (started by the supervisor, and by nobody else)

It stands beside the driver process, so that Ray outlives the engines. Stages told as events::

    up        address, folder, leaders: [pid, start time] of each node's process
    failed    why it did not come up, then the end; or what became of a node, and it goes on
"""

import json
import signal
import sys
from collections.abc import Callable

from raylaunch.base.errors import ClusterError
from raylaunch.base.ipc import Events, OrderReader, end_on_sigterm
from raylaunch.cluster.private import PrivateRay

_LOOK_EVERY_S = 0.5


def main() -> None:
    """Read the order (PrivateRay.start's arguments), start the nodes, look after them until a signal."""
    end_on_sigterm()
    tell, reader = Events().tell, OrderReader()
    order = json.loads(reader.read_first())
    try:
        ray = PrivateRay.start(**order)
    except ClusterError as error:
        tell("failed", what=error.what, fix=error.fix)
        sys.exit(1)
    try:
        leaders = [(node.identity.pid, node.identity.started) for node in ray.nodes]
        tell("up", address=ray.address, folder=str(ray.folder), leaders=leaders)
        _look_after(ray, reader, tell)
    except BrokenPipeError:  # the supervisor is gone
        sys.exit(1)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        ray.stop()


def _look_after(ray: PrivateRay, reader: OrderReader, tell: Callable[..., None]) -> None:
    told = False
    while True:
        reader.wait(_LOOK_EVERY_S)
        if not told and (failure := ray.find_failure()):
            told = True
            tell(
                "failed",
                what=f"a Ray node of this launch's own died: {failure}",
                fix="free memory and disk space on this machine, and run it again",
            )


if __name__ == "__main__":
    main()
