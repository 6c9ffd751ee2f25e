"""A child process that takes orders as JSON lines on stdin and tells events as JSON lines on a pipe of its own."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, Any, Self

from raylaunch.processes import Child

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
