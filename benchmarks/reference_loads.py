"""What the reference run offers at each level of a sweep."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

OPEN_SHARE = 0.8
"""Of the requests/s of the sweep: an open loop at all of it would queue ever more."""
OPEN_REQUESTS = 32
"""At least so many in an open loop: its times scatter with the arrivals."""


@dataclass(frozen=True)
class Load:
    """One level's."""

    at_once: int
    requests: int
    rate: float | None = None
    """Of an open loop, requests/s; None for a closed one."""


def plan_loads(swept: dict[str, Any], levels: str, requests: str | None, loop: str) -> Iterator[Load]:
    """Each level's, in the order asked for.

    Args:
        swept: a result of `raylaunch bench` that has these levels.
        levels: at once, separated by commas.
        requests: a number, or one for each level; None: as many as the sweep had in its time.
        loop: "closed" or "open".

    Raises:
        SystemExit: the sweep has no such level, or `requests` has other than one number or one for each level.
    """
    known = {level["load"]["concurrency"]: level for level in swept["levels"]}
    asked_for = _read_numbers(levels)
    if unknown := [at_once for at_once in asked_for if at_once not in known]:
        raise SystemExit(f"--levels {unknown[0]}: not in the sweep, which has {', '.join(map(str, known))}")
    counts = _read_numbers(requests or "") or [max(4, known[at_once]["requests_ok"]) for at_once in asked_for]
    if len(counts) not in (1, len(asked_for)):
        raise SystemExit(f"--requests {requests}: one number, or one for each of {levels}")
    for at_once, count in zip(asked_for, counts * (len(asked_for) // len(counts)), strict=True):
        rate = round(OPEN_SHARE * known[at_once]["requests_per_s"], 3) if loop == "open" else None
        yield Load(at_once, max(count, OPEN_REQUESTS) if rate else count, rate)


def _read_numbers(words: str) -> list[int]:
    return [int(word) for word in words.split(",") if word]
