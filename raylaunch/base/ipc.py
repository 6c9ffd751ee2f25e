"""A child process that takes orders as JSON lines on stdin and tells events as JSON lines on a pipe of its own."""

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, Any, Self

from raylaunch.base.processes import Child

PULSE = "pulse"
"""The event that is told all the time; only the last one is kept, with when it came."""


_ATOMIC_BYTES = 4096
"""PIPE_BUF: what goes into a pipe whole or not at all."""


@dataclass
class TalkingChild:
    """A running `python -m MODULE --events FD`."""

    process: Child
    started_at: float
    """Wall clock, seconds since 1970, as in all event times."""
    events: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Stage -> its event, as told by the child."""
    pulsed_at: float = 0.0
    """time.monotonic() of the last pulse, or of the start."""
    pipe: int = -1
    _rest: bytes = b""

    @classmethod
    def launch(
        cls,
        module: str,
        *,
        environment: Mapping[str, str],
        output: IO[bytes],
        pass_fds: Sequence[int] = (),
        **more: Any,
    ) -> Self:
        """Start `module`; its stdout and stderr go to `output`, `more` are fields of the subclass."""
        reading, writing = os.pipe()
        try:
            process = Child.start(
                [sys.executable, "-m", module, "--events", str(writing)],
                environment=environment,
                output=output,
                stdin=subprocess.PIPE,
                pass_fds=(writing, *pass_fds),
            )
        except OSError:
            os.close(reading)
            raise
        finally:
            os.close(writing)
        os.set_blocking(reading, False)
        return cls(process, time.time(), pulsed_at=time.monotonic(), pipe=reading, **more)

    def tell(self, order: Mapping[str, Any], *, patient: bool = False) -> bool:
        """Write one order; False where the child is gone, or too stuck to read it.

        Orders may hold API keys, so they travel through this pipe and nothing else.

        Args:
            patient: wait until the child has read what does not fit into the pipe.
        """
        stdin = self.process.popen.stdin
        if stdin is None or stdin.closed:
            return False
        line = json.dumps(order).encode() + b"\n"
        assert patient or len(line) <= _ATOMIC_BYTES, "a longer line could be cut in two"
        os.set_blocking(stdin.fileno(), patient)
        try:
            while line:
                line = line[os.write(stdin.fileno(), line) :]
        except (BrokenPipeError, BlockingIOError):
            return False
        return True

    def read_events(self) -> list[str]:
        """Take in what the child has told since the last call; the stages of it. None of one that has been closed."""
        told = []
        while chunk := self._read_chunk():
            *lines, self._rest = (self._rest + chunk).split(b"\n")
            for line in lines:
                event = json.loads(line)
                stage = event.pop("stage")
                self.events[stage] = event
                told.append(stage)
                if stage == PULSE:
                    self.pulsed_at = time.monotonic()
        return told

    def _read_chunk(self) -> bytes:
        if self.pipe < 0:
            return b""
        try:
            return os.read(self.pipe, 65536)
        except BlockingIOError:
            return b""

    def is_alive(self) -> bool:
        """Whether the child runs."""
        return self.process.popen.poll() is None

    def describe_end(self) -> str:
        """How it ended, in words."""
        status = self.process.popen.wait()
        return f"by signal {-status}" if status < 0 else f"with exit status {status}"

    def silent_s(self) -> float:
        """Seconds since the last pulse."""
        return time.monotonic() - self.pulsed_at

    def ask_to_end(self) -> None:
        """SIGTERM, without waiting."""
        self.process.send(signal.SIGTERM)

    def wait_end(self, patience_s: float, hurried: Callable[[], bool] = lambda: False) -> bool:
        """Wait for the child's end, and kill what is left of its process group; safe to repeat.

        Args:
            patience_s: longest wait in seconds; `hurried` cuts it short.

        Returns:
            Whether it went by itself.
        """
        gone = self.process.wait_or_kill(patience_s, hurried)
        self.close()
        return gone

    def close(self) -> None:
        """Close the pipes to a child that is gone."""
        if self.pipe >= 0:
            os.close(self.pipe)
            self.pipe = -1
        if self.process.popen.stdin is not None:
            self.process.popen.stdin.close()


class Events:
    """Where a child tells how far it is."""

    def __init__(self) -> None:
        self._stream = os.fdopen(int(sys.argv[sys.argv.index("--events") + 1]), "w")

    def tell(self, stage: str, **facts: Any) -> None:
        """Write one event, with the wall clock in seconds."""
        self._stream.write(json.dumps({"stage": stage, "at": time.time(), **facts}) + "\n")
        self._stream.flush()


def end_on_sigterm() -> None:
    """SIGTERM ends this child through its `finally` clauses; Ctrl-C in a terminal is the supervisor's affair."""
    signal.signal(signal.SIGTERM, _leave)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _leave(_number: int, _frame: Any) -> None:
    sys.exit(0)


class OrderReader:
    """Lines of stdin."""

    def __init__(self, descriptor: int = 0) -> None:
        self._descriptor = descriptor
        self._rest = b""
        self._kept: dict[str, dict[str, Any]] = {}
        self.closed = False
        """Whether the supervisor has gone."""

    def read_first(self) -> str:
        """Wait for one line; "" where the supervisor went without a word."""
        while not self.closed and b"\n" not in self._rest:
            self._take()
        line, _, self._rest = self._rest.partition(b"\n")
        return line.decode()

    def wait_for(self, what: str) -> dict[str, Any] | None:
        """Wait for the order to do `what`, past others that are kept; None where the supervisor went without it."""
        while what not in self._kept:
            if not (line := self.read_first()):
                return None
            order = json.loads(line)
            self._kept[order["do"]] = order
        return self._kept[what]

    def read_lines(self) -> list[str]:
        """The whole lines that have come, waiting for at most one read."""
        self._take()
        *lines, self._rest = self._rest.split(b"\n")
        return [line.decode() for line in lines]

    def wait(self, timeout_s: float) -> list[str]:
        """Lines that come within `timeout_s` seconds; at once when one is there."""
        if self.closed:
            raise BrokenPipeError("the supervisor is gone")
        if select.select([self._descriptor], [], [], timeout_s)[0]:
            return self.read_lines()
        return []

    def _take(self) -> None:
        chunk = os.read(self._descriptor, 65536)
        self.closed = not chunk
        self._rest += chunk
