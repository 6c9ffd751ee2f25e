"""The messages between a parent and its child processes: frozen dataclasses, pickled, one after the other.

The parent starts `python -m MODULE` through ChildLink.launch, the child opens ParentLink. Messages to the child go
through its stdin, messages from it through a pipe whose descriptor is in RAYLAUNCH_MESSAGES. They may hold API keys:
they travel through these pipes and nothing else.
"""

import os
import select
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import IO, Self

from raylaunch.base.errors import RaylaunchError
from raylaunch.base.message_pipe import FrameReader, M, MessageLink, pack, wait_for_any
from raylaunch.base.processes import Child, describe_status

DESCRIPTOR_VARIABLE = "RAYLAUNCH_MESSAGES"


@dataclass(frozen=True)
class Failed:
    """From a child that could not do its work: the error for its parent to raise."""

    error: RaylaunchError


@dataclass(eq=False, kw_only=True)
class ChildLink(MessageLink):
    """A child process as its parent sees it."""

    process: Child
    started_at: float
    """Wall clock, seconds since 1970, as all times of messages."""

    @classmethod
    def launch(
        cls,
        module: str,
        *,
        environment: Mapping[str, str],
        output: IO[bytes],
        arguments: Sequence[str] = (),
        pass_fds: Sequence[int] = (),
        **more: object,
    ) -> Self:
        """Start `python -m MODULE ARGUMENTS`; it ends with this process.

        Args:
            output: gets its stdout and stderr.
            more: fields of the subclass.

        Raises:
            OSError: the system has no process, memory or file for it.
        """
        descriptors = []
        try:
            descriptors += [*os.pipe(), *os.pipe()]
            child_reads, writing, reading, child_writes = descriptors
            process = Child.start(
                [sys.executable, "-m", module, *arguments],
                environment={**environment, DESCRIPTOR_VARIABLE: str(child_writes)},
                output=output,
                stdin=child_reads,
                pass_fds=(child_writes, *pass_fds),
            )
            descriptors = [child_reads, child_writes]
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        os.set_blocking(writing, False)
        reader, now = FrameReader(reading), time.monotonic()
        return cls(reader, writing, now, process=process, started_at=time.time(), **more)  # type: ignore[arg-type]

    def wait(self, timeout_s: float | None) -> list[object]:
        """The messages that arrive within `timeout_s` seconds; at once when one has, or the child has ended."""
        if not self.is_closed:
            wait_for_any([self], timeout_s)
        return self.receive()

    def is_alive(self) -> bool:
        """Whether the child runs."""
        return self.process.popen.poll() is None

    def describe_end(self) -> str:
        """How it ended: its signal or exit status."""
        return describe_status(self.process.popen.wait())

    def request_end(self) -> None:
        """Send SIGTERM, without waiting."""
        self.process.send(signal.SIGTERM)

    def wait_end(self, grace_s: float, is_forced: Callable[[], bool] = lambda: False) -> bool:
        """Wait for the child's end, and kill what is left of its process group; safe to repeat.

        Args:
            grace_s: longest wait in seconds; `is_forced` cuts it short.

        Returns:
            Whether it ended by itself.
        """
        ended = self.process.wait_or_kill(grace_s, is_forced)
        self.receive()
        self.close()
        return ended


class ParentLink:
    """A parent as its child process sees it."""

    def __init__(self) -> None:
        self._writing = int(os.environ.pop(DESCRIPTOR_VARIABLE))
        os.set_inheritable(self._writing, False)
        self._reader = FrameReader(0)
        self._kept: list[object] = []

    @property
    def is_closed(self) -> bool:
        """Whether the parent is gone."""
        return self._reader.closed

    def send(self, message: object) -> None:
        """Send a message; waits while the pipe is full.

        Raises:
            BrokenPipeError: the parent is gone.
        """
        unsent = memoryview(pack(message))
        while unsent:
            unsent = unsent[os.write(self._writing, unsent) :]

    def close(self) -> None:
        """Close the pipe to the parent in this process, a fork of the child that it belongs to."""
        os.close(self._writing)

    def receive(self, timeout_s: float | None = 0.0) -> list[object]:
        """The messages that arrive within `timeout_s` seconds; at once when one has, or the parent is gone."""
        if not self._kept:
            select.select([self._reader.descriptor], [], [], timeout_s)
        kept, self._kept = self._kept, []
        return kept + [message for _, message in self._reader.read()]

    def wait_for(self, kind: type[M]) -> M:
        """Wait for a message of this class; others are kept for `receive`.

        Raises:
            BrokenPipeError: the parent is gone without it.
        """
        others: list[object] = []
        while not self.is_closed:
            for message in self.receive(None):
                others.append(message)
            if (found := next((message for message in others if isinstance(message, kind)), None)) is not None:
                others.remove(found)
                self._kept = others
                return found
        raise BrokenPipeError("the parent is gone")


def end_on_sigterm() -> None:
    """SIGTERM ends this child through its `finally` clauses; Ctrl-C in a terminal is left to the supervisor."""
    signal.signal(signal.SIGTERM, _leave)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _leave(_number: int, _frame: FrameType | None) -> None:
    sys.exit(0)
