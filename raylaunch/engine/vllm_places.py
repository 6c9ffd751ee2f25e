"""Where the supported versions of vLLM keep what is imported from it."""

import importlib
from collections.abc import Sequence
from typing import Any

CLI_ARGS = (
    "vllm.entrypoints.common.cli_args",  # 0.33
    "vllm.entrypoints.launchers.cli_args",  # 0.32
    "vllm.entrypoints.openai.cli_args",  # before
)


def find_in_vllm(name: str, modules: Sequence[str]) -> Any:
    """A name of vLLM's from the first of these modules that has it.

    Raises:
        ImportError: none of them has it, or what one needs is not installed.
    """
    for module in modules:
        try:
            return getattr(importlib.import_module(module), name)
        except ModuleNotFoundError as error:
            if not (error.name or "").startswith("vllm"):
                raise  # the place is there; what it needs is not
        except AttributeError:
            continue
    raise ImportError(f"this vLLM has no {name} in any of {', '.join(modules)}")
