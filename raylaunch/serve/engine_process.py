"""The serving child as its supervisor sees it: started early, told what to serve, followed, ended whole."""

import os
import signal
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from raylaunch.base import console
from raylaunch.base.errors import EngineError
from raylaunch.base.ipc import PULSE, TalkingChild
from raylaunch.base.processes import wait_until
from raylaunch.explain import diagnose

_FAIL_S = 3.0
"""For telling all clients; the child itself takes two at most (server.py)."""
_MUTE_S = 3.0
"""Without a pulse for so long, the event loop stands still."""
_WHY_CHARS = 500
_STOP_S = 10.0
_START_STOP_S = 5.0


@dataclass
class EngineChild(TalkingChild):
    """A running `python -m raylaunch.engine.api_server`."""

    log: Path = Path()

    @classmethod
    def start(cls, log: Path, environment: Mapping[str, str], listening: socket.socket) -> "EngineChild":
        """Start the child importing; it waits for its order (server.Order).

        Args:
            log: file for its and its engine's and workers' output, appended to.
            environment: the whole environment of the child.
            listening: the listening socket that it will accept on.
        """
        with _open_log(log) as opened:
            return cls.launch(
                "raylaunch.engine.api_server",
                environment=environment,
                output=opened,
                pass_fds=(listening.fileno(),),
                log=log,
            )

    @property
    def pulse(self) -> Mapping[str, Any]:
        """What the engine told last: requests `running`, `moves` so far, whether its core is `dead`."""
        return self.events.get(PULSE, {"running": 0, "moves": 0, "dead": False})

    @property
    def requests_running(self) -> int:
        """Requests that clients wait for, as last told."""
        return int(self.pulse["running"])

    def explain_death(self) -> EngineError:
        """Why the child is gone: the first real error in its log, not the outermost traceback."""
        status = self.process.popen.wait()
        failure = diagnose.find_first_error(self.read_log())
        if failure is None:
            ended = f"by signal {-status}" if status < 0 else f"with exit status {status}"
            return EngineError(f"the engine ended {ended} and its log names no error", log=self.log)
        return EngineError(
            f"{failure.where}: {failure.message}",
            fix=diagnose.suggest_fix(failure),
            log=self.log,
            excerpt=failure.excerpt,
        )

    def read_log(self) -> list[str]:
        """The lines of its log so far."""
        try:
            return self.log.read_text(errors="replace").splitlines()
        except OSError:
            return []

    def fail(self, why: str) -> bool:
        """Let every waiting client have an error at once, then end: streams end with an error event.

        A child that is mute cannot tell anybody: it is killed, which closes its connections.

        Returns:
            Whether it is telling its clients, and ends by itself.
        """
        if "accepting" not in self.events:
            return False
        if self.silent_s() < _MUTE_S and self.tell({"do": "fail", "why": why[:_WHY_CHARS]}):
            return True
        self.process.send(signal.SIGKILL)
        return True

    def drain(self, timeout_s: float, hurried: Callable[[], bool], why: str) -> bool:
        """Accept nothing new, let running requests finish, end; whether all of them did.

        Args:
            timeout_s: longest wait for them in seconds; the rest get an error.
            hurried: whether to wait no longer.
            why: what that error says.
        """
        if "accepting" not in self.events or not self.tell({"do": "drain"}):
            return True
        wait_until(lambda: not self.is_alive() or hurried(), timeout_s)
        if finished := not self.is_alive():
            return finished
        self.fail(why)
        wait_until(lambda: not self.is_alive(), 0.5 if hurried() else _FAIL_S)
        return False

    def stop(self, *, failing: bool = False, hurried: Callable[[], bool] = lambda: False) -> None:
        """End the child, its engine and what else is in its process group; safe to repeat.

        Args:
            failing: it was told to `fail` and ends by itself within three seconds, or is killed.
            hurried: whether patience is over before that.
        """
        if failing:
            self.wait_end(_FAIL_S, hurried)
        else:
            self.ask_to_end()
            self.wait_end(_STOP_S if "engine" in self.events else _START_STOP_S, hurried)


def _open_log(log: Path) -> IO[bytes]:
    """The log, or nothing where it cannot be made (a full disk): serving goes before it."""
    try:
        return log.open("ab")
    except OSError as error:
        console.say(f"warning: no log can be kept in {log}: {error.strerror}", style="yellow")
        return Path(os.devnull).open("ab")
