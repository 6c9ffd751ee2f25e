"""A model's folder on this machine: whether it is whole."""

import json
import os
from pathlib import Path

from raylaunch.checks.folder import check_safetensors
from raylaunch.checks.manifest import MANIFEST, FileFacts, Manifest, find_difference

__all__ = ["MANIFEST", "FileFacts", "Manifest", "find_problems", "measure_bytes"]


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
        problem = find_difference(folder / name, facts, whole=deep)
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
