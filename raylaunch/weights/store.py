"""A model's folder on one machine: its state, its lock, and all changes to it.

Next to the folder during a pull (inside it if it is a mount point or its parent is not writable)::

    <name>.download/    complete files, and `.part` prefixes of files in transit
    <name>.lock         held by the fetching process
"""

import contextlib
import errno
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from raylaunch.base.errors import WeightsError
from raylaunch.node.manifest import FOLDER_MODE, MANIFEST, FileFacts, Manifest, hash_samples
from raylaunch.weights.partial_file import SUFFIX

_PROBE = ".probe-"
_OF = ".of"


@dataclass(frozen=True)
class StorePaths:
    """The model's folder and the paths next to it."""

    folder: Path

    @property
    def aside(self) -> Path:
        """The download folder, used until all files are complete."""
        return self._beside("download")

    @property
    def lock(self) -> Path:
        """The lock file."""
        return self._beside("lock")

    def _beside(self, suffix: str) -> Path:
        if self.folder.is_dir() and (self.folder.is_mount() or not os.access(self.folder.parent, os.W_OK)):
            return self.folder / f".raylaunch.{suffix}"
        return self.folder.with_name(f"{self.folder.name}.{suffix}")


@dataclass(frozen=True)
class StoreState:
    """The state of a model's path on one node."""

    problem: str = ""
    """Why the path cannot be used, as a sentence; "" if it can."""
    fix: str = ""
    manifest: Manifest | None = None
    files: Mapping[str, int] = field(default_factory=dict)
    """Files in the folder: name -> bytes."""
    aside: Mapping[str, int] = field(default_factory=dict)
    """Complete files of an interrupted pull: name -> bytes."""
    aside_of: str = ""
    """Key of that pull (see prepare)."""
    parts: Mapping[str, int] = field(default_factory=dict)
    """Partial files of that pull: name -> bytes."""
    free_bytes: int = 0
    is_writable: bool = True

    @property
    def contents(self) -> tuple[object, ...]:
        """Manifest and all files, complete and partial."""
        return self.manifest, dict(self.files), dict(self.aside), dict(self.parts)


def inspect(folder: Path) -> StoreState:
    """Read the state of a model's path on this machine; changes nothing."""
    place = StorePaths(folder)
    try:
        if folder.exists() and not folder.is_dir():
            return StoreState(f"{folder} is a file, not a folder", "move it away, or correct model.path")
        parent = _find_existing_parent(folder)
        files = _list_sizes(folder)
        beside = _list_sizes(place.aside)
    except OSError as error:
        return StoreState(f"{folder} cannot be read: {error.strerror}", f"make it readable: chmod -R a+rX {folder}")
    target = folder if folder.is_dir() else parent
    return StoreState(
        manifest=Manifest.read(folder),
        files=files,
        aside={name: size for name, size in beside.items() if not name.endswith(SUFFIX)},
        aside_of=_read_note(place.aside / _OF),
        parts={name.removesuffix(SUFFIX): size for name, size in beside.items() if name.endswith(SUFFIX)},
        free_bytes=shutil.disk_usage(target).free,
        is_writable=os.access(target, os.W_OK) and not os.statvfs(target).f_flag & os.ST_RDONLY,
    )


def _find_existing_parent(folder: Path) -> Path:
    """The nearest existing parent."""
    return next(parent for parent in folder.parents if parent.is_dir())


def _list_sizes(folder: Path) -> dict[str, int]:
    try:
        entries = [entry for entry in os.scandir(folder) if entry.is_file() and not entry.name.startswith(".")]
    except FileNotFoundError:
        return {}
    return {entry.name: entry.stat().st_size for entry in entries}


