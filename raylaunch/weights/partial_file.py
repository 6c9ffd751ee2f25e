"""A file that is arriving: a thread appends and hashes its bytes, and renames the file if the hash matches.

`<name>.part` holds a prefix of the file and nothing else, so its length suffices to resume after a kill. Damage by a
crash of the machine shows in the hash, and the file is fetched again.
"""

import asyncio
import errno
import hashlib
import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from raylaunch.node.manifest import FILE_MODE, FOLDER_MODE, find_obstacle
from raylaunch.weights.hub_types import RepoFile

Buffer = bytes | bytearray | memoryview
_Result = TypeVar("_Result")
_QUEUED_AT_MOST = 2
_READ_BYTES = 4 << 20
SUFFIX = ".part"


@dataclass(frozen=True, slots=True)
class Finished:
    """A complete file with the expected hash."""

    name: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A file that is truncated, or has another hash, or could not be written."""

    name: str
    reason: str
    is_damaged: bool = False
    """All bytes arrived, and the hash differs."""
    is_local: bool = False
    """The cause is on this machine (disk full, not writable): a retry does not help."""


def run_in_thread(function: Callable[[], _Result]) -> "asyncio.Future[_Result]":
    """Run a blocking function in a daemon thread, so that the exit of this process never waits for it."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[_Result] = loop.create_future()

    def settle(result: _Result | None, error: BaseException | None) -> None:
        if future.cancelled():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        try:
            result = function()
        except BaseException as error:  # noqa: BLE001 (raised in the awaiting task)
            _notify(loop, settle, None, error)
        else:
            _notify(loop, settle, result, None)

    threading.Thread(target=run, daemon=True).start()
    return future


def _notify(loop: asyncio.AbstractEventLoop, settle: Callable[..., None], *outcome: object) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(settle, *outcome)


class Digests:
    """Running hashes of a file: SHA-256, and git's id if the hub lists only that."""

    def __init__(self, wanted: RepoFile) -> None:
        self._wanted = wanted
        self._sha256 = hashlib.sha256()
        self._git = None if wanted.sha256 else hashlib.sha1(b"blob %d\0" % wanted.size, usedforsecurity=False)

    def update(self, data: Buffer) -> None:
        """Add the next bytes; releases the GIL meanwhile."""
        self._sha256.update(data)
        if self._git is not None:
            self._git.update(data)

    @property
    def sha256(self) -> str:
        """SHA-256 of all bytes so far, in hexadecimal."""
        return self._sha256.hexdigest()

    def is_wanted(self) -> bool:
        """Whether the hash is the one that the hub or the manifest lists."""
        if self._wanted.sha256:
            return self.sha256 == self._wanted.sha256
        assert self._git is not None
        return self._wanted.git_sha1 in (None, self._git.hexdigest())


def hash_file(path: Path, wanted: RepoFile) -> str | None:
    """SHA-256 of a file if it is the wanted one; None if it differs or cannot be read."""
    digests = Digests(wanted)
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size != wanted.size:
                return None
            while data := file.read(_READ_BYTES):
                digests.update(data)
    except OSError:
        return None
    return digests.sha256 if digests.is_wanted() else None


class PartialFile:
    """One arriving file; used from one event loop, written by one thread."""

    def __init__(self, folder: Path, name: str, wanted: RepoFile) -> None:
        """Create the file, or open its earlier prefix.

        Raises:
            OSError: it cannot be created.
        """
        self.name, self.wanted = name, wanted
        self._final, self._path = folder / name, folder / f"{name}{SUFFIX}"
        self._path.parent.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
        if find_obstacle(folder, f"{name}{SUFFIX}") not in (None, f"{name}{SUFFIX}"):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))  # a link in place of a sub-folder
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, FILE_MODE)
        self.have = os.fstat(self._file).st_size
        if self.have > wanted.size:
            os.ftruncate(self._file, 0)
            self.have = 0
        self._had = self.have
        self.failure: Unfinished | None = None
        self._queue: deque[Buffer | None] = deque()
        self._changed = threading.Condition()
        self._room = asyncio.Semaphore(_QUEUED_AT_MOST)
        self._loop = asyncio.get_running_loop()
        self._digests = Digests(wanted)
        self._hashed: Future[None] | None = None
        self._result = run_in_thread(self._work)

    async def append(self, offset: int, data: Buffer) -> None:
        """Append bytes that start at `offset`, at most the current length; bytes that exist already are skipped.

        Waits while the disk is two chunks behind. `finish` reports disk errors.
        """
        data = memoryview(data)[max(0, self.have - offset) :]
        if not data or self.failure:
            return
        self.have += len(data)
        await self._room.acquire()
        self._put(data)

    async def finish(self) -> Finished | Unfinished:
        """Wait for the disk; rename the file if it is correct, else return the reason and keep the prefix."""
        self._put(None)
        return await self._result

    def _put(self, data: Buffer | None) -> None:
        with self._changed:
            self._queue.append(data)
            self._changed.notify()

    def _work(self) -> Finished | Unfinished:
        try:
            self._hash_prefix()
            with ThreadPoolExecutor(1) as hasher:  # its exit waits for the last hash
                while (data := self._take()) is not None:
                    self._write(data, hasher)
                    if not self._loop.is_closed():
                        self._loop.call_soon_threadsafe(self._room.release)
            return self.failure or self._complete()
        except OSError as error:
            return self._fail(error)
        finally:
            os.close(self._file)

    def _take(self) -> Buffer | None:
        with self._changed:
            self._changed.wait_for(lambda: self._queue)
            return self._queue.popleft()

    def _hash_prefix(self) -> None:
        left = self._had
        try:
            while left and (data := os.read(self._file, min(_READ_BYTES, left))):
                self._digests.update(data)
                left -= len(data)
        except OSError as error:
            self._fail(error)

    def _write(self, data: Buffer, hasher: ThreadPoolExecutor) -> None:
        """Write and hash concurrently; after a failure discard, so that `append` does not block.

        The hash may be one chunk behind the disk: waiting for both after each chunk costs a fifth of the rate.
        """
        if self.failure is not None:
            return
        before, self._hashed = self._hashed, hasher.submit(self._digests.update, data)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(self._file, view) :]
        except OSError as error:
            self._fail(error)
        if before is not None:
            before.result()

    def _fail(self, error: OSError) -> Unfinished:
        self.failure = Unfinished(self.name, f"{self._path}: {error.strerror}", is_local=True)
        return self.failure

    def _complete(self) -> Finished | Unfinished:
        size = os.fstat(self._file).st_size
        if size < self.wanted.size:
            return Unfinished(self.name, f"{self.name}: received {size:,} of {self.wanted.size:,} bytes")
        if not self._digests.is_wanted():
            self._path.unlink()
            return Unfinished(self.name, f"{self.name}: its hash differs from the expected one", is_damaged=True)
        os.fchmod(self._file, FILE_MODE)
        os.fdatasync(self._file)
        self._path.rename(self._final)
        return Finished(self.name, self._digests.sha256)
