"""The agents of a pull: one on each node of a Ray cluster, or one in this process where there is none."""

import asyncio
import contextlib
import socket
from collections.abc import Coroutine, Iterable, Iterator, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

from raylaunch.base.errors import RaylaunchError, WeightsError
from raylaunch.cluster import ship
from raylaunch.cluster.ray_session import ClusterNode
from raylaunch.weights.node_agent import NodeAgent

_ALLOCATOR = MappingProxyType(
    {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_TRIM_THRESHOLD_": str(128 << 20)}
)
"""Environment of the agents. By glibc's defaults each of Ray's threads keeps chunks in its own arena, and the memory of
each chunk is returned to the kernel and faulted in again, which costs a tenth of the CPU time."""


class NodeLostError(WeightsError):
    """A node or its agent died."""

    def __init__(self, node: str, reason: str) -> None:
        super().__init__(f"{node} was lost: {reason}", fix="run the command again when the node is back: it resumes")
        self.node = node


class Agents(Protocol):
    """The agents, by node."""

    lanes: int

    def refresh(self) -> tuple[str, ...]:
        """Start an agent on each new node; returns the live nodes, the head first."""

    def has_changed(self) -> bool:
        """Whether nodes came or went since the last refresh."""

    async def call(self, node: str, method: str, *arguments: Any, lane: int = 0, **named: Any) -> Any:
        """Call an agent's method.

        Raises:
            NodeLostError: the node or its agent died.
            WeightsError: what the agent raised.
        """

    def find_handle(self, node: str, lane: int) -> Any:
        """The handle by which another node's agent calls this one."""


async def run_all(calls: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Run calls concurrently, wait for all of them, and raise the first error."""
    for outcome in await asyncio.gather(*calls, return_exceptions=True):
        if outcome is not None:
            raise outcome


@contextlib.contextmanager
def naming(node: str) -> Iterator[None]:
    """An error that the block raises starts with the node's name."""
    try:
        yield
    except NodeLostError:
        raise  # names it already
    except WeightsError as error:
        error.what = f"{node}: {error.what}"
        error.args = (error.what,)
        raise


def find_host(node: str) -> str:
    """The IP address in a node's name. After a restart of Ray on a host, Ray still lists the dead node for a while."""
    return node.partition(" ")[0]


class LocalAgents:
    """This machine alone, without Ray."""

    lanes = 1

    def __init__(self, folder: Path) -> None:
        self._name = socket.gethostname()
        self._agent = NodeAgent(str(folder))

    def refresh(self) -> tuple[str, ...]:
        """This machine."""
        return (self._name,)

    def has_changed(self) -> bool:
        """Never."""
        return False

    async def call(self, node: str, method: str, *arguments: Any, lane: int = 0, **named: Any) -> Any:  # noqa: ARG002
        """Call the agent's method."""
        return await getattr(self._agent, method)(*arguments, **named)

    def find_handle(self, node: str, lane: int) -> Any:
        """Never called: there is one node."""
        raise NotImplementedError


def _choose_lanes() -> int:
    """A lane transfers about 1 GB/s and uses two cores; take at most a quarter of the cores."""
    import ray

    cores = min((int(node["Resources"].get("CPU", 1)) for node in ray.nodes() if node["Alive"]), default=1)
    return max(1, min(4, cores // 4))


class RayAgents:
    """Async actors pinned to the nodes of the cluster that this process has joined; they stop with its job."""

    def __init__(self, folder: Path, *, lanes: int | None = None) -> None:
        """`lanes`: agents on each node, each a process of its own; None: by the cores of the smallest node."""
        self.folder, self.lanes = folder, lanes or _choose_lanes()
        self._nodes: dict[str, ClusterNode] = {}
        self._handles: dict[str, list[Any]] = {}
        self._lost: set[str] = set()

    def refresh(self) -> tuple[str, ...]:
        """List the live nodes, and start an agent on new ones and where the agent died."""
        alive = self._list()
        gone = {name for name, node in self._nodes.items() if alive.get(name) != node}
        for name in [name for name in self._handles if name in gone | self._lost]:
            for handle in self._handles.pop(name):
                self._end(handle)
        self._lost.clear()
        self._nodes = alive
        for name, node in alive.items():
            if name not in self._handles:
                self._handles[name] = [self._start(node) for _ in range(self.lanes)]
        return tuple(alive)

    def has_changed(self) -> bool:
        """Whether nodes came, went, or lost their agent."""
        return bool(self._lost) or self._list() != self._nodes

    async def call(self, node: str, method: str, *arguments: Any, lane: int = 0, **named: Any) -> Any:
        """Call an agent's method."""
        import ray

        try:
            return await getattr(self.find_handle(node, lane), method).remote(*arguments, **named)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, RaylaunchError):
                raise error.cause from None
            raise
        except ray.exceptions.RayError as error:
            self._lost.add(node)
            raise NodeLostError(node, str(error).strip().splitlines()[0]) from None

    def find_handle(self, node: str, lane: int) -> Any:
        """The agent's actor handle.

        Raises:
            NodeLostError: the node left the cluster, or has another name now.
        """
        try:
            return self._handles[node][lane]
        except KeyError:
            self._lost.add(node)
            raise NodeLostError(node, "it left the cluster") from None

    def find_folder(self, node: ClusterNode) -> Path:  # noqa: ARG002 (a benchmark's nodes share one file system)
        """The model's path on a node: the same everywhere."""
        return self.folder

    def _list(self) -> dict[str, ClusterNode]:
        from raylaunch.cluster import ray_session

        nodes = ray_session.list_nodes()
        serving: Sequence[ClusterNode] = [node for node in nodes if node.gpus] or nodes
        ips = [node.ip for node in serving]
        return {node.ip if ips.count(node.ip) == 1 else f"{node.ip} ({node.node_id[:6]})": node for node in serving}

    def _start(self, node: ClusterNode) -> Any:
        import ray

        return (
            ray.remote(NodeAgent)
            .options(
                num_cpus=0,
                max_restarts=0,
                enable_task_events=False,  # else Ray keeps all arguments of a second's calls for its report (2.60)
                runtime_env={"env_vars": dict(_ALLOCATOR)},
                scheduling_strategy=ship.on_node(node.node_id),
            )
            .remote(str(self.find_folder(node)))
        )

    def _end(self, handle: Any) -> None:
        import ray

        ray.kill(handle)
