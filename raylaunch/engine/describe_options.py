"""Make the launch file's JSON Schema for the installed vLLM: `python -m raylaunch.engine.describe_options`.

The schema goes to stdout. A process of its own, because it imports vLLM (7 to 60 s). After a change of vLLM's pinned
version or of raylaunch's own blocks, write its output to raylaunch/data/launch.schema.json.
"""

import importlib
import importlib.resources
import json
import os
import sys
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from raylaunch.config.blocks import ClusterBlock, FallbackBlock, KeepBlock, ModelBlock
from raylaunch.config.layers import BLOCKS
from raylaunch.config.schema import FileSchema, Part
from raylaunch.config.type_options import Describer, find_bounds
from raylaunch.engine.vllm_places import CLI_ARGS, find_in_vllm

_PATCH = "launch.patch.json"
"""A JSON merge patch (RFC 7396) over vLLM's options and raylaunch's own: which raylaunch refuses or narrows, forms,
defaults and examples."""


def read_docs(cls: Any) -> Mapping[str, str]:
    """The docstring of each field of one of vLLM's classes; none where this vLLM has no such function."""
    try:
        docs: Mapping[str, str] = importlib.import_module("vllm.config.utils").get_attr_docs(cls)
    except (ImportError, AttributeError, TypeError, ValueError, OSError):
        return {}
    return docs


def collect_fields() -> tuple[Mapping[str, Part], Mapping[str, str]]:
    """Ranges and docstrings by field name over vLLM's config classes; where two ranges differ, the wider one.

    SpeculativeConfig is left out: its fields of the same names are those of the draft model.
    """
    config = importlib.import_module("vllm.config")
    classes = [cls for cls in vars(config).values() if hasattr(cls, "__pydantic_fields__")]
    widest = {"minimum": min, "exclusiveMinimum": min, "maximum": max, "exclusiveMaximum": max}
    bounds: dict[str, Part] = {}
    docs: dict[str, str] = {}
    for cls in classes:
        if cls is config.SpeculativeConfig:
            continue
        docs = {**read_docs(cls), **docs}
        for name, field in cls.__pydantic_fields__.items():
            if found := find_bounds(field.metadata):
                known = bounds.get(name, found)
                bounds[name] = {
                    key: wider(known[key], found[key]) for key, wider in widest.items() if key in known and key in found
                }
    return bounds, docs


def describe_block(block: type[BaseModel]) -> Part:
    """The schema of one of raylaunch's own blocks."""
    schema = block.model_json_schema()
    for option in schema["properties"].values():
        del option["title"]
        if union := option.pop("anyOf", None):
            option["type"] = [part["type"] for part in union]
    return {"additionalProperties": False, "properties": schema["properties"]}


def merge(part: Part, patch: Part) -> Part:
    """A JSON merge patch (RFC 7396) applied to a schema: null removes a keyword."""
    merged = {**part}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = merge(merged.get(name, {}), value) if isinstance(value, dict) else value
    return merged


def describe() -> FileSchema:
    """The schema for the vLLM installed here.

    Raises:
        ImportError: this vLLM has no API server options where raylaunch knows them.
    """
    import vllm
    from vllm.engine.arg_utils import AsyncEngineArgs

    frontend = find_in_vllm("FrontendArgs", CLI_ARGS)
    describer, (bounds, docs) = Describer(read_docs), collect_fields()
    options = {
        "engine": dict(describer.describe_arguments(AsyncEngineArgs, bounds, docs)),
        "server": dict(describer.describe_arguments(frontend, {}, read_docs(frontend))),
    }
    options["server"]["api_server_count"] = {}  # vLLM's command line has it, not FrontendArgs
    own: Mapping[str, type[BaseModel]]
    own = {"model": ModelBlock, "cluster": ClusterBlock, "keep": KeepBlock, "fallback": FallbackBlock}
    blocks = {name: describe_block(block) for name, block in own.items()}
    blocks |= {name: {"additionalProperties": False, "properties": fields} for name, fields in options.items()}
    version = vllm.__version__.partition("+")[0]
    document = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"Launch file of raylaunch, with the options of vLLM {version}",
        "x-vllm": version,
        "type": "object",
        "additionalProperties": False,
        "properties": {name: {"type": ["object", "null"], "$ref": f"#/$defs/{name}"} for name in BLOCKS},
        "$defs": {name: blocks[name] for name in BLOCKS} | dict(sorted(describer.definitions.items())),
    }
    patch = json.loads((importlib.resources.files("raylaunch.data") / _PATCH).read_text(encoding="utf-8"))
    for block, fields in options.items():  # an older vLLM lacks some of the patched options
        known = patch["$defs"][block]["properties"]
        patch["$defs"][block]["properties"] = {name: known[name] for name in known if name in fields}
    return FileSchema(merge(document, patch))


def main() -> None:
    """Write the schema to stdout, and vLLM's own output to stderr."""
    result = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    result.write(describe().to_text())
    result.close()
    sys.stdout.flush()


if __name__ == "__main__":
    main()
