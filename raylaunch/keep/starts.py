"""How one service's engines are started: each start is numbered, and has a mark of its own."""

import os
import socket
from pathlib import Path

from raylaunch import output
from raylaunch.config import LaunchConfig
from raylaunch.keep.attempt import Attempt
from raylaunch.rehearsal import plan

_FOREVER_S = 86400.0
"""A restart waits for GPUs that went away; after a day it looks anew."""


class Starts:
    """Begins attempts for the launch that is served."""

    def __init__(self, launch: LaunchConfig, listening: socket.socket, folder: Path, *, rehearse: bool) -> None:
        """Listen on `listening`, log into `folder`.

        Raises:
            RaylaunchError: no engine is installed, or not one for this launch.
        """
        self.launch, self.rehearse = launch, rehearse
        self.standin = plan.choose_standin(launch, rehearse=rehearse)
        self.log = folder / "engine.log"
        self.again = False
        """Whether an engine has been ready before."""
        self._listening = listening
        self._count = 0

    def take_launch(self, launch: LaunchConfig) -> None:
        """Another one is served from now on."""
        self.standin = plan.choose_standin(launch, rehearse=self.rehearse)
        self.launch = launch

    def begin(self, log: Path | None = None) -> Attempt:
        """Start the next serving child importing, with the service's own log or another."""
        self._count += 1
        mark = f"{self.launch.port}-{os.getpid()}-{self._count}"
        env_vars = plan.make_environment(self.standin, self.launch.world_size)
        return Attempt.begin(mark, log or self.log, env_vars, self._listening)

    def begin_spare(self) -> Attempt:
        """A start that waits to be needed, as far as it comes without the GPUs."""
        output.say("nothing moves: another start is got ready, in case this is a wedge", style="dim")
        log = self.log.with_name("engine.next.log")
        log.unlink(missing_ok=True)
        attempt = self.begin(log)
        self.place(attempt, hold=True)
        return attempt

    def place(self, attempt: Attempt, *, hold: bool = False) -> None:
        """See to the cluster and the places of an attempt; with `hold` no further than joining Ray."""
        attempt.place(
            self.launch,
            rehearse=self.rehearse,
            standin=self.standin,
            env_vars=plan.make_environment(self.standin, self.launch.world_size),
            wait_s=_FOREVER_S if self.again else None,
            hold=hold,
        )
