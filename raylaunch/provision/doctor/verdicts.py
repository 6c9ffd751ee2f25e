"""The verdict of a rule on a host: the check, its state, what was found, and what fixes it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

HERE = "this machine"
"""Stands for a host in a verdict on the machine that runs doctor."""


class VerdictState(StrEnum):
    """The result of a check. A check that could not be made is never OK."""

    OK = "ok"
    WARNING = "warning"
    """Works, with a disadvantage."""
    UNKNOWN = "not checked"
    FAILED = "failed"
    """The cluster would fail, or compute wrong results."""


CHECKS = (
    *("key", "ssh", "login shell", "hostname", "sudo", "head to worker"),
    *("docker", "NVIDIA runtime", "image", "container"),
    *("GPUs", "driver", "GPU memory", "peer access"),
    *("disk", "model disk", "memory", "shared memory", "kernel", "clock"),
    *("ports", "API port", "firewall", "network", "InfiniBand"),
)
"""All checks in the order of the table: an earlier failure explains later ones."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One check of one host."""

    check: str
    host: str
    """Its address in the cluster file, or HERE."""
    state: VerdictState
    what: str
    fix: str = ""
    """What to do, as a command where possible; every failed verdict has it."""
    safe: bool = False
    """Whether `fix` is a command that `--fix` may run on the host: it removes nothing that is in use."""


@dataclass(frozen=True, slots=True)
class Check:
    """One check of one host, to make its verdict with."""

    name: str
    host: str

    def ok(self, what: str) -> Verdict:
        """The host passed."""
        return Verdict(self.name, self.host, VerdictState.OK, what)

    def failed(self, what: str, fix: str, *, safe: bool = False) -> Verdict:
        """The host failed."""
        return Verdict(self.name, self.host, VerdictState.FAILED, what, fix, safe)

    def warning(self, what: str, fix: str = "", *, safe: bool = False) -> Verdict:
        """It works, with a disadvantage."""
        return Verdict(self.name, self.host, VerdictState.WARNING, what, fix, safe)

    def unknown(self, what: str, fix: str = "") -> Verdict:
        """The check could not be made, and why."""
        return Verdict(self.name, self.host, VerdictState.UNKNOWN, what, fix)


@dataclass(frozen=True, slots=True)
class VerdictRow:
    """A line of the table: equal verdicts on several hosts."""

    state: VerdictState
    check: str
    hosts: tuple[str, ...]
    what: str
    fix: str


def sort_verdicts(verdicts: Iterable[Verdict]) -> list[Verdict]:
    """By check, in the order of CHECKS."""
    return sorted(verdicts, key=lambda verdict: CHECKS.index(verdict.check) if verdict.check in CHECKS else len(CHECKS))


def make_rows(verdicts: Sequence[Verdict]) -> list[VerdictRow]:
    """Rows of the table, in the order of VerdictState: failed ones last, next to a terminal's prompt."""
    groups: dict[tuple[VerdictState, str, str, str], list[str]] = {}
    for verdict in sort_verdicts(verdicts):
        groups.setdefault((verdict.state, verdict.check, verdict.what, verdict.fix), []).append(verdict.host)
    rows = [VerdictRow(state, check, tuple(hosts), what, fix) for (state, check, what, fix), hosts in groups.items()]
    return sorted(rows, key=lambda row: [*VerdictState].index(row.state))
