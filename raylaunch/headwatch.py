"""Runs in the head's container: tells, twice a second, which nodes Ray has and how far its launcher is with the others.

`python3 -m raylaunch.headwatch CLUSTER` writes a JSON line at each look until its stdin ends::

    {"nodes": {"10.0.0.1": 8}, "launcher": {"10.0.0.2": "setting-up"}, "known": ["10.0.0.1", "10.0.0.2"]}

A launcher's state is Ray's own tag of a node: waiting-for-ssh, syncing-files, setting-up, up-to-date, update-failed.
Known are the hosts of the cluster file that this head was started from.
`python3 -m raylaunch.headwatch CLUSTER retry ADDRESS...` has the launcher begin anew with these nodes.
"""

import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from raylaunch import cluster

_BOOTSTRAP = Path.home() / "ray_bootstrap_config.yaml"
"""The cluster file as Ray's launcher left it for the head."""
_STEP_S = 0.5
_LAUNCHER = b"autoscaler/_private/monitor.py"
_LAUNCHER_LOG = Path("/tmp/ray/session_latest/logs/monitor.out")


def read_launcher(cluster_name: str) -> dict[str, str]:
    """Address -> launcher's state, for every node that the launcher has begun with."""
    state = Path(os.environ.get("RAY_TMPDIR") or "/tmp", "ray", f"cluster-{cluster_name}.state")
    try:
        nodes: dict[str, Any] = json.loads(state.read_text())
    except (OSError, ValueError):  # not there yet, or being written
        return {}
    return {
        address: str(node["tags"].get("ray-node-status", "uninitialized"))
        for address, node in nodes.items()
        if node["state"] == "running"
    }


def read_provider() -> dict[str, Any]:
    """The `provider` block of the cluster file that this head was started from."""
    import yaml

    provider: dict[str, Any] = yaml.safe_load(_BOOTSTRAP.read_text())["provider"]
    return provider


def watch(cluster_name: str) -> None:
    """Write a line at each look until stdin ends."""
    address = cluster.find_address({})
    if address is None:
        sys.exit("no Ray runs in this container")
    cluster.join(address, env_vars={})
    provider = read_provider()
    known = [provider["head_ip"], *provider["worker_ips"]]
    while not select.select([sys.stdin], [], [], _STEP_S)[0]:
        nodes = {node.ip: node.gpus for node in cluster.list_nodes()}
        print(json.dumps({"nodes": nodes, "launcher": read_launcher(cluster_name), "known": known}), flush=True)


def restart_launcher() -> None:
    """Start Ray's launcher on this head anew, and nothing else: it never tries a node again that failed once.

    Its count of failures is in its memory alone (Ray 2.60, StandardAutoscaler.can_update); what it knows of nodes that
    are in, it reads from its state file, and leaves them as they are.
    """
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")[:-1]
            if not any(word.endswith(_LAUNCHER) for word in words):
                continue
            variables = (process / "environ").read_bytes().split(b"\0")
        except OSError:  # gone meanwhile
            continue
        os.kill(int(process.name), signal.SIGKILL)
        environment = dict(variable.split(b"=", 1) for variable in variables if b"=" in variable)
        with _LAUNCHER_LOG.open("ab") as log:
            subprocess.Popen(
                words, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )


def retry(cluster_name: str, addresses: list[str]) -> None:
    """Have the launcher begin anew with these nodes."""
    from ray.autoscaler._private.local.node_provider import LocalNodeProvider

    provider = LocalNodeProvider(read_provider(), cluster_name)
    for address in addresses:
        provider.terminate_node(address)
    restart_launcher()


if __name__ == "__main__":
    match sys.argv[1:]:
        case [name]:
            watch(name)
        case [name, "retry", *hosts]:
            retry(name, hosts)
