"""vLLM's engine and server options as a table: names, kinds, choices and ranges, without importing vLLM here.

The table of the pinned vLLM ships with raylaunch. Another installed vLLM is described once, in a child process
(`vllm_options`), and its table is kept in `~/.raylaunch/options`.
"""

import functools
import importlib.resources
import json
import math
import operator
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raylaunch.base import paths, versions
from raylaunch.base.text import list_choices, quote
from raylaunch.base.versions import is_supported

_DESCRIBE_TIMEOUT_S = 300.0


_KIND_WORDS = {
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "list": "a list",
    "dict": "a block of `name: value`",
    "null": "null",
}


@dataclass(frozen=True, slots=True)
class Option:
    """What one option takes."""

    kinds: tuple[str, ...]
    """Of "bool", "int", "float", "str", "list", "dict", "null"; "any" alone where vLLM does not say."""
    choices: tuple[str | int, ...] = ()
    """The only values, where vLLM names them all (null besides, where it is a kind)."""
    items: "Option | None" = None
    """What a list holds."""
    config: str | None = None
    """Name in Table.classes of the vLLM class that a block fills."""
    example: str = ""
    """A value that makes sense, where a made-up one would not."""
    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "Option":
        """An option as vllm_options writes it."""
        items = fields.get("items")
        return cls(
            **{key: value for key, value in fields.items() if key not in ("kinds", "choices", "items")},
            kinds=tuple(fields["kinds"]),
            choices=tuple(fields.get("choices", ())),
            items=cls.from_json(items) if items else None,
        )

    def takes(self, value: Any) -> bool:
        """Whether the kind of `value` fits; choices and ranges are not looked at."""
        kind = find_kind(value)
        return "any" in self.kinds or kind in self.kinds or (kind == "int" and "float" in self.kinds)

    def make_example(self) -> str:
        """A value that fits, as one would write it in the file."""
        if self.example:
            return self.example
        if self.choices:
            return str(self.choices[-1])
        kind = self.kinds[0]
        if kind in ("int", "float"):
            low = self.ge if self.ge is not None else self.gt or 0
            high = self.le if self.le is not None else self.lt
            number = (low + high) / 2 if high is not None else max(low, 1)
            return f"{int(number) if kind == 'int' else float(number)}"
        return {"bool": "true", "list": "[a, b]", "dict": "{name: value}"}.get(kind, "text")


Options = Mapping[str, Option]


@dataclass(frozen=True, slots=True)
class Table:
    """The options of one vLLM release."""

    vllm: str
    """Its version, without the build ("+cpu")."""
    engine: Options
    """AsyncEngineArgs by field name."""
    server: Options
    """FrontendArgs by field name."""
    classes: Mapping[str, Options]
    """The fields of vLLM's own config classes, for options that take a block."""

    @classmethod
    def from_json(cls, text: str) -> "Table":
        """A table as vllm_options writes it.

        Raises:
            ValueError, KeyError, TypeError, AttributeError: this is no such table.
        """
        fields = json.loads(text)

        def read(options: Mapping[str, Any]) -> Options:
            return {name: Option.from_json(option) for name, option in options.items()}

        return cls(
            vllm=str(fields["vllm"]),
            engine=read(fields["engine"]),
            server=read(fields["server"]),
            classes={name: read(options) for name, options in fields["classes"].items()},
        )


def find_kind(value: Any) -> str:
    """The kind of a value read from YAML."""
    return {bool: "bool", int: "int", float: "float", str: "str", list: "list", dict: "dict"}.get(type(value), "null")


def check(option: Option, value: Any, *, secret: bool = False) -> Iterator[str]:
    """What is wrong with `value` for `option`, each as the end of a sentence; nested blocks are not entered.

    Args:
        secret: the value must not be told.
    """
    if not option.takes(value):
        yield _describe_mismatch(option, value, secret=secret)
        return
    if value is None:
        return
    if isinstance(value, float) and not math.isfinite(value):
        yield f"{value} is no finite number (example: {option.make_example()})"
    elif option.choices and (value not in option.choices or isinstance(value, bool)):
        shown = "this" if secret else quote(value)
        yield f"{shown} is not a choice; {list_choices(str(value), [str(choice) for choice in option.choices])}"
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield from _check_range(option, value)
    elif isinstance(value, list) and option.items is not None:
        for number, item in enumerate(value, 1):
            yield from (f"entry {number}: {problem}" for problem in check(option.items, item, secret=secret))


