"""The launch file: which model to serve and on what, read, checked and frozen before any machine is contacted."""

import copy
import importlib.resources
import json
import shlex
import ssl
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import JsonValue

from raylaunch.base.errors import LaunchFileError
from raylaunch.config import overrides, parallelism, schema, validation, yaml_reader
from raylaunch.config.blocks import FallbackLayout
from raylaunch.config.companions import check_companions
from raylaunch.config.file_content import fetch_content
from raylaunch.config.launch import LaunchConfig
from raylaunch.config.layers import BLOCKS, Key, LayeredValues, ValueSource, describe_path, flatten


def load(path: Path | None, *, sets: Sequence[str] = (), environ: Mapping[str, str]) -> LaunchConfig:
    """Read a launch: flags over variables over the file over defaults.

    Args:
        path: the launch file; None is the shipped demo.
        sets: of --set, "engine.max_model_len=8192" (values are YAML).
        environ: holds RAYLAUNCH_<BLOCK>__<FIELD> variables (values are YAML).

    Raises:
        LaunchFileError: with every problem found.
    """
    known = schema.find_schema()
    layered = LayeredValues()
    if path is None:
        content: bytes | None = (importlib.resources.files("raylaunch.data") / "demo.yaml").read_bytes()
    else:
        content = fetch_content(path, layered)
    if content is not None:
        yaml_reader.read_file(path, content, layered)
    overrides.read_variables(environ, known, layered)
    overrides.read_flags(sets, known, layered)
    overrides.read_vllm_key(environ, layered)
    return _finish(layered, path, known)


def with_values(
    config: LaunchConfig, changes: Mapping[str, JsonValue], *, without: Sequence[str] = (), why: str
) -> LaunchConfig:
    """A launch with other values, checked again.

    Args:
        changes: dotted key -> value.
        without: dotted keys to leave to their defaults.
        why: what the changed values' source is called.

    Raises:
        LaunchFileError: the changed launch does not hold.
    """
    sources = {tuple(key.split(".")): source for key, source in config.sources.items()}
    layered = LayeredValues({**config.dump(mask=False)}, sources)
    for key in without:
        block, _, field = key.partition(".")
        layered.find_block((block,)).pop(field, None)
    for key, value in changes.items():
        layered.put(tuple(key.split(".")), copy.deepcopy(value), ValueSource("derived", why))
    return _finish(layered, config.path, schema.find_schema())


def list_fallbacks(config: LaunchConfig) -> tuple[LaunchConfig, ...]:
    """The launch with each of its fallback layouts, in their order; without a fallback of their own.

    Raises:
        LaunchFileError: one of them does not hold.
    """
    key = "fallback.layouts"
    where = str(config.sources.get(key, ValueSource("default")))
    launches, problems = [], []
    for number, layout in enumerate(config.fallback.layouts, 1):
        problem = _judge_fallback(config, layout)
        if problem:
            problems.append(config.complain(key, f"entry {number}: {problem}"))
            continue
        try:
            changes = layout.changes | {"keep.locked": False}  # the lock is that of the launch's own layout
            launches.append(with_values(config, changes, without=[key], why=where))
        except LaunchFileError as error:
            problems += [f"{key}, entry {number}: {found}" for found in error.problems]
    if problems:
        raise _make_error(config.path, problems)
    return tuple(launches)


def _judge_fallback(config: LaunchConfig, layout: FallbackLayout) -> str:
    """Why a fallback layout could not replace the launch's own; "" where it could."""
    own, other = config.cluster, config.cluster.model_copy(update=layout.cluster)
    if config.replicas > 1:
        return (
            f"this launch has {config.replicas} replicas: while nodes are away, the replicas on the others serve; "
            "leave fallback out, or set cluster.replicas: 1"
        )
    if "served_model_name" in layout.engine:
        return "engine.served_model_name: a fallback keeps the model's names"
    if other.nodes >= own.nodes and other.gpus_per_node >= own.gpus_per_node:
        return (
            f"it needs {other.nodes} node(s) x {other.gpus_per_node} GPU(s), no less than the launch itself "
            f"({own.nodes} x {own.gpus_per_node}): set its cluster.nodes (example: cluster: {{nodes: 1}})"
        )
    return ""


