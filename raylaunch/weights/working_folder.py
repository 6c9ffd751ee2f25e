"""What raylaunch keeps next to a model's folder during a pull: the download folder, its note, markers, the lock."""

import contextlib
import errno
import fcntl
import os
import shlex
import shutil
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from raylaunch.base.errors import WeightsError
from raylaunch.node.manifest import FOLDER_MODE, find_free, list_parents, remove_empty
from raylaunch.weights.partial_file import SUFFIX

PROBE = ".probe-"
NOTE = ".of"
LOCK_TEXT = b"raylaunch\n"
_WITHOUT_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP}
"""What flock fails with where a file system has no locks: NFS without rpc.statd, Lustre without `-o flock`."""


class LockOutcome(Enum):
    """What came of taking a folder's lock."""

    HELD = "held"
    TAKEN = "taken"
    """Another process has it."""
    UNKNOWN = "unknown"
    """The file system has no locks."""


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

    @property
    def replaced(self) -> Path:
        """A new name for the folder that takes the user's files (see move_aside)."""
        return find_free(self._beside(f"replaced-{time.strftime('%Y%m%d-%H%M%S')}"))

    @property
    def claimed(self) -> Path | None:
        """The download folder if a pull made it; None if it is missing, or the user's."""
        return self.aside if is_ours(self.aside) else None

    def _beside(self, suffix: str) -> Path:
        if self.folder.is_dir() and (self.folder.is_mount() or not os.access(self.folder.parent, os.W_OK)):
            return self.folder / f".raylaunch.{suffix}"
        return self.folder.with_name(f"{self.folder.name}.{suffix}")


@dataclass(frozen=True)
class Note:
    """What `.of` in a download folder records: the pull's key, and the names of all files that pulls brought there."""

    key: str
    names: frozenset[str] = frozenset()

    @classmethod
    def read(cls, aside: Path) -> "Note":
        """The note in a download folder; older versions wrote the key alone."""
        try:
            key, *names = (aside / NOTE).read_text().splitlines() or [""]
        except (OSError, UnicodeDecodeError):
            return cls("")
        return cls(key, frozenset(names))

    def is_ours(self, name: str) -> bool:
        """Whether a pull wrote this file of the download folder."""
        return name == NOTE or name.startswith(PROBE) or name.endswith(SUFFIX) or name in self.names


def is_ours(aside: Path) -> bool:
    """Whether raylaunch made this working folder."""
    note = aside / NOTE
    return note.is_file() and not note.is_symlink()


def claim(aside: Path, of: str, names: Collection[str] = ()) -> None:
    """Create a working folder of raylaunch's own, or take up an earlier one.

    Raises:
        WeightsError: it exists, and raylaunch did not make it.
        OSError: it cannot be created.
    """
    aside.parent.mkdir(parents=True, exist_ok=True)
    note = aside / NOTE
    if os.path.lexists(aside) and not is_ours(aside) and not (aside.is_dir() and not any(aside.iterdir())):
        raise WeightsError(
            f"{aside} is where a download would be kept, and raylaunch did not make it",
            fix=f"move it: mv {shlex.quote(str(aside))} {shlex.quote(f'{aside}.mine')}",
        )
    aside.mkdir(mode=FOLDER_MODE, exist_ok=True)
    if not os.access(aside, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    note.write_text("\n".join([of, *sorted(Note.read(aside).names | set(names))]))


def list_names(folder: Path) -> list[str]:
    """Relative names of all that is no folder, in the folder and its sub-folders; follows no link."""
    found = (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    return [path.relative_to(folder).as_posix() for path in found]


def discard(aside: Path, *, keeps_others: bool = False) -> None:
    """Remove a working folder that raylaunch made; one that it did not make stays.

    Args:
        keeps_others: remove only the files that a pull wrote, and the folder if it is empty then.
    """
    if not is_ours(aside):
        return
    if not keeps_others:
        shutil.rmtree(aside)
        return
    note = Note.read(aside)
    for name in list_names(aside):
        if note.is_ours(name) and name != NOTE:
            (aside / name).unlink()
    remove_empty(aside, list_parents(note.names))
    if {path.name for path in aside.iterdir()} == {NOTE}:
        (aside / NOTE).unlink()
        aside.rmdir()


def _open_lock(folder: Path) -> int:
    """A descriptor of the lock file; one that raylaunch makes says so in its content, so that `remove` knows it.

    Raises:
        WeightsError: it cannot be opened.
    """
    path = folder
    try:
        path = StorePaths(folder).lock
        try:
            lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            return os.open(path, os.O_RDWR | os.O_CLOEXEC)
        os.write(lock, LOCK_TEXT)
    except OSError as error:
        raise WeightsError(
            f"{folder} cannot be locked: {path}: {error.strerror}",
            fix=f"allow writing there; if {path} is of another user or program, move it away",
        ) from None
    return lock


def try_lock(folder: Path) -> tuple[LockOutcome, int | None]:
    """Take the folder's lock; what came of it, and the file descriptor unless another process has it.

    The kernel releases the lock when the process ends.
    """
    held = _open_lock(folder)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(held)
        return LockOutcome.TAKEN, None
    except OSError as error:
        if error.errno not in _WITHOUT_LOCKS:
            raise
        return LockOutcome.UNKNOWN, held
    return LockOutcome.HELD, held


@contextlib.contextmanager
def held(folder: Path, report: Callable[[str], None]) -> Iterator[None]:
    """Hold the folder's lock while the block runs; wait until it is free."""
    _, lock = try_lock(folder)
    if lock is None:
        report(f"another process fetches into {folder}: waiting for it")
        lock = _open_lock(folder)
        fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(lock)
