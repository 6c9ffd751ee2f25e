"""The API server process as its supervisor sees it: started early, given what to serve, followed, ended."""

import os
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from raylaunch.base import console
from raylaunch.base.errors import EngineError
from raylaunch.base.ipc import ChildLink
from raylaunch.base.processes import wait_until
from raylaunch.engine.messages import Accepting, ApiServers, Drain, EnginePulse, EngineReady, FailClients
from raylaunch.explain import diagnose

_FAIL_S = 3.0
"""For giving all clients their error; the process itself takes two at most (engine/control.py)."""
_MUTE_S = 3.0
"""Without a pulse for so long, its event loop stands still."""
_STOP_S = 10.0
_START_STOP_S = 5.0


@dataclass(eq=False)
class EngineProcess(ChildLink):
    """A running `python -m raylaunch.engine.api_server`."""

    log: Path = Path()

    @classmethod
    def start(cls, log: Path, environment: Mapping[str, str], descriptors: Sequence[int]) -> "EngineProcess":
        """Start it importing; it waits for ServeEngine.

        Args:
            log: file for its and its engine's and workers' output, appended to.
            environment: its complete environment.
            descriptors: that it inherits: the listening socket, and what ServeEngine names beside it.
        """
        with _open_log(log) as opened:
            return cls.launch(
                "raylaunch.engine.api_server",
                environment=environment,
                output=opened,
                pass_fds=descriptors,
                log=log,
            )

    @property
    def ready(self) -> EngineReady | None:
        """What is known of the engine; None until it is up."""
        return self.last(EngineReady)

    @property
    def is_accepting(self) -> bool:
        """Whether it has begun to accept connections."""
        return self.last(Accepting) is not None

    @property
    def api_servers(self) -> tuple[int, ...]:
        """Pids of the processes that serve clients."""
        servers = self.last(ApiServers)
        return servers.pids if servers else ()

    @property
    def pulse(self) -> EnginePulse:
        """What the engine reported last."""
        return self.last(EnginePulse) or EnginePulse()

    def explain_death(self) -> EngineError:
        """Why it ended: the first real error in its log, not the outermost traceback."""
        if self.process.popen.wait() == -signal.SIGKILL and self.last(EnginePulse) is not None:
            # it served, and cannot have logged why: its API servers have logged the consequences
            return EngineError(f"the engine's process ended {self.describe_end()}", log=self.log)
        failure = diagnose.find_first_error(self.read_log())
        if failure is None:
            return EngineError(f"the engine ended {self.describe_end()} and its log names no error", log=self.log)
        return EngineError(
            f"{failure.where}: {failure.message}",
            fix=diagnose.suggest_fix(failure),
            log=self.log,
            excerpt=failure.excerpt,
            fault_key=diagnose.identify(failure),
        )

    def read_log(self) -> list[str]:
        """The lines of its log so far."""
        try:
            return self.log.read_text(errors="replace").splitlines()
        except OSError:
            return []

    def fail(self, why: str) -> bool:
        """Give every waiting client an error at once, then end: streams end with an error event.

        A process that is mute cannot: it is killed, which closes its connections.

        Returns:
            Whether it is failing its clients, and ends by itself.
        """
        if not self.is_accepting:
            return False
        if self.silent_s() < _MUTE_S and self.send(FailClients(why)):
            return True
        self.process.send(signal.SIGKILL)
        return True

    def _has_ended(self) -> bool:
        """Whether it has ended; reads its pulses, or it would seem mute, and block once the pipe is full."""
        self.receive()
        return not self.is_alive()

    def drain(self, timeout_s: float, is_forced: Callable[[], bool], why: str, *, linger_s: float = 0.0) -> None:
        """Accept nothing new, let running requests finish, end.

        Args:
            timeout_s: longest wait for them in seconds; the rest get an error.
            is_forced: whether to wait no longer.
            why: the text of that error.
            linger_s: see Drain.
        """
        if not self.is_accepting or not self.send(Drain(linger_s)):
            return
        wait_until(lambda: self._has_ended() or is_forced(), timeout_s)
        if self.is_alive():
            self.fail(why)
            wait_until(lambda: not self.is_alive(), 0.5 if is_forced() else _FAIL_S)

    def stop(self, *, failing: bool = False, is_forced: Callable[[], bool] = lambda: False) -> None:
        """End it, its engine and what else is in its process group; safe to repeat.

        Args:
            failing: it was sent FailClients and ends by itself within three seconds, or is killed.
            is_forced: whether the grace period is over before that.
        """
        if failing:
            self.wait_end(_FAIL_S, is_forced)
        else:
            self.request_end()
            self.wait_end(_START_STOP_S if self.ready is None else _STOP_S, is_forced)


def _open_log(log: Path) -> IO[bytes]:
    """The log, or /dev/null where it cannot be created (a full disk): serving has priority."""
    try:
        return log.open("ab")
    except OSError as error:
        console.say(f"warning: no log can be kept in {log}: {error.strerror}", style="yellow")
        return Path(os.devnull).open("ab")
