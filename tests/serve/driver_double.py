"""A process that answers the supervisor as the driver process does, without a Ray: for tests of the supervisor.

The file that DRIVER_DOUBLE_NODES names holds the GPUs of each node; without it the cluster has two of one GPU each.
"""

import os
from pathlib import Path

from raylaunch.base.ipc import ParentLink, end_on_sigterm
from raylaunch.cluster.ray_session import ClusterNode, GpuWait
from raylaunch.serve.messages import (
    CheckLaunch,
    DriverPulse,
    GoOn,
    Joined,
    LaunchChecked,
    Placed,
    PlacedRank,
    PlaceRanks,
)


def list_nodes() -> tuple[ClusterNode, ...]:
    file = os.environ.get("DRIVER_DOUBLE_NODES")
    gpus = [1, 1] if file is None else [int(count) for count in Path(file).read_text().split()]
    return tuple(ClusterNode(str(at), f"10.0.0.{at}", "", count, is_head=not at) for at, count in enumerate(gpus))


if __name__ == "__main__":
    end_on_sigterm()
    link = ParentLink()
    order = link.wait_for(PlaceRanks)
    link.send(Joined("127.0.0.1:9"))
    if order.hold:
        link.wait_for(GoOn)
    block, first = order.launch.cluster, order.first_node or 0
    while len(nodes := list_nodes()) < block.nodes:
        link.send(GpuWait(nodes, block.nodes, block.gpus_per_node, left_s=1.0))
        link.receive(0.1)
    ranks = tuple(
        PlacedRank(at, 0, at, f"10.0.0.{first + at}", 0, f"node{first + at}") for at in range(order.launch.world_size)
    )
    link.send(Placed("00", {}, ranks, fetch_s=0.0, join_s=0.0, wait_s=0.0, check_s=0.0))
    while not link.is_closed:
        there = list_nodes()
        gone = tuple(rank.ip for rank in ranks if rank.ip not in {node.ip for node in there})
        counts = tuple(node.gpus for node in there)
        link.send(DriverPulse(gone=gone, pids={0: 1}, gpus=sum(counts), node_gpus=counts))
        for message in link.receive(0.2):
            if isinstance(message, CheckLaunch):
                refused = "it is too long" if message.launch.max_model_len == 1 else ""
                link.send(LaunchChecked(refused, ""))
