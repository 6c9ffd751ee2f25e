"""A launch: the launch file's content, merged, checked and frozen."""

import copy
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from raylaunch.base import paths, text
from raylaunch.base.viewpoint import Viewpoint
from raylaunch.config.defaults import DEMO_REPO
from raylaunch.config.layers import ValueSource, place_problem
from raylaunch.node.loader_files import DEFAULT_FORMAT


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


@dataclass(frozen=True)
class LaunchConfig:
    """A launch, complete and checked."""

    model: ModelBlock
    cluster: ClusterBlock
    engine: Mapping[str, Any]
    """AsyncEngineArgs by field name; only what was set or what raylaunch itself defaults."""
    server: Mapping[str, Any]
    """vLLM's API server options by field name; likewise."""
    keep: KeepBlock
    fallback: FallbackBlock
    sources: Mapping[str, ValueSource]
    """Dotted key -> where its value came from; a key that is missing has its default."""
    path: Path | None
    """The launch file; None for the demo."""

    @classmethod
    def freeze(
        cls, values: dict[str, dict[str, JsonValue]], sources: dict[str, ValueSource], path: Path | None
    ) -> "LaunchConfig":
        """A launch from checked values by block."""
        return cls(
            model=ModelBlock.model_validate(values["model"]),
            cluster=ClusterBlock.model_validate(values["cluster"]),
            engine=MappingProxyType(values["engine"]),
            server=MappingProxyType(values["server"]),
            keep=KeepBlock.model_validate(values["keep"]),
            fallback=FallbackBlock.model_validate(values.get("fallback", {})),
            sources=MappingProxyType(sources),
            path=path,
        )

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
        """vLLM workers of the engine: TP x PP (other kinds of parallelism are refused, see parallelism.py)."""
        return self.tensor_parallel_size * self.pipeline_parallel_size

    @property
    def nodes_per_replica(self) -> int:
        """Nodes that one of several replicas takes: one that it fits into, else complete ones."""
        gpus, tp = self.cluster.gpus_per_node, self.tensor_parallel_size
        if tp > gpus:
            return -(-self.world_size // gpus)
        return 1 if self.world_size <= gpus else -(-self.pipeline_parallel_size // (gpus // tp))

    @property
    def replicas_per_node(self) -> int:
        """Replicas that share a node; 1 where one takes a node or more."""
        return max(1, self.cluster.gpus_per_node // self.world_size)

    @property
    def fitting_replicas(self) -> int:
        """Replicas that fit into the launch's nodes."""
        return self.cluster.nodes // self.nodes_per_replica * self.replicas_per_node

    @property
    def replicas(self) -> int:
        """Engines of the service."""
        return self.fitting_replicas if self.cluster.replicas == "auto" else self.cluster.replicas

    def for_replica(self) -> "LaunchConfig":
        """The launch of one of its replicas: as an engine of its own, on its share of the nodes."""
        if self.replicas == 1:
            return self
        gpus = min(self.world_size, self.cluster.gpus_per_node)
        share = {"nodes": self.nodes_per_replica, "gpus_per_node": gpus, "replicas": 1}
        return replace(self, cluster=self.cluster.model_copy(update=share))

    @property
    def max_model_len(self) -> int | None:
        """Longest prompt and answer together, in tokens; None: the model's own limit."""
        return self.engine.get("max_model_len")

    @property
    def load_format(self) -> str:
        """How vLLM loads the weights."""
        return str(self.engine.get("load_format") or DEFAULT_FORMAT)

    @property
    def host(self) -> str:
        """Address to serve on."""
        return str(self.server["host"])

    @property
    def port(self) -> int:
        """TCP port to serve on."""
        return int(self.server["port"])

    @property
    def uses_tls(self) -> bool:
        """Whether the server speaks HTTPS."""
        return bool(self.server.get("ssl_certfile"))

    @property
    def client_cert(self) -> tuple[Path, Path | None] | None:
        """PEM files of the certificate and key that raylaunch shows its own service (mTLS)."""
        certificate, key = self.keep.client_certfile, self.keep.client_keyfile
        return None if certificate is None else (Path(certificate), Path(key) if key else None)

    @property
    def api_keys(self) -> tuple[str, ...]:
        """Keys that the server accepts; none leaves it open."""
        keys = self.server.get("api_key") or ()
        return (keys,) if isinstance(keys, str) else tuple(keys)

    @property
    def model_folder(self) -> Path:
        """Folder of the weights, which need not exist yet."""
        if self.model.path is not None:
            return Path(self.model.path)
        assert self.model.repo is not None  # ModelBlock fills it
        return paths.home() / "models" / self.model.repo.replace("/", "--")

    @property
    def model_name(self) -> str:
        """The model's repo, else its folder, for messages."""
        return self.model.repo or str(self.model_folder)

    def command(self, *words: str) -> str:
        """A command with this launch, as the reader types it."""
        view = Viewpoint.of_this_process()
        return view.command(*words, *filter(None, [view.launch or str(self.path or "")]))

    @property
    def pull_command(self) -> str:
        """The command that fetches the model to every node."""
        return self.command("weights", "pull")

    @property
    def served_model_names(self) -> tuple[str, ...]:
        """Names that the model answers to: served_model_name, else its repo and its path; its path and its folder's
        name where it has no repo. A path may end in a slash."""
        if names := self.engine.get("served_model_name"):
            return (names,) if isinstance(names, str) else tuple(names)
        path = str(self.model_folder)
        names = (self.model.repo, path, f"{path}/") if self.model.repo else (path, self.model_folder.name, f"{path}/")
        return tuple(dict.fromkeys(name for name in names if name))

    def with_engine(self, options: Mapping[str, Any]) -> "LaunchConfig":
        """This launch with other engine options."""
        return replace(self, engine=MappingProxyType({**self.engine, **options})) if options else self

    def complain(self, key: str, what: str) -> str:
        """A problem of the value at `key` as a sentence with its place."""
        return place_problem(self.sources.get(key, ValueSource("default")), key, what)

    def dump(self, *, mask: bool) -> dict[str, dict[str, JsonValue]]:
        """All values by block, set or defaulted; `mask` hides secrets."""
        values = {
            "model": self.model.model_dump(),
            "cluster": self.cluster.model_dump(),
            "engine": copy.deepcopy(dict(self.engine)),
            "server": copy.deepcopy(dict(self.server)),
            "keep": self.keep.model_dump(),
            "fallback": self.fallback.model_dump(mode="json", by_alias=True),
        }
        return {block: text.mask(fields) for block, fields in values.items()} if mask else values

    def to_json(self) -> str:
        """The launch for another process, secrets included: hand it over through a pipe only."""
        sources = {key: [source.kind, source.where] for key, source in self.sources.items()}
        path = None if self.path is None else str(self.path)
        return json.dumps({"values": self.dump(mask=False), "sources": sources, "path": path})

    @classmethod
    def from_json(cls, document: str) -> "LaunchConfig":
        """The launch that to_json wrote; it is not checked again."""
        fields = json.loads(document)
        sources = {key: ValueSource(*source) for key, source in fields["sources"].items()}
        return cls.freeze(fields["values"], sources, fields["path"] and Path(fields["path"]))

    def __reduce__(self) -> tuple[Any, ...]:
        return LaunchConfig.from_json, (self.to_json(),)  # the frozen mappings do not pickle by themselves

    def fingerprint(self) -> str:
        """A short hash of all values (not of where they came from): equal launches are equal services."""
        return hashlib.sha256(json.dumps(self.dump(mask=False), sort_keys=True).encode()).hexdigest()[:16]
