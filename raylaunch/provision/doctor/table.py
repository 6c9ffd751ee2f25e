"""What doctor and `up` print for people: the healthy checks in one line, then each problem with what to do."""

import textwrap
from collections.abc import Iterator, Sequence

from raylaunch.provision.doctor.diagnose import Diagnosis
from raylaunch.provision.doctor.verdicts import CHECKS, Verdict, VerdictRow, VerdictState, make_rows

Line = tuple[VerdictState | None, str]
"""A line, and the state at its start that colours it."""
_INDENT = " " * 4
_TO_DO = "to do: "
_ASKED_FOR = frozenset({"model disk"})
"""Checks that need an argument of doctor's: without it, they are no news."""


def make_table(
    diagnosis: Diagnosis, *, verbose: bool = False, width: int | None = None, lists_by: str = ""
) -> list[Line]:
    """The lines of the table, failed ones last.

    Args:
        lists_by: the option with which the same command lists all checks.
        verbose: also what is ok, and what could not be checked for a reason that is shown.
        width: columns of the terminal; None: lines are not folded.
    """
    counts = {state: sum(verdict.state is state for verdict in diagnosis.verdicts) for state in VerdictState}
    shown = [verdict for verdict in diagnosis.verdicts if verbose or _is_news(verdict, diagnosis.verdicts)]
    unmade = counts[VerdictState.UNKNOWN] - sum(verdict.state is VerdictState.UNKNOWN for verdict in shown)
    first = f"{_count(counts[VerdictState.OK], 'check')} ok" + (f", {unmade} not made" if unmade else "")
    hosts = _count(len(diagnosis.cluster.hosts), "host")
    first += f": {hosts}, {diagnosis.seconds:.1f} s" + (f"; {lists_by} lists them" if lists_by and not verbose else "")
    lines: list[Line] = [(None, first)]
    for row in make_rows(shown):
        lines += _write_row(row, {*diagnosis.cluster.hosts}, width)
    return lines


def summarize(diagnosis: Diagnosis, then: str) -> str:
    """The last line: the next command, or where the problems are.

    Args:
        then: the command for hosts that are fit.
    """
    failed = [verdict for verdict in diagnosis.verdicts if verdict.state is VerdictState.FAILED]
    if not failed:
        return f"ready: {then}"
    hosts = tuple(dict.fromkeys(verdict.host for verdict in failed))
    return f"not ready: {_count(len(failed), 'problem')} on {name_hosts(hosts)}"


def _is_news(verdict: Verdict, verdicts: Sequence[Verdict]) -> bool:
    """Whether a verdict is shown by default: no check that only follows from a failed one of its host."""
    if verdict.state is VerdictState.UNKNOWN:
        failed = (other for other in verdicts if other.host == verdict.host and other.state is VerdictState.FAILED)
        return verdict.check in CHECKS and verdict.check not in _ASKED_FOR and not any(failed)
    return verdict.state is not VerdictState.OK


def _write_row(row: VerdictRow, all_hosts: set[str], width: int | None) -> Iterator[Line]:
    hosts = f"all {len(row.hosts)}" if len(row.hosts) > 1 and {*row.hosts} == all_hosts else name_hosts(row.hosts)
    if row.state is VerdictState.OK:
        yield row.state, f"{row.state.value}: {row.check} on {hosts}: {row.what}"
        return
    yield row.state, f"{row.state.value}: {row.check} on {hosts}"
    yield from ((None, line) for line in _fold(row.what, _INDENT, width))
    if row.fix:
        yield from ((None, line) for line in _fold(row.fix, f"{_INDENT}{_TO_DO}", width, joint=" \\"))


def _fold(text: str, first: str, width: int | None, *, joint: str = "") -> list[str]:
    """`text` behind `first`, in lines of at most `width` columns as far as its words allow.

    Args:
        joint: what a line that goes on ends with: a command stays one when it is pasted.
    """
    if width is None:
        return [first + text]
    lines = textwrap.wrap(
        text, width - len(joint), initial_indent=first, subsequent_indent=_INDENT * 2,
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip
    return [line + joint for line in lines[:-1]] + lines[-1:]


def name_hosts(hosts: Sequence[str]) -> str:
    """Hosts for a message: at most three by their addresses."""
    return ", ".join(hosts) if len(hosts) <= 3 else f"{', '.join(hosts[:2])} and {len(hosts) - 2} more"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
