"""Which nodes and ranks of a reservation are dead, and how the nodes are. Runs in the driver process."""

import os
import threading
from collections.abc import Mapping
from dataclasses import replace

from raylaunch.cluster import monitor, ray_session
from raylaunch.cluster.ranks import Rank, list_placed_ranks
from raylaunch.node import gpu_sample
from raylaunch.node.sampler import NodeSample
from raylaunch.serve.messages import DeadRank, DriverPulse, GpuHealth, NodeHealth

RAY_KILLS_AT = float(os.environ.get("RAY_memory_usage_threshold", "0.95"))  # noqa: SIM112 - Ray spells it so
"""Share of host memory in use at which Ray kills workers (the default is that of Ray 2.60)."""
_WARN_AT = RAY_KILLS_AT - 0.05


class HealthSampler:
    """GPUs and memory of every node, sampled in a thread of its own so that a slow node delays no pulse.

    Args:
        gpus: node's address -> indices of the GPUs that carry ranks; the state of others is no fault of the engine.
    """

    def __init__(self, watcher: monitor.Watcher, gpus: Mapping[str, frozenset[int]]) -> None:
        self._gpus_in_use = gpus
        self._newest: monitor.ClusterSample | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(watcher,), name="sampler", daemon=True)
        self._thread.start()

    def _run(self, watcher: monitor.Watcher) -> None:
        import ray

        try:
            for sample in monitor.follow(self._stop, watcher=watcher):
                self._newest = sample
        except (ray.exceptions.RayError, RuntimeError, ConnectionError):  # Ray is gone, which RankWatcher reports
            self._newest = None

    def stop(self) -> None:
        """Sample no more; a sample under way ends with this process."""
        self._stop.set()

    def complete(self, pulse: DriverPulse) -> DriverPulse:
        """The pulse with what was sampled last."""
        nodes = tuple(self._keep_ours(node) for node in (self._newest.nodes if self._newest else ()))
        gpus = [(node.ip, gpu) for node in nodes for gpu in node.gpus.gpus]
        return replace(
            pulse,
            nodes={node.ip: _describe(node) for node in nodes},
            lost_gpus=tuple(
                f"GPU {gpu.index} of node {ip} is lost: {gpu.error}"
                for ip, gpu in gpus
                if gpu.fault == gpu_sample.GpuFault.LOST
            ),
            throttled=tuple((ip, gpu.index, reason) for ip, gpu in gpus for reason in gpu.throttles),
            warnings=tuple(warning for node in nodes for warning in _warn(node)),
        )

    def _keep_ours(self, node: NodeSample) -> NodeSample:
        """The sample of a node without the GPUs that carry no rank."""
        ours = self._gpus_in_use.get(node.ip, frozenset())
        gpus = tuple(gpu for gpu in node.gpus.gpus if gpu.index in ours)
        return replace(node, gpus=replace(node.gpus, gpus=gpus))


def _describe(node: NodeSample) -> NodeHealth:
    gpus = tuple(
        GpuHealth(
            gpu=gpu.index,
            used_bytes=gpu.memory_used_bytes,
            temperature_c=gpu.temperature_c,
            reasons=tuple(gpu.throttles),
            error=gpu.error,
            xids=tuple(xid.xid for xid in gpu.xids),
        )
        for gpu in node.gpus.gpus
    )
    return NodeHealth(round(_memory_use(node), 3), gpus, node.gpus.error)


def _memory_use(node: NodeSample) -> float:
    return node.host.ram_used_bytes / max(1, node.host.ram_total_bytes)


def _warn(node: NodeSample) -> list[str]:
    """What is wrong with a node that still serves."""
    warnings = []
    if _memory_use(node) >= _WARN_AT:
        warnings.append(
            f"node {node.ip}: over {_WARN_AT:.0%} of its memory is in use; at {RAY_KILLS_AT:.0%} Ray kills ranks"
        )
    for gpu in node.gpus.gpus:
        heat = [reason for reason in gpu.throttles if gpu_sample.THROTTLES[reason] == "thermal"]
        if heat:
            warnings.append(f"node {node.ip}: GPU {gpu.index} is slowed down by heat")
        warnings += [
            f"node {node.ip}: GPU {gpu.index} reported Xid {xid.xid}: {xid.meaning}"
            for xid in gpu.xids
            if xid.of_the_gpu
        ]
    return warnings


class RankWatcher:
    """What one reservation's nodes and ranks are doing."""

    def __init__(self, group_id: str, nodes: Mapping[str, str], *, tensor_parallel_size: int) -> None:
        """Watch one reservation.

        Args:
            group_id: hexadecimal id of its placement group.
            nodes: node id -> address of every node that carries a rank.
        """
        self._group_id = group_id
        self._nodes = dict(nodes)
        self._tp = tensor_parallel_size

    def make_pulse(self) -> DriverPulse:
        """A pulse with what Ray knows of nodes and ranks."""
        nodes = ray_session.list_nodes()
        alive = {node.node_id for node in nodes}
        ranks = list_placed_ranks(self._group_id)
        gpus = tuple(node.gpus for node in nodes)
        return DriverPulse(
            gone=tuple(ip for node_id, ip in self._nodes.items() if node_id not in alive),
            dead=tuple(self._describe_dead(rank) for rank in ranks if rank.state == "DEAD"),
            pids={rank.find_number(self._tp): rank.pid for rank in ranks if rank.state == "ALIVE"},
            gpus=sum(gpus),
            node_gpus=gpus,
        )

    def _describe_dead(self, rank: Rank) -> DeadRank:
        return DeadRank(
            rank=rank.find_number(self._tp),
            ip=rank.ip or self._nodes.get(rank.node_id, ""),
            node=rank.node_id,
            pid=rank.pid,
            why=rank.death_cause,
            ended_at=rank.ended_at_ms,
        )
