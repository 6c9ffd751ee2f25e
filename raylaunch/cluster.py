"""Join Ray, wait for its GPUs, and give each rank its place.

Everything here talks to Ray's core only (no dashboard needed), and never to a cluster's processes: a cluster that
raylaunch did not start is joined and left, nothing more. The private one of demo and rehearsal is private_ray.py's.
"""

import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from raylaunch.errors import ClusterError, NotEnoughGpusError
from raylaunch.versions import RAY

NAMESPACE = "raylaunch"
_CONNECT_TIMEOUT_S = 5.0
_RESERVE_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class ClusterNode:
    """A living node of the Ray cluster."""

    node_id: str
    ip: str
    hostname: str
    gpus: int
    """GPUs it registered with Ray, whether free or not."""
    is_head: bool


@dataclass(frozen=True, slots=True)
class RankPlace:
    """Where a rank of the engine runs; rank = pp_rank x TP + tp_rank, vLLM's own order."""

    rank: int
    tp_rank: int
    pp_rank: int
    node: ClusterNode
    gpu: int | None = None
    """Index of the GPU on its node as Ray numbers them; None until Ray has reserved it."""


def find_address(environ: Mapping[str, str] = os.environ) -> str | None:
    """The address of the Ray cluster to join: RAY_ADDRESS, else that of the last `ray start` here, else None.

    Only the file that `ray start` leaves is asked. Ray's own "auto" also searches the process list, and would find the
    private cluster of somebody else's rehearsal.
    """
    if address := environ.get("RAY_ADDRESS", "").strip():
        return address
    noted = Path(environ.get("RAY_TMPDIR") or "/tmp", "ray", "ray_current_cluster")
    try:
        address = noted.read_text().strip()
    except OSError:
        return None
    return address if address and _accepts_connections(address) else None


def _accepts_connections(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_TIMEOUT_S):
            return True
    except (OSError, ValueError):
        return False


def join(address: str, *, env_vars: Mapping[str, str]) -> None:
    """Connect this process to Ray.

    Args:
        address: "host:port" of the cluster's GCS.
        env_vars: environment of every task this process starts.

    Raises:
        ClusterError: nobody listens there (Ray itself would retry for minutes), the versions differ, or no Ray node
            runs on this machine.
    """
    import ray

    if address.startswith("ray://"):
        raise ClusterError(
            f"RAY_ADDRESS={address}: a Ray Client address cannot carry a serving engine",
            fix="run raylaunch on a node of the cluster, with RAY_ADDRESS=<head ip>:6379",
        )
    if not _accepts_connections(address):
        raise ClusterError(
            f"Ray at {address}: nothing accepts connections there",
            fix="start it with `ray start --head --num-gpus=<GPUs>` on the head, or correct RAY_ADDRESS",
        )
    try:
        ray.init(
            address=address,
            namespace=NAMESPACE,
            runtime_env={"env_vars": dict(env_vars)},
            log_to_driver=False,
            configure_logging=False,
        )
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise ClusterError(
            f"Ray at {address}: cannot be joined: {str(error).strip().splitlines()[0]}",
            fix=f"a Ray node must run on this machine (`ray start --address={address}`), with Ray {RAY} as everywhere",
        ) from error


def list_nodes() -> tuple[ClusterNode, ...]:
    """All living nodes, the head first, then by address."""
    import ray

    nodes = (
        ClusterNode(
            node_id=node["NodeID"],
            ip=node["NodeManagerAddress"],
            hostname=node["NodeManagerHostname"],
            gpus=int(node["Resources"].get("GPU", 0)),
            is_head="node:__internal_head__" in node["Resources"],
        )
        for node in ray.nodes()
        if node["Alive"]
    )
    return tuple(sorted(nodes, key=lambda node: (not node.is_head, [part.zfill(3) for part in node.ip.split(".")])))


def count_gpus() -> int:
    """GPUs of the whole cluster, from `ray.cluster_resources()`."""
    import ray

    return int(ray.cluster_resources().get("GPU", 0))


def wait_for_gpus(
    *,
    nodes: int,
    gpus_per_node: int,
    wait_s: float,
    report: Callable[[Sequence[str]], None],
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
    look: Callable[[], tuple[int, tuple[ClusterNode, ...]]] = lambda: (count_gpus(), list_nodes()),
) -> tuple[ClusterNode, ...]:
    """Wait until `nodes` nodes have `gpus_per_node` GPUs each, and return those nodes.

    Args:
        wait_s: longest wait in seconds; 0 looks once.
        report: is given one line per node, and one for what is missing, at each look.
        look: how the cluster is seen: its GPU total, and its nodes.

    Raises:
        NotEnoughGpusError: after `wait_s`, with what was seen, what was expected and what to look at.
    """
    deadline = clock() + wait_s
    while True:
        total, seen = look()
        fit = [node for node in seen if node.gpus >= gpus_per_node]
        left_s = max(0.0, deadline - clock())
        report(_describe_wait(seen, nodes, gpus_per_node, total, left_s))
        if total >= nodes * gpus_per_node and len(fit) >= nodes:
            return tuple(fit[:nodes])
        if left_s <= 0:
            saw = "; ".join(f"{node.ip} with {node.gpus} GPUs" for node in seen) or "no node at all"
            raise NotEnoughGpusError(
                f"expected {nodes} nodes with {gpus_per_node} GPUs each ({nodes * gpus_per_node} in all), "
                f"saw {total} GPUs after {wait_s:.0f} s: {saw}",
                fix="look at `ray status`; a node joins with `ray start --address=<head ip>:6379 "
                f"--num-gpus={gpus_per_node}`; wait longer with --set cluster.wait_s=1200",
            )
        sleep(min(1.0, left_s))


