"""The messages between the supervisor and its API server process; base.service_metrics.ServiceMetrics is one more.

Light: the supervisor imports it without vLLM.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from raylaunch.config.launch import LaunchConfig


@dataclass(frozen=True)
class ServeEngine:
    """To the API server: start the engine and serve it."""

    launch: LaunchConfig
    reservation: str
    """Hexadecimal id of the placement group."""
    ray_address: str
    env_vars: Mapping[str, str]
    """Environment of the engine's Ray workers."""
    socket_fd: int
    """The bound listening socket."""


@dataclass(frozen=True)
class Drain:
    """To the API server: accept nothing new, let running requests finish, end."""


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


@dataclass(frozen=True)
class Accepting:
    """From the API server: it accepts connections."""


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