def check_local_model(config: LaunchConfig) -> None:
    """Check heads and layers against the model's config.json, where it is on this machine.

    Raises:
        LaunchFileError: TP or PP cannot split the model.
    """
    if problems := parallelism.check_local_shape(config):
        raise _make_error(config.path, problems)


def describe_rows(config: LaunchConfig) -> list[tuple[str, JsonValue, str]]:
    """Key, value and source of every value, secrets masked (`format_value` writes a value as YAML does)."""
    rows = []
    for key, value in flatten(config.dump(mask=True)):
        dotted = ".".join(key)
        rows.append((dotted, value, str(config.sources.get(dotted, ValueSource("default")))))
    return rows


def format_value(value: JsonValue) -> str:
    """A value as one would write it in a launch file, on one line."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _finish(layered: LayeredValues, path: Path | None, known: schema.FileSchema) -> LaunchConfig:
    bad = _remove_bad(layered, validation.check_values(layered, known))
    values = {block: {**known.list_defaults(block), **layered.find_block((block,))} for block in BLOCKS}
    sources = {".".join(key): layered.find_source(key) for key, _ in flatten(layered.values)}
    sources = {key: source for key, source in sources.items() if source.kind != "default"}
    config = LaunchConfig.freeze(values, sources, None if path is None else path.absolute())
    problems = list(layered.problems)
    if not layered.unread:
        problems += parallelism.check_layout(config, bad)
        problems += _check_tls(config)
        problems += check_companions(config)
        needed = {parallelism.TP, parallelism.PP, "engine", "model", "model.path"}
        if config.model.path is not None and not bad & needed:
            problems += parallelism.check_local_shape(config)
    if problems:
        raise _make_error(path, problems)
    list_fallbacks(config)  # it may refuse
    return config


def _check_tls(config: LaunchConfig) -> list[str]:
    """No TLS option is without effect; who requires a certificate of every client requires one of raylaunch, too."""
    server = config.server
    alone = [name for name in ("ssl_keyfile", "ssl_ca_certs", "ssl_cert_reqs") if server.get(name)]
    if alone and not config.uses_tls:
        return [
            config.complain(f"server.{alone[0]}", "has no effect without ssl_certfile: the service would speak HTTP")
        ]
    if server.get("ssl_cert_reqs") and not server.get("ssl_ca_certs"):
        what = "needs ssl_ca_certs: without it no client's certificate is trusted"
        return [config.complain("server.ssl_cert_reqs", what)]
    if server.get("ssl_cert_reqs") != ssl.CERT_REQUIRED or config.client_cert is not None:
        return []
    return [
        config.complain(
            "server.ssl_cert_reqs",
            "2 requires a certificate of every client, and raylaunch is one (readiness, liveness probe, status): set "
            "keep.client_certfile (and keep.client_keyfile) to one that server.ssl_ca_certs signed",
        )
    ]


def _remove_bad(layered: LayeredValues, bad: set[Key]) -> set[str]:
    """Remove the fields with problems; their names ("engine.dtype"): what depends on them cannot be checked."""
    fields = {key[:2] for key in bad}
    for block, *names in fields:
        if names:
            layered.find_block((block,)).pop(names[0], None)
        else:
            layered.values[block] = {}
    layered.values = {block: layered.find_block((block,)) for block in BLOCKS}
    return {".".join(key) for key in fields}


def _make_error(path: Path | None, problems: Sequence[str]) -> LaunchFileError:
    most = validation.MAX_PROBLEMS
    shown = [*problems[:most], *([f"and {len(problems) - most} more"] if len(problems) > most else [])]
    name = describe_path(path)
    command = "raylaunch config" + ("" if path is None else f" {shlex.quote(name)}")
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    return LaunchFileError(
        f"{name} cannot be launched: {count}",
        fix=f"correct the values above; `{command}` checks them again",
        problems=shown,
    )
