"""The launch file: what to serve and on what, read, checked and frozen before any machine is touched."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class ModelBlock(BaseModel):
    """`model:` which weights."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    repo: str = "HuggingFaceTB/SmolLM2-135M-Instruct"
    """Hugging Face id, "owner/name"; clients may ask for the model by it."""
    revision: str | None = None
    """Branch, tag or commit of the repo; None is its main branch."""
    path: str | None = None
    """Folder of the weights, the same on every node; None: one of raylaunch's own (one node only)."""


class ClusterBlock(BaseModel):
    """`cluster:` which machines."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    nodes: int = Field(default=1, ge=1, le=1024)
    gpus_per_node: int = Field(default=1, ge=1, le=64)
    wait_s: float = Field(default=600.0, ge=0, le=86400)
    """Longest wait for the GPUs, in seconds."""
    local: bool = False
    """Start a private Ray on this machine where none runs (the demo); it ends with the service."""
    tp_across_nodes: bool = False
    """Allow a tensor-parallel group to span nodes: every layer then waits for the network."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where a value came from: kind "flag", "variable", "file" or "default", and the place in words."""

    kind: str
    where: str = ""


@dataclass(frozen=True)
class LaunchConfig:
    """A launch, whole and checked."""

    model: ModelBlock
    cluster: ClusterBlock
    engine: Mapping[str, Any]
    """AsyncEngineArgs by field name; only what was said or what raylaunch itself defaults."""
    server: Mapping[str, Any]
    """vLLM's API server options by field name; likewise."""
    sources: Mapping[str, Source]
    """Dotted key -> where its value came from."""
    path: Path | None
    """The launch file, None where only flags and variables spoke."""
