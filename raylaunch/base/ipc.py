"""The messages between a parent and its child processes: frozen dataclasses, pickled, one after the other.

The parent starts `python -m MODULE` through ChildLink.launch, the child opens ParentLink. Messages to the child go
through its stdin, messages from it through a pipe whose descriptor is in RAYLAUNCH_MESSAGES. They may hold API keys:
they travel through these pipes and nothing else.
"""

import contextlib
import os
import pickle
import select
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import FrameType
from typing import IO, Self, TypeVar

from raylaunch.base.errors import RaylaunchError
from raylaunch.base.processes import Child, describe_status

DESCRIPTOR_VARIABLE = "RAYLAUNCH_MESSAGES"
_LENGTH = struct.Struct("!I")
_READ_BYTES = 1 << 20

M = TypeVar("M")


@dataclass(frozen=True)
class Failed:
    """From a child that could not do its work: the error for its parent to raise."""

    error: RaylaunchError


def _pack(message: object) -> bytes:
    body = pickle.dumps((time.time(), message), protocol=pickle.HIGHEST_PROTOCOL)
    return _LENGTH.pack(len(body)) + body


class _FrameReader:
    """Takes messages out of a pipe without ever waiting for the rest of one."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.closed = False
        """Whether the other side is gone."""
        self._buffer = bytearray()
        os.set_blocking(descriptor, False)

    def read(self) -> list[tuple[float, object]]:
        """What has arrived: when each was sent (seconds since 1970), and the message."""
        with contextlib.suppress(BlockingIOError):
            while not self.closed:
                chunk = os.read(self.descriptor, _READ_BYTES)
                self.closed = not chunk
                self._buffer += chunk
        found = []
        while len(self._buffer) >= _LENGTH.size:
            end = _LENGTH.size + _LENGTH.unpack_from(self._buffer)[0]
            if len(self._buffer) < end:
                break
            found.append(pickle.loads(self._buffer[_LENGTH.size : end]))
            del self._buffer[:end]
        return found


@dataclass(eq=False)
class ChildLink:
    """A child process as its parent sees it."""

    process: Child
    started_at: float
    """Wall clock, seconds since 1970, as all times of messages."""
    heard_at: float
    """time.monotonic() when the last message was received, or of the start."""
    _reader: _FrameReader
    unsent: bytearray = field(default_factory=bytearray)
    """Messages that did not fit into the pipe yet."""
    _received: dict[type, tuple[float, object]] = field(default_factory=dict)

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
        reading, writing = os.pipe()
        try:
            process = Child.start(
                [sys.executable, "-m", module, *arguments],
                environment={**environment, DESCRIPTOR_VARIABLE: str(writing)},
                output=output,
                stdin=subprocess.PIPE,
                pass_fds=(writing, *pass_fds),
            )
        except OSError:
            os.close(reading)
            raise
        finally:
            os.close(writing)
        assert process.popen.stdin is not None
        os.set_blocking(process.popen.stdin.fileno(), False)
        return cls(process, time.time(), time.monotonic(), _FrameReader(reading), **more)  # type: ignore[arg-type]

    def send(self, message: object) -> bool:
        """Send a message without waiting; False where the child is gone, or does not read.

        What does not fit into the pipe (64 KiB) follows with the next send or receive.
        """
        if not self.flush() or self.unsent:
            return False
        self.unsent += _pack(message)
        return self.flush()

    def flush(self) -> bool:
        """Send what did not fit into the pipe before; False where the child is gone."""
        stdin = self.process.popen.stdin
        if stdin is None or stdin.closed:
            self.unsent.clear()
            return False
        try:
            while self.unsent:
                del self.unsent[: os.write(stdin.fileno(), self.unsent)]
        except BlockingIOError:
            return True
        except BrokenPipeError:
            self.unsent.clear()
            return False
        return True

    def receive(self) -> list[object]:
        """The messages that have arrived since the last call; nothing after `wait_end`."""
        self.flush()
        if self._reader.descriptor < 0:
            return []
        messages = self._reader.read()
        for sent_at, message in messages:
            self._received[type(message)] = (sent_at, message)
            self.heard_at = time.monotonic()
        return [message for _, message in messages]

    def wait(self, timeout_s: float | None) -> list[object]:
        """The messages that arrive within `timeout_s` seconds; at once when one has, or the child has ended."""
        if not self.is_closed:
            wait_for_any([self], timeout_s)
        return self.receive()

    def last(self, kind: type[M]) -> M | None:
        """The last message of this class that has been received."""
        found = self._received.get(kind)
        return found[1] if found else None  # type: ignore[return-value]

    def find_sent_at(self, kind: type) -> float:
        """When the last message of this class was sent, in seconds since 1970; one must have been received."""
        return self._received[kind][0]

    def forget(self, kind: type) -> None:
        """Let `last` find no message of this class until the next one arrives."""
        self._received.pop(kind, None)

    @property
    def is_closed(self) -> bool:
        """Whether no more messages can come."""
        return self._reader.closed or self._reader.descriptor < 0

    def fileno(self) -> int:
        """The descriptor to select on."""
        return self._reader.descriptor

    def is_alive(self) -> bool:
        """Whether the child runs."""
        return self.process.popen.poll() is None

    def describe_end(self) -> str:
        """How it ended: its signal or exit status."""
        return describe_status(self.process.popen.wait())

    def silent_s(self) -> float:
        """Seconds since the last message."""
        return time.monotonic() - self.heard_at

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
        if self._reader.descriptor >= 0:
            os.close(self._reader.descriptor)
            self._reader.descriptor = -1
        if self.process.popen.stdin is not None:
            self.process.popen.stdin.close()
        return ended


def wait_for_any(links: Sequence[ChildLink], timeout_s: float | None) -> list[ChildLink]:
    """The children that have sent something, or whose pipe is closed, within `timeout_s` seconds.

    Meanwhile, what did not fit into a pipe to a child is sent.
    """
    until = None if timeout_s is None else time.monotonic() + timeout_s
    while True:
        poll = select.poll()  # select() takes no descriptor above 1023
        for link in links:
            poll.register(link.fileno(), select.POLLIN)
            if link.unsent and link.process.popen.stdin is not None:
                poll.register(link.process.popen.stdin, select.POLLOUT)
        left_ms = None if until is None else max(0.0, until - time.monotonic()) * 1000
        ready = {descriptor for descriptor, _ in poll.poll(left_ms)}
        for link in links:
            link.flush()
        found = [link for link in links if link.fileno() in ready]
        if found or not ready:
            return found


class ParentLink:
    """A parent as its child process sees it."""

    def __init__(self) -> None:
        self._writing = int(os.environ.pop(DESCRIPTOR_VARIABLE))
        os.set_inheritable(self._writing, False)
        self._reader = _FrameReader(0)
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
        unsent = memoryview(_pack(message))
        while unsent:
            unsent = unsent[os.write(self._writing, unsent) :]

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
