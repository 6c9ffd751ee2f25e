"""A process that answers the supervisor as the driver process does, without a Ray: for tests of the supervisor."""

from raylaunch.base.ipc import ParentLink, end_on_sigterm
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

if __name__ == "__main__":
    end_on_sigterm()
    link = ParentLink()
    order = link.wait_for(PlaceRanks)
    link.send(Joined("127.0.0.1:9"))
    if order.hold:
        link.wait_for(GoOn)
    node = order.first_node or 0
    rank = PlacedRank(0, 0, 0, f"10.0.0.{node}", 0, f"node{node}")
    link.send(Placed("00", {}, (rank,), fetch_s=0.0, join_s=0.0, wait_s=0.0, check_s=0.0))
    while not link.is_closed:
        link.send(DriverPulse(pids={0: 1}, gpus=2))
        for message in link.receive(0.2):
            if isinstance(message, CheckLaunch):
                refused = "it is too long" if message.launch.max_model_len == 1 else ""
                link.send(LaunchChecked(refused, ""))
