"""Whether the new engine serves as well as the old one: pure judgements over both measurements."""

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from raylaunch.bench.compare import ComparedMeasure, compare_files
from raylaunch.upgrade.answers import Answer, find_threshold

_ALLOWED_LOSS = 0.10
_CLEARLY = 2.0
_JUDGED = ("throughput", "first token, median")


@dataclass(frozen=True)
class Measured:
    """One engine, measured."""

    result: Path
    """Of `raylaunch bench`, with its rows beside it."""
    answers: tuple[Answer, ...]
    scores: tuple[float, ...]
    """Of the old engine's answers, in nats a token."""
    scores_at_once: tuple[float, ...]
    """The same again, all answers at once: the old engine's scatter; () for the new one."""
    problems: tuple[str, ...] = ()
    """Of chat, streaming and tools."""


def judge(old: Measured, new: Measured) -> Iterator[str]:
    """Why the new engine may not stay, a sentence each."""
    yield from new.problems
    yield from judge_answers(old, new)
    differences, levels = compare_files(old.result, new.result)
    yield from differences
    for level in levels:
        for line in level.lines:
            if line.name in _JUDGED and is_worse(line):
                scatter = "" if line.ratio is None else f", {line.ratio:.2f} ({line.low:.2f} to {line.high:.2f})"
                yield (
                    f"{level.load}: {line.name} went from {line.a:,.1f} to {line.b:,.1f} {line.unit}{scatter}; "
                    f"{_ALLOWED_LOSS:.0%} worse is allowed"
                )


def is_worse(line: ComparedMeasure) -> bool:
    """Whether a measure is more than 10 % worse, beyond its scatter: the better end of its 95 % interval is.

    Where the runs are too short for an interval, half as good is worse.
    """
    if line.ratio is None or line.low is None or line.high is None:
        return line.b < line.a / _CLEARLY if line.higher_is_better else line.b > line.a * _CLEARLY
    return line.high < 1 - _ALLOWED_LOSS if line.higher_is_better else line.low > 1 + _ALLOWED_LOSS


def judge_answers(old: Measured, new: Measured) -> Iterator[str]:
    """The old engine's answers are about as likely under the new one."""
    if not old.answers:
        return
    threshold = find_threshold(old.scores, old.scores_at_once)
    loss = statistics.mean(old.scores) - statistics.mean(new.scores)
    if loss > threshold:
        yield (
            f"the old answers are less likely by {loss:.2f} nats a token under the new engine "
            f"({threshold:.2f} is allowed): other weights, or broken ones"
        )


def describe_changes(old: dict[str, str], new: dict[str, str]) -> Sequence[str]:
    """What differs between two launches, a line for each key."""
    keys = [key for key in dict.fromkeys([*old, *new]) if old.get(key) != new.get(key)]
    return [f"{key}: {old.get(key, 'default')} -> {new.get(key, 'default')}" for key in keys]
