"""One step of fetching a model in a child process: it may import what the supervisor must not, and ends at once."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from raylaunch.base.errors import RaylaunchError, WeightsError
from raylaunch.base.ipc import ChildLink, Failed

_WAIT_S = 0.5
_GRACE_S = 3.0
_EXCERPT_LINES = 4


@dataclass(frozen=True)
class StepNote:
    """From a step: a line of progress."""

    text: str


def run_step(
    module: str,
    arguments: Sequence[str],
    log: Path,
    *,
    what: str,
    fix: str,
    environment: Mapping[str, str] | None = None,
    report: Callable[[str], None] = lambda _line: None,
) -> None:
    """Run `python -m MODULE ARGUMENTS` to its end; it ends with this process, however that ends.

    Args:
        log: file for all it prints, written anew.
        what: what failed, if it fails.
        fix: what to do then.
        environment: added to ours.
        report: gets its lines of progress (StepNote).

    Raises:
        RaylaunchError: the step failed and sent the reason (ipc.Failed).
        WeightsError: it failed without one.
    """
    with log.open("wb") as output:
        child = ChildLink.launch(
            module, arguments=arguments, environment={**os.environ, **(environment or {})}, output=output
        )
    try:
        is_running = True
        while is_running:
            is_running = child.is_alive()  # asked before its last messages are read
            if is_running and child.is_closed:
                time.sleep(0.05)
            for message in child.wait(_WAIT_S):
                if isinstance(message, StepNote):
                    report(message.text)
    finally:
        child.request_end()
        child.wait_end(_GRACE_S)
    if child.process.popen.returncode:
        raise _find_failure(child, log, what, fix)


def _find_failure(child: ChildLink, log: Path, what: str, fix: str) -> RaylaunchError:
    if (failed := child.last(Failed)) is not None:
        return failed.error
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return WeightsError(f"{what} (it ended {child.describe_end()})", fix=fix, log=log, excerpt=lines[-_EXCERPT_LINES:])
