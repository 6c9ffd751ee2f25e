"""What a check finds: the node, what is wrong, what to do."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from raylaunch.base import console
from raylaunch.base.errors import ChecksFailedError


@dataclass(frozen=True, slots=True)
class Finding:
    """One problem of a node, and how to fix it."""

    node: str
    """The node's address in Ray."""
    what: str
    fix: str
    level: Literal["error", "warning"] = "error"
    """With an "error" the engine would not start, or would answer wrongly."""
    rule: str = ""
    """Name of the rule that found it."""
    is_transient: bool = False
    """Whether it may pass within seconds: a process that was killed still releases GPU memory."""


def show_findings(findings: Sequence[Finding]) -> None:
    """Print a table of them, if there are any: errors first, warnings marked."""
    ordered = sorted(findings, key=lambda finding: finding.level != "error")
    rows = [
        (found.node, found.what if found.level == "error" else f"warning: {found.what}", found.fix) for found in ordered
    ]
    if rows:
        console.show(console.make_table(("node", "what", "fix"), rows))


def raise_on_errors(findings: Sequence[Finding]) -> None:
    """Do nothing where there are only warnings.

    Raises:
        ChecksFailedError: at least one finding is an error; the message has the count, the nodes and the first one.
    """
    errors = [finding for finding in findings if finding.level == "error"]
    if not errors:
        return
    nodes = list(dict.fromkeys(finding.node for finding in errors))
    first = errors[0]
    raise ChecksFailedError(
        f"{len(errors)} {'check' if len(errors) == 1 else 'checks'} failed on {', '.join(nodes)}; "
        f"the first, on {first.node}: {first.what}",
        fix=first.fix,
        fault_key=first.rule,
    )
