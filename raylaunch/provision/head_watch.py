"""Runs in the head's container: tells, twice a second, which nodes Ray has and how far its launcher is with the others.

`python3 -m raylaunch.provision.head_watch CLUSTER` writes a JSON line at each look until its stdin ends::

    {"nodes": {"10.0.0.1": 8}, "launcher": {"10.0.0.2": "setting-up"}, "failures": {"10.0.0.2": 1},
     "known": ["10.0.0.1", "10.0.0.2"]}

A launcher's state is Ray's own tag of a node: waiting-for-ssh, syncing-files, setting-up, up-to-date, update-failed.
The last stands for seconds only, then the launcher forgets the node: failures count how often it did. Known are the
hosts of the cluster file that this head was started from.
`python3 -m raylaunch.provision.head_watch CLUSTER retry ADDRESS...` has the launcher begin anew with these nodes.
"""

import json
import os
import re
import select
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from raylaunch.cluster import ray_session

_BOOTSTRAP = Path.home() / "ray_bootstrap_config.yaml"
"""The cluster file as Ray's launcher left it for the head."""
_STEP_S = 0.5
_LAUNCHER = b"autoscaler/_private/monitor.py"
_LOGS = Path("/tmp/ray/session_latest/logs")
_GAVE_UP = re.compile(rb"Terminating the node with id (\S+) .*\(launch failed\)|: (\S+): Failed to update node")
"""In the launcher's own log, monitor.log (Ray 2.60, StandardAutoscaler.process_completed_updates)."""


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


@dataclass
class Failures:
    """How often the launcher gave each node up; its log is read on from where the last look ended."""

    log: Path
    counts: dict[str, int] = field(default_factory=dict)
    _read: int = 0

    def look(self) -> dict[str, int]:
        """Address -> times, since the head was started."""
        try:
            with self.log.open("rb") as file:
                file.seek(self._read)
                text = file.read()
        except FileNotFoundError:  # no launcher has begun yet
            return self.counts
        whole = text.rpartition(b"\n")[0]
        self._read += len(whole)
        for found in _GAVE_UP.finditer(whole):
            address = (found[1] or found[2]).decode()
            self.counts[address] = self.counts.get(address, 0) + 1
        return self.counts


def watch(cluster_name: str) -> None:
    """Write a line at each look until stdin ends."""
    address = ray_session.find_address({})
    if address is None:
        sys.exit("no Ray runs in this container")
    ray_session.join(address, env_vars={})
    provider = read_provider()
    known = [provider["head_ip"], *provider["worker_ips"]]
    failures = Failures(_LOGS / "monitor.log")
    while not select.select([sys.stdin], [], [], _STEP_S)[0]:
        nodes = {node.ip: node.gpus for node in ray_session.list_nodes()}
        seen = {"nodes": nodes, "launcher": read_launcher(cluster_name), "failures": failures.look(), "known": known}
        print(json.dumps(seen), flush=True)


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
        with (_LOGS / "monitor.out").open("ab") as log:
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
