"""`raylaunch netcheck`: the check of the network by itself, on a joined Ray cluster."""

from raylaunch.base import console
from raylaunch.base.errors import ClusterError, NotEnoughGpusError
from raylaunch.cluster import placement, ray_session
from raylaunch.config.launch import LaunchConfig
from raylaunch.preflight.network.measured import NetworkReport
from raylaunch.preflight.network.run import NetworkRequest, check_network
from raylaunch.preflight.network.shapes import read_shapes
from raylaunch.preflight.requirements import plan_ranks

_RESERVE_S = 5.0


def check_launch(launch: LaunchConfig, *, is_logical: bool) -> NetworkReport:
    """Join Ray, place the ranks of a launch, and check the network between them.

    GPUs that a service uses are left to it: then hosts alone are checked.

    Raises:
        ClusterError: no Ray runs here, or its nodes do not carry the launch.
    """
    address = ray_session.find_address()
    if address is None:
        raise ClusterError(
            "no Ray cluster runs on this machine, and RAY_ADDRESS is not set",
            fix="`raylaunch up CLUSTER.yaml`, then `raylaunch netcheck LAUNCH.yaml --cluster CLUSTER.yaml`",
        )
    ray_session.join(address, env_vars={})
    try:
        block = launch.cluster
        with console.live_lines() as show:
            nodes = ray_session.wait_for_gpus(
                nodes=block.nodes,
                gpus_per_node=block.gpus_per_node,
                wait_s=block.wait_s,
                report=lambda waiting: show(waiting.to_lines()),
            )
        places = plan_ranks(launch, nodes)
        reservation = None
        if not is_logical:
            try:
                reservation = placement.reserve(places, timeout_s=_RESERVE_S)
            except NotEnoughGpusError:
                console.say("the GPUs are in use: checking the hosts alone", style="yellow")
        try:
            return check_network(
                NetworkRequest(
                    places=reservation.places if reservation else tuple(places),
                    reservation=reservation.group_id if reservation else None,
                    shapes=read_shapes(launch),
                    is_logical=is_logical,
                    is_fresh=True,
                )
            )
        finally:
            if reservation is not None:
                reservation.release()
    finally:
        ray_session.leave()
