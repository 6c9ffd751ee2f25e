"""The messages between the supervisor and its API server process; base.service_metrics.ServiceMetrics is one more.

Light: the supervisor imports it without vLLM.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from raylaunch.config.launch import LaunchConfig


@dataclass(frozen=True)
class SocketShare:
    """Which processes accept on the listening socket for one engine."""

    socket_fd: int
    """The bound listening socket."""
    api_servers: int
    """Their number."""
    loads_fd: int | None = None
    """Of the array of loads (engine/load_table.py); None: nothing else accepts on the socket."""
    first_slot: int = 0
    """The first of their slots in it."""
    private_fd: int | None = None
    """A second listening socket, for requests to this one of several replicas."""


@dataclass(frozen=True)
class ServeEngine:
    """To the API server: start the engine and serve it."""

    launch: LaunchConfig
    reservation: str
    """Hexadecimal id of the placement group."""
    ray_address: str
    env_vars: Mapping[str, str]
    """Environment of the engine's Ray workers."""
    share: SocketShare


@dataclass(frozen=True)
class Drain:
    """To the API server: accept nothing new, let running requests finish, end."""

    linger_s: float = 0.0
    """For so long, answer requests on open connections too, and close each after its answer."""


@dataclass(frozen=True)
class StopAccepting:
    """To the API server: its engine failed; leave new requests to other processes on the socket."""


@dataclass(frozen=True)
class FailClients:
    """To the API server: give every waiting client an error now, streams as an error event; then end."""

    why: str


@dataclass(frozen=True)
class Imported:
    """From the API server: vLLM is imported."""


@dataclass(frozen=True)
class EngineStarting:
    """From the API server: the engine is being started."""


@dataclass(frozen=True)
class EngineReady:
    """From the API server: the engine is up; its KV cache (blocks are per engine, whatever its TP x PP)."""

    kv_cache_tokens: int
    max_model_len: int
    task: str = "generate"
    """What it is served for: "generate", else vLLM's pooling task ("embed", "classify"), or "" where none is known."""


@dataclass(frozen=True)
class Accepting:
    """From the API server: it accepts connections; of several, all do."""


@dataclass(frozen=True)
class ApiServers:
    """From the API server: the processes that serve clients, whenever they change."""

    pids: tuple[int, ...]
    note: str = ""
    """What happened to one of them, or why they are fewer than ordered; for people."""


@dataclass(frozen=True)
class EngineIntroduction:
    """From one of several API servers to the process that forked it: how EngineCore introduced itself."""

    payload: bytes


@dataclass(frozen=True)
class EnginePulse:
    """From the API server, twice a second."""

    running: int = 0
    """Requests that clients wait for."""
    moves: int = 0
    """Outputs of the engine and changes of its KV cache's use, counted since the start."""
    is_dead: bool = False
    """Whether EngineCore died."""
    core_exit: int | None = None
    """Its exit status, negative for a signal; None while it runs."""
