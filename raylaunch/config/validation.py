"""Checks keys and values of a launch against the options tables: every problem, each with its place."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

from pydantic import BaseModel

from raylaunch.base.text import find_nearest, is_secret, quote
from raylaunch.config.layers import BLOCKS, Key, Said
from raylaunch.config.type_options import Describer, find_bounds
from raylaunch.config.vllm_schema import Option, Options, Table, check, find_kind

MAX_PROBLEMS = 50
"""More are counted, not told."""

_ABBREVIATIONS = {
    "tp": "tensor_parallel_size",
    "pp": "pipeline_parallel_size",
    "dp": "data_parallel_size",
    "context_length": "max_model_len",
    "gpus": "gpus_per_node",
}
_EXAMPLES = {
    "repo": "HuggingFaceTB/SmolLM2-135M-Instruct",
    "path": "/data/model",
    "nodes": "2",
    "gpus_per_node": "8",
    "wait_s": "600",
    "progress_limit_s": "60",
    "canary_s": "60",
    "drain_s": "30",
    "stand_by": "true",
    "same_cause_limit": "5",
    "tensor_parallel_size": "4",
    "pipeline_parallel_size": "2",
    "dtype": "float16",
    "max_model_len": "8192",
    "max_num_seqs": "256",
    "gpu_memory_utilization": "0.9",
    "kv_cache_memory_bytes": "536870912",
    "host": "127.0.0.1",
    "port": "8080",
}
_MULTI_NODE = "is a word of vLLM's own multi-node executor; with Ray, cluster.nodes says it"
_REFUSED: Mapping[Key, str] = {
    ("engine", "model"): "the model is said in its own block: model.repo (Hugging Face id) and model.path (folder)",
    ("engine", "revision"): "the model is said in its own block: model.revision",
    **{("engine", name): _MULTI_NODE for name in ("nnodes", "node_rank", "master_addr", "master_port")},
    ("server", "uds"): "raylaunch serves on server.host and server.port",
}
_REPO = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Schema:
    """What every block may say."""

    vllm: str
    """The release of vLLM whose options these are."""
    blocks: Mapping[str, Options]
    classes: Mapping[str, Options]

    @classmethod
    def build(cls, table: Table, own: Mapping[str, type[BaseModel]]) -> "Schema":
        """The schema of raylaunch's own blocks and vLLM's tables, narrowed to what this launcher can carry."""
        server = dict(table.server)
        server["host"] = replace(server["host"], kinds=("str",))
        server["port"] = replace(server["port"], ge=1, le=65535)
        server["api_key"] = replace(server["api_key"], kinds=("str", *server["api_key"].kinds))
        blocks = {name: _describe_model(model) for name, model in own.items()}
        blocks |= {"engine": table.engine, "server": server}
        return cls(table.vllm, {block: _add_examples(options) for block, options in blocks.items()}, table.classes)

    def find_option(self, key: Key) -> Option | None:
        """The option at `key`, also inside vLLM's config classes; None where nothing is known of it."""
        options: Options = self.blocks.get(key[0], {})
        for name in key[1:-1]:
            option = options.get(name)
            options = self.classes.get(option.config or "", {}) if option else {}
        return options.get(key[-1])


def _add_examples(options: Options) -> Options:
    return {name: replace(option, example=_EXAMPLES.get(name, "")) for name, option in options.items()}


def _describe_model(model: type[BaseModel]) -> Options:
    describer = Describer()
    return {
        name: Option.from_json(describer.describe_type(field.annotation) | find_bounds(field.metadata))
        for name, field in model.model_fields.items()
    }


def check_said(said: Said, schema: Schema) -> set[str]:
    """Complain about every key and value that does not fit, and take it out of `said`.

    Returns:
        The fields that were taken out ("engine.dtype"), of which no more can be said.
    """
    checker = _Checker(said, schema)
    for block, values in [*said.values.items()]:
        if block not in BLOCKS:
            checker.complain_unknown_block(block)
        elif values is None:
            said.values[block] = {}
        elif not isinstance(values, dict):
            said.complain((block,), "expected a block of `name: value`")
            checker.bad.add((block,))
        else:
            checker.check_block(values, schema.blocks[block], (block,))
    _check_own_rules(said, checker.bad)
    bad = {key[:2] for key in checker.bad}
    for key in bad:
        if len(key) == 1:
            said.values[key[0]] = {}
        else:
            said.values[key[0]].pop(key[1], None)
    said.values = {block: said.values.get(block, {}) for block in BLOCKS}
    return {".".join(key) for key in bad}


