"""Read the options table off the installed vLLM: run as `python -m raylaunch.engine.describe_options`, JSON on stdout.

A process of its own, because it imports vLLM (7 to 60 s). The shipped table is its output for the pinned vLLM.
"""

import importlib
import json
import os
import sys
from typing import Any

from raylaunch.config.type_options import _BOUNDS, Describer, find_bounds

_SERVER_MODULES = (
    "vllm.entrypoints.common.cli_args",  # 0.33
    "vllm.entrypoints.launchers.cli_args",  # 0.32
    "vllm.entrypoints.openai.cli_args",  # before
)


def collect_bounds() -> dict[str, dict[str, Any]]:
    """Ranges by field name over vLLM's config classes; where two classes differ, the wider one.

    SpeculativeConfig is left out: its fields of the same names are those of the draft model.
    """
    config = importlib.import_module("vllm.config")
    classes = {cls for cls in vars(config).values() if hasattr(cls, "__pydantic_fields__")} - {config.SpeculativeConfig}
    bounds: dict[str, dict[str, Any]] = {}
    for cls in classes:
        for name, field in cls.__pydantic_fields__.items():
            if found := find_bounds(field.metadata):
                known = bounds.get(name, found)
                widest = {"ge": min, "gt": min, "le": max, "lt": max}
                bounds[name] = {
                    key: widest[key](known[key], found[key]) for key in _BOUNDS if key in known and key in found
                }
    return bounds


def describe() -> dict[str, Any]:
    """The table (options.Table as JSON) of the vLLM installed here."""
    import vllm
    from vllm.engine.arg_utils import AsyncEngineArgs

    for module in _SERVER_MODULES:
        try:
            frontend = importlib.import_module(module).FrontendArgs
            break
        except (ImportError, AttributeError):
            continue
    else:
        raise SystemExit(f"this vLLM has no FrontendArgs in any of {', '.join(_SERVER_MODULES)}")
    describer, bounds = Describer(), collect_bounds()
    return {
        "vllm": vllm.__version__.partition("+")[0],
        "engine": describer.describe_arguments(AsyncEngineArgs, bounds),
        "server": describer.describe_arguments(frontend, {}),
        "classes": dict(sorted(describer.classes.items())),
    }


def to_text(table: dict[str, Any]) -> str:
    """JSON with one option a line, so that two releases can be compared line by line."""

    def block(options: dict[str, Any], indent: str) -> str:
        lines = [f"{indent} {json.dumps(name)}: {json.dumps(option)}" for name, option in options.items()]
        return "{\n" + ",\n".join(lines) + f"\n{indent}}}" if lines else "{}"

    classes = ",\n".join(f"  {json.dumps(name)}: {block(options, '  ')}" for name, options in table["classes"].items())
    return (
        f'{{\n "vllm": {json.dumps(table["vllm"])},\n "engine": {block(table["engine"], " ")},\n'
        f' "server": {block(table["server"], " ")},\n "classes": {{\n{classes}\n }}\n}}\n'
    )


def main() -> None:
    """Write the table to stdout, and whatever vLLM says meanwhile to stderr."""
    result = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    result.write(to_text(describe()))
    result.close()
    sys.stdout.flush()


if __name__ == "__main__":
    main()
