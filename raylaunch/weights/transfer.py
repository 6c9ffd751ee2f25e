"""One file's way through one node: from a disk, the hub or the node before, to this disk and the node behind.

Chunks travel as arguments of actor calls. A few of them are under way between two nodes; each call returns once its
chunk was handed on and queued for the disk, so a slow node slows the chain and nothing piles up.
"""

import asyncio
import os
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from pickle import PickleBuffer
from typing import Any

from raylaunch.weights.partial_file import Buffer, Finished, PartialFile, Unfinished, run_in_thread

CHUNK_BYTES = 4 << 20
"""What travels in one call: below Ray's own limit of 5,000,000 bytes for arguments inside a call (raysettings.py)."""
Hop = Callable[[str, int, PickleBuffer], Awaitable[None]]
"""Hands a chunk to the next node: name of the file, offset, bytes."""


class Transfer:
    """A file under way through this node."""

    def __init__(self, name: str, part: PartialFile | None) -> None:
        """`part` is where it is written; None where this node has it already."""
        self.name, self.part = name, part
        self._hop: Hop | None = None
        self._next_have = self._position = 0
        self._window_size = 1
        self._window: deque[asyncio.Future[None]] = deque()
        self._batch: list[Buffer] = []
        self._batch_at = self._batch_bytes = 0
        self._turn = asyncio.Condition()
        self._is_over = False

    def link(self, start: int, hop: Hop | None, next_have: int, window: int) -> None:
        """Tell where the first chunk begins, and what to call for the next node.

        Args:
            start: offset of the first chunk, in bytes.
            hop: the call; None ends the chain here.
            next_have: bytes that the next node has.
            window: calls under way to it.
        """
        self._position, self._hop, self._next_have, self._window_size = start, hop, next_have, window

    async def accept(self, offset: int, data: Buffer) -> None:
        """Take a chunk: hand it on, and queue it for the disk. Chunks that overtook others are put in order."""
        async with self._turn:
            await self._turn.wait_for(lambda: self._position == offset or self._is_over)
            if self._is_over:
                return
            await self._forward(offset, data)
            if self.part is not None:
                await self.part.append(offset, data)
            self._position += len(data)
            self._turn.notify_all()

    async def send(self, chunks: Iterator[bytes]) -> None:
        """Be the head of the chain: take all `chunks`, read in a thread of their own, and hand them on.

        Returns while the last ones are still under way, so that another file can follow; `close` waits for them.
        """
        offset = self._position
        reading = run_in_thread(lambda: next(chunks, None))
        while (chunk := await reading) is not None:
            reading = run_in_thread(lambda: next(chunks, None))
            await self.accept(offset, chunk)
            offset += len(chunk)
        await self._send_batch()

    async def close(self) -> Finished | Unfinished | None:
        """End it: wait until the next node has all that was handed on, and the disk its bytes.

        Returns:
            What became of the file here; None where this node had it already.
        """
        await self._flush()
        self._is_over = True
        async with self._turn:
            self._turn.notify_all()
        return None if self.part is None else await self.part.finish()

    async def _forward(self, offset: int, data: Buffer) -> None:
        """Chunks of the hub's size are gathered to chunks: a call costs the same whatever it carries."""
        unseen = memoryview(data)[max(0, self._next_have - offset) :]
        if self._hop is None or not unseen:
            return
        if not self._batch and len(unseen) >= CHUNK_BYTES // 2:
            await self._call(offset + len(data) - len(unseen), unseen)
            return
        if not self._batch:
            self._batch_at = offset + len(data) - len(unseen)
        self._batch.append(unseen)
        self._batch_bytes += len(unseen)
        if self._batch_bytes >= CHUNK_BYTES:
            await self._send_batch()

    async def _send_batch(self) -> None:
        batch, self._batch, self._batch_bytes = self._batch, [], 0
        if batch:
            await self._call(self._batch_at, b"".join(batch))

    async def _call(self, offset: int, data: Buffer) -> None:
        while len(self._window) >= self._window_size:
            await self._settle(self._window.popleft())
        if self._hop is not None:
            self._window.append(asyncio.ensure_future(self._hop(self.name, offset, PickleBuffer(data))))

    async def _flush(self) -> None:
        await self._send_batch()
        while self._window:
            await self._settle(self._window.popleft())

    async def _settle(self, call: "asyncio.Future[None]") -> None:
        import ray

        try:
            await call
        except ray.exceptions.RayError:  # whoever closes the file there learns why
            self._hop = None


def read_disk(path: Path, start: int, end: int) -> Iterator[bytes]:
    """Bytes of a file from `start` to `end`, in chunks; ends early where the file does."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        while start < end and (data := os.pread(file, min(CHUNK_BYTES, end - start), start)):
            yield data
            start += len(data)
    finally:
        os.close(file)


def make_hop(handle: Any) -> Hop:
    """The call that hands a chunk to the actor `handle`."""

    async def hop(name: str, offset: int, data: PickleBuffer) -> None:
        await handle.hop.remote(name, offset, data)

    return hop
