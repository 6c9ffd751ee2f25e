"""The launch file: what to serve and on what, read, checked and frozen before any machine is touched."""

import copy
import importlib.resources
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from raylaunch.base.errors import LaunchFileError
from raylaunch.base.ports import check_port_free
from raylaunch.config import overrides, parallelism, validation, vllm_schema, yaml_reader
from raylaunch.config.launch import DEFAULTS, ClusterBlock, KeepBlock, LaunchConfig, ModelBlock, _freeze
from raylaunch.config.layers import BLOCKS, Said, Source, describe_path, flatten
from raylaunch.config.parallelism import check_model_shape

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
        content = yaml_reader.fetch_content(path, said)
    if content is not None:
        yaml_reader.read_file(path, content, said)
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
    if problems := parallelism.check_shape_at_hand(config):
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


def _make_schema() -> validation.Schema:
    return validation.Schema.build(
        vllm_schema.find_table(), {"model": ModelBlock, "cluster": ClusterBlock, "keep": KeepBlock}
    )


def _finish(said: Said, path: Path | None, schema: validation.Schema) -> LaunchConfig:
    bad = validation.check_said(said, schema)
    values = {block: {**DEFAULTS.get(block, {}), **said.values[block]} for block in BLOCKS}
    sources = {".".join(key): said.find_source(key) for key, _ in flatten(said.values)}
    sources = {key: source for key, source in sources.items() if source.kind != "default"}
    config = _freeze(values, sources, None if path is None else path.absolute())
    problems = list(said.problems)
    if not said.unread:
        problems += parallelism.check_layout(config, bad)
        if config.model.path is not None and not bad & {
            parallelism.TP,
            parallelism.PP,
            "engine",
            "model",
            "model.path",
        }:
            problems += parallelism.check_shape_at_hand(config)
    if problems:
        raise _make_error(path, problems)
    return config


def _make_error(path: Path | None, problems: Sequence[str]) -> LaunchFileError:
    most = validation.MAX_PROBLEMS
    told = [*problems[:most], *([f"and {len(problems) - most} more"] if len(problems) > most else [])]
    name = describe_path(path)
    command = "raylaunch config" + ("" if path is None else f" {name}")
    count = "1 problem" if len(told) == 1 else f"{len(problems)} problems"
    return LaunchFileError(
        f"{name} cannot be launched: {count}",
        fix=f"mend the above; `{command}` checks it again",
        problems=told,
    )
