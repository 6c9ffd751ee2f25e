"""Child processes that are forked from this one, with the pipes of base/ipc.py: what is imported need not be again."""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.context import ForkProcess
from typing import Self

from raylaunch.base.ipc import DESCRIPTOR_VARIABLE, ParentLink
from raylaunch.base.message_pipe import FrameReader, MessageLink


@dataclass(eq=False, kw_only=True)
class ForkLink(MessageLink):
    """A forked child as its parent sees it."""

    process: ForkProcess

    @classmethod
    def start(cls, run: Callable[[ParentLink], None], *, name: str, others: Sequence["ForkLink"]) -> Self:
        """Fork a child that runs `run` and ends.

        Args:
            others: children forked before: their pipes are closed in this one, or none would notice its parent's end.
        """
        (child_reads, writing), (reading, child_writes) = os.pipe(), os.pipe()
        unwanted = [writing, reading]
        for other in others:
            unwanted += [descriptor for descriptor in (other.writing, other.reader.descriptor) if descriptor >= 0]

        def main() -> None:
            for descriptor in unwanted:
                os.close(descriptor)
            os.dup2(child_reads, 0)  # multiprocessing has put /dev/null there
            os.close(child_reads)
            os.environ[DESCRIPTOR_VARIABLE] = str(child_writes)
            run(ParentLink())

        process = multiprocessing.get_context("fork").Process(target=main, name=name)
        process.start()
        os.close(child_reads)
        os.close(child_writes)
        os.set_blocking(writing, False)
        return cls(FrameReader(reading), writing, time.monotonic(), process=process)

    @property
    def pid(self) -> int:
        """Of the child."""
        assert self.process.pid is not None
        return self.process.pid

    def is_alive(self) -> bool:
        """Whether the child runs."""
        return self.process.is_alive()

    def kill(self) -> None:
        """End it at once, which closes its connections."""
        self.process.kill()

    def request_end(self) -> None:
        """Send SIGTERM, without waiting."""
        if self.is_alive():
            os.kill(self.pid, signal.SIGTERM)
