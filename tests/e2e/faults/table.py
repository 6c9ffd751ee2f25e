"""docs/faults.md, written by the suite: each fault under raylaunch, and under vLLM's own server beside it."""

import os
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from raylaunch import versions

from .stage import PROGRESS_LIMIT_S, Row

PAGE = Path(__file__).parents[3] / "docs" / "faults.md"
_HEAD = """\
# Faults, measured

Written by `make faults` (tests/e2e/faults): a tiny model at TP=2 x PP=2 over two Ray nodes of one machine on CPU, two
streams and one plain completion in flight at each strike. The progress limit is {limit:.0f} s here (60 s by default).

- **last client**: from the strike until the last waiting client had its answer or error. Bars: 10 s for a death, the
  progress limit + 5 s for a wedge.
- **ready**: from the strike until a completion came back, and how many times the first start that is. Bar: 1.25.
- **left over**: processes of the struck engine that were there afterwards. Bar: none.
- **vLLM alone**: its own server with the same arguments, struck in the same way: last client, and what became of it. A
  client was given up after {patience:.0f} s.

{date}, {machine}, {versions}.

| fault | last client | ready | left over | vLLM alone |
| --- | --- | --- | --- | --- |
"""


@dataclass(frozen=True)
class Alone:
    """The same fault under vLLM's own server."""

    last_client_s: float | None
    """None: they were given up."""
    became: str


def write(rows: Sequence[Row], alone: dict[str, Alone], patience_s: float, more: Sequence[str] = ()) -> str:
    """Write the page, and return it."""
    found = {name: versions.find_version(name) for name in ("vllm", "ray", "torch")}
    text = _HEAD.format(
        limit=PROGRESS_LIMIT_S,
        patience=patience_s,
        date=time.strftime("%Y-%m-%d"),
        machine=f"{os.cpu_count()} cores, {platform.machine()}",
        versions=", ".join(f"{name} {version}" for name, version in found.items()),
    )
    for row in rows:
        beside = alone.get(row.fault)
        told = "" if beside is None else (
            f"{'given up' if beside.last_client_s is None else f'{beside.last_client_s:.1f} s'}; {beside.became}"
        )  # fmt: skip
        ready = "served on" if row.kind == "none" else f"{row.ready_s:.1f} s ({row.ratio:.2f})"
        text += f"| {row.fault} | {row.last_client_s:.1f} s | {ready} | {len(row.left) or 'none'} | {told} |\n"
    text += "".join(f"\n{line}\n" for line in more)
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(text)
    return text
