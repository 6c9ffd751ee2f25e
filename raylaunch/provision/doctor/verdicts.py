"""What a rule says of a host: the check, its state, what was seen, and what mends it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

HERE = "this machine"
"""Stands for a host where a verdict is about the machine that asks."""


class State(StrEnum):
    """How a check ended. What could not be looked at is never OK."""

    OK = "ok"
    WARNING = "warning"
    """May be lived with, knowingly."""
    UNKNOWN = "not checked"
    RED = "red"
    """Would fail, or answer wrongly."""


CHECKS = (
    *("key", "ssh", "login shell", "hostname", "sudo", "head to worker"),
    *("docker", "NVIDIA runtime", "image", "container"),
    *("GPUs", "driver", "GPU memory", "peer access"),
    *("disk", "model disk", "memory", "shared memory", "clock"),
    *("ports", "firewall", "network"),
)
"""All checks, in the order in which they are told: what comes first explains what comes later."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One check of one host."""

    check: str
    host: str
    """Its address in the cluster file, or HERE."""
    state: State
    what: str
    fix: str = ""
    """What to do, as a command where there is one; every red verdict has it."""
    mend: str = ""
    """A command that `--fix` may run there: it takes nothing away that somebody could miss."""


def ok(check: str, host: str, what: str) -> Verdict:
    """A check that a host passed."""
    return Verdict(check, host, State.OK, what)


def red(check: str, host: str, what: str, fix: str, *, mend: str = "") -> Verdict:
    """A check that a host failed."""
    return Verdict(check, host, State.RED, what, fix, mend)


def warn(check: str, host: str, what: str, fix: str = "", *, mend: str = "") -> Verdict:
    """Something that may be lived with."""
    return Verdict(check, host, State.WARNING, what, fix, mend)


def unknown(check: str, host: str, what: str, fix: str = "") -> Verdict:
    """A check that could not be made, and why."""
    return Verdict(check, host, State.UNKNOWN, what, fix)


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table: verdicts that say the same of several hosts."""

    state: State
    check: str
    hosts: tuple[str, ...]
    what: str
    fix: str


def sort_verdicts(verdicts: Iterable[Verdict]) -> list[Verdict]:
    """By check, in the order of CHECKS."""
    return sorted(verdicts, key=lambda verdict: CHECKS.index(verdict.check) if verdict.check in CHECKS else len(CHECKS))


def make_rows(verdicts: Sequence[Verdict]) -> list[Row]:
    """Rows of the table, in the order of State: red last, where a terminal's reader is."""
    groups: dict[tuple[State, str, str, str], list[str]] = {}
    for verdict in sort_verdicts(verdicts):
        groups.setdefault((verdict.state, verdict.check, verdict.what, verdict.fix), []).append(verdict.host)
    rows = [Row(state, check, tuple(hosts), what, fix) for (state, check, what, fix), hosts in groups.items()]
    return sorted(rows, key=lambda row: [*State].index(row.state))


def to_json(verdict: Verdict) -> dict[str, Any]:
    """A verdict for a program to read."""
    return {
        "check": verdict.check,
        "host": verdict.host,
        "state": verdict.state.value,
        "what": verdict.what,
        "fix": verdict.fix or None,
        "fixed_by_fix": bool(verdict.mend),
    }
