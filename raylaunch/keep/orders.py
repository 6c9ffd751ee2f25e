"""A child's side of the talk with its supervisor (talking.py is the other): orders on stdin, events on `--events FD`.

Both are JSON lines. The first order is read whole, then whatever comes, without a buffer in between.
"""

import json
import os
import select
import signal
import sys
import time
from typing import Any


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
