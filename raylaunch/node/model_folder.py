"""A model's folder on this machine: which files vLLM would load, and whether they are complete.

Runs on nodes, shipped by value: standard library and this room only.
"""

import hashlib
import json
import struct
from dataclasses import dataclass
from pathlib import Path

from raylaunch.node.manifest import Manifest, find_difference

_MATTERS = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".json", ".model", ".txt", ".jinja", ".tiktoken", ".py")
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf")
_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_TOKENIZERS = (
    *("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tekken.json"),
    *("tiktoken.model", "tokenizer.tok.json"),
)
_HASHED_AT_MOST_BYTES = 1 << 20
_HEADER_AT_MOST_BYTES = 100_000_000
"""safetensors' own limit on a header's length."""


@dataclass(frozen=True, slots=True)
class FolderFile:
    """A file of the model: its name, its size in bytes, and for small ones the SHA-256 of its content."""

    name: str
    size: int
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class FolderFacts:
    """A model's folder as one node sees it."""

    path: str
    exists: bool = False
    error: str = ""
    """Why it cannot be read; "" if it can."""
    files: tuple[FolderFile, ...] = ()
    """Files that matter to vLLM, by name; hidden files, READMEs and folders inside are left out."""
    broken: tuple[str, ...] = ()
    """A sentence for each file that is missing (by the folder's index), truncated, or of another format."""
    has_weights: bool = False
    has_tokenizer: bool = False
    commit: str | None = None
    """Of the repo, from the manifest of a pull; None without one."""

    @property
    def is_complete(self) -> bool:
        """Whether vLLM can load a model from here."""
        return self.exists and not self.error and not self.broken and self.has_weights


def is_weights(name: str) -> bool:
    """Whether a file of this name holds weights."""
    return name.endswith(_WEIGHTS)


def inspect_folder(path: str, *, samples: bool = True, by_manifest: bool = True) -> FolderFacts:
    """Inspect the model's folder `path` on this machine.

    Args:
        samples: compare sampled blocks of each file with the manifest, if it exists; else only sizes.
        by_manifest: a file that differs from the manifest is broken.
    """
    folder = Path(path)
    try:
        if not folder.exists():
            return FolderFacts(path)
        if not folder.is_dir():
            return FolderFacts(path, exists=True, error="is a file, not a folder")
        names = sorted(entry.name for entry in folder.iterdir())
    except OSError as error:
        return FolderFacts(path, exists=True, error=f"cannot be read: {error.strerror}")
    broken: list[str] = []
    files = [
        facts
        for name in names
        if name.endswith(_MATTERS) and not name.startswith(".") and (facts := _inspect_file(folder / name, broken))
    ]
    here = {file.name for file in files}
    broken += _check_config(folder) if "config.json" in here else ["config.json is missing"]
    wanted = _read_indexes(folder, here, broken)
    reported = {sentence.partition(" ")[0] for sentence in broken}
    broken += [f"{name} is missing (the index names it)" for name in sorted(wanted - here - reported)]
    for name in sorted(name for name in (wanted & here or here) if name.endswith(".safetensors")):
        if problem := check_safetensors(folder / name):
            broken.append(problem)
    reported = {sentence.partition(" ")[0] for sentence in broken}
    if (manifest := Manifest.read(folder)) is not None and by_manifest:
        broken += [d for d in manifest.find_differences(folder, samples=samples) if d.partition(" ")[0] not in reported]
    return FolderFacts(
        path,
        exists=True,
        files=tuple(files),
        broken=tuple(broken),
        has_weights=bool(wanted) or any(name.endswith(_WEIGHTS) for name in here),
        commit=manifest.commit if manifest else None,
        has_tokenizer=any(name in here for name in _TOKENIZERS) or any(name.endswith(".tiktoken") for name in here),
    )


def _inspect_file(file: Path, broken: list[str]) -> FolderFile | None:
    """Size, and hash of a small file; a file that cannot be read is added to `broken`."""
    try:
        size = file.stat().st_size
        if not file.is_file():
            return None
        with file.open("rb") as opened:  # also if nothing is hashed: only opening shows the permission
            if size > _HASHED_AT_MOST_BYTES or file.name.endswith(_WEIGHTS):
                return FolderFile(file.name, size)
            return FolderFile(file.name, size, hashlib.sha256(opened.read()).hexdigest())
    except FileNotFoundError:
        broken.append(f"{file.name} is a broken link")
    except OSError as error:
        broken.append(f"{file.name} cannot be read: {error.strerror}")
    return None


def _check_config(folder: Path) -> list[str]:
    try:
        parsed = json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError) as error:
        return [f"config.json is not valid JSON: {error}"]
    return [] if isinstance(parsed, dict) else ["config.json is not a JSON object"]


def _read_indexes(folder: Path, here: set[str], broken: list[str]) -> set[str]:
    """Weight files in the folder's index; the safetensors index has precedence, as in vLLM."""
    for index in _INDEXES:
        if index not in here:
            continue
        try:
            return {str(name) for name in json.loads((folder / index).read_bytes())["weight_map"].values()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            broken.append(f"{index} has no readable weight_map")
            return set()
    return set()


def check_safetensors(file: Path) -> str | None:
    """How a safetensors file contradicts its own header, or None.

    The file is 8 bytes of header length (little endian), the header in JSON with each tensor's `data_offsets`, and the
    tensors without a gap: the last offset is the size, so a truncated download is found without reading it.
    """
    try:
        size = file.stat().st_size
        with file.open("rb") as opened:
            (header_bytes,) = struct.unpack("<Q", opened.read(8))
            if header_bytes > _HEADER_AT_MOST_BYTES:
                return f"{file.name} is not a safetensors file (its first bytes are not a header length)"
            text = opened.read(header_bytes)
        if len(text) < header_bytes:
            return f"{file.name} is truncated: {size:,} bytes, less than its header"
        header = json.loads(text)
        tensors = (tensor for name, tensor in header.items() if name != "__metadata__")
        wanted = 8 + header_bytes + max((int(tensor["data_offsets"][1]) for tensor in tensors), default=0)
    except OSError as error:
        return f"{file.name} cannot be read: {error.strerror}"
    except struct.error:
        return f"{file.name} is truncated: {file.stat().st_size} bytes"
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        return f"{file.name} is not a safetensors file (its header is not a JSON object of tensors)"
    if size < wanted:
        return f"{file.name} is truncated: {size:,} bytes of {wanted:,}"
    return None if size == wanted else f"{file.name} is {size - wanted:,} bytes longer than its header states"


def find_problems(folder: Path, *, deep: bool = False, by_manifest: bool = True) -> tuple[str, ...]:
    """Reasons why `folder` is not a complete model, one sentence each; empty if it is.

    Args:
        deep: also compare the SHA-256 of every file with the manifest.
        by_manifest: a file that differs from the manifest is a reason.
    """
    facts = inspect_folder(str(folder), samples=False, by_manifest=by_manifest)
    if not facts.exists:
        return (f"{folder} does not exist",)
    if facts.error:
        return (f"{folder} {facts.error}",)
    problems = list(facts.broken)
    if not facts.has_weights:
        problems.append("weights are missing: no .safetensors file")
    manifest = Manifest.read(folder) if deep else None
    for name, file in (manifest.files if manifest else {}).items():
        problem = find_difference(folder / name, file, complete=True)
        if problem and not any(found.startswith(f"{name} ") for found in problems):
            problems.append(problem)
    return tuple(problems)