def _describe_wait(seen: Sequence[ClusterNode], nodes: int, gpus_per_node: int, total: int, left_s: float) -> list[str]:
    lines = [
        f"{node.ip}: {'ready' if node.gpus >= gpus_per_node else 'too few GPUs'}, "
        f"{node.gpus} of {gpus_per_node} GPUs{' (head)' if node.is_head else ''}"
        for node in seen
    ]
    missing = nodes - sum(node.gpus >= gpus_per_node for node in seen)
    if missing > 0:
        lines.append(
            f"missing: {missing} of {nodes} nodes, {total} of {nodes * gpus_per_node} GPUs are here"
            f" | {left_s:.0f} s left"
        )
    return lines


def plan_places(nodes: Sequence[ClusterNode], *, tp: int, pp: int, tp_across_nodes: bool = False) -> list[RankPlace]:
    """Give each rank a node: a tensor-parallel group stays inside one node, pipeline stages go across nodes.

    Stages fill a node before the next one begins, so a request crosses the network as seldom as can be.

    Raises:
        ClusterError: the groups do not fit.
    """
    places: list[RankPlace] = []
    free = [node.gpus for node in nodes]
    at = 0
    for pp_rank in range(pp):
        while not tp_across_nodes and at < len(nodes) and free[at] < tp:
            at += 1
        for tp_rank in range(tp):
            while at < len(nodes) and free[at] < 1:
                at += 1
            if at == len(nodes):
                raise ClusterError(
                    f"{pp} groups of {tp} GPUs do not fit on nodes with "
                    f"{', '.join(str(node.gpus) for node in nodes)} GPUs",
                    fix="lower engine.tensor_parallel_size or raise cluster.nodes",
                )
            free[at] -= 1
            places.append(RankPlace(pp_rank * tp + tp_rank, tp_rank, pp_rank, nodes[at]))
    return places


@dataclass(frozen=True, slots=True)
class Reservation:
    """GPUs held for an engine: a Ray placement group with one bundle a rank."""

    group_id: str
    """Hexadecimal id of the placement group."""
    places: tuple[RankPlace, ...]

    def release(self) -> None:
        """Give the GPUs back; Ray ends what still runs on them."""
        import ray
        from ray.util.placement_group import PlacementGroup

        ray.util.remove_placement_group(PlacementGroup(ray.PlacementGroupID(bytes.fromhex(self.group_id))))


def reserve(places: Sequence[RankPlace], *, timeout_s: float = _RESERVE_TIMEOUT_S) -> Reservation:
    """Reserve one GPU per rank where it was planned, and learn the GPUs' indices.

    The reservation is a placement group of this process's Ray job: should this process die, Ray frees it and ends
    whatever runs in it.

    Args:
        timeout_s: longest wait for GPUs that somebody else holds, in seconds.

    Raises:
        NotEnoughGpusError: the GPUs are there but taken.
    """
    import ray

    group = ray.util.placement_group(
        [{"GPU": 1.0}] * len(places),
        strategy="PACK",
        bundle_label_selector=[{"ray.io/node-id": place.node.node_id} for place in places],
    )
    if not group.wait(timeout_s):
        ray.util.remove_placement_group(group)
        free = {node: int(resources.get("GPU", 0)) for node, resources in _free_resources().items()}
        told = {place.node.ip: free.get(place.node.node_id, 0) for place in places}
        raise NotEnoughGpusError(
            "the GPUs are there but taken: "
            + "; ".join(f"{ip} has {count} free" for ip, count in told.items())
            + f" of {len(places)} needed in all",
            fix="`raylaunch status` and `ray status` show who holds them; `raylaunch stop` ends a service of ours",
        )
    return Reservation(group.id.hex(), tuple(_find_gpu_indices(group, places)))


def _free_resources() -> dict[str, dict[str, float]]:
    from ray._private.state import available_resources_per_node  # Ray 2.60 has no public twin

    found: dict[str, dict[str, float]] = available_resources_per_node()
    return found


def _find_gpu_indices(group: Any, places: Sequence[RankPlace]) -> list[RankPlace]:
    """Work out each rank's GPU: vLLM gives a node's reserved GPUs to its ranks in ascending order."""
    reserved: dict[str, list[RankPlace]] = {}
    for place in places:
        reserved.setdefault(place.node.node_id, []).append(place)
    found: list[RankPlace] = []
    for ranks in reserved.values():
        if len(ranks) == ranks[0].node.gpus:
            indices = list(range(len(ranks)))
        else:  # somebody else has, or may get, the others: ask Ray which ones are ours
            indices = _ask_gpu_indices(group, [place.rank for place in ranks])
        found += [replace(place, gpu=index) for place, index in zip(ranks, indices, strict=True)]
    return sorted(found, key=lambda place: place.rank)


def _ask_gpu_indices(group: Any, bundles: Sequence[int]) -> list[int]:
    import ray
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    def tell_gpu() -> str:
        return str(ray.get_runtime_context().get_accelerator_ids()["GPU"][0])

    asked = [
        ray.remote(tell_gpu)
        .options(
            num_cpus=0,
            num_gpus=1,
            scheduling_strategy=PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=bundle),
        )
        .remote()
        for bundle in bundles
    ]
    return sorted(int(index) for index in ray.get(asked, timeout=_RESERVE_TIMEOUT_S))


def leave() -> None:
    """Disconnect this process from Ray; the cluster goes on."""
    import ray

    ray.shutdown()
