"""Messages in pipes: how they are framed, and one end of a pair of pipes that never waits.

A message is a frozen dataclass, pickled with the time it was sent.
"""

import contextlib
import os
import pickle
import select
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

_LENGTH = struct.Struct("!I")
_READ_BYTES = 1 << 20

M = TypeVar("M")


def pack(message: object) -> bytes:
    """A message as bytes for the pipe."""
    body = pickle.dumps((time.time(), message), protocol=pickle.HIGHEST_PROTOCOL)
    return _LENGTH.pack(len(body)) + body


class FrameReader:
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
class MessageLink:
    """A pair of pipes to another process, from the side that must not wait for it."""

    reader: FrameReader
    writing: int
    """The descriptor that messages are written to, non-blocking; -1 once it is closed."""
    heard_at: float
    """time.monotonic() when the last message was received, or of the start."""
    unsent: bytearray = field(default_factory=bytearray)
    """Messages that did not fit into the pipe yet."""
    _received: dict[type, tuple[float, object]] = field(default_factory=dict)

    def send(self, message: object) -> bool:
        """Send a message without waiting; False where the child is gone, or does not read.

        What does not fit into the pipe (64 KiB) follows with the next send or receive.
        """
        if not self.flush() or self.unsent:
            return False
        self.unsent += pack(message)
        return self.flush()

    def flush(self) -> bool:
        """Send what did not fit into the pipe before; False where the child is gone."""
        if self.writing < 0:
            self.unsent.clear()
            return False
        try:
            while self.unsent:
                del self.unsent[: os.write(self.writing, self.unsent)]
        except BlockingIOError:
            return True
        except BrokenPipeError:
            self.unsent.clear()
            return False
        return True

    def receive(self) -> list[object]:
        """The messages that have arrived since the last call; nothing after `close`."""
        self.flush()
        if self.reader.descriptor < 0:
            return []
        messages = self.reader.read()
        for sent_at, message in messages:
            self._received[type(message)] = (sent_at, message)
            self.heard_at = time.monotonic()
        return [message for _, message in messages]

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
        return self.reader.closed or self.reader.descriptor < 0

    def fileno(self) -> int:
        """The descriptor to select on."""
        return self.reader.descriptor

    def close(self) -> None:
        """Close both pipes; safe to repeat."""
        for descriptor in (self.reader.descriptor, self.writing):
            if descriptor >= 0:
                os.close(descriptor)
        self.reader.descriptor = self.writing = -1

    def silent_s(self) -> float:
        """Seconds since the last message."""
        return time.monotonic() - self.heard_at


L = TypeVar("L", bound=MessageLink)


def wait_for_any(links: Sequence[L], timeout_s: float | None) -> list[L]:
    """The links whose process have sent something, or closed its pipe, within `timeout_s` seconds.

    Meanwhile, what did not fit into a pipe is sent.
    """
    until = None if timeout_s is None else time.monotonic() + timeout_s
    while True:
        poll = select.poll()  # select() takes no descriptor above 1023
        for link in links:
            poll.register(link.fileno(), select.POLLIN)
            if link.unsent and link.writing >= 0:
                poll.register(link.writing, select.POLLOUT)
        left_ms = None if until is None else max(0.0, until - time.monotonic()) * 1000
        ready = {descriptor for descriptor, _ in poll.poll(left_ms)}
        for link in links:
            link.flush()
        found = [link for link in links if link.fileno() in ready]
        if found or not ready:
            return found
