"""One file passing through one node: from a disk, the hub or the previous node, to this disk and the next node.

Chunks are sent as arguments of actor calls, a few at a time between two nodes. Each call returns when its chunk is
forwarded and queued for the disk, so a slow node slows the chain and memory stays bounded.
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
"""Size of one call: below Ray's limit of 5,000,000 bytes for inlined arguments (cluster/settings.py)."""
Hop = Callable[[str, int, PickleBuffer], Awaitable[None]]
"""Sends a chunk to the next node: file name, offset, bytes."""


class Transfer:
    """A file that is passing through this node."""

    def __init__(self, name: str, part: PartialFile | None) -> None:
        """`part` is the file being written; None if this node has the file already."""
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
        """Set the offset of the first chunk and the call to the next node.

        Args:
            start: offset of the first chunk, in bytes.
            hop: the call; None if this is the last node.
            next_have: bytes of the file that the next node has.
            window: most concurrent calls to it.
        """
        self._position, self._hop, self._next_have, self._window_size = start, hop, next_have, window

    async def accept(self, offset: int, data: Buffer) -> None:
        """Forward a chunk and queue it for the disk. Chunks that arrive out of order wait for their turn."""
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
        """Send all `chunks`, read in a separate thread, as the head of the chain.

        Returns while the last ones are still in transit, so that another file can follow; `close` waits for them.
        """
        offset = self._position
        reading = run_in_thread(lambda: next(chunks, None))
        while (chunk := await reading) is not None:
            reading = run_in_thread(lambda: next(chunks, None))
            await self.accept(offset, chunk)
            offset += len(chunk)
        await self._send_batch()

    async def close(self) -> Finished | Unfinished | None:
        """Wait until the next node and the disk have all forwarded bytes.

        Returns:
            The outcome on this node; None if it had the file already.
        """
        await self._flush()
        self._is_over = True
        async with self._turn:
            self._turn.notify_all()
        return None if self.part is None else await self.part.finish()

    async def _forward(self, offset: int, data: Buffer) -> None:
        """Gather the small chunks of the hub into large ones: a call costs the same for any size."""
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
        except ray.exceptions.RayError:  # closing the file on that node reports the cause
            self._hop = None


def read_disk(path: Path, start: int, end: int) -> Iterator[bytes]:
    """Bytes of a file from `start` to `end`, in chunks; stops at the end of a shorter file."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        while start < end and (data := os.pread(file, min(CHUNK_BYTES, end - start), start)):
            yield data
            start += len(data)
    finally:
        os.close(file)


def make_hop(handle: Any) -> Hop:
    """The call that sends a chunk to the actor `handle`."""

    async def hop(name: str, offset: int, data: PickleBuffer) -> None:
        await handle.hop.remote(name, offset, data)

    return hop
