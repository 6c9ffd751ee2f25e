"""A model's folder: whether it is whole, and the manifest that raylaunch leaves in the ones it made."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from raylaunch.checks.folder import check_safetensors

MANIFEST = ".raylaunch.json"
"""Name of the manifest. Hidden, so that nobody takes it for a part of the model."""
_MANIFEST_FORMAT = 1


@dataclass(frozen=True, slots=True)
class FileFacts:
    """What is known of one file: its size in bytes, and its SHA-256 where somebody told or computed it."""

    size: int
    sha256: str | None = None

    @classmethod
    def of(cls, path: Path) -> Self:
        """Facts of a file on disk, read whole."""
        with path.open("rb") as file:
            return cls(path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())


@dataclass(frozen=True)
class Manifest:
    """Where a folder's files came from, and what they were when it was finished."""

    repo: str
    revision: str | None
    """As asked for; None is the repo's main branch."""
    source: str
    """Hub commit, or the package that the model was taken from."""
    files: Mapping[str, FileFacts]

    def write(self, folder: Path) -> None:
        """Leave the manifest in `folder`, whole or not at all."""
        aside = folder / f"{MANIFEST}.part"
        aside.write_text(json.dumps({"format": _MANIFEST_FORMAT} | asdict(self), indent=1))
        aside.rename(folder / MANIFEST)

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """The manifest in `folder`, None where there is none that can be read."""
        try:
            known = json.loads((folder / MANIFEST).read_bytes())
            files = {name: FileFacts(facts["size"], facts["sha256"]) for name, facts in known["files"].items()}
            return cls(known["repo"], known["revision"], known["source"], files)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None


def find_problems(folder: Path, *, deep: bool = False) -> tuple[str, ...]:
    """What keeps `folder` from being a whole model, a sentence each; empty where it is one.

    Looks for config.json and for every weight file that the index names, and compares sizes with what each safetensors
    header says and with the manifest, if there is one. Reads a few kB whatever the size of the model.

    Args:
        deep: also read every file whole and compare it with the manifest's SHA-256.
    """
    if not folder.is_dir():
        return (f"{folder} is not there",)
    problems = _check_config(folder) + _check_weights(folder)
    manifest = Manifest.read(folder)
    for name, facts in (manifest.files if manifest else {}).items():
        problem = _compare(folder / name, facts, deep=deep)
        if problem and not any(found.startswith(f"{name} ") for found in problems):
            problems.append(problem)
    return tuple(problems)


def _check_config(folder: Path) -> list[str]:
    try:
        json.loads((folder / "config.json").read_bytes())
    except FileNotFoundError:
        return ["config.json is missing"]
    except (OSError, ValueError) as error:
        return [f"config.json cannot be read: {error}"]
    return []


def _check_weights(folder: Path) -> list[str]:
    index = folder / "model.safetensors.index.json"
    if not index.exists():
        names = {path.name for path in folder.glob("*.safetensors")}
        if not names and not any(folder.glob("*.bin")):
            return ["weights are missing: no .safetensors file"]
    else:
        try:
            names = {str(name) for name in json.loads(index.read_bytes())["weight_map"].values()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            return [f"{index.name} cannot be read: {type(error).__name__}: {error}"]
    problems = (
        check_safetensors(folder / name) if (folder / name).exists() else f"{name} is missing" for name in sorted(names)
    )
    return [problem for problem in problems if problem is not None]


def _compare(path: Path, facts: FileFacts, *, deep: bool) -> str | None:
    try:
        size = path.stat().st_size
    except OSError:
        return f"{path.name} is missing"
    if size != facts.size:
        return f"{path.name} has {size:,} bytes of {facts.size:,}"
    if deep and facts.sha256 and FileFacts.of(path).sha256 != facts.sha256:
        return f"{path.name} is not what was fetched (SHA-256 differs)"
    return None


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
