"""The blocks of a launch file that are raylaunch's own; engine and server have vLLM's options."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from raylaunch.config.defaults import DEMO_REPO


class _Block(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)


class ModelBlock(_Block):
    """Which weights."""

    repo: str | None = None
    """Hugging Face id, "owner/name"; clients may ask for the model by it. null: what is in the path, or without one the
    demo's model."""
    revision: str | None = None
    """Branch, tag or commit of the repo; null is its main branch."""
    path: str | None = None
    """Folder of the weights, the same on every node; null: a folder of raylaunch's own (one node only)."""

    @model_validator(mode="before")
    @classmethod
    def _fill_repo(cls, values: Any) -> Any:
        """Only a launch without repo and path means the demo's model."""
        given = isinstance(values, dict) and (values.get("repo") is not None or values.get("path") is not None)
        return values if given or not isinstance(values, dict) else {**values, "repo": DEMO_REPO}


class ClusterBlock(_Block):
    """Which machines."""

    nodes: int = Field(default=1, ge=1, le=1024)
    """Ray nodes of the launch: its engine spans them, or its replicas share them."""
    gpus_per_node: int = Field(default=1, ge=1, le=64)
    """GPUs of each node."""
    wait_s: float = Field(default=600.0, ge=0, le=86400)
    """Longest wait for the GPUs, in seconds."""
    local: bool = False
    """Start a private Ray on this machine where none runs (the demo); it stops with the service."""
    replicas: int | Literal["auto"] = 1
    """Engines of this launch, each on GPUs of its own; auto: as many as fit."""
    tp_across_nodes: bool = False
    """Allow a tensor-parallel group to span nodes: every layer then waits for the network."""
    check_network: bool = True
    """Try before each load whether the ranks reach each other; false starts the engine without."""


class KeepBlock(_Block):
    """How the service is kept up (docs/keep-serving.md derives the defaults)."""

    progress_limit_s: float = Field(default=60.0, ge=2, le=86400)
    """The engine is restarted as hung when requests run and no token was generated for this many seconds."""
    canary_s: float = Field(default=60.0, ge=0, le=86400)
    """An idle engine is asked for one token after this many seconds; 0 never asks."""
    drain_s: float = Field(default=30.0, ge=0, le=86400)
    """Longest time that running requests have to finish when the service stops, in seconds."""
    stand_by: bool = True
    """Keep a serving process with its imports done beside the engine, for about 0.5 GB of host memory."""
    force: bool = False
    """Start although `raylaunch plan` or `raylaunch netcheck` refuses (`serve --force`)."""
    locked: bool = False
    """Refuse to start where something differs from LAUNCH.lock.yaml (`serve --locked`)."""
    same_cause_limit: int = Field(default=5, ge=1, le=1000)
    """The service stops after this many starts in a row that fail for one cause."""
    client_certfile: str | None = None
    """PEM file of the certificate that raylaunch shows its own service, where server.ssl_cert_reqs is 2 (mTLS)."""
    client_keyfile: str | None = None
    """PEM file of its key; null: it is in client_certfile."""


class FallbackLayout(_Block):
    """What a fallback changes in the launch; each value replaces the launch's own."""

    cluster: dict[str, int] = Field(default_factory=dict)
    """nodes and gpus_per_node."""
    engine: dict[str, JsonValue] = Field(default_factory=dict)
    """AsyncEngineArgs by field name."""

    @property
    def changes(self) -> dict[str, JsonValue]:
        """Dotted key -> value."""
        blocks: dict[str, Mapping[str, JsonValue]] = {"cluster": self.cluster, "engine": self.engine}
        return {f"{block}.{key}": value for block, values in blocks.items() for key, value in values.items()}


class FallbackBlock(_Block):
    """What is served while nodes are away (docs/keep-serving.md)."""

    layouts: tuple[FallbackLayout, ...] = Field(default=(), strict=False)
    """Other node counts and engine values; the first one that fits the nodes that are left is served."""
    after_s: float = Field(default=300.0, ge=1, le=86400)
    """How long nodes have to be away first, in seconds."""
    return_: Literal["quiet", "now", "never"] = Field(default="quiet", alias="return")
    """When the launch's own layout is served again: at low traffic, as soon as its nodes are back, or by `raylaunch
    restart` only."""
    steady_s: float = Field(default=120.0, ge=1, le=86400)
    """How long its nodes must have been back, and traffic low, in seconds."""
    quiet_requests: int = Field(default=1, ge=0)
    """Traffic is low while no more requests run at once."""
