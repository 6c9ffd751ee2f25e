"""A launch: the launch file's content, merged, checked and frozen."""

import copy
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from raylaunch.base import paths
from raylaunch.base import text as words
from raylaunch.config.layers import Source, place_problem

DEFAULTS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {"engine": {"distributed_executor_backend": "ray"}, "server": {"host": "127.0.0.1", "port": 8080}}
)
"""The few vLLM options whose default is raylaunch's own; all others are left to vLLM."""


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


class KeepBlock(BaseModel):
    """`keep:` how the service is kept up (docs/keep-serving.md derives the defaults)."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    progress_limit_s: float = Field(default=60.0, ge=2, le=86400)
    """Requests run and no token has moved for so many seconds: the engine is wedged, and started again."""
    canary_s: float = Field(default=60.0, ge=0, le=86400)
    """After so many idle seconds it is asked for one token; 0 never asks."""
    drain_s: float = Field(default=30.0, ge=0, le=86400)
    """How long running requests may take to finish when the service is stopped."""
    stand_by: bool = True
    """While an engine serves, the next serving child has its imports done already, for about 0.5 GB of host memory."""
    same_cause_limit: int = Field(default=5, ge=1, le=1000)
    """So many starts in a row that fail for one cause end the service."""


@dataclass(frozen=True)
class LaunchConfig:
    """A launch, whole and checked."""

    model: ModelBlock
    cluster: ClusterBlock
    engine: Mapping[str, Any]
    """AsyncEngineArgs by field name; only what was said or what raylaunch itself defaults."""
    server: Mapping[str, Any]
    """vLLM's API server options by field name; likewise."""
    keep: KeepBlock
    sources: Mapping[str, Source]
    """Dotted key -> where its value came from; what is not in it is a default."""
    path: Path | None
    """The launch file; None for the demo."""

    @property
    def tensor_parallel_size(self) -> int:
        """GPUs that share every layer."""
        return int(self.engine.get("tensor_parallel_size", 1))

    @property
    def pipeline_parallel_size(self) -> int:
        """Stages that the layers are cut into."""
        return int(self.engine.get("pipeline_parallel_size", 1))

    @property
    def world_size(self) -> int:
        """vLLM workers of the engine: TP x PP (other kinds of parallelism are refused, see layout.py)."""
        return self.tensor_parallel_size * self.pipeline_parallel_size

    @property
    def host(self) -> str:
        """Address to serve on."""
        return str(self.server["host"])

    @property
    def port(self) -> int:
        """TCP port to serve on."""
        return int(self.server["port"])

    @property
    def api_keys(self) -> tuple[str, ...]:
        """Keys the server accepts; none leaves it open."""
        said = self.server.get("api_key") or ()
        return (said,) if isinstance(said, str) else tuple(said)

    @property
    def model_folder(self) -> Path:
        """Where the weights are, or will be."""
        if self.model.path is not None:
            return Path(self.model.path)
        return paths.home() / "models" / self.model.repo.replace("/", "--")

    @property
    def served_model_names(self) -> tuple[str, ...]:
        """Names the model answers to: what was said, else its repo and its path."""
        said = self.engine.get("served_model_name") or (self.model.repo, str(self.model_folder))
        return (said,) if isinstance(said, str) else tuple(said)

    def complain(self, key: str, what: str) -> str:
        """A problem of the value at `key` as a sentence with its place."""
        return place_problem(self.sources.get(key, Source("default")), key, what)

    def dump(self, *, mask: bool) -> dict[str, Any]:
        """All values by block, as they were said or defaulted; `mask` hides secrets."""
        values = {
            "model": self.model.model_dump(),
            "cluster": self.cluster.model_dump(),
            "engine": copy.deepcopy(dict(self.engine)),
            "server": copy.deepcopy(dict(self.server)),
            "keep": self.keep.model_dump(),
        }
        return {block: words.mask(fields) for block, fields in values.items()} if mask else values

    def to_json(self) -> str:
        """The whole launch for another process, secrets included: hand it over through a pipe and nothing else."""
        sources = {key: [source.kind, source.where] for key, source in self.sources.items()}
        path = None if self.path is None else str(self.path)
        return json.dumps({"values": self.dump(mask=False), "sources": sources, "path": path})

    @classmethod
    def from_json(cls, text: str) -> "LaunchConfig":
        """The launch that to_json wrote; it is not checked again."""
        fields = json.loads(text)
        sources = {key: Source(*source) for key, source in fields["sources"].items()}
        return _freeze(fields["values"], sources, fields["path"] and Path(fields["path"]))

    def __reduce__(self) -> tuple[Any, ...]:
        return LaunchConfig.from_json, (self.to_json(),)  # the frozen mappings do not pickle by themselves

    def fingerprint(self) -> str:
        """A short hash of all values (not of where they came from): equal launches are equal services."""
        return hashlib.sha256(json.dumps(self.dump(mask=False), sort_keys=True).encode()).hexdigest()[:16]


def _freeze(values: dict[str, Any], sources: dict[str, Source], path: Path | None) -> LaunchConfig:
    return LaunchConfig(
        model=ModelBlock(**values["model"]),
        cluster=ClusterBlock(**values["cluster"]),
        engine=MappingProxyType(values["engine"]),
        server=MappingProxyType(values["server"]),
        keep=KeepBlock(**values["keep"]),
        sources=MappingProxyType(sources),
        path=path,
    )
