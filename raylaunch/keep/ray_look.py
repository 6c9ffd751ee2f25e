"""Looks at Ray: which nodes and workers of a reservation are dead. Runs in the driver process, which has joined Ray."""

import os
import re
import socket
import threading
from collections.abc import Mapping
from typing import Any

from raylaunch import gpu_sample, monitor
from raylaunch.node_sample import NodeSample

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
        self._group = bytes.fromhex(group_id)
        self._nodes = dict(nodes)
        self._tp = tensor_parallel_size

    def look(self) -> dict[str, Any]:
        """The facts of a pulse: addresses `gone`, workers `dead`, rank -> pid of the living ones, GPUs in all."""
        import ray

        table = ray.nodes()
        alive = {node["NodeID"] for node in table if node["Alive"] and not self._is_refused(node)}
        workers = self.list_workers()
        return {
            "gone": [ip for node_id, ip in self._nodes.items() if node_id not in alive],
            "dead": [worker for worker in workers if worker["state"] == "DEAD"],
            "pids": {str(worker["rank"]): worker["pid"] for worker in workers if worker["state"] == "ALIVE"},
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

    def list_workers(self) -> list[dict[str, Any]]:
        """Every worker that was placed in the reservation, dead ones too: rank, ip, pid, state, why, ended_at."""
        from ray._private.state import state  # Ray 2.60: the public twin asks the dashboard, which need not run
        from ray.core.generated import gcs_pb2

        accessor = state._connect_and_get_accessor()
        found = []
        for raw in accessor.get_actor_table(None, None):
            actor = gcs_pb2.ActorTableData.FromString(raw)
            if actor.placement_group_id == self._group:
                found.append(
                    {
                        "rank": _find_rank(actor.name, self._tp),
                        "ip": actor.address.ip_address or self._nodes.get(actor.node_id.hex(), ""),
                        "node": actor.address.node_id.hex(),
                        "pid": actor.pid,
                        "state": gcs_pb2.ActorTableData.ActorState.Name(actor.state),
                        "why": _describe_death(actor.death_cause),
                        "ended_at": actor.end_time or float("inf"),
                    }
                )
        return found


def _find_rank(name: str, tp: int) -> int:
    """The global rank in vLLM's name for a worker actor, "vllm_Worker_<instance>_TP1_PP1" (ray_utils.py of 0.32)."""
    tp_rank, pp_rank = re.search(r"_TP(\d+)", name), re.search(r"_PP(\d+)", name)
    return (int(pp_rank[1]) if pp_rank else 0) * tp + (int(tp_rank[1]) if tp_rank else 0)


def _describe_death(cause: Any) -> str:
    kind = cause.WhichOneof("context")
    context = getattr(cause, kind) if kind else None
    for name in ("error_message", "death_cause_message", "node_death_info"):
        if (said := getattr(context, name, None)) is not None and str(said).strip():
            return str(said)
    return str(cause).strip()
