"""A file on its way into a folder: bytes appended in order by a thread of its own, hashed meanwhile, named when right.

`<name>.part` holds a prefix of the file and nothing else, so its length is all that is needed to go on after a kill;
what an unclean end of the machine may have done to it shows in the hash, and the file is taken anew.
"""

import asyncio
import hashlib
import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from raylaunch.node.manifest import FILE_MODE
from raylaunch.weights.hub_types import RepoFile

Buffer = bytes | bytearray | memoryview
_Result = TypeVar("_Result")
_QUEUED_AT_MOST = 2
_READ_BYTES = 4 << 20
SUFFIX = ".part"


@dataclass(frozen=True, slots=True)
class Finished:
    """A file that is there whole, and is what it should be."""

    name: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A file that is not: cut off, or other than it should be, or this machine could not keep it."""

    name: str
    reason: str
    is_damaged: bool = False
    """All bytes came, and they are the wrong ones."""
    is_local: bool = False
    """The reason lies on this machine (disk full, not writable): trying again is of no use."""


def run_in_thread(function: Callable[[], _Result]) -> "asyncio.Future[_Result]":
    """Run a blocking function in a daemon thread: an end of this process never waits for it."""
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
        except BaseException as error:  # noqa: BLE001 (handed to whoever awaits)
            _tell(loop, settle, None, error)
        else:
            _tell(loop, settle, result, None)

    threading.Thread(target=run, daemon=True).start()
    return future


def _tell(loop: asyncio.AbstractEventLoop, settle: Callable[..., None], *outcome: object) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(settle, *outcome)


class Digests:
    """Running hashes of a file: SHA-256, and git's id where that is what the hub tells."""

    def __init__(self, wanted: RepoFile) -> None:
        self._wanted = wanted
        self._sha256 = hashlib.sha256()
        self._git = None if wanted.sha256 else hashlib.sha1(b"blob %d\0" % wanted.size, usedforsecurity=False)

    def update(self, data: Buffer) -> None:
        """Take the next bytes; releases the GIL meanwhile."""
        self._sha256.update(data)
        if self._git is not None:
            self._git.update(data)

    @property
    def sha256(self) -> str:
        """Of all bytes so far, in hexadecimal."""
        return self._sha256.hexdigest()

    def is_wanted(self) -> bool:
        """Whether these are the bytes that the hub lists (or that a manifest does)."""
        if self._wanted.sha256:
            return self.sha256 == self._wanted.sha256
        assert self._git is not None
        return self._wanted.git_sha1 in (None, self._git.hexdigest())


def hash_file(path: Path, wanted: RepoFile) -> str | None:
    """SHA-256 of a file that is the wanted one; None where it is another, or cannot be read."""
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
    """One file under way; used from one event loop, written by one thread."""

    def __init__(self, folder: Path, name: str, wanted: RepoFile) -> None:
        """Open the file, or what came of it earlier.

        Raises:
            OSError: it cannot be made here.
        """
        self.name, self.wanted = name, wanted
        self._final, self._path = folder / name, folder / f"{name}{SUFFIX}"
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
        """Take bytes that begin at `offset` of the file, not behind its end; what is here already is skipped.

        Waits while the disk lags two chunks behind. A failing disk is told by `finish`.
        """
        data = memoryview(data)[max(0, self.have - offset) :]
        if not data or self.failure:
            return
        self.have += len(data)
        await self._room.acquire()
        self._put(data)

    async def finish(self) -> Finished | Unfinished:
        """Wait for the disk; give the file its name if it is whole and right, else say why not and keep the prefix."""
        self._put(None)
        return await self._result

    def _put(self, data: Buffer | None) -> None:
        with self._changed:
            self._queue.append(data)
            self._changed.notify()

    def _work(self) -> Finished | Unfinished:
        try:
            self._hash_prefix()
            with ThreadPoolExecutor(1) as hasher:  # its end waits for the last hash
                while (data := self._take()) is not None:
                    self._write(data, hasher)
                    if not self._loop.is_closed():
                        self._loop.call_soon_threadsafe(self._room.release)
            return self.failure or self._name_it()
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
        """Write and hash, both at once; after a failure only take, so that nobody waits for room.

        The hash may lag one chunk behind the disk: waiting for both after each chunk costs a fifth of the rate.
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

    def _name_it(self) -> Finished | Unfinished:
        size = os.fstat(self._file).st_size
        if size < self.wanted.size:
            return Unfinished(self.name, f"{self.name}: {size:,} bytes of {self.wanted.size:,} came")
        if not self._digests.is_wanted():
            self._path.unlink()
            return Unfinished(self.name, f"{self.name}: its hash is not the one it should have", is_damaged=True)
        os.fchmod(self._file, FILE_MODE)
        os.fdatasync(self._file)
        self._path.rename(self._final)
        return Finished(self.name, self._digests.sha256)
