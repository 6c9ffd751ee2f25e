"""Join Ray and wait for its GPUs.

Everything here talks to Ray's core only (no dashboard needed), and never to a cluster's processes: a cluster that
raylaunch did not start is joined and left, nothing more. The private one of demo and rehearsal is private_ray.py's.
"""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from raylaunch.base.errors import ClusterError, NotEnoughGpusError
from raylaunch.base.ports import accepts_connections
from raylaunch.base.versions import RAY

NAMESPACE = "raylaunch"


_CONNECT_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class ClusterNode:
    """A living node of the Ray cluster."""

    node_id: str
    ip: str
    hostname: str
    gpus: int
    """GPUs it registered with Ray, whether free or not."""
    is_head: bool


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
    return address if address and accepts_connections(address) else None


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
    if not accepts_connections(address):
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


def _describe_gpus(gpus: int, needed: int) -> str:
    return f"{gpus} of {needed} GPUs" if gpus <= needed else f"{gpus} GPUs, {needed} needed"


def _describe_wait(seen: Sequence[ClusterNode], nodes: int, gpus_per_node: int, total: int, left_s: float) -> list[str]:
    lines = [
        f"{node.ip}: {'ready' if node.gpus >= gpus_per_node else 'too few GPUs'}, "
        f"{_describe_gpus(node.gpus, gpus_per_node)}{' (head)' if node.is_head else ''}"
        for node in seen
    ]
    missing = nodes - sum(node.gpus >= gpus_per_node for node in seen)
    if missing > 0:
        lines.append(
            f"missing: {missing} of {nodes} nodes, {total} of {nodes * gpus_per_node} GPUs are here"
            f" | {left_s:.0f} s left"
        )
    return lines


def leave() -> None:
    """Disconnect this process from Ray; the cluster goes on."""
    import ray

    ray.shutdown()
