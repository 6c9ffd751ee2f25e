"""The launch file's JSON Schema (draft 2020-12): raylaunch's own blocks and the options of the installed vLLM.

The schema of the pinned vLLM ships with raylaunch. Another installed vLLM is described once, in a child process
(`raylaunch.engine.describe_options`), and its schema is kept in `~/.raylaunch/options`.
"""

import functools
import hashlib
import importlib.resources
import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from raylaunch.base import paths, versions

Part = Mapping[str, Any]
"""The schema of one value. Keywords in use: type, enum, minimum, exclusiveMinimum, maximum, exclusiveMaximum, pattern,
minItems, items, properties, required, additionalProperties, $ref, not, examples, default, description; errorMessage,
which editors show too, is for pattern, enum, minItems and not."""

_FILE = "launch.schema.json"
_DESCRIBE_TIMEOUT_S = 300.0


@dataclass(frozen=True)
class FileSchema:
    """The JSON Schema of a launch or cluster file, and access to its parts."""

    document: Part

    @classmethod
    def parse(cls, text: str) -> "FileSchema":
        """The schema of a launch file that `to_text` wrote.

        Raises:
            ValueError: the text is not the schema of a launch file.
        """
        document = json.loads(text)
        if not isinstance(document, dict) or not {"x-vllm", "properties", "$defs"} <= document.keys():
            raise ValueError("not the schema of a launch file")
        return cls(document)

    @property
    def vllm(self) -> str:
        """The vLLM release whose options these are, without the build ("+cpu")."""
        return str(self.document["x-vllm"])

    def resolve(self, part: Part) -> Part:
        """The definition that a part refers to, else the part itself."""
        reference = part.get("$ref")
        return self.document["$defs"][reference.removeprefix("#/$defs/")] if reference else part

    def list_fields(self, *key: str) -> Mapping[str, Part]:
        """The known keys below `key` and their schemas; empty where nothing is known of them."""
        part: Part = self.document
        for name in key:
            part = self.resolve(part).get("properties", {}).get(name, {})
        return self.resolve(part).get("properties", {})  # type: ignore[no-any-return]

    def list_defaults(self, block: str) -> dict[str, JsonValue]:
        """The values that a block's keys have where they are not set; vLLM's own defaults are not among them."""
        return {name: part["default"] for name, part in self.list_fields(block).items() if "default" in part}

    def to_text(self) -> str:
        """The document as JSON with one option a line, so that two releases can be compared line by line."""
        return _write_lines(self.document, depth=4) + "\n"


def _write_lines(value: Any, depth: int, indent: str = "") -> str:
    if not isinstance(value, dict) or not value or depth == 0:
        return json.dumps(value, ensure_ascii=False)
    lines = [f"{indent} {json.dumps(name)}: {_write_lines(v, depth - 1, f'{indent} ')}" for name, v in value.items()]
    return "{\n" + ",\n".join(lines) + f"\n{indent}}}"


def find_schema() -> FileSchema:
    """The schema for the vLLM installed here; the pinned one's where none is, or where it cannot be described."""
    installed = (versions.find_version("vllm") or versions.VLLM).partition("+")[0]
    if installed == versions.VLLM:
        return read_shipped()
    # A release of raylaunch with other blocks describes vLLM again.
    release = hashlib.sha256(_read_shipped_text().encode()).hexdigest()[:8]
    kept = paths.home() / "options" / f"vllm-{installed}-{release}.schema.json"
    try:
        return FileSchema.parse(kept.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return _describe_installed(installed, kept)


@functools.cache
def read_shipped() -> FileSchema:
    """The schema for the pinned vLLM."""
    return FileSchema.parse(_read_shipped_text())


def _read_shipped_text() -> str:
    return (importlib.resources.files("raylaunch.data") / _FILE).read_text(encoding="utf-8")


def _describe_installed(version: str, kept: Path) -> FileSchema:
    from raylaunch.base import console

    if not versions.is_supported(version):
        first, last = versions.VLLM_SUPPORTED
        console.say(f"warning: vLLM {version} is installed; raylaunch knows {first} to {last}", style="yellow")
    console.say(f"reading the options of vLLM {version}, once (a few seconds)")
    try:
        text = describe_in_child()
        schema = FileSchema.parse(text)
    except (RuntimeError, ValueError) as error:
        console.say(
            f"warning: cannot read the options of vLLM {version} ({error}); checking against those of {versions.VLLM}",
            style="yellow",
        )
        return read_shipped()
    paths.write_quietly(kept, text)
    return schema


def describe_in_child() -> str:
    """The schema for the vLLM installed here, as text, from a child process that imports it.

    Raises:
        RuntimeError: the child failed or timed out; with the last line of its stderr.
    """
    # -P: a folder called vllm in the working directory is not the installed vLLM
    command = [sys.executable, "-P", "-m", "raylaunch.engine.describe_options"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_DESCRIBE_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"no answer within {_DESCRIBE_TIMEOUT_S:.0f} s") from None
    if done.returncode != 0:
        raise RuntimeError(([f"exit status {done.returncode}", *done.stderr.strip().splitlines()])[-1])
    return done.stdout
