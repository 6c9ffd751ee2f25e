"""A folder that a launch names beside its model: a draft model, a tokenizer or a LoRA adapter; what one lacks.

Runs on nodes, shipped by value: standard library and this room only.
"""

import os
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from raylaunch.node.loader_files import DEFAULT_FORMAT
from raylaunch.node.model_folder import check_safetensors, inspect_folder

_ADAPTER_CONFIG = "adapter_config.json"
_ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin", "adapter_model.pt")
"""As in vLLM 0.32, LoRAModel.from_local_checkpoint in lora/lora_model.py."""


class CompanionKind(StrEnum):
    """What vLLM loads from the folder."""

    DRAFT = "draft model"
    TOKENIZER = "tokenizer"
    ADAPTER = "LoRA adapter"


@dataclass(frozen=True, slots=True)
class Companion:
    """What a launch names, and the folder that it is in on every node."""

    key: str
    """Of the launch."""
    kind: CompanionKind
    folder: str
    repo: str | None = None
    """Hugging Face id; None where the launch names a folder."""
    revision: str | None = None
    load_format: str = DEFAULT_FORMAT
    """Of a draft model: vLLM loads it as the model."""


@dataclass(frozen=True, slots=True)
class CompanionFacts:
    """A companion as one node sees it."""

    companion: Companion
    exists: bool
    problem: str = ""
    """Why vLLM cannot load it from the folder, as a sentence; "" if it can."""
    in_hub_cache: bool = False
    """Whether this node's Hugging Face cache has it completely; looked at where the folder is missing."""


def inspect_companion(companion: Companion) -> CompanionFacts:
    """Inspect a companion on this machine."""
    if os.path.lexists(companion.folder):
        return CompanionFacts(companion, True, _find_problem(companion.folder, companion))
    snapshots = list_snapshots(companion.repo) if companion.repo else []
    cached = any(not _find_problem(str(snapshot), companion) for snapshot in snapshots)
    return CompanionFacts(companion, False, f"{companion.folder} does not exist", cached)


def list_snapshots(repo: str) -> list[Path]:
    """Folders of the repo's commits in this machine's cache; its place as in huggingface_hub.constants (2.4)."""
    home = os.environ.get("HF_HOME") or f"{os.environ.get('XDG_CACHE_HOME') or '~/.cache'}/huggingface"
    cache = Path(os.environ.get("HF_HUB_CACHE") or f"{home}/hub").expanduser()
    return list(cache.glob(f"models--{repo.replace('/', '--')}/snapshots/*"))


def _find_problem(folder: str, companion: Companion) -> str:
    if companion.kind is CompanionKind.ADAPTER:
        return _find_adapter_problem(Path(folder))
    if companion.kind is CompanionKind.TOKENIZER and Path(folder).is_file():
        return ""
    facts = inspect_folder(folder, load_format=companion.load_format)
    if facts.error:
        return f"{folder} {facts.error}"
    if companion.kind is CompanionKind.TOKENIZER:
        return "" if facts.has_tokenizer else f"{folder} has no tokenizer (no vocabulary file)"
    if facts.broken:
        return f"{folder}: {'; '.join(map(str, facts.broken[:3]))}"
    is_enough = facts.has_weights or companion.load_format == "dummy"
    return "" if is_enough else f"{folder} has no weights that load_format {companion.load_format} loads"


def _find_adapter_problem(folder: Path) -> str:
    if not (folder / _ADAPTER_CONFIG).is_file():
        return f"{folder}: {_ADAPTER_CONFIG} is missing"
    weights = next((folder / name for name in _ADAPTER_WEIGHTS if (folder / name).is_file()), None)
    if weights is None:
        return f"{folder}: {_ADAPTER_WEIGHTS[0]} is missing"
    damage = check_safetensors(weights) if weights.suffix == ".safetensors" else None
    return f"{folder}: {damage}" if damage else ""
