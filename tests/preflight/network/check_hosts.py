"""A driver on the first host: check the network of all nodes as a rehearsal does; prints the report as JSON."""

import json
import os
import sys
from dataclasses import asdict

from raylaunch.cluster import ray_session
from raylaunch.cluster.placement import RankPlace
from raylaunch.preflight.network.run import NetworkRequest, check_network


def main() -> None:
    """Arguments: import_s, then the environment of everything in Ray."""
    ray_session.join(os.environ["RAY_ADDRESS"], env_vars=dict(pair.split("=", 1) for pair in sys.argv[2:]))
    places = tuple(RankPlace(number, 0, number, node) for number, node in enumerate(ray_session.list_nodes()))
    request = NetworkRequest(places, None, shapes=None, is_logical=True, is_fresh=True, import_s=float(sys.argv[1]))
    print("REPORT", json.dumps(asdict(check_network(request))))
    ray_session.leave()


if __name__ == "__main__":
    main()
