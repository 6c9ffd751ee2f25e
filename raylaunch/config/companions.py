"""What a launch names beside its model: a draft model, a tokenizer, LoRA adapters, each by folder or Hugging Face id.

An id's files are in a folder that `raylaunch weights pull` fills, on every node the same: beside model.path, else
beside the models of raylaunch's own. vLLM gets that folder instead of the id, because it loads without the hub.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from raylaunch.base import paths
from raylaunch.base.text import quote
from raylaunch.config.launch import LaunchConfig
from raylaunch.node.companion import Companion, CompanionKind

_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")
_RELATIVE = re.compile(r"[~.]|[^/]+/[^/]*/")
_DRAFT_KEY, _TOKENIZER_KEY = "engine.speculative_config.model", "engine.tokenizer"


def list_companions(config: LaunchConfig) -> list[Companion]:
    """The launch's companions, by key; values that are no folder and no id (a URL, "ngram") are left out."""
    draft = config.engine.get("speculative_config")
    draft = draft if isinstance(draft, Mapping) else {}
    found = [
        _find(config, _DRAFT_KEY, CompanionKind.DRAFT, draft.get("model"), draft.get("revision")),
        _find(
            config,
            _TOKENIZER_KEY,
            CompanionKind.TOKENIZER,
            config.engine.get("tokenizer"),
            config.engine.get("tokenizer_revision"),
        ),
    ]
    for number, module in enumerate(config.server.get("lora_modules") or ()):
        key = f"server.lora_modules.{number}.path"
        found.append(_find(config, key, CompanionKind.ADAPTER, module.get("path"), None))
    return [companion for companion in found if companion is not None]


def list_fetched(config: LaunchConfig) -> list[Companion]:
    """One companion for each folder that `raylaunch weights` fills; of several keys, the one that needs weights."""
    found: dict[str, Companion] = {}
    for companion in list_companions(config):
        if companion.repo and companion.folder != str(config.model_folder):
            known = found.get(companion.folder)
            if known is None or known.kind is CompanionKind.TOKENIZER:
                found[companion.folder] = companion
    return list(found.values())


def check_companions(config: LaunchConfig) -> list[str]:
    """Problems of relative paths: they are neither ids nor the same folder on every node."""
    draft = config.engine.get("speculative_config")
    named = [(_TOKENIZER_KEY, "", config.engine.get("tokenizer"))]
    named.append((_DRAFT_KEY, "", draft.get("model") if isinstance(draft, Mapping) else None))
    for number, module in enumerate(config.server.get("lora_modules") or (), 1):
        path = module.get("path") if isinstance(module, Mapping) else None
        named.append(("server.lora_modules", f"entry {number}: ", path))
    return [
        config.complain(key, f"{entry}{quote(value)} is neither a Hugging Face id (owner/name) nor an absolute path")
        for key, entry, value in named
        if isinstance(value, str) and _RELATIVE.match(value) and "://" not in value and not Path(value).is_dir()
    ]


def _find(config: LaunchConfig, key: str, kind: CompanionKind, value: object, revision: object) -> Companion | None:
    if not isinstance(value, str):
        return None
    load_format = config.load_format if kind is CompanionKind.DRAFT else "auto"
    if Path(value).is_absolute() or Path(value).is_dir():
        return Companion(key, kind, str(Path(value).absolute()), load_format=load_format)
    if not _ID.fullmatch(value):
        return None
    asked = revision if isinstance(revision, str) else None
    if value == config.model.repo and asked in (None, config.model.revision):
        folder = config.model_folder
    else:
        beside = Path(config.model.path).parent if config.model.path else paths.home() / "models"
        folder = beside / value.replace("/", "--")
    return Companion(key, kind, str(folder), value, asked, load_format)


def use_folders(config: LaunchConfig) -> LaunchConfig:
    """The launch with folders in place of ids; an id without a folder stays, for the Hugging Face cache."""
    folders = {
        found.key: found.folder for found in list_companions(config) if found.repo and Path(found.folder).is_dir()
    }
    engine = dict(config.engine)
    server = dict(config.server)
    if _DRAFT_KEY in folders:
        engine["speculative_config"] = {**engine["speculative_config"], "model": folders[_DRAFT_KEY]}
    if _TOKENIZER_KEY in folders:
        engine["tokenizer"] = folders[_TOKENIZER_KEY]
    if modules := server.get("lora_modules"):
        server["lora_modules"] = [
            {**module, "path": folders.get(f"server.lora_modules.{number}.path", module["path"])}
            for number, module in enumerate(modules)
        ]
    return replace(config, engine=MappingProxyType(engine), server=MappingProxyType(server))
