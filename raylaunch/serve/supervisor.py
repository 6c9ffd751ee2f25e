"""`raylaunch serve`: the light process that owns the port and keeps an engine behind it (keep/ draws the whole tree).

It imports no Ray, no PyTorch and no vLLM, starts in well under a second, and ends everything it started however it ends
itself. One start of an engine is an Attempt; after each death or wedge another one is made.
"""

import contextlib
import signal
import time
from collections.abc import Callable
from types import FrameType

from raylaunch.base import console, processes
from raylaunch.base.errors import EngineError, NoProcessError, RaylaunchError
from raylaunch.config.launch import LaunchConfig
from raylaunch.engine.rehearsal import plan
from raylaunch.engine.rehearsal.plan import ResolvedLaunch
from raylaunch.serve import faults
from raylaunch.serve import incident as incidents
from raylaunch.serve.announcement import announce
from raylaunch.serve.attempt import Attempt, rotate_log
from raylaunch.serve.attempts import Starts
from raylaunch.serve.control_socket import Control
from raylaunch.serve.faults import EngineTroubled, Progress, Trouble
from raylaunch.serve.listener import Door, listen, make_tls
from raylaunch.serve.liveness_probe import Canary, Question
from raylaunch.serve.published_state import Board
from raylaunch.serve.reload import Swap
from raylaunch.serve.restart_policy import Recovery
from raylaunch.serve.standby import Spare
from raylaunch.serve.takeover import is_served_already

_STAGE_TIMEOUT_S = 7200.0
"""Longest start-up: a 400 GB model from a slow disk."""
_RESTART_S, _RESTART_TIMES = 600.0, 4.0
"""A restart whose ranks are placed may take so long, or so many times what a start took before; else it is wedged."""
_TURN_S = 0.2
_NO_PROCESS_S = 1.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StopRequested(BaseException):
    """SIGINT or SIGTERM arrived; raised in the main thread wherever it is."""


def serve(launch: LaunchConfig, *, rehearse: bool = False) -> None:
    """Serve `launch` until asked to stop; returns when all of it is gone.

    Args:
        rehearse: run the same layout on this machine with a stand-in model on logical GPUs.

    Raises:
        RaylaunchError: it did not come up, or failed again and again for one cause; nothing of it is left.
    """
    resolved = plan.resolve(launch, rehearse=rehearse)
    if is_served_already(resolved):
        return
    processes.raise_file_limit()
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)  # until there is somebody to end what was begun
    supervisor = Supervisor(resolved)
    try:
        supervisor.take_signals()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        supervisor.run()
    except StopRequested:
        console.say("asked to stop")
    finally:
        supervisor.stop()


