"""Looks at Ray: which nodes and workers of a reservation are dead. Runs in the driver process, which has joined Ray."""

import os
import socket
import threading
from collections.abc import Mapping
from typing import Any

from raylaunch.cluster import monitor
from raylaunch.cluster.ranks import list_placed_ranks
from raylaunch.node import gpu_sample
from raylaunch.node.sampler import NodeSample

RAY_KILLS_AT = float(os.environ.get("RAY_memory_usage_threshold", "0.95"))  # noqa: SIM112 - Ray spells it so
"""Share of host memory in use at which Ray kills workers (the default is that of Ray 2.60)."""
_WARN_AT = RAY_KILLS_AT - 0.05
_CALL_TIMEOUT_S = 0.2


class Sampler:
    """GPUs and memory of every node, sampled in a thread of its own so that a slow node delays no look."""

    def __init__(self, watcher: monitor.Watcher) -> None:
        self._newest: monitor.ClusterSample | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(watcher,), name="sampler", daemon=True)
        self._thread.start()

    def _run(self, watcher: monitor.Watcher) -> None:
        import ray

        try:
            for seen in monitor.follow(self._stop, watcher=watcher):
                self._newest = seen
        except (ray.exceptions.RayError, RuntimeError, ConnectionError):  # Ray is gone, which `Eyes` tells
            self._newest = None

    def stop(self) -> None:
        """Take no more samples; whoever is asleep in one ends with this process."""
        self._stop.set()

    def look(self) -> dict[str, Any]:
        """The facts of a pulse: `nodes` by address, GPUs `lost`, `throttled` ones, and `warnings` in words."""
        nodes = self._newest.nodes if self._newest else ()
        faults = [(node.ip, gpu) for node in nodes for gpu in node.gpus.gpus if gpu.fault == gpu_sample.GpuFault.LOST]
        return {
            "nodes": {node.ip: _describe(node) for node in nodes},
            "lost_gpus": [f"GPU {gpu.index} of node {ip} is lost: {gpu.error}" for ip, gpu in faults],
            "throttled": [
                (node.ip, gpu.index, reason) for node in nodes for gpu in node.gpus.gpus for reason in gpu.throttles
            ],
            "warnings": [warning for node in nodes for warning in _warn(node)],
        }


def _describe(node: NodeSample) -> dict[str, Any]:
    gpus = [
        {"gpu": gpu.index, "used_bytes": gpu.memory_used_bytes, "temperature_c": gpu.temperature_c}
        | {"reasons": list(gpu.throttles), "error": gpu.error, "xids": [xid.xid for xid in gpu.xids]}
        for gpu in node.gpus.gpus
    ]
    return {"memory_use": round(_memory_use(node), 3), "gpus": gpus, "error": node.gpus.error}


def _memory_use(node: NodeSample) -> float:
    return node.host.ram_used_bytes / max(1, node.host.ram_total_bytes)


def _warn(node: NodeSample) -> list[str]:
    """What is not well with a node that still serves."""
    told = []
    if _memory_use(node) >= _WARN_AT:
        told.append(
            f"node {node.ip}: over {_WARN_AT:.0%} of its memory is in use; at {RAY_KILLS_AT:.0%} Ray kills ranks"
        )
    for gpu in node.gpus.gpus:
        heat = [reason for reason in gpu.throttles if gpu_sample.THROTTLES[reason] == "thermal"]
        if heat:
            told.append(f"node {node.ip}: GPU {gpu.index} is slowed down by heat")
        told += [
            f"node {node.ip}: GPU {gpu.index} reported Xid {xid.xid}: {xid.meaning}"
            for xid in gpu.xids
            if xid.of_the_gpu
        ]
    return told


class Eyes:
    """What one reservation's nodes and workers are doing."""

    def __init__(self, group_id: str, nodes: Mapping[str, str], *, tensor_parallel_size: int) -> None:
        """Look at one reservation.

        Args:
            group_id: hexadecimal id of its placement group.
            nodes: node id -> address of every node that carries a rank.
        """
        self._group_id = group_id
        self._nodes = dict(nodes)
        self._tp = tensor_parallel_size

    def look(self) -> dict[str, Any]:
        """The facts of a pulse: addresses `gone`, workers `dead`, rank -> pid of the living ones, GPUs in all."""
        import ray

        table = ray.nodes()
        alive = {node["NodeID"] for node in table if node["Alive"] and not self._is_refused(node)}
        ranks = [
            {
                "rank": rank.find_number(self._tp),
                "ip": rank.ip or self._nodes.get(rank.node_id, ""),
                "node": rank.node_id,
                "pid": rank.pid,
                "state": rank.state,
                "why": rank.death_cause,
                "ended_at": rank.ended_at_ms,
            }
            for rank in list_placed_ranks(self._group_id)
        ]
        return {
            "gone": [ip for node_id, ip in self._nodes.items() if node_id not in alive],
            "dead": [worker for worker in ranks if worker["state"] == "DEAD"],
            "pids": {str(worker["rank"]): worker["pid"] for worker in ranks if worker["state"] == "ALIVE"},
            "gpus": int(sum(node["Resources"].get("GPU", 0) for node in table if node["Alive"])),
        }

    def _is_refused(self, node: Mapping[str, Any]) -> bool:
        """Whether nobody listens on the port of a node of ours any more: its raylet is dead, and Ray will say so later.

        Ray marks a node dead seconds after its raylet, when the engine has already given up over it (Ray 2.60).
        """
        if node["NodeID"] not in self._nodes:
            return False
        try:
            socket.create_connection((node["NodeManagerAddress"], node["NodeManagerPort"]), _CALL_TIMEOUT_S).close()
        except ConnectionRefusedError:
            return True
        except OSError:  # a host that does not answer: Ray's own patience decides
            return False
        return False