def _check_range(option: Option, value: float) -> Iterator[str]:
    bounds = [
        (option.ge, "at least", operator.ge),
        (option.gt, "more than", operator.gt),
        (option.le, "at most", operator.le),
        (option.lt, "less than", operator.lt),
    ]
    said = [(words, bound, holds(value, bound)) for bound, words, holds in bounds if bound is not None]
    if not all(holds for _, _, holds in said):
        limits = " and ".join(f"{words} {bound:g}" for words, bound, _ in said)
        yield f"{value} is out of range: it must be {limits} (example: {option.make_example()})"


def _describe_mismatch(option: Option, value: Any, *, secret: bool) -> str:
    wanted = " or ".join(_KIND_WORDS[kind] for kind in option.kinds)
    kind = find_kind(value)
    got = "nothing" if value is None else _KIND_WORDS[kind]
    hidden = secret and (kind == "str" or "str" in option.kinds)
    if kind in ("bool", "int", "float", "str") and not hidden:
        got += f" ({quote(value)})"
    hint = option.make_example()
    if kind == "str" and {"int", "float"} & {*option.kinds}:
        hint = value if value.isdecimal() and len(value) < 16 and not hidden else hint
        return f"expected {wanted}, got {got}: write a number without quotes and with digits only (example: {hint})"
    if "str" in option.kinds and kind in ("bool", "int", "float"):
        return f"expected {wanted}, got {got}: put it in quotes"
    return f"expected {wanted}, got {got} (example: {hint})"


def find_table() -> Table:
    """The table of the vLLM installed here; the pinned one's where none is, or where it cannot be described."""
    installed = (versions.find_version("vllm") or versions.VLLM).partition("+")[0]
    if installed == versions.VLLM:
        return read_shipped()
    kept = paths.home() / "options" / f"vllm-{installed}.json"
    try:
        return Table.from_json(kept.read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return _describe_installed(installed, kept)


@functools.cache
def read_shipped() -> Table:
    """The table of the pinned vLLM."""
    file = importlib.resources.files("raylaunch.data") / f"vllm-{versions.VLLM}.json"
    return Table.from_json(file.read_text(encoding="utf-8"))


def _describe_installed(version: str, keep: Path) -> Table:
    from raylaunch.base import console

    if not is_supported(version):
        first, last = versions.VLLM_SUPPORTED
        console.say(f"warning: vLLM {version} is installed; raylaunch knows {first} to {last}", style="yellow")
    console.say(f"reading the options of vLLM {version}, once (a few seconds)")
    try:
        text = describe_in_child()
        table = Table.from_json(text)
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        console.say(
            f"warning: cannot read the options of vLLM {version} ({error}); checking against those of {versions.VLLM}",
            style="yellow",
        )
        return read_shipped()
    try:
        paths.write_private(keep, text)
    except OSError as error:
        console.say(f"cannot keep them in {keep.parent}: {error.strerror}")
    return table


def describe_in_child() -> str:
    """The table of the vLLM installed here, as JSON, read by a child process that imports it.

    Raises:
        RuntimeError: the child failed or took too long; with the last line it wrote.
    """
    # -P: a folder called vllm where the user happens to stand is not the installed vLLM
    command = [sys.executable, "-P", "-m", "raylaunch.engine.describe_options"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_DESCRIBE_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"no answer within {_DESCRIBE_TIMEOUT_S:.0f} s") from None
    if done.returncode != 0:
        raise RuntimeError(([f"exit status {done.returncode}", *done.stderr.strip().splitlines()])[-1])
    return done.stdout
