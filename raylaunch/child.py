"""The serving child as its supervisor sees it: started early, told what to serve, followed, ended whole."""

import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from raylaunch import diagnose
from raylaunch.errors import EngineError
from raylaunch.processes import Child

_READY_STOP_S = 30.0
_START_STOP_S = 5.0


@dataclass
class EngineChild:
    """A running `python -m raylaunch.server`."""

    process: Child
    log: Path
    started_at: float
    """Wall clock, seconds since 1970, as in all event times."""
    events: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Stage -> its event, as told by the child (server.Events)."""
    _pipe: int = -1
    _rest: bytes = b""

    @classmethod
    def start(cls, log: Path, environment: Mapping[str, str], listening: socket.socket) -> "EngineChild":
        """Start the child importing; it waits for `give_order`.

        Args:
            log: file for its and its engine's and workers' output, appended to.
            environment: the whole environment of the child.
            listening: bound socket that it will serve on.
        """
        reading, writing = os.pipe()
        try:
            with log.open("ab") as output:
                process = Child.start(
                    [sys.executable, "-m", "raylaunch.server", "--events", str(writing)],
                    environment=environment,
                    output=output,
                    stdin=subprocess.PIPE,
                    pass_fds=(writing, listening.fileno()),
                )
        finally:
            os.close(writing)
        os.set_blocking(reading, False)
        return cls(process, log, time.time(), _pipe=reading)

    def give_order(self, order: Mapping[str, Any]) -> None:
        """Tell the child what to serve: the fields of server.Order.

        They may hold API keys, so they travel through a pipe and nothing else.

        Raises:
            EngineError: the child is gone.
        """
        stdin = self.process.popen.stdin
        assert stdin is not None
        try:
            stdin.write(json.dumps(order).encode() + b"\n")
            stdin.close()
        except BrokenPipeError:
            raise self.explain_death() from None

    def wait_for(self, stage: str, timeout_s: float) -> bool:
        """Follow events until `stage` was told or `timeout_s` seconds have passed; whether it was told.

        Raises:
            EngineError: the child is gone.
        """
        deadline = time.monotonic() + timeout_s
        with selectors.DefaultSelector() as selector:
            selector.register(self._pipe, selectors.EVENT_READ)
            while stage not in self.events:
                selector.select(min(0.5, max(0.0, deadline - time.monotonic())))
                self._read_events()
                if stage not in self.events and self.process.popen.poll() is not None:
                    raise self.explain_death()
                if time.monotonic() >= deadline:
                    break
        return stage in self.events

    def _read_events(self) -> None:
        try:
            chunk = os.read(self._pipe, 65536)
        except BlockingIOError:
            return
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            event = json.loads(line)
            self.events[event.pop("stage")] = event

    def is_alive(self) -> bool:
        """Whether the child runs."""
        return self.process.popen.poll() is None

    def explain_death(self) -> EngineError:
        """Why the child is gone: the first real error in its log, not the outermost traceback."""
        status = self.process.popen.wait()
        failure = diagnose.find_first_error(self.log.read_text(errors="replace").splitlines())
        if failure is None:
            ended = f"by signal {-status}" if status < 0 else f"with exit status {status}"
            return EngineError(f"the engine ended {ended} and its log names no error", log=self.log)
        return EngineError(
            f"{failure.where}: {failure.message}",
            fix=diagnose.suggest_fix(failure),
            log=self.log,
            excerpt=failure.excerpt,
        )

    def stop(self) -> None:
        """End the child, its engine and what else is in its process group."""
        self.process.send(signal.SIGTERM)
        patience_s = _READY_STOP_S if "engine" in self.events else _START_STOP_S
        self.process.wait_or_kill(patience_s)
        os.close(self._pipe)
