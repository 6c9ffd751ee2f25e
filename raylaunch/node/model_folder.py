"""A model's folder on this machine: which files vLLM would load, and whether they are complete.

Runs on nodes, shipped by value: standard library and this room only.
"""

import hashlib
import json
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
    """Why it cannot be read; "" where it can."""
    files: tuple[FolderFile, ...] = ()
    """Files that matter to vLLM, by name; hidden files, READMEs and folders inside are left out."""
    broken: tuple[str, ...] = ()
    """A sentence for each file that is missing by the folder's own index, cut short, or not what its name says."""
    has_weights: bool = False
    has_tokenizer: bool = False
    commit: str | None = None
    """Of the repo, by the manifest that a pull left; None where there is none."""

    @property
    def is_complete(self) -> bool:
        """Whether a model could be loaded from here."""
        return self.exists and not self.error and not self.broken and self.has_weights


def inspect_folder(path: str, *, samples: bool = True) -> FolderFacts:
    """Look at the model's folder `path` on this machine.

    Args:
        samples: compare some blocks of each file with the manifest, if there is one; else sizes alone.
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
        if name.endswith(_MATTERS) and not name.startswith(".") and (facts := _look_at(folder / name, broken))
    ]
    here = {file.name for file in files}
    broken += _check_config(folder) if "config.json" in here else ["config.json is missing"]
    wanted = _read_indexes(folder, here, broken)
    told = {sentence.partition(" ")[0] for sentence in broken}
    broken += [f"{name} is missing (the index names it)" for name in sorted(wanted - here - told)]
    for name in sorted(name for name in (wanted & here or here) if name.endswith(".safetensors")):
        if problem := check_safetensors(folder / name):
            broken.append(problem)
    told = {sentence.partition(" ")[0] for sentence in broken}
    if (manifest := Manifest.read(folder)) is not None:
        broken += [d for d in manifest.find_differences(folder, samples=samples) if d.partition(" ")[0] not in told]
    return FolderFacts(
        path,
        exists=True,
        files=tuple(files),
        broken=tuple(broken),
        has_weights=bool(wanted) or any(name.endswith(_WEIGHTS) for name in here),
        commit=manifest.commit if manifest else None,
        has_tokenizer=any(name in here for name in _TOKENIZERS) or any(name.endswith(".tiktoken") for name in here),
    )


def _look_at(file: Path, broken: list[str]) -> FolderFile | None:
    """Size and, where it is small text, hash; a file that cannot be read goes to `broken`."""
    try:
        size = file.stat().st_size
        if not file.is_file():
            return None
        with file.open("rb") as opened:  # also where nothing is hashed: permission is learnt only by opening
            if size > _HASHED_AT_MOST_BYTES or file.name.endswith(_WEIGHTS):
                return FolderFile(file.name, size)
            return FolderFile(file.name, size, hashlib.sha256(opened.read()).hexdigest())
    except FileNotFoundError:
        broken.append(f"{file.name} is a link to nothing")
    except OSError as error:
        broken.append(f"{file.name} cannot be read: {error.strerror}")
    return None


def _check_config(folder: Path) -> list[str]:
    try:
        parsed = json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError) as error:
        return [f"config.json is no JSON: {error}"]
    return [] if isinstance(parsed, dict) else ["config.json is no JSON object"]


def _read_indexes(folder: Path, here: set[str], broken: list[str]) -> set[str]:
    """Weight files that the folder's index names; safetensors' index wins, as in vLLM."""
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
    """What is wrong with a safetensors file by its own header, or None.

    The file is 8 bytes of header length (little endian), the header in JSON with each tensor's `data_offsets`, and the
    tensors without a gap: so the last offset tells the size, and a download cut short shows without reading it.
    """
    try:
        size = file.stat().st_size
        with file.open("rb") as opened:
            (header_bytes,) = struct.unpack("<Q", opened.read(8))
            if header_bytes > _HEADER_AT_MOST_BYTES:
                return f"{file.name} is no safetensors file (its first bytes are not a header's length)"
            text = opened.read(header_bytes)
        if len(text) < header_bytes:
            return f"{file.name} is cut short: {size:,} bytes, not even its header"
        header: dict[str, Any] = json.loads(text)
        tensors = (tensor for name, tensor in header.items() if name != "__metadata__")
        wanted = 8 + header_bytes + max((int(tensor["data_offsets"][1]) for tensor in tensors), default=0)
    except OSError as error:
        return f"{file.name} cannot be read: {error.strerror}"
    except struct.error:
        return f"{file.name} is cut short: {file.stat().st_size} bytes"
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        return f"{file.name} is no safetensors file (its header is no JSON of tensors)"
    if size < wanted:
        return f"{file.name} is cut short: {size:,} bytes of {wanted:,}"
    return None if size == wanted else f"{file.name} is {size - wanted:,} bytes longer than its header says"


def find_problems(folder: Path, *, deep: bool = False) -> tuple[str, ...]:
    """What keeps `folder` from being a complete model, a sentence each; empty where it is one.

    Args:
        deep: also read every file to its end and compare it with the manifest's SHA-256.
    """
    facts = inspect_folder(str(folder), samples=False)
    if not facts.exists:
        return (f"{folder} is not there",)
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


def measure_bytes(folder: Path) -> int:
    """Bytes of all files under `folder`, half-written ones included."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                total += (Path(place) / name).stat().st_size
            except FileNotFoundError:
                continue  # renamed while we looked
    return total
