"""docs/faults.md, written by the suite: each fault under raylaunch, and under vLLM's own server beside it.

What was measured is kept in benchmarks/results/faults.json, fault by fault, so that a part of the suite can be run
again alone; the page is made from that file.
"""

import json
import os
import platform
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from raylaunch.base import versions

from .stage import CANARY_S, PROGRESS_LIMIT_S, Row

_ROOT = Path(__file__).parents[3]
PAGE = _ROOT / "docs" / "faults.md"
RESULTS = _ROOT / "benchmarks" / "results" / "faults.json"
_HEAD = """\
# Faults, measured

Written by `make faults` (tests/e2e/faults) from benchmarks/results/faults.json: a tiny model at TP=2 x PP=2 over two
Ray nodes on CPU, two streams and one plain completion running at each fault. The progress limit is {limit:.0f} s here
(60 s by default), the liveness probe's interval {pause:.0f} s (60 s). {machine}, {versions}.

- **last client**: time from the fault to the last waiting client's answer or error. Limits: 10 s for a death, the
  progress limit + 5 s for a wedge.
- **ready**: time from the fault to the next completion, in brackets divided by that of the first start. Limit: 1.25.
  For a wedge it includes the progress limit; while no request runs, the liveness probe's interval too.
- **left over**: processes of the failed engine that still existed afterwards (of its Ray, too, if that was replaced);
  memory of all processes of the service when it was ready again, divided by that of the first time. Limits: none; 1.
- **vLLM alone**: vLLM's own server with the same arguments and the same fault: last client, and its state afterwards. A
  client was given up after {give_up:.0f} s. An empty cell: it has no such process, or it does not restart.

| fault | last client | ready | left over | vLLM alone |
| --- | --- | --- | --- | --- |
"""


@dataclass(frozen=True)
class Alone:
    """The same fault under vLLM's own server."""

    last_client_s: float | None
    """None: they were given up."""
    became: str


class Book:
    """All that was measured; the page is written anew at each note."""

    def __init__(self, *, give_up_s: float) -> None:
        self._give_up_s = give_up_s
        kept: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        self.rows: dict[str, dict[str, Any]] = kept.get("rows", {})
        self.alone: dict[str, dict[str, Any]] = kept.get("alone", {})
        self.notes: dict[str, str] = kept.get("notes", {})

    def note_row(self, row: Row) -> None:
        """A fault under raylaunch."""
        self.rows[row.fault] = asdict(row) | {"ratio": row.ratio, "date": time.strftime("%Y-%m-%d")}
        self.write()

    def note_alone(self, fault: str, alone: Alone) -> None:
        """The same under vLLM's own server."""
        self.alone[fault] = asdict(alone)
        self.write()

    def note(self, about: str, sentence: str) -> None:
        """A sentence below the table, in the place of the one about the same before."""
        self.notes[about] = sentence
        self.write()

    def write(self) -> None:
        """Write both files."""
        found = {name: versions.find_version(name) for name in ("vllm", "ray", "torch")}
        machine = f"{os.cpu_count()} cores, {platform.machine()}"
        kept = {"command": "make faults", "machine": machine, "versions": found, "progress_limit_s": PROGRESS_LIMIT_S}
        kept |= {"rows": self.rows, "alone": self.alone, "notes": self.notes}
        RESULTS.write_text(json.dumps(kept, indent=1) + "\n")
        text = _HEAD.format(
            limit=PROGRESS_LIMIT_S,
            pause=CANARY_S,
            give_up=self._give_up_s,
            machine=machine,
            versions=", ".join(f"{name} {version}" for name, version in found.items()),
        )
        text += "".join(_describe(row, self.alone.get(fault)) for fault, row in self.rows.items())
        text += "".join(f"\n{sentence}\n" for sentence in self.notes.values())
        PAGE.write_text(text)


def _describe(row: Mapping[str, Any], beside: Mapping[str, Any] | None) -> str:
    cells = [row["fault"], f"{row['last_client_s']:.1f} s", f"{row['ready_s']:.1f} s ({row['ratio']:.2f})"]
    cells.append(f"{len(row['left']) or 'none'}; {row['memory_ratio']:.2f}")
    if beside is None:
        cells.append("")
    else:
        waited = "given up" if beside["last_client_s"] is None else f"{beside['last_client_s']:.1f} s"
        cells.append(f"{waited}; {beside['became']}")
    return f"| {' | '.join(cells)} |\n"
