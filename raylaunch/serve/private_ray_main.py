"""The process that keeps the private Ray of a service: its nodes are its children, and end with it.

The supervisor starts `python -m raylaunch.serve.private_ray_main` beside the driver process, so that Ray outlives the
engines. It answers StartNodes with PrivateRayUp or Failed; Failed also reports a node that died later.
"""

import signal
import sys

from raylaunch.base.errors import ClusterError
from raylaunch.base.ipc import Failed, ParentLink, end_on_sigterm
from raylaunch.cluster.private import PrivateRay
from raylaunch.serve.messages import PrivateRayUp, StartNodes

_CHECK_EVERY_S = 0.5


def main() -> None:
    """Wait for the order, start the nodes, watch them until a signal or the supervisor's end."""
    end_on_sigterm()
    parent = ParentLink()
    try:
        order = parent.wait_for(StartNodes)
        ray = PrivateRay.start(
            nodes=order.nodes,
            gpus_per_node=order.gpus_per_node,
            env_vars=order.env_vars,
            real_gpus=order.real_gpus,
        )
    except ClusterError as error:
        parent.send(Failed(error))
        sys.exit(1)
    except BrokenPipeError:  # the supervisor is gone
        sys.exit(1)
    try:
        parent.send(PrivateRayUp(ray.address, str(ray.folder), tuple(node.identity for node in ray.nodes)))
        _watch(ray, parent)
    except BrokenPipeError:  # the supervisor is gone
        sys.exit(1)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        ray.stop()


def _watch(ray: PrivateRay, parent: ParentLink) -> None:
    reported = False
    while not parent.is_closed:
        parent.receive(_CHECK_EVERY_S)
        if not reported and (failure := ray.find_failure()):
            reported = True
            error = ClusterError(
                f"a Ray node of this launch's own died: {failure}",
                fix="free memory and disk space on this machine, and run it again",
            )
            parent.send(Failed(error))


if __name__ == "__main__":
    main()
