"""Join a Ray cluster and wait for its GPUs, through Ray's core alone: no dashboard is needed."""

import os
import shlex
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raylaunch.base.console import ProgressLine
from raylaunch.base.errors import ClusterError, NotEnoughGpusError
from raylaunch.base.ports import accepts_connections, refuses_connections
from raylaunch.base.versions import RAY

NAMESPACE = "raylaunch"
_CONNECT_TIMEOUT_S = 5.0
_RAYLET_TIMEOUT_S = 0.2


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
class GpuWait:
    """Which of the GPUs that a launch needs exist at one moment."""

    found: tuple[ClusterNode, ...]
    """All living nodes."""
    nodes: int
    """Needed, with `gpus_per_node` GPUs each."""
    gpus_per_node: int
    left_s: float
    """Until the wait times out."""

    @property
    def gpus(self) -> int:
        """Of all nodes of the cluster."""
        return sum(node.gpus for node in self.found)

    @property
    def missing_nodes(self) -> int:
        """How many of the needed nodes do not exist or have too few GPUs."""
        return max(0, self.nodes - len(self.list_fit()))

    def list_fit(self) -> tuple[ClusterNode, ...]:
        """The nodes that have enough GPUs."""
        return tuple(node for node in self.found if node.gpus >= self.gpus_per_node)

    def describe_missing(self) -> str:
        """How many nodes are missing and how many GPUs exist, as "1 of 2 nodes missing, 8 of 16 GPUs found"."""
        wanted = self.nodes * self.gpus_per_node
        return f"{self.missing_nodes} of {self.nodes} nodes missing, {self.gpus} of {wanted} GPUs found"

    def to_lines(self) -> list[ProgressLine]:
        """A line per node, and one for what is missing."""
        lines = []
        for node in self.found:
            state, needed = "ready" if node.gpus >= self.gpus_per_node else "too few GPUs", self.gpus_per_node
            gpus = f"{node.gpus} of {needed} GPUs" if node.gpus <= needed else f"{node.gpus} GPUs, {needed} needed"
            lines.append(ProgressLine(node.ip, f"{state}, {gpus}{' (head)' if node.is_head else ''}"))
        if self.missing_nodes:
            lines.append(ProgressLine("waiting", self.describe_missing(), f"{self.left_s:.0f} s left"))
        return lines


def find_address(environ: Mapping[str, str] = os.environ) -> str | None:
    """The address of the Ray cluster to join: RAY_ADDRESS, else that of the last `ray start` here, else None.

    Read from the file that `ray start` writes. Ray's own "auto" also searches the process list, and would find the
    private cluster of another user's rehearsal.
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
        ClusterError: connection refused (Ray itself would retry for minutes), the versions differ, or no Ray node
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
            fix=f"a Ray node must run on this machine (`ray start --address={shlex.quote(address)}`), "
            f"with Ray {RAY} as everywhere",
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
        if is_living(node)
    )
    return tuple(sorted(nodes, key=lambda node: (not node.is_head, [part.zfill(3) for part in node.ip.split(".")])))


def is_living(node: Mapping[str, Any]) -> bool:
    """Whether a node of Ray's table is alive, and its raylet's port is not refused.

    Ray marks a node dead up to half a minute after its raylet (2.60); the engine has failed because of it by then, and
    would be placed there again.
    """
    address, port = node["NodeManagerAddress"], node["NodeManagerPort"]
    return bool(node["Alive"]) and not refuses_connections(address, port, _RAYLET_TIMEOUT_S)


def count_nodes() -> int:
    """Living nodes of this machine's Ray cluster, which is joined for a moment; 0 where none answers."""
    address = find_address()
    if address is None:
        return 0
    try:
        join(address, env_vars={})
    except ClusterError:
        return 0
    try:
        return len(list_nodes())
    finally:
        leave()


def count_gpus() -> int:
    """GPUs of the cluster, from `ray.cluster_resources()`; those of a node that has just died may be among them."""
    import ray

    return int(ray.cluster_resources().get("GPU", 0))


def wait_for_gpus(
    *,
    nodes: int,
    gpus_per_node: int,
    wait_s: float,
    report: Callable[[GpuWait], None],
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
    inspect: Callable[[], tuple[ClusterNode, ...]] = list_nodes,
    count: Callable[[], int] = count_gpus,
) -> tuple[ClusterNode, ...]:
    """Wait until `nodes` nodes have `gpus_per_node` GPUs each, and return those nodes.

    Args:
        wait_s: longest wait in seconds; 0 checks once.
        report: called at each check, once a second.
        inspect: returns the cluster's living nodes.
        count: returns the GPUs that Ray has to give, which confirms what the nodes say.

    Raises:
        NotEnoughGpusError: after `wait_s`.
    """
    deadline = clock() + wait_s
    while True:
        found, confirmed = inspect(), count()
        state = GpuWait(found, nodes, gpus_per_node, left_s=max(0.0, deadline - clock()))
        report(state)
        if not state.missing_nodes and confirmed >= nodes * gpus_per_node:
            return state.list_fit()[:nodes]
        if state.left_s <= 0:
            saw = "; ".join(f"{node.ip} with {node.gpus} GPUs" for node in found) or "no node at all"
            raise NotEnoughGpusError(
                f"expected {nodes} nodes with {gpus_per_node} GPUs each ({nodes * gpus_per_node} in all), "
                f"saw {min(state.gpus, confirmed)} GPUs after {wait_s:.0f} s: {saw}",
                fix="`ray status` lists the nodes; a node joins with `ray start --address=<head ip>:6379 "
                f"--num-gpus={gpus_per_node}`; wait longer with --set cluster.wait_s=1200",
            )
        sleep(min(1.0, state.left_s))


def leave() -> None:
    """Disconnect this process from Ray; the cluster goes on."""
    import ray

    ray.shutdown()
