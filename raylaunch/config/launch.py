"""A launch: the launch file's content, merged, checked and frozen."""

import copy
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import JsonValue

from raylaunch.base import paths, text
from raylaunch.base.viewpoint import Viewpoint
from raylaunch.config.blocks import ClusterBlock, FallbackBlock, KeepBlock, ModelBlock
from raylaunch.config.layers import ValueSource, place_problem
from raylaunch.node.loader_files import DEFAULT_FORMAT


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
