"""A model's folder on this machine: which files vLLM would load, and whether they are complete.

Runs on nodes, shipped by value: standard library and this room only.
"""

import hashlib
import json
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from raylaunch.node.loader_files import (
    DEFAULT_FORMAT,
    MODULES,
    ModuleFolder,
    find_index,
    find_weights,
    is_tokenizer,
    is_weights,
    parse_modules,
)
from raylaunch.node.manifest import Manifest, find_difference

_MATTERS = (".json", ".txt", ".jinja", ".py")
"""Besides weights and tokenizers."""
_CONFIG, _MISTRAL_CONFIG = "config.json", "params.json"
_LFS_POINTER = b"version https://git-lfs.github.com/spec/v1"
_ARIA2 = ".aria2"
"""Beside a file until aria2 has fetched all of it; the file has its full size from the start."""
_HASHED_AT_MOST_BYTES = 1 << 20
_HEADER_AT_MOST_BYTES = 100_000_000
"""safetensors' own limit on a header's length."""


class ProblemKind(StrEnum):
    """What is wrong with a file, or with the folder itself."""

    MISSING = "missing"
    DENIED = "denied"
    """This user may not read it."""
    UNREADABLE = "unreadable"
    DAMAGED = "damaged"
    """Truncated, too long, or not of its format."""
    LFS_POINTER = "LFS pointer"
    """git clone without git-lfs leaves it in place of the file."""
    DIFFERS = "differs"
    """From the manifest."""

    @classmethod
    def of(cls, error: OSError) -> "ProblemKind":
        """The kind for an error of the system."""
        return cls.DENIED if isinstance(error, PermissionError) else cls.UNREADABLE


@dataclass(frozen=True, slots=True)
class FolderProblem:
    """One problem of a model's folder."""

    kind: ProblemKind
    name: str
    """The file's; "" for the folder itself."""
    what: str
    """A sentence that starts with the file's name, or follows the folder's."""

    def __str__(self) -> str:
        return self.what


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
    error: FolderProblem | None = None
    """Why it cannot be read; None if it can."""
    files: tuple[FolderFile, ...] = ()
    """Files that matter to vLLM, by name; hidden files, READMEs and folders that modules.json does not name
    are left out."""
    broken: tuple[FolderProblem, ...] = ()
    """Files that vLLM needs, and that are missing, truncated, or of another format."""
    has_weights: bool = False
    has_tokenizer: bool = False
    commit: str | None = None
    """Of the repo, from the manifest of a pull; None without one."""

    @property
    def is_complete(self) -> bool:
        """Whether vLLM can load a model from here."""
        return self.exists and not self.error and not self.broken and self.has_weights


def inspect_folder(
    path: str, *, load_format: str = DEFAULT_FORMAT, samples: bool = True, by_manifest: bool = True
) -> FolderFacts:
    """Inspect the model's folder `path` on this machine.

    Args:
        load_format: the launch's engine.load_format; only weights that it loads are examined.
        samples: compare sampled blocks of each file with the manifest, if it exists; else only sizes.
        by_manifest: a file that differs from the manifest is broken.
    """
    folder = Path(path)
    try:
        if not folder.exists():
            return FolderFacts(path)
        if not folder.is_dir():
            problem = FolderProblem(ProblemKind.DAMAGED, "", "is a file, not a folder")
            return FolderFacts(path, exists=True, error=problem)
        names = sorted(entry.name for entry in folder.iterdir())
    except OSError as error:
        problem = FolderProblem(ProblemKind.of(error), "", f"cannot be read: {error.strerror}")
        return FolderFacts(path, exists=True, error=problem)
    broken: dict[str, FolderProblem] = {}
    files = _inspect_files(folder, names, broken)
    here = {file.name for file in files}
    if MODULES in here:
        for module in read_modules(folder):
            files += (inside := _inspect_files(folder, _list_inside(folder, module), broken))
            for name in module.list_missing({file.name for file in inside}):
                _add(broken, ProblemKind.MISSING, name, f"is missing ({MODULES} names {module.path})")
    _find_unfinished(names, here, broken)
    _check_config(folder, here, broken)
    weights = find_weights(here | broken.keys(), load_format)
    wanted = _read_index(folder, find_index(weights), here, broken)
    for name in sorted(wanted - here):
        _add(broken, ProblemKind.MISSING, name, "is missing (the index names it)")
    for name in sorted(wanted & here or here & set(weights)):
        if name.endswith(".safetensors") and name not in broken and (damage := check_safetensors(folder / name)):
            broken[name] = FolderProblem(ProblemKind.DAMAGED, name, damage)
    if (manifest := Manifest.read(folder)) is not None and by_manifest:
        for name, file in manifest.files.items():
            if name not in broken and (difference := find_difference(folder, name, file, samples=samples)):
                broken[name] = FolderProblem(ProblemKind.DIFFERS, name, difference)
    return FolderFacts(
        path,
        exists=True,
        files=tuple(files),
        broken=tuple(broken.values()),
        has_weights=bool(wanted or weights),
        commit=manifest.commit if manifest else None,
        has_tokenizer=any(map(is_tokenizer, here)) or any(name.endswith(".gguf") for name in weights),
    )


