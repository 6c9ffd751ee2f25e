"""A connection that carries one request after another, driven by the loop that checks its socket."""

import contextlib
import errno
import os
import select
import socket
import ssl
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from time import monotonic
from typing import Any

from raylaunch.base.tls import SYSTEM_TLS, ClientTls
from raylaunch.bench.http_response import HttpAnswer, WireError

READ_BYTES = 32 << 10
_IN, _OUT = select.EPOLLIN, select.EPOLLOUT


@dataclass(frozen=True)
class ServerAddress:
    """Where to connect."""

    family: int
    sockaddr: tuple[Any, ...]
    server_name: str | None = None
    """The host's name where TLS is spoken; None speaks plain HTTP."""
    tls: ClientTls = SYSTEM_TLS


@dataclass(slots=True)
class RequestRow:
    """One request and what became of it. Times are the shard's monotonic clock, in seconds."""

    number: int
    due_s: float
    """When it was meant to leave; latencies count from here (for a request that leaves when an answer ended: then)."""
    sent_s: float = 0.0
    """When its first byte was handed to the kernel."""
    end_s: float = 0.0
    """A stream's last output event; else when the answer was complete, or when it failed."""
    status: int = 0
    tokens_in: int | None = None
    tokens_out: int | None = None
    error: str | None = None
    """Kind of failure; None is success."""
    detail: str = ""
    """Message of the server or the kernel about the failure."""
    arrivals: "array[float]" = field(default_factory=lambda: array("d"))
    """When each output event was read; empty without streaming."""
    shard: int = 0


class StreamState(Enum):
    """What a stream is doing."""

    CLOSED = "closed"
    CONNECTING = "connecting"
    SHAKING = "shaking"  # TLS
    IDLE = "idle"
    BUSY = "busy"


