"""What was said of a launch, and where: values merged by priority, each with its source."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from raylaunch.base.text import printable

BLOCKS = ("model", "cluster", "engine", "server", "keep")

Key = tuple[str, ...]
"""Path of a value: ("engine", "compilation_config", "mode")."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where a value came from: kind "flag", "variable", "file", "default" or "derived", and the place in words."""

    kind: str
    where: str = ""

    def __str__(self) -> str:
        return self.where or self.kind


@dataclass
class Said:
    """Everything that was said, by all layers."""

    values: dict[str, Any] = field(default_factory=dict)
    """Block -> field -> value."""
    sources: dict[Key, Source] = field(default_factory=dict)
    """Path of a value or a block -> where it was said."""
    problems: list[str] = field(default_factory=list)
    """What is wrong, as sentences with their place."""
    unread: bool = False
    """The file could not be read, so that what seems missing may well be in it."""

    def put(self, key: Key, value: Any, source: Source) -> None:
        """Say a value, over what a lower layer said."""
        block = self.values
        for name in key[:-1]:
            if not isinstance(block.get(name), dict):
                block[name] = {}
            block = block[name]
        block[key[-1]] = value
        for known in [known for known in self.sources if known[: len(key)] == key]:
            del self.sources[known]
        self.sources[key] = source

    def find_source(self, key: Key) -> Source:
        """Where the value at `key`, or the closest block around it, or a value inside it, was said."""
        for length in range(len(key), 0, -1):
            if (source := self.sources.get(key[:length])) is not None:
                return source
        inside = (source for known, source in self.sources.items() if known[: len(key)] == key)
        return next(inside, Source("default"))

    def complain(self, key: Key, what: str) -> None:
        """Add a problem of the value at `key`."""
        self.problems.append(place_problem(self.find_source(key), show_key(key), what))


def place_problem(source: Source, key: str, what: str) -> str:
    """A problem as a sentence: where, key, what."""
    if source.kind == "flag" and source.where == f"--set {key}":
        return f"{source.where}: {what}"
    return f"{source}: {key}: {what}"


def flatten(values: dict[str, Any], key: Key = ()) -> Iterator[tuple[Key, Any]]:
    """Path and value of every value that is no block itself (an empty block is a value)."""
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield from flatten(value, (*key, name))
        else:
            yield (*key, name), value


def describe_path(path: Path | None) -> str:
    """A launch file's name for messages; None is the demo."""
    if path is None:
        return "shipped demo.yaml"
    name = str(path)
    name = name if len(name) < 500 else f"{name[:500]}..."
    return "".join(char if char.isprintable() else "?" for char in name)


def show_key(key: Key) -> str:
    """A path as one writes it, safe to print."""
    return ".".join(printable(name) for name in key)