def read_modules(folder: Path) -> tuple[ModuleFolder, ...]:
    """The sub-folders that the folder's modules.json names; none without a readable one."""
    try:
        return parse_modules((folder / MODULES).read_bytes())
    except OSError:
        return ()


def _list_inside(folder: Path, module: ModuleFolder) -> list[str]:
    try:
        return sorted(f"{module.path}/{entry.name}" for entry in (folder / module.path).iterdir())
    except OSError:
        return []


def _inspect_files(folder: Path, names: Iterable[str], broken: dict[str, FolderProblem]) -> list[FolderFile]:
    """Those of these files that matter and can be read."""
    return [facts for name in names if _matters(name) and (facts := _inspect_file(folder, name, broken))]


def _matters(path: str) -> bool:
    name = path.rpartition("/")[2]
    if name.startswith("."):
        return False
    return name.endswith(_MATTERS) or is_weights(name) or is_tokenizer(name)


def _add(broken: dict[str, FolderProblem], kind: ProblemKind, name: str, what: str) -> None:
    """Add a problem of a file, unless it has one."""
    broken.setdefault(name, FolderProblem(kind, name, f"{name} {what}"))


def _inspect_file(folder: Path, name: str, broken: dict[str, FolderProblem]) -> FolderFile | None:
    """Size, and hash of a small file; a file that cannot be read, or stands for another, is added to `broken`."""
    file = folder / name
    try:
        size = file.stat().st_size
        if not file.is_file():
            return None
        with file.open("rb") as opened:  # also if nothing is hashed: only opening shows the permission
            first = opened.read(len(_LFS_POINTER))
            if first == _LFS_POINTER:
                _add(broken, ProblemKind.LFS_POINTER, name, "is a git-lfs pointer, not the file: run `git lfs pull`")
            if size > _HASHED_AT_MOST_BYTES or is_weights(name):
                return FolderFile(name, size)
            return FolderFile(name, size, hashlib.sha256(first + opened.read()).hexdigest())
    except FileNotFoundError:
        _add(broken, ProblemKind.MISSING, name, "is a broken link")
    except OSError as error:
        _add(broken, ProblemKind.of(error), name, f"cannot be read: {error.strerror}")
    return None


def _find_unfinished(names: Iterable[str], here: set[str], broken: dict[str, FolderProblem]) -> None:
    for name in sorted(here & {name.removesuffix(_ARIA2) for name in names if name.endswith(_ARIA2)}):
        _add(broken, ProblemKind.DAMAGED, name, f"is not fully downloaded: aria2 left {name}{_ARIA2}")


def _check_config(folder: Path, here: set[str], broken: dict[str, FolderProblem]) -> None:
    """Mistral's own format has params.json instead of config.json."""
    if _CONFIG not in here:
        if _MISTRAL_CONFIG not in here:
            _add(broken, ProblemKind.MISSING, _CONFIG, "is missing")
        return
    try:
        parsed = json.loads((folder / _CONFIG).read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        _add(broken, ProblemKind.DAMAGED, _CONFIG, f"is not valid JSON: {error}")
        return
    if not isinstance(parsed, dict):
        _add(broken, ProblemKind.DAMAGED, _CONFIG, "is not a JSON object")


def _read_index(folder: Path, index: str | None, here: set[str], broken: dict[str, FolderProblem]) -> set[str]:
    """Weight files that the index names; none without an index."""
    if index is None or index not in here:
        return set()
    try:
        return {str(name) for name in json.loads((folder / index).read_bytes())["weight_map"].values()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        _add(broken, ProblemKind.DAMAGED, index, "has no readable weight_map")
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


def find_problems(
    folder: Path, *, load_format: str = DEFAULT_FORMAT, deep: bool = False, by_manifest: bool = True
) -> tuple[str, ...]:
    """Reasons why `folder` is not a complete model, one sentence each; empty if it is.

    Args:
        load_format: the launch's engine.load_format.
        deep: also compare the SHA-256 of every file with the manifest.
        by_manifest: a file that differs from the manifest is a reason.
    """
    facts = inspect_folder(str(folder), load_format=load_format, samples=False, by_manifest=by_manifest)
    if not facts.exists:
        return (f"{folder} does not exist",)
    if facts.error:
        return (f"{folder} {facts.error}",)
    problems = {problem.name: problem.what for problem in facts.broken}
    if not facts.has_weights and load_format != "dummy":
        problems[""] = f"weights are missing: no file that load_format {load_format} loads"
    manifest = Manifest.read(folder) if deep else None
    for name, file in (manifest.files if manifest else {}).items():
        if name not in problems and (difference := find_difference(folder, name, file, complete=True)):
            problems[name] = difference
    return tuple(problems.values())
