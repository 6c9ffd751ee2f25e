"""The launch file: what to serve and on what, read, checked and frozen before any machine is touched."""

import copy
import hashlib
import importlib.resources
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from raylaunch import launchcheck, launchfile, layout, options, overrides, paths, words
from raylaunch.errors import LaunchFileError
from raylaunch.layout import check_model_shape
from raylaunch.ports import check_port_free
from raylaunch.said import BLOCKS, Said, Source, describe_path, flatten, place_problem

__all__ = [
    "ClusterBlock",
    "KeepBlock",
    "LaunchConfig",
    "ModelBlock",
    "Source",
    "check_model_at_hand",
    "check_model_shape",
    "check_port_free",
    "describe_rows",
    "load",
    "with_values",
]

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


def load(path: Path | None, *, sets: Sequence[str] = (), environ: Mapping[str, str]) -> LaunchConfig:
    """Read a launch: flags over variables over the file over defaults.

    Args:
        path: the launch file; None is the shipped demo.
        sets: of --set, "engine.max_model_len=8192" (values are YAML).
        environ: holds RAYLAUNCH_<BLOCK>__<FIELD> variables (values are YAML).

    Raises:
        LaunchFileError: with every problem found.
    """
    schema = _make_schema()
    said = Said()
    if path is None:
        content: bytes | None = (importlib.resources.files("raylaunch.data") / "demo.yaml").read_bytes()
    else:
        content = launchfile.fetch_content(path, said)
    if content is not None:
        launchfile.read_file(path, content, said)
    overrides.read_variables(environ, schema, said)
    overrides.read_flags(sets, schema, said)
    return _finish(said, path, schema)


def with_values(
    config: LaunchConfig, changes: Mapping[str, Any], *, without: Sequence[str] = (), why: str
) -> LaunchConfig:
    """A launch with other values, checked anew.

    Args:
        changes: dotted key -> value.
        without: dotted keys to leave to their defaults.
        why: what the changed values' source is called.

    Raises:
        LaunchFileError: the changed launch does not hold.
    """
    values = config.dump(mask=False)
    sources = {tuple(key.split(".")): source for key, source in config.sources.items()}
    said = Said({block: values[block] for block in BLOCKS}, sources)
    for key in without:
        block, _, field = key.partition(".")
        said.values[block].pop(field, None)
    for key, value in changes.items():
        said.put(tuple(key.split(".")), copy.deepcopy(value), Source("derived", why))
    return _finish(said, config.path, _make_schema())


def check_model_at_hand(config: LaunchConfig) -> None:
    """Check heads and layers against the model's config.json, where it lies on this machine.

    Raises:
        LaunchFileError: TP or PP cannot split it.
    """
    if problems := layout.check_shape_at_hand(config):
        raise _make_error(config.path, problems)


def describe_rows(config: LaunchConfig) -> list[tuple[str, Any, str]]:
    """Key, value and source of every value, secrets masked (`format_value` writes a value as YAML does)."""
    rows = []
    for key, value in flatten(config.dump(mask=True)):
        dotted = ".".join(key)
        rows.append((dotted, value, str(config.sources.get(dotted, Source("default")))))
    return rows


def format_value(value: Any) -> str:
    """A value as one would write it in a launch file, on one line."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _make_schema() -> launchcheck.Schema:
    return launchcheck.Schema.build(
        options.find_table(), {"model": ModelBlock, "cluster": ClusterBlock, "keep": KeepBlock}
    )


def _finish(said: Said, path: Path | None, schema: launchcheck.Schema) -> LaunchConfig:
    bad = launchcheck.check_said(said, schema)
    values = {block: {**DEFAULTS.get(block, {}), **said.values[block]} for block in BLOCKS}
    sources = {".".join(key): said.find_source(key) for key, _ in flatten(said.values)}
    sources = {key: source for key, source in sources.items() if source.kind != "default"}
    config = _freeze(values, sources, None if path is None else path.absolute())
    problems = list(said.problems)
    if not said.unread:
        problems += layout.check_layout(config, bad)
        if config.model.path is not None and not bad & {layout.TP, layout.PP, "engine", "model", "model.path"}:
            problems += layout.check_shape_at_hand(config)
    if problems:
        raise _make_error(path, problems)
    return config


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


def _make_error(path: Path | None, problems: Sequence[str]) -> LaunchFileError:
    most = launchcheck.MAX_PROBLEMS
    told = [*problems[:most], *([f"and {len(problems) - most} more"] if len(problems) > most else [])]
    name = describe_path(path)
    command = "raylaunch config" + ("" if path is None else f" {name}")
    count = "1 problem" if len(told) == 1 else f"{len(problems)} problems"
    return LaunchFileError(
        f"{name} cannot be launched: {count}",
        fix=f"mend the above; `{command}` checks it again",
        problems=told,
    )
