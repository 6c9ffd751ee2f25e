"""One step of fetching a model in a child process: it may import what the supervisor must not, and ends at once."""

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from raylaunch.base.errors import WeightsError
from raylaunch.base.processes import Child, wait_until

_LOOK_S = 0.5
_PATIENCE_S = 3.0
_EXCERPT_LINES = 4


def run_step(
    arguments: Sequence[str],
    log: Path,
    *,
    what: str,
    fix: str,
    environment: Mapping[str, str] | None = None,
    watch: Callable[[], None] = lambda: None,
) -> None:
    """Run `python ARGUMENTS` to its end; it ends with us, however we end.

    Args:
        log: file for all it prints, written anew.
        what: what has failed should it fail, as a clause that its last words follow.
        fix: what to do then.
        environment: added to ours.
        watch: called twice a second while it runs.

    Raises:
        WeightsError: it failed. A child that wrote its reason with `tell_failure` speaks for itself.
    """
    told = log.with_suffix(".failure")
    told.unlink(missing_ok=True)
    with log.open("wb") as output:
        child = Child.start(
            [sys.executable, *arguments],
            environment={**os.environ, **(environment or {}), "RAYLAUNCH_FAILURE_FILE": str(told)},
            output=output,
        )
    try:
        next_look = time.monotonic()
        while not wait_until(lambda: child.popen.poll() is not None, _LOOK_S):
            if time.monotonic() >= next_look:
                watch()
                next_look = time.monotonic() + _LOOK_S
    finally:
        child.send(signal.SIGTERM)
        child.wait_or_kill(_PATIENCE_S)
    if child.popen.returncode:
        raise _read_failure(told, log, child.popen.returncode, what, fix)


def tell_failure(what: str, fix: str) -> None:
    """In the child: leave the reason for the parent's error; the child should exit 1 after it."""
    Path(os.environ["RAYLAUNCH_FAILURE_FILE"]).write_text(json.dumps({"what": what, "fix": fix}))


def _read_failure(told: Path, log: Path, status: int, what: str, fix: str) -> WeightsError:
    try:
        reason = json.loads(told.read_text())
    except (OSError, ValueError):
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
        ended = f"signal {-status}" if status < 0 else f"exit status {status}"
        return WeightsError(f"{what} ({ended})", fix=fix, log=log, excerpt=lines[-_EXCERPT_LINES:])
    return WeightsError(reason["what"], fix=reason["fix"])
