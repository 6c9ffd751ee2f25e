"""The shared array of loads: open connections of every API server on the one listening socket (vLLM's peer_loads).

The least loaded process accepts. A slot without a process has the highest load, so that none waits for it.
"""

import mmap
import os
from dataclasses import dataclass

NOT_ACCEPTING = 2**31 - 1
"""vLLM's own value for a process that does not accept (0.32, entrypoints/launchers/launcher.py)."""
_SLOT_BYTES = 4


@dataclass(frozen=True)
class LoadTable:
    """The array in memory that several processes share through its descriptor."""

    descriptor: int
    loads: memoryview
    """One int per slot."""

    @classmethod
    def create(cls, slots: int) -> "LoadTable":
        """An array without processes; it ends with the last descriptor of it."""
        descriptor = os.memfd_create("raylaunch-loads")
        os.ftruncate(descriptor, slots * _SLOT_BYTES)
        table = cls.open(descriptor)
        table.clear(0, slots)
        return table

    @classmethod
    def open(cls, descriptor: int) -> "LoadTable":
        """The array that another process created, by its inherited descriptor."""
        memory = mmap.mmap(descriptor, os.fstat(descriptor).st_size)
        return cls(descriptor, memoryview(memory).cast("i"))

    def clear(self, first: int, count: int) -> None:
        """Take processes out that ended without doing so themselves."""
        for slot in range(first, first + count):
            self.loads[slot] = NOT_ACCEPTING

    def close(self) -> None:
        """Close the descriptor; the memory goes with this process."""
        os.close(self.descriptor)
