"""Which files of a model vLLM loads, by their names: weights by load format, and tokenizers.

Copied from vLLM 0.32: DefaultModelLoader._prepare_weights in model_executor/model_loader/default_loader.py, and
filter_files_not_needed_for_inference in weight_utils.py; for sentence-transformers get_pooling_config in
transformers_utils/config.py and _load_st_projector in model_executor/models/adapters.py. Runs on nodes, shipped by
value: standard library and this room only.
"""

import json
from collections.abc import Collection
from dataclasses import dataclass
from fnmatch import fnmatchcase

from raylaunch.node.manifest import is_plain_path

DEFAULT_FORMAT = "auto"
_MISTRAL = ("consolidated*.safetensors",)
_HF = ("*.safetensors", "*.bin", "*.pt")
"""The first pattern with files has them all."""
_PATTERNS = {
    "hf": _HF,
    "mistral": _MISTRAL,
    "safetensors": ("*.safetensors",),
    "fastsafetensors": ("*.safetensors",),
    "instanttensor": ("*.safetensors",),
    "runai_streamer": ("*.safetensors",),
    "runai_streamer_sharded": ("*.safetensors",),
    "sharded_state": ("*.safetensors",),
    "pt": ("*.pt",),
    "npcache": ("*.bin", "*.pt"),
    "tensorizer": ("*.tensors",),
    "gguf": ("*.gguf",),
    "dummy": (),
}
_NOT_FOR_INFERENCE = ("training_args.bin", "optimizer.bin", "optimizer.pt", "scheduler.pt", "scaler.pt")
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".tensors")
_TOKENIZERS = (
    *("tokenizer.json", "tokenizer.tok.json", "tekken.json", "*.tiktoken"),  # fast, Mistral, tiktoken
    *("*.model", "tokenizer.model.v*", "*.spm"),  # SentencePiece under its many names
    *("*vocab*.json", "*vocab*.txt", "*vocab*.bpe", "*.codes", "*.tokenizer"),  # word pieces, BPE
    "tokenization_*.py",  # the repo's own
)
"""Vocabularies as transformers and vLLM's tokenizers name them."""


MODULES = "modules.json"
"""Sentence-transformers' list of modules; without a module's config vLLM pools by its default, and logs no error."""
_NEEDED_BY_TYPE = {"Pooling": ("config.json",), "Dense": ("config.json", "model.safetensors")}
_ALSO_TAKEN = {"model.safetensors": "pytorch_model.bin"}


@dataclass(frozen=True, slots=True)
class ModuleFolder:
    """A module of a sentence-transformers model that lies in a sub-folder."""

    path: str
    kind: str
    """The last part of its type, such as "Pooling"."""

    def list_missing(self, names: Collection[str]) -> tuple[str, ...]:
        """Relative names of files that vLLM reads of this module and that are not in `names`."""
        needed = _NEEDED_BY_TYPE.get(self.kind, ())
        pairs = ((f"{self.path}/{name}", f"{self.path}/{_ALSO_TAKEN.get(name, name)}") for name in needed)
        return tuple(first for first, other in pairs if first not in names and other not in names)


def parse_modules(content: bytes) -> tuple[ModuleFolder, ...]:
    """The modules in sub-folders that a modules.json names; none if it is not one, or names unsafe paths."""
    try:
        entries = json.loads(content)
        found = [(str(entry["path"]).rstrip("/"), str(entry["type"]).rpartition(".")[2]) for entry in entries]
    except (ValueError, KeyError, TypeError, RecursionError):
        return ()
    return tuple(ModuleFolder(path, kind) for path, kind in found if is_plain_path(f"{path}/x"))


def is_weights(name: str) -> bool:
    """Whether a file of this name holds weights, in any format."""
    return name.endswith(_WEIGHTS)


def is_tokenizer(name: str) -> bool:
    """Whether a file of this name holds a tokenizer's vocabulary, or code that makes it."""
    return any(fnmatchcase(name, pattern) for pattern in _TOKENIZERS)


def find_weights(names: Collection[str], load_format: str = DEFAULT_FORMAT) -> tuple[str, ...]:
    """The weights in a folder that vLLM loads; its index, if there is one, names those of them that count.

    Args:
        names: files of the folder itself.
        load_format: the launch's engine.load_format. One that is unknown here (a plugin's) is taken as "hf".
    """
    patterns = _PATTERNS.get(load_format, _HF)
    if load_format == DEFAULT_FORMAT:
        patterns = _MISTRAL if any(fnmatchcase(name, _MISTRAL[0]) for name in names) else _HF
    for pattern in patterns:
        found = [name for name in names if fnmatchcase(name, pattern)]
        if found:
            return tuple(sorted(name for name in found if not name.endswith(_NOT_FOR_INFERENCE)))
    return ()


def find_index(weights: Collection[str]) -> str | None:
    """Name of the index over these weights, which need not exist; None for formats without one."""
    if not weights:
        return None
    if all(fnmatchcase(name, _MISTRAL[0]) for name in weights):
        return "consolidated.safetensors.index.json"
    if all(name.endswith(".safetensors") for name in weights):
        return "model.safetensors.index.json"
    return "pytorch_model.bin.index.json" if all(name.endswith(".bin") for name in weights) else None
