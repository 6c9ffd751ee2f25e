"""Options and environment variables that vLLM removed, 0.6 to 0.33: since which release, and what to write now.

`data/removed_options.json` has them, from the sources of all these releases: the fields of EngineArgs, AsyncEngineArgs
and FrontendArgs, those of the config classes since 0.16 (dotted, three older ones too), and the variables of
vllm/envs.py that users set.
"""

import functools
import importlib.resources
import json
from collections.abc import Mapping
from dataclasses import dataclass

from raylaunch.base import versions


@dataclass(frozen=True)
class RemovedOption:
    """An option or variable that is gone."""

    name: str
    since: str
    """First release of vLLM without it, as "0.28"."""
    write: str
    """What takes its place, as YAML or NAME=VALUE; empty: nothing does."""
    note: str

    def __str__(self) -> str:
        now = f"write {self.write}" if self.write else "leave it out"
        note = f" ({self.note})" if self.note else ""
        return f"{self.name} was removed in vLLM {self.since}: {now}{note}"


@functools.cache
def read_removed() -> Mapping[str, RemovedOption]:
    """All of them by name."""
    text = (importlib.resources.files("raylaunch.data") / "removed_options.json").read_text(encoding="utf-8")
    return {name: RemovedOption(name.rpartition(".")[2], *row) for name, row in json.loads(text).items()}


def find_ignored(environ: Mapping[str, str], vllm: str) -> list[RemovedOption]:
    """The variables of `environ` that this vLLM no longer reads."""
    release = _parse_release(vllm)
    return [found for name in environ if (found := read_removed().get(name)) and _parse_release(found.since) <= release]


def find_ignored_here(environ: Mapping[str, str]) -> list[RemovedOption]:
    """The variables of `environ` that the vLLM installed here no longer reads."""
    return find_ignored(environ, versions.find_version("vllm") or versions.VLLM)


def _parse_release(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2] if part.isdecimal())
