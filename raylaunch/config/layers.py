"""The values of a launch from all layers (file, variables, flags), merged by priority, each with its source."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import JsonValue

from raylaunch.base.text import printable

BLOCKS = ("model", "cluster", "engine", "server", "keep", "fallback")

Key = tuple[str, ...]
"""Path of a value: ("engine", "compilation_config", "mode")."""


@dataclass(frozen=True, slots=True)
class ValueSource:
    """Where a value came from: kind "flag", "variable", "file", "default" or "derived", and the place as text."""

    kind: str
    where: str = ""

    def __str__(self) -> str:
        return self.where or self.kind


@dataclass
class LayeredValues:
    """The merged values of all layers."""

    values: dict[str, JsonValue] = field(default_factory=dict)
    """Block -> field -> value."""
    sources: dict[Key, ValueSource] = field(default_factory=dict)
    """Path of a value or a block -> where it was set."""
    problems: list[str] = field(default_factory=list)
    """Sentences with their place."""
    unread: bool = False
    """The file could not be read, so a value that seems missing may be in it."""

    def put(self, key: Key, value: JsonValue, source: ValueSource) -> None:
        """Set a value over that of a lower layer."""
        block = self.values
        for name in key[:-1]:
            inner = block.get(name)
            if not isinstance(inner, dict):
                block[name] = inner = {}
            block = inner
        block[key[-1]] = value
        for known in [known for known in self.sources if known[: len(key)] == key]:
            del self.sources[known]
        self.sources[key] = source

    def find_block(self, key: Key) -> dict[str, JsonValue]:
        """The mapping at `key`; an empty one where the value is missing or no mapping."""
        block: JsonValue = self.values
        for name in key:
            block = block.get(name) if isinstance(block, dict) else None
        return block if isinstance(block, dict) else {}

    def find_source(self, key: Key) -> ValueSource:
        """Where the value at `key`, or the closest block around it, or a value inside it, was set."""
        for length in range(len(key), 0, -1):
            if (source := self.sources.get(key[:length])) is not None:
                return source
        inside = (source for known, source in self.sources.items() if known[: len(key)] == key)
        return next(inside, ValueSource("default"))

    def complain(self, key: Key, what: str) -> None:
        """Add a problem of the value at `key`."""
        self.problems.append(place_problem(self.find_source(key), show_key(key), what))


def place_problem(source: ValueSource, key: str, what: str) -> str:
    """A problem as a sentence: where, key, what."""
    if source.kind == "flag" and source.where == f"--set {key}":
        return f"{source.where}: {what}"
    return f"{source}: {key}: {what}"


def flatten(values: Mapping[str, JsonValue], key: Key = ()) -> Iterator[tuple[Key, JsonValue]]:
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


IMAGE_VARIABLE = "RAYLAUNCH_IMAGE"
"""The container image and its id, for a process in the container, which cannot see them: to be compared with a lock."""


def name_lock(launch_file: Path) -> Path:
    """LAUNCH.lock.yaml beside LAUNCH.yaml."""
    return launch_file.with_name(f"{launch_file.stem}.lock.yaml")
