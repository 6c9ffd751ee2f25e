"""Runs in the head's container: reports twice a second which nodes Ray has, and the launcher's state of the others.

`python3 -m raylaunch.provision.head_watch CLUSTER` writes a line of JSON for each report until its stdin ends::

    {"nodes": {"10.0.0.1": 8}, "launcher": {"10.0.0.2": "setting-up"}, "failures": {"10.0.0.2": 1},
     "known": ["10.0.0.1", "10.0.0.2"]}

A launcher's state is Ray's own tag of a node: waiting-for-ssh, syncing-files, setting-up, up-to-date, update-failed.
update-failed lasts for seconds only, then the launcher forgets the node: `failures` counts how often that happened.
`known` are the hosts in the configuration that this head was started with.
`python3 -m raylaunch.provision.head_watch CLUSTER retry ADDRESS...` has the launcher start over with these nodes.
"""

import json
import os
import re
import select
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from raylaunch.cluster import ray_session

_BOOTSTRAP = Path.home() / "ray_bootstrap_config.yaml"
"""The configuration that Ray's launcher wrote for the head."""
_STEP_S = 0.5
_LAUNCHER = "autoscaler/_private/monitor.py"
_LOGS = Path("/tmp/ray/session_latest/logs")
_GAVE_UP = re.compile(rb"Terminating the node with id (\S+) .*\(launch failed\)|: (\S+): Failed to update node")
"""In the launcher's log, monitor.log (Ray 2.60, StandardAutoscaler.process_completed_updates)."""


def read_launcher(cluster_name: str) -> dict[str, str]:
    """Address -> launcher's state, for every node that the launcher has started on."""
    state = Path(os.environ.get("RAY_TMPDIR") or "/tmp", "ray", f"cluster-{cluster_name}.state")
    try:
        nodes = json.loads(state.read_text())
    except (OSError, ValueError):  # not written yet, or being written
        return {}
    return {
        address: str(node["tags"].get("ray-node-status", "uninitialized"))
        for address, node in nodes.items()
        if node["state"] == "running"
    }


def read_provider() -> dict[str, Any]:
    """The `provider` block of the configuration that this head was started with."""
    import yaml

    return dict(yaml.safe_load(_BOOTSTRAP.read_text())["provider"])


@dataclass
class FailureCount:
    """How often the launcher gave each node up; each call reads its log from where the last one stopped."""

    log: Path
    counts: dict[str, int] = field(default_factory=dict)
    _read: int = 0

    def read(self) -> dict[str, int]:
        """Address -> failures since the head was started."""
        try:
            with self.log.open("rb") as file:
                file.seek(self._read)
                text = file.read()
        except FileNotFoundError:  # no launcher has started yet
            return self.counts
        lines = text.rpartition(b"\n")[0]
        self._read += len(lines)
        for found in _GAVE_UP.finditer(lines):
            address = (found[1] or found[2]).decode()
            self.counts[address] = self.counts.get(address, 0) + 1
        return self.counts


def watch(cluster_name: str) -> None:
    """Write a line for each report until stdin ends."""
    address = ray_session.find_address({})
    if address is None:
        sys.exit("no Ray runs in this container")
    ray_session.join(address, env_vars={})
    provider = read_provider()
    known = [provider["head_ip"], *provider["worker_ips"]]
    failures = FailureCount(_LOGS / "monitor.log")
    while not select.select([sys.stdin], [], [], _STEP_S)[0]:
        nodes = {node.ip: node.gpus for node in ray_session.list_nodes()}
        report = {"nodes": nodes, "launcher": read_launcher(cluster_name), "failures": failures.read(), "known": known}
        print(json.dumps(report), flush=True)


def restart_launcher() -> None:
    """Restart Ray's launcher on this head: it never retries a node that failed once.

    Its count of failures is in its memory alone (Ray 2.60, StandardAutoscaler.can_update); nodes that have joined are
    in its state file, and are left as they are.
    """
    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"] or []
        if not any(word.endswith(_LAUNCHER) for word in command):
            continue
        try:
            environment = process.environ()
            process.kill()
        except psutil.NoSuchProcess:
            continue
        with (_LOGS / "monitor.out").open("ab") as log:
            subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )


def retry(cluster_name: str, addresses: list[str]) -> None:
    """Have the launcher start over with these nodes."""
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