class Supervisor:
    """One service, from its port to its end."""

    def __init__(self, resolved: ResolvedLaunch) -> None:
        launch = resolved.launch
        tls = make_tls(launch.server)
        self.listening = listen(launch.host, launch.port)
        self.board = Board(launch, rehearsal=resolved.standin if resolved.is_rehearsal else None)
        self.door = Door(self.listening, self.board.look, tls=tls, api_keys=launch.api_keys)
        self.door.open()
        self.attempts: list[Attempt] = []
        """Not yet ended; the last one is the one that counts."""
        folder = self.board.service.folder
        self.control = Control(folder)
        self.starts = Starts(resolved, self.listening, folder, is_forced=self.is_hurried)
        self.spare = Spare(self.starts, self.is_hurried)
        self.progress = Progress(time.monotonic())
        self.canary: Canary | None = None
        """Asks while an engine is ready; None while none is."""
        self.recovery = Recovery(launch.keep.same_cause_limit)
        self.swap: Swap | None = None
        self.slowest_s = 0.0
        """What a start took from placed ranks to its first completion."""
        self.stopping = self.hurried = self.was_ready = False

    @property
    def launch(self) -> LaunchConfig:
        """What is served."""
        return self.starts.resolved.launch

    def take_signals(self) -> None:
        """Handle what asks for an end: Ctrl-C, `raylaunch stop`, a closed terminal (unless nohup has it ignored)."""
        for number in _SIGNALS:
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self.on_signal)

    def on_signal(self, number: int, _frame: FrameType | None) -> None:
        """First signal: stop whatever is going on. Another one while stopping: be patient no longer."""
        if self.stopping:
            self.hurried = True
            return
        self.stopping = True
        raise StopRequested(signal.Signals(number).name)

    def is_hurried(self) -> bool:
        """Whether patience is over."""
        return self.hurried

    def run(self) -> None:
        """Start engines and watch them, until a signal or a cause that does not go away."""
        while True:
            try:
                self._start()
                self._wait(lambda: self.swap is not None and self.swap.accepted)
                self._make_room()
            except (EngineTroubled, RaylaunchError) as error:
                self._recover(error)

    def _begin(self) -> Attempt:
        """Start the next serving child importing, or take the one that stands by."""
        attempt = self.spare.take()
        self.board.note_stand_by(None)
        rotate_log(self.starts.log, self.attempts)
        if attempt is None:
            attempt = self.starts.begin()
        else:
            attempt.count_from_here(self.starts.log)
        self.attempts.append(attempt)
        self.board.note_processes(self.attempts, self.starts.rays, attempt.mark)
        return attempt

    def begin_and_place(self) -> Attempt:
        """Both processes of the next start; after an engine that served, as soon as the system gives them."""
        while True:
            try:
                attempt = self.attempts[-1] if self.attempts else self._begin()
                self.starts.place(attempt, again=self.was_ready)
            except NoProcessError as error:
                if not self.was_ready:
                    raise
                self.board.set_note(error.what)
                time.sleep(_NO_PROCESS_S)
            else:
                return attempt

    def _start(self) -> None:
        """Bring an engine up to its first completion."""
        attempt = self.begin_and_place()
        self._wait(lambda: attempt.is_placed, 0.0 if self.was_ready else _STAGE_TIMEOUT_S)
        placed_at, limit_s = time.monotonic(), _STAGE_TIMEOUT_S
        if self.was_ready:
            limit_s = max(_RESTART_S, _RESTART_TIMES * self.slowest_s)
        attempt.order_engine(self.launch, self.listening.fileno())
        self.board.note_processes(self.attempts, self.starts.rays, attempt.mark)
        self.board.set_note(f"starting {self.launch.world_size} vLLM worker(s)")
        console.say(f"starting {self.launch.world_size} vLLM worker(s); log: {attempt.engine.log}")
        self._wait(lambda: attempt.engine.is_accepting, limit_s)
        self.door.shut()
        first = Question(self.board.service.url, self.launch, attempt.engine.is_alive)
        self._wait(lambda: first.is_done, limit_s)
        times = attempt.read_times(first.read_s())
        self.board.set_ready(attempt, times)
        announce(self.board.service, self.starts.resolved, times, again=self.was_ready)
        self.was_ready = True
        self.slowest_s = max(self.slowest_s, time.monotonic() - placed_at)
        self.progress = Progress(time.monotonic())
        self.canary = Canary(self.board.service.url, self.launch)
        self.recovery.note_ready()
        if self.swap is not None:
            self.swap.succeed(self.board.service.url)
            self.swap = None

    def _wait(self, condition: Callable[[], bool], limit_s: float = 0.0) -> None:
        """Take turns until `condition()` holds, for `limit_s` at most; 0 is no limit.

        Raises:
            EngineError: nothing was ready after so long.
            RaylaunchError, EngineTroubled: something died, or is wedged.
        """
        deadline = time.monotonic() + limit_s
        while not condition():
            self._turn()
            if limit_s and time.monotonic() > deadline:
                what = f"the engine did not come up within {limit_s:.0f} s"
                if self.was_ready:
                    raise EngineTroubled(Trouble("wedge", f"{what}, though one before it did: its start is wedged"))
                raise EngineError(what, log=self.attempts[-1].engine.log)

    def _turn(self) -> None:
        """Look once at everything; returns after a fifth of a second at most.

        Raises:
            RaylaunchError, EngineTroubled: something died, or is wedged.
        """
        attempt = self.attempts[-1]
        attempt.receive(_TURN_S)
        self.progress.take(attempt.engine.pulse, time.monotonic())
        if waiting := attempt.describe_wait(self.board.carried, self.board.state_s):
            self.board.set_note(waiting)
        if self.canary is not None:
            limit_s = self.launch.keep.progress_limit_s
            faults.raise_on_trouble(attempt, self.progress, limit_s)
            suspicious = faults.is_suspicious(attempt, self.progress, limit_s)
            self.spare.turn(suspicious=suspicious, ready_s=self.board.state_s)
            self.board.note_stand_by(self.spare.standing_by)
            self.canary.turn(self.progress, self.launch.keep.canary_s)
        else:
            faults.raise_on_failed_start(attempt)
        self.board.tell_engine(attempt, self.progress)
        if self.swap is None and not self.control.requests.empty():
            request, ready = self.control.requests.get(), self.canary is not None
            self.swap = Swap.take(request, self.starts.resolved, ready=ready)
        if self.swap is not None and not self.swap.accepted and attempt.driver and self.swap.settle(attempt.driver):
            self.swap = None

    def _recover(self, error: EngineTroubled | RaylaunchError) -> None:
        """End what is left of a failed engine, keep what was seen, and get ready for the next one.

        Raises:
            RaylaunchError: the first start failed, or too many did for one cause.
        """
        if isinstance(error, RaylaunchError) and not self.was_ready:
            raise error
        trouble = error.trouble if isinstance(error, EngineTroubled) else Trouble.of_error(error)
        attempt, was_serving, self.canary = self.attempts[-1], self.canary is not None, None
        self.door.open()
        self.board.set_state("restarting", trouble.what)
        console.say(f"{trouble.what}; ending it, then starting again", style="yellow")
        telling = attempt.engine.fail(f"the engine failed and is being started again: {trouble.what}")
        trouble = faults.settle(attempt, trouble)
        incident = incidents.begin(self.board.service.port, self.launch.served_model_names[0], trouble,
                                   attempt.engine.pulse.running if was_serving else 0)  # fmt: skip
        self.board.note_incident(incident.id, trouble)
        self.starts.rays.judge(trouble.cause, was_serving=was_serving)
        if was_serving:
            with contextlib.suppress(NoProcessError):  # what the old one gives back may be enough
                self.starts.place(self._begin(), again=True, hold=True)  # as far as it comes while the old one ends
        left = self._end_old(attempt, failing=telling, wedged=trouble.cause == "wedge")
        incident = incident.note("ended" + (f"; had to be killed: {', '.join(map(str, left))}" if left else ""))
        incidents.add_evidence(incident, attempt, self.launch)
        going_on = self.recovery.note_failure(incident, trouble, was_serving=was_serving)
        if self.swap is not None:
            self._take_launch(self.swap.fall_back(trouble))
            self.swap = None
        elif not going_on:
            raise self.recovery.give_up()
        self.board.note_restart()
        time.sleep(self.recovery.wait_s())

    def _end_old(self, attempt: Attempt, *, failing: bool = False, wedged: bool = False) -> list[int]:
        left = attempt.end(failing=failing, wedged=wedged, is_forced=self.is_hurried)
        self.attempts.remove(attempt)
        self.starts.rays.end_retired()
        return left

    def _make_room(self) -> None:
        """Another launch was accepted: let the running requests finish, and end the engine."""
        assert self.swap is not None
        self.canary = None
        self.door.open()
        self.board.set_state("restarting", "another launch is swapped in")
        attempt = self.attempts[-1]
        self.spare.dismiss()
        attempt.engine.drain(self.launch.keep.drain_s, self.is_hurried, "the service is being restarted")
        self._end_old(attempt)
        self._take_launch(self.swap.resolved)

    def _take_launch(self, resolved: ResolvedLaunch) -> None:
        launch = resolved.launch
        self.starts.resolved = resolved
        self.door.change(tls=make_tls(launch.server), api_keys=launch.api_keys)
        self.board.take_launch(launch)

    def stop(self) -> None:
        """Drain, and end everything this supervisor started; safe to call at any point of a start-up."""
        self.stopping = True
        self.door.open()
        if self.canary is not None and not self.hurried:
            self.board.set_state("draining", "stopping: running requests finish, new ones are refused")
            attempt, drain_s = self.attempts[-1], self.launch.keep.drain_s
            if running := attempt.engine.pulse.running:
                console.say(f"{running} request(s) finish, for {drain_s:.0f} s at most; a second signal ends them")
            attempt.engine.drain(drain_s, self.is_hurried, "the service was stopped")
        self.board.set_state("stopping", "stopping")
        self.spare.dismiss()
        for attempt in [*self.attempts]:
            self._end_old(attempt)
        self.spare.close()
        self.starts.rays.close()
        self.control.close()
        self.door.close()
        self.listening.close()
        self.board.service.forget()
        self.recovery.close()
        console.say("stopped: engine, workers and port are gone")
