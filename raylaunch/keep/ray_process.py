"""The process that keeps the private Ray of a service: its nodes are its children, and end with it.

    python -m raylaunch.keep.ray_process --events FD        (started by the supervisor, and by nobody else)

It stands beside the driver process, so that Ray outlives the engines. Stages told as events::

    up        address, folder, leaders: [pid, start time] of each node's process
    failed    why it did not come up, then the end; or what became of a node, and it goes on
"""

import json
import os
import signal
import sys
from typing import Any

from raylaunch.errors import ClusterError
from raylaunch.keep.orders import OrderReader
from raylaunch.private_ray import PrivateRay

_LOOK_EVERY_S = 0.5


def _leave(_number: int, _frame: Any) -> None:
    sys.exit(0)


def main() -> None:
    """Read the order (PrivateRay.start's arguments), start the nodes, look after them until a signal."""
    stream = os.fdopen(int(sys.argv[sys.argv.index("--events") + 1]), "w")
    signal.signal(signal.SIGTERM, _leave)
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def tell(stage: str, **facts: Any) -> None:
        stream.write(json.dumps({"stage": stage, **facts}) + "\n")
        stream.flush()

    reader = OrderReader()
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


def _look_after(ray: PrivateRay, reader: OrderReader, tell: Any) -> None:
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
