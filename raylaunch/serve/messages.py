"""What the supervisor, its driver process and the keeper of its private Ray send each other."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from raylaunch.base.processes import ProcessId
from raylaunch.config.launch import LaunchConfig
from raylaunch.plan.history import Forecast


@dataclass(frozen=True)
class PlaceRanks:
    """To the driver process: join Ray, confirm and check its GPUs, give each rank its place."""

    launch: LaunchConfig
    standin: str | None
    """Platform that stands in for the GPUs: "cpu", "gpu", or None for real ones."""
    is_rehearsal: bool
    wait_s: float | None
    """Longest wait for the GPUs instead of the launch's own: a restart waits on."""
    env_vars: Mapping[str, str]
    """Environment of everything in Ray."""
    hold: bool
    """Wait for GoOn once Ray is joined: the GPUs are not free yet."""
    is_private: bool
    """Wait for JoinPrivateRay: it is being started."""
    first_node: int | None
    """Of several replicas: the node that this one tries first, in the order of their addresses."""
    fallbacks: tuple[LaunchConfig, ...] = ()
    """Fallback layouts to check on these nodes, too."""
    speaker: str = ""
    """What its lines of progress begin with; "" where there is one replica."""


@dataclass(frozen=True)
class JoinPrivateRay:
    """To the driver process: the private Ray is up."""

    address: str
    folder: str
    """Of its sockets and logs."""


@dataclass(frozen=True)
class GoOn:
    """To a driver process that was held: place the ranks."""


@dataclass(frozen=True)
class CheckLaunch:
    """To the driver process: could this other launch be served on these nodes?"""

    launch: LaunchConfig
    fallbacks: tuple[LaunchConfig, ...] = ()
    """Its fallback layouts."""


@dataclass(frozen=True)
class Joined:
    """From the driver process: it has joined Ray."""

    address: str


@dataclass(frozen=True)
class PlacedRank:
    """Where a rank runs."""

    rank: int
    tp_rank: int
    pp_rank: int
    ip: str
    gpu: int | None
    node: str
    """Its node's id in Ray."""
    pid: int | None = None
    """On its node, once the engine is ready."""
    replica: int = 0
    """Whose rank it is."""


@dataclass(frozen=True)
class Placed:
    """From the driver process: every rank has its GPU."""

    reservation: str
    """Hexadecimal id of the placement group."""
    env_vars: Mapping[str, str]
    ranks: tuple[PlacedRank, ...]
    fetch_s: float
    join_s: float
    wait_s: float
    check_s: float
    forecast: Forecast | None = None
    """Of the KV cache; None for logical GPUs, and where the model cannot be planned."""
    engine: Mapping[str, Any] = field(default_factory=dict)
    """Engine options that these nodes need: without peer access, no custom all-reduce."""


@dataclass(frozen=True)
class LaunchChecked:
    """From the driver process: the answer to CheckLaunch."""

    what: str
    """What keeps it from being served; "" where it could be."""
    fix: str


@dataclass(frozen=True)
class DeadRank:
    """A rank that died."""

    rank: int
    ip: str
    node: str
    pid: int
    why: str
    """Ray's reason."""
    ended_at: float
    """Milliseconds since 1970."""
    state: str = "DEAD"


@dataclass(frozen=True)
class GpuHealth:
    """A GPU as it was sampled last."""

    gpu: int
    used_bytes: int | None
    temperature_c: int | None
    reasons: tuple[str, ...]
    """Why it is throttled."""
    error: str
    xids: tuple[int, ...]


@dataclass(frozen=True)
class NodeHealth:
    """A node as it was sampled last."""

    memory_use: float
    """Of its RAM, 0 to 1."""
    gpus: tuple[GpuHealth, ...]
    error: str


@dataclass(frozen=True)
class DriverPulse:
    """From the driver process, twice a second: what Ray and the samplers see."""

    gone: tuple[str, ...] = ()
    """Addresses of nodes that died."""
    dead: tuple[DeadRank, ...] = ()
    pids: Mapping[int, int] = field(default_factory=dict)
    """Rank -> pid of the living ones."""
    gpus: int | None = None
    """Of all living nodes; None before the first pulse."""
    node_gpus: tuple[int, ...] = ()
    """Those of each living node."""
    nodes: Mapping[str, NodeHealth] = field(default_factory=dict)
    """By address."""
    lost_gpus: tuple[str, ...] = ()
    """A sentence for each."""
    throttled: tuple[tuple[str, int, str], ...] = ()
    """Node, GPU, reason."""
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class StartNodes:
    """To the keeper of a private Ray: PrivateRay.start's arguments."""

    nodes: int
    gpus_per_node: int
    env_vars: Mapping[str, str]
    real_gpus: bool = False


@dataclass(frozen=True)
class PrivateRayUp:
    """From the keeper: all nodes are up."""

    address: str
    folder: str
    """Of its sockets and logs."""
    leaders: tuple[ProcessId, ...]
    """The process of each node, which leads a process group."""
