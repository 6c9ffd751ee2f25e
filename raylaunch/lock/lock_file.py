"""The lock file: written beside a launch file, read and compared before a start."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from raylaunch.base import paths
from raylaunch.base.errors import LaunchFileError
from raylaunch.base.text import printable
from raylaunch.config.layers import name_lock

_HEADER = "# Written by `raylaunch lock`. `raylaunch serve` names what differs from it; `serve --locked` refuses.\n"
_MISSING = "none"
_NOT_COMPARED = ("made_at", "launch.keep.locked", "launch.server.api_key")


@dataclass(frozen=True, slots=True)
class LockedNode:
    """The hardware of one node."""

    driver: str = ""
    """Of NVIDIA; "" without GPUs."""
    gpus: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Lock:
    """What a launch is served with. Secrets are masked."""

    made_at: str
    """UTC, as 2026-11-27T19:00:00Z."""
    versions: Mapping[str, str]
    """raylaunch, vllm, ray, torch, nccl, python."""
    nodes: Mapping[str, LockedNode]
    """By hostname."""
    model: Mapping[str, str]
    """repo or path, commit, and a hash over names, sizes and small files (`files_sha256`)."""
    launch: Mapping[str, Any]
    """The launch's values by block."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables that change how vLLM, NCCL and Ray behave."""
    image: str = ""
    """The container image and its id; "" outside of one, or where it is not known."""


@dataclass(frozen=True, slots=True)
class LockDifference:
    """One value that is another one now."""

    key: str
    locked: str
    now: str

    def describe(self) -> str:
        """As "versions.vllm: 0.31.0 in the lock, 0.32.0 now"."""
        return f"{self.key}: {printable(self.locked)} in the lock, {printable(self.now)} now"


def find_lock(launch_file: Path | None) -> Path | None:
    """The lock file of a launch file, if there is one."""
    path = None if launch_file is None else name_lock(launch_file)
    return path if path is not None and path.is_file() else None


def to_text(lock: Lock) -> str:
    """As YAML."""
    return _HEADER + yaml.safe_dump(_to_fields(lock), allow_unicode=True, sort_keys=False)


def write_lock(path: Path, text: str) -> None:
    """Write `to_text`'s result; an older one is kept as LAUNCH.lock.1.yaml.

    Raises:
        LaunchFileError: it cannot be written.
    """
    try:
        if path.is_file() and path.read_text(encoding="utf-8") != text:
            path.replace(path.with_suffix(".1.yaml"))
        paths.write_private(path, text)
    except OSError as error:
        raise LaunchFileError(f"{path} cannot be written: {error.strerror}", fix="name another with -o") from error


def _to_fields(lock: Lock) -> dict[str, object]:
    values = {one.name: getattr(lock, one.name) for one in fields(lock)}
    values["nodes"] = {
        name: {"driver": node.driver, "gpus": list(node.gpus)} for name, node in sorted(lock.nodes.items())
    }
    return {name: dict(value) if isinstance(value, Mapping) else value for name, value in values.items()}


def read_lock(path: Path) -> Lock:
    """Read it.

    Raises:
        LaunchFileError: it is no lock file.
    """
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
        nodes = {
            name: LockedNode(str(node["driver"]), tuple(map(str, node["gpus"])))
            for name, node in document["nodes"].items()
        }
        return Lock(**{**document, "nodes": nodes})
    except (OSError, yaml.YAMLError, TypeError, KeyError, AttributeError) as error:
        raise LaunchFileError(
            f"{path} is not a lock file that this raylaunch can read: {error}",
            fix="write it again: raylaunch lock LAUNCH.yaml",
        ) from error


def compare_locks(locked: Lock, now: Lock) -> list[LockDifference]:
    """What differs, key by key. An image that is not known now is no difference."""
    old, new = (_flatten(_to_fields(lock)) for lock in (locked, now))
    ignored = (*_NOT_COMPARED, *(["image"] if not now.image else []))
    keys = [key for key in dict.fromkeys([*old, *new]) if key not in ignored]
    return [
        LockDifference(key, old.get(key, _MISSING), new.get(key, _MISSING))
        for key in keys
        if old.get(key) != new.get(key)
    ]


def _flatten(value: Any, prefix: str = "") -> dict[str, str]:
    if isinstance(value, Mapping):
        pairs = [_flatten(entry, f"{prefix}.{key}" if prefix else str(key)) for key, entry in value.items()]
        return {key: text for pair in pairs for key, text in pair.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return {prefix: ", ".join(map(str, value)) or _MISSING}
    return {prefix: str(value) or _MISSING}