class _Checker:
    def __init__(self, said: Said, schema: Schema) -> None:
        self.said = said
        self.schema = schema
        self.bad: set[Key] = set()

    def check_block(self, values: Mapping[str, Any], options: Options, key: Key) -> None:
        for name, value in values.items():
            if len(self.said.problems) > MAX_PROBLEMS:
                self.bad.add((*key, name))
                continue
            option, path = options.get(name), (*key, name)
            if option is None:
                self._complain_unknown(name, value, options, path)
            elif (reason := _REFUSED.get(path)) is not None:
                self._complain(path, reason)
            else:
                self.check_value(option, value, path)

    def check_value(self, option: Option, value: Any, path: Key) -> None:
        problems = [*check(option, value, secret=any(map(is_secret, path)))]
        for problem in problems:
            named = (
                f"vLLM {self.schema.vllm} has no such dtype: " if path[-1] == "dtype" and "choice" in problem else ""
            )
            self._complain(path, named + problem)
        if option.config in self.schema.classes and isinstance(value, dict):
            self.check_block(value, self.schema.classes[option.config or ""], path)
        elif option.items is not None and option.items.config is not None and not problems:
            for number, item in enumerate(value or ()):
                self.check_value(option.items, item, (*path, str(number)))

    def _complain(self, path: Key, what: str) -> None:
        self.bad.add(path)
        self.said.complain(path, what)

    def _complain_unknown(self, name: str, value: Any, options: Options, path: Key) -> None:
        nearest = _ABBREVIATIONS.get(name) if _ABBREVIATIONS.get(name) in options else find_nearest(name, options)
        plain = name.replace("-", "_")
        homes = [block for block in BLOCKS if plain in self.schema.blocks[block] and block != path[0]]
        if nearest != plain and homes:
            self._complain(path, f"unknown key; it belongs to the {homes[0]} block ({homes[0]}.{plain})")
        elif nearest is not None:
            secret = isinstance(value, str) and (is_secret(name) or is_secret(nearest))
            example = _make_example(nearest, options[nearest], value, secret=secret)
            self._complain(path, f"unknown key; nearest is {nearest} (example: {example})")
        else:
            self._complain(
                path,
                f"unknown key: vLLM {self.schema.vllm} has none like it"
                if path[0] in ("engine", "server")
                else f"unknown key; there are {', '.join(options)}",
            )

    def complain_unknown_block(self, block: str) -> None:
        if len(self.said.problems) > MAX_PROBLEMS:
            return
        plain = block.replace("-", "_")
        homes = [name for name in BLOCKS if plain in self.schema.blocks[name]]
        nearest = find_nearest(block, BLOCKS)
        if homes and nearest is None:
            hint = f"it belongs to the {homes[0]} block ({homes[0]}.{plain})"
        else:
            hint = f"nearest is {nearest}" if nearest else f"there are {', '.join(BLOCKS)}"
        self.said.complain((block,), f"unknown block; {hint}")


def _make_example(name: str, option: Option, value: Any, *, secret: bool) -> str:
    fits = find_kind(value) in ("bool", "int", "float", "str") and not [*check(option, value)]
    shown = option.make_example() if not fits or secret else str(value) if _is_plain(value) else quote(value)
    return f"{name}: {shown}"


def _is_plain(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[A-Za-z/][\w./-]{0,50}", value) is not None


def _check_own_rules(said: Said, bad: set[Key]) -> None:
    """What raylaunch asks of single values beyond their kind."""
    rules = {
        ("model", "repo"): _check_repo,
        ("model", "path"): _check_model_path,
        ("engine", "distributed_executor_backend"): _check_executor,
        ("server", "host"): _check_host,
        ("server", "api_key"): _check_api_key,
    }
    for key, rule in rules.items():
        block = said.values.get(key[0])
        if key not in bad and isinstance(block, dict) and key[1] in block and (what := rule(block[key[1]])):
            bad.add(key)
            said.complain(key, what)


def _check_repo(repo: str) -> str | None:
    if _REPO.fullmatch(repo):
        return None
    hint = "a folder goes into model.path" if repo.startswith(("/", ".", "~")) else "it is owner/name"
    return f"{quote(repo)} is no Hugging Face id; {hint} (example: repo: HuggingFaceTB/SmolLM2-135M-Instruct)"


def _check_model_path(path: str | None) -> str | None:
    if path is None or (PurePosixPath(path).is_absolute() and ".." not in PurePosixPath(path).parts):
        return None
    return f"{quote(path)} is not absolute, but has to be the same folder on every node (example: path: /data/model)"


def _check_executor(backend: str | None) -> str | None:
    if backend == "ray":
        return None
    return f"{quote(backend)} cannot reach other nodes or the places that raylaunch reserves; leave it out: it is ray"


def _check_host(host: str) -> str | None:
    if re.fullmatch(r"[\w.:%-]{1,253}", host, re.ASCII):
        return None
    return f"{quote(host)} is no address; 127.0.0.1 is this machine alone, 0.0.0.0 everybody who can reach it"


def _check_api_key(keys: str | list[str] | None) -> str | None:
    if keys is None or (keys and all(isinstance(key, str) and key.strip() for key in keys)):
        return None
    return "an empty key leaves the server open; give one, or leave api_key out"