def _read_note(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        return ""


def prepare(folder: Path, of: str) -> None:
    """Create the download folder.

    Args:
        of: key of the pull. Complete files of an earlier pull with the same key are not hashed again.

    Raises:
        WeightsError: it cannot be created.
    """
    aside = StorePaths(folder).aside
    try:
        aside.parent.mkdir(parents=True, exist_ok=True)
        aside.mkdir(mode=FOLDER_MODE, exist_ok=True)
        if not os.access(aside, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        (aside / _OF).write_text(of)
    except OSError as error:
        raise WeightsError(
            f"the model cannot be written to {folder}: {error.strerror}",
            fix=f"free disk space there or allow writing in {aside.parent}, or set another model.path",
        ) from error


def write_probe(folder: Path, mark: str) -> None:
    """Create a marker that other nodes see if they share the storage."""
    probe = StorePaths(folder).aside / f"{_PROBE}{mark}"
    probe.touch()


def read_probes(folder: Path) -> frozenset[str]:
    """Markers of all nodes that share this storage."""
    return frozenset(path.name.removeprefix(_PROBE) for path in StorePaths(folder).aside.glob(f"{_PROBE}*"))


def drop_probe(folder: Path, mark: str) -> None:
    """Remove this node's marker."""
    (StorePaths(folder).aside / f"{_PROBE}{mark}").unlink(missing_ok=True)


def try_lock(folder: Path) -> int | None:
    """Take the folder's lock; its file descriptor, or None if another process has it.

    The kernel releases the lock when the process ends.
    """
    held = os.open(StorePaths(folder).lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(held)
        return None
    return held


def finish(folder: Path, manifest: Manifest) -> None:
    """Move the files into the folder (atomically if it is new) and write the manifest.

    Files of the folder that the manifest does not name stay.

    Raises:
        OSError: the folder cannot be written.
    """
    aside = StorePaths(folder).aside
    if aside.is_dir():
        for path in aside.iterdir():
            if path.name not in manifest.files:
                path.unlink()
        if not folder.exists():
            _write_with_samples(aside, manifest)
            aside.chmod(FOLDER_MODE)
            aside.rename(folder)
            return
        for path in aside.iterdir():
            path.rename(folder / path.name)
        aside.rmdir()
    _write_with_samples(folder, manifest)


def _write_with_samples(folder: Path, manifest: Manifest) -> None:
    files = {
        name: FileFacts(facts.size, facts.sha256, hash_samples(folder / name)) for name, facts in manifest.files.items()
    }
    complete = Manifest(
        manifest.repo, manifest.revision, manifest.source, files, manifest.commit, dict(manifest.left_out)
    )
    if Manifest.read(folder) != complete:
        complete.write(folder)


def take_back(folder: Path, name: str) -> None:
    """Remove a damaged file from the download folder; one in the folder itself is replaced later."""
    with contextlib.suppress(FileNotFoundError):
        (StorePaths(folder).aside / name).unlink()


def find_file(folder: Path, name: str) -> Path | None:
    """Path of the complete file on this machine; None if it is missing."""
    return next((path for path in (StorePaths(folder).aside / name, folder / name) if path.is_file()), None)


def remove(folder: Path) -> Iterator[str]:
    """Remove the files that a pull wrote; yields a sentence on files that are kept.

    Raises:
        WeightsError: the folder has no manifest, so raylaunch did not fill it.
        OSError: a file cannot be removed.
    """
    place = StorePaths(folder)
    manifest = Manifest.read(folder)
    if folder.exists() and manifest is None and any(folder.iterdir()):
        raise WeightsError(
            f"{folder} has no raylaunch manifest: raylaunch did not fill it, so it is kept",
            fix=f"rm -r {folder}",
        )
    shutil.rmtree(place.aside, ignore_errors=True)
    place.lock.unlink(missing_ok=True)
    if not folder.exists():
        return
    for name in (*(manifest.files if manifest else ()), MANIFEST):
        (folder / name).unlink(missing_ok=True)
    if left := sorted(path.name for path in folder.iterdir()):
        yield f"{folder} is kept: it holds {len(left)} files that no pull fetched ({', '.join(left[:3])})"
    elif not folder.is_mount():
        folder.rmdir()


@contextlib.contextmanager
def held(folder: Path, report: Callable[[str], None]) -> Iterator[None]:
    """Hold the folder's lock while the block runs; wait until it is free."""
    lock = os.open(StorePaths(folder).lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report(f"another process fetches into {folder}: waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)