class Stream:
    """One connection and at most one request on it.

    Args:
        poll: the epoll object that its socket is registered with.
        by_fd: file descriptor -> stream, kept by this class.
        note_connect: gets each connection's set-up time in seconds.
    """

    __slots__ = (
        *("_address", "_answer", "_by_fd", "_context", "_note_connect", "_poll", "_recv", "_socket", "_unsent"),
        *("_began_s", "_fresh", "_wants_out", "last_s", "request", "row", "state"),
    )

    def __init__(
        self,
        address: ServerAddress,
        context: ssl.SSLContext | None,
        poll: select.epoll,
        by_fd: "dict[int, Stream]",
        note_connect: Callable[[float], None],
    ) -> None:
        self._address, self._context, self._poll, self._by_fd = address, context, poll, by_fd
        self._note_connect = note_connect
        self.state = StreamState.CLOSED
        self.row: RequestRow | None = None
        self.request = b""
        self.last_s = 0.0
        """When something last happened on it."""
        self._fresh = True  # no answer came over this connection yet
        self._unsent: memoryview | None = None
        self._wants_out = False  # a request did not fit into the kernel's buffer

    def open(self) -> str | None:
        """Begin to connect; returns the error where it cannot begin."""
        self._began_s = self.last_s = monotonic()
        self._fresh = True
        try:
            sock = socket.socket(self._address.family, socket.SOCK_STREAM)
        except OSError as error:
            return os.strerror(error.errno or 0)
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        code = sock.connect_ex(self._address.sockaddr)
        if code not in (0, errno.EINPROGRESS):
            sock.close()
            return os.strerror(code)
        self._socket = sock
        self._by_fd[sock.fileno()] = self
        self._poll.register(sock.fileno(), _OUT)
        self.state = StreamState.CONNECTING
        return None

    def close(self) -> None:
        """Close the connection, whatever it is doing."""
        if self.state is StreamState.CLOSED:
            return
        fd = self._socket.fileno()
        self._by_fd.pop(fd, None)
        with contextlib.suppress(OSError):
            self._poll.unregister(fd)
        self._socket.close()
        self.state = StreamState.CLOSED
        self._unsent = None
        self._wants_out = False

    def send(self, row: RequestRow, request: bytes) -> str | None:
        """Send a request as soon as the connection is there; returns what failed at once, if anything."""
        self.row, self.request = row, request
        self._answer = HttpAnswer()
        if self.state is StreamState.CLOSED and (failed := self.open()):
            return failed
        if self.state is StreamState.IDLE:
            return self._begin_request()
        return None  # sent once connected

    def _begin_request(self) -> str | None:
        assert self.row is not None
        self.state = StreamState.BUSY
        self.row.sent_s = self.last_s = monotonic()
        self._unsent = memoryview(self.request)
        return self._push()

    def _push(self) -> str | None:
        """Write what the kernel takes; the rest follows when the socket is writable."""
        assert self._unsent is not None
        try:
            sent = self._socket.send(self._unsent)
        except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
            sent = 0
        except OSError as error:
            return error.strerror or str(error)
        left = self._unsent[sent:]
        self._unsent = left if left else None
        if bool(left) != self._wants_out:
            self._wants_out = bool(left)
            self._poll.modify(self._socket.fileno(), _IN | _OUT if left else _IN)
        return None

    def on_ready(self, mask: int) -> tuple[str, str] | None:
        """Go on, as the socket is ready; returns None while the request (if any) goes on.

        Returns:
            ("", "") when the answer is complete, else kind and text of the failure. Without a request, None:
            the connection is closed, and the next request opens another.
        """
        if self.state is StreamState.BUSY and self._unsent is None:
            return self._read()
        if self.state is StreamState.BUSY:
            if mask & _IN and (ended := self._read()):
                return ended
            if self._unsent is not None and (failed := self._push()):
                return "reset", failed
            return None
        if self.state is StreamState.IDLE:
            self._look_while_idle()
            return None
        failed = self._connect_further()
        if failed:
            self.close()
            return ("connect", failed) if self.row else None
        return None

    def _look_while_idle(self) -> None:
        """The server closed a connection that waits, or TLS has words of its own (session tickets)."""
        try:
            self._recv(READ_BYTES)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return
        except OSError:
            pass
        self.close()

    def _connect_further(self) -> str | None:
        if self.state is StreamState.CONNECTING:
            if code := self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                return os.strerror(code)
            self._poll.modify(self._socket.fileno(), _IN)
            if self._context is not None:
                # The file descriptor moves to the TLS socket and stays registered.
                self._socket = self._context.wrap_socket(
                    self._socket, server_hostname=self._address.server_name, do_handshake_on_connect=False
                )
                self.state = StreamState.SHAKING
        if self.state is StreamState.SHAKING:
            assert isinstance(self._socket, ssl.SSLSocket)
            try:
                self._socket.do_handshake()
            except ssl.SSLWantReadError:
                return None
            except ssl.SSLWantWriteError:
                self._poll.modify(self._socket.fileno(), _IN | _OUT)
                return None
            except OSError as error:
                return f"TLS: {error.strerror or error}"
            self._poll.modify(self._socket.fileno(), _IN)
        self.state = StreamState.IDLE
        self._recv = self._socket.recv
        self._note_connect(monotonic() - self._began_s)
        return self._begin_request() if self.row else None

    def _read(self) -> tuple[str, str] | None:
        while True:
            try:
                data = self._recv(READ_BYTES)
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return None
            except OSError as error:
                return self._end_broken(error.strerror or str(error))
            now = monotonic()
            if not data:
                return self._end_broken("the server closed the connection")
            self.last_s = now
            try:
                if self._answer.feed(data, now):
                    return self._end()
            except WireError as error:
                self.close()
                return "protocol", error.what
            if self._context is None:
                return None
            # TLS may hold decrypted bytes that epoll knows nothing of: read until it wants more.

    def _end_broken(self, words: str) -> tuple[str, str] | None:
        reused = not self._fresh
        self._answer.close(monotonic())
        if not self._answer.broke:
            return self._end()
        self.close()
        if reused and not self._answer.started:
            # A kept-alive connection that the server closed as we wrote: every HTTP client asks once more.
            assert self.row is not None
            failed = self.send(self.row, self.request)
            return ("connect", failed) if failed else None
        return "reset", words

    def _end(self) -> tuple[str, str]:
        answer, row = self._answer, self.row
        assert row is not None
        self._fresh = False
        row.status, row.arrivals = answer.status, answer.arrivals
        row.tokens_in, row.tokens_out = answer.tokens_in, answer.tokens_out
        row.end_s = row.arrivals[-1] if row.arrivals else answer.last_s
        if answer.keep_alive:
            self.state = StreamState.IDLE
        else:
            self.close()
        if answer.status != 200:
            return f"http {answer.status}", answer.error or ""
        if answer.error:
            return "error in the answer", answer.error
        if not answer.finished:
            return "broken off", "the answer ended without [DONE] or a finish reason"
        if answer.streaming and not answer.arrivals:
            return "broken off", "the answer ended without a token"
        return "", ""

    def take_arrivals(self) -> None:
        """Give the row of a request that did not end what came of its answer so far."""
        if self.row is not None:
            self.row.arrivals, self.row.status = self._answer.arrivals, self._answer.status
