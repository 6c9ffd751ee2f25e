"""`raylaunch serve`: the supervisor, which owns the port and keeps an engine behind it (serve/__init__ draws the tree).

It imports no Ray, PyTorch or vLLM, starts in less than a second, and ends everything it started. Each start of an
engine is an Attempt; after a death or wedge the next one is made.
"""

import contextlib
import signal
import threading
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
from raylaunch.serve.attempts import AttemptFactory, count_api_servers
from raylaunch.serve.control_socket import ControlSocket
from raylaunch.serve.faults import EngineFault, EngineProgress, Fault
from raylaunch.serve.listener import Listener, listen, make_tls
from raylaunch.serve.liveness_probe import LivenessProbe, request_completion
from raylaunch.serve.published_state import PublishedState
from raylaunch.serve.readiness import check_own_request
from raylaunch.serve.reload import Reload
from raylaunch.serve.restart_policy import RestartPolicy
from raylaunch.serve.standby import Standby
from raylaunch.serve.start_progress import StartProgress
from raylaunch.serve.takeover import is_served_already
from raylaunch.serve.unready_answer import AnswerRules

_STAGE_TIMEOUT_S = 7200.0
"""Longest start-up: a 400 GB model from a slow disk."""
_RESTART_S, _RESTART_TIMES = 600.0, 4.0
"""Longest restart once its ranks are placed: so many seconds, or so many times the slowest start before."""
_CHECK_EVERY_S = 0.2
_NO_PROCESS_S = 1.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StopRequested(BaseException):
    """SIGINT, SIGTERM or SIGHUP arrived; raised in the main thread wherever it is."""


def serve(launch: LaunchConfig, *, rehearse: bool = False) -> None:
    """Serve `launch` until a signal; returns when all its processes have ended.

    Args:
        rehearse: run the same layout on this machine with a stand-in model on logical GPUs.

    Raises:
        RaylaunchError: it did not come up, or failed repeatedly for one cause; all its processes have ended.
    """
    resolved = plan.resolve(launch, rehearse=rehearse)
    count_api_servers(resolved)  # it may refuse
    if is_served_already(resolved):
        return
    processes.raise_file_limit()
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)  # until `stop` can end what was started
    supervisor = Supervisor(resolved)
    try:
        supervisor.handle_signals()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        supervisor.run()
    except StopRequested:
        console.say("asked to stop")
    finally:
        supervisor.stop()


class Supervisor:
    """One service, from binding its port to its end."""

    def __init__(self, resolved: ResolvedLaunch) -> None:
        self.forced = threading.Event()
        """Set when the grace period is over."""
        launch = resolved.launch
        tls = make_tls(launch.server)  # before the port is bound: it may raise
        self.listening = listen(launch.host, launch.port)
        self.published = PublishedState(launch, rehearsal=resolved.standin if resolved.is_rehearsal else None)
        rules = AnswerRules.of_launch(launch)
        self.listener = Listener(self.listening, self.published.make_notice, tls=tls, rules=rules)
        self.listener.resume()
        self.attempts: list[Attempt] = []
        """Those that have not ended; the last one is current."""
        folder = self.published.service.folder
        self.control = ControlSocket(folder)
        self.factory = AttemptFactory(resolved, self.listening, folder, is_forced=self.forced.is_set)
        self.standby = Standby(self.factory, self.forced.is_set)
        self.progress = EngineProgress(time.monotonic())
        self.probe: LivenessProbe | None = None
        """None while no engine is ready."""
        self.restart_policy = RestartPolicy(launch.keep.same_cause_limit)
        self.reload: Reload | None = None
        self.slowest_s = 0.0
        """Of all starts, from placed ranks to the first completion."""
        self.stopping = self.was_ready = False

    @property
    def launch(self) -> LaunchConfig:
        """The launch that is served."""
        return self.factory.resolved.launch

    def handle_signals(self) -> None:
        """Stop on Ctrl-C, `raylaunch stop` and a closed terminal (unless nohup ignores that)."""
        for number in _SIGNALS:
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self.on_signal)

    def on_signal(self, number: int, _frame: FrameType | None) -> None:
        """Stop at the first signal; end the grace period at another one."""
        if not self.stopping:
            self.stopping = True
            raise StopRequested(signal.Signals(number).name)
        self.forced.set()

    def run(self) -> None:
        """Start engines and watch them, until a signal or repeated failures for one cause."""
        check_own_request(self.published.service.url, self.launch)
        while True:
            try:
                self._start()
                self._wait(lambda: self.reload is not None and self.reload.is_accepted)
                self._end_for_reload()
            except (EngineFault, RaylaunchError) as error:
                self._recover(error)

    def _begin(self) -> Attempt:
        """Take the standby, or start the next API server importing."""
        attempt = self.standby.take()
        self.published.note_stand_by(None)
        rotate_log(self.factory.log, self.attempts)
        if attempt is None:
            attempt = self.factory.begin()
        else:
            attempt.count_from_here(self.factory.log)
        self.attempts.append(attempt)
        self.published.note_processes(self.attempts, self.factory.rays, attempt.mark)
        return attempt

    def begin_and_place(self) -> Attempt:
        """Start both processes of the next attempt; a restart waits while the system has no process or memory."""
        while True:
            try:
                attempt = self.attempts[-1] if self.attempts else self._begin()
                self.factory.place(attempt, again=self.was_ready)
            except NoProcessError as error:
                if not self.was_ready:
                    raise
                self.published.set_note(error.what)
                time.sleep(_NO_PROCESS_S)
            else:
                return attempt

    def _start(self) -> None:
        """Start an engine, up to its first completion."""
        attempt = self.begin_and_place()
        self._wait(lambda: attempt.is_placed, 0.0 if self.was_ready else _STAGE_TIMEOUT_S)
        placed_at = time.monotonic()
        limit_s = max(_RESTART_S, _RESTART_TIMES * self.slowest_s) if self.was_ready else _STAGE_TIMEOUT_S
        attempt.order_engine(self.launch)
        self.published.note_processes(self.attempts, self.factory.rays, attempt.mark)
        self._wait(StartProgress(attempt.engine, self.launch.world_size, self.published.set_note).follow, limit_s)
        self.listener.pause()
        first = request_completion(self.published.service.url, self.launch, attempt.engine.is_alive, attempt.task)
        self._wait(first.done, limit_s)
        times = attempt.read_times(first.result())
        self.published.set_ready(attempt, times)
        announce(self.published.service, self.factory.resolved, times, attempt.placed.forecast, again=self.was_ready)
        self.was_ready = True
        self.slowest_s = max(self.slowest_s, time.monotonic() - placed_at)
        self.progress = EngineProgress(time.monotonic())
        self.probe = LivenessProbe(self.published.service.url, self.launch, attempt.task)
        self.restart_policy.note_ready()
        if self.reload is not None:
            self.reload.succeed(self.published.service.url)
            self.reload = None

    def _wait(self, condition: Callable[[], bool], limit_s: float = 0.0) -> None:
        """Check everything until `condition()` holds, for `limit_s` at most; 0: no limit.

        Raises:
            EngineError: it did not hold within `limit_s`.
            RaylaunchError, EngineFault: a process died, or the engine is wedged.
        """
        deadline = time.monotonic() + limit_s
        while not condition():
            self._check()
            if limit_s and time.monotonic() > deadline:
                what = f"the engine did not come up within {limit_s:.0f} s"
                if self.was_ready:
                    raise EngineFault(Fault("wedge", f"{what}, though one before it did: its start is wedged"))
                raise EngineError(what, log=self.attempts[-1].engine.log)

    def _check(self) -> None:
        """Check everything once; returns after 0.2 s at most.

        Raises:
            RaylaunchError, EngineFault: a process died, or the engine is wedged.
        """
        attempt = self.attempts[-1]
        attempt.receive(_CHECK_EVERY_S)
        self.progress.take(attempt.engine.pulse, time.monotonic())
        if waiting := attempt.describe_wait(self.published.carried, self.published.state_s):
            self.published.set_note(waiting)
        if self.probe is not None:
            faults.raise_on_fault(attempt, self.progress, self.launch.keep.progress_limit_s)
            self.standby.update(self.published.state_s)
            self.published.note_stand_by(self.standby.pid)
            self.probe.update(self.progress, self.launch.keep.canary_s)
        else:
            faults.raise_on_failed_start(attempt)
        self.published.update(attempt, self.progress)
        if self.reload is None and not self.control.requests.empty():
            request, ready = self.control.requests.get(), self.probe is not None
            self.reload = Reload.begin(request, self.factory.resolved, ready=ready)
        if self.reload and not self.reload.is_accepted and attempt.driver and self.reload.check(attempt.driver):
            self.reload = None

    def _recover(self, error: EngineFault | RaylaunchError) -> None:
        """End a failed engine, write the incident, and prepare the next start.

        Raises:
            RaylaunchError: the first start failed, or too many did for one cause.
        """
        if isinstance(error, RaylaunchError) and not self.was_ready:
            raise error
        fault = error.fault if isinstance(error, EngineFault) else Fault.of_error(error)
        attempt, was_serving, self.probe = self.attempts[-1], self.probe is not None, None
        self.listener.resume()
        self.published.set_state("restarting", faults.describe_first(fault))
        settled_by = time.monotonic() + faults.SETTLE_S
        fault = faults.settle(attempt, fault, settled_by, faults.NAMED)
        self.published.set_note(fault.what)
        console.say(f"{fault.what}; ending it, then starting again", style="yellow")
        failing = attempt.engine.fail(f"the engine failed and is being started again: {fault.what}")
        fault = faults.settle(attempt, fault, settled_by)
        self.published.set_note(fault.what)
        running = attempt.engine.pulse.running if was_serving else 0
        incident = incidents.begin(self.published.service, fault, running)
        self.published.note_incident(incident.id, fault)
        self.factory.rays.judge(fault.cause, was_serving=was_serving)
        if was_serving:
            with contextlib.suppress(NoProcessError):  # what the old one frees may be enough
                self.factory.place(self._begin(), again=True, hold=True)  # joins Ray while the old one ends
        killed = self._end_old(attempt, failing=failing, wedged=fault.cause == "wedge")
        incident = incident.note_end(killed)
        incident = incidents.add_evidence(incident, attempt, self.launch)
        goes_on = self.restart_policy.note_failure(incident, fault, was_serving=was_serving)
        if self.reload is not None:
            self._take_launch(self.reload.fall_back(fault))
            self.reload = None
        elif not goes_on:
            raise self.restart_policy.give_up()
        self.published.note_restart()
        time.sleep(self.restart_policy.wait_s())

    def _end_old(self, attempt: Attempt, *, failing: bool = False, wedged: bool = False) -> list[int]:
        killed = self.factory.end(attempt, failing=failing, wedged=wedged)
        self.attempts.remove(attempt)
        return killed

    def _end_for_reload(self) -> None:
        """Let the running requests finish, end the engine, and take over the accepted launch."""
        assert self.reload is not None
        self.probe = None
        self.listener.resume()
        self.published.set_state("restarting", "another launch is started")
        self.standby.dismiss()
        self.attempts[-1].engine.drain(self.launch.keep.drain_s, self.forced.is_set, "the service is being restarted")
        self._end_old(self.attempts[-1])
        self._take_launch(self.reload.resolved)
        self.published.note_restart()

    def _take_launch(self, resolved: ResolvedLaunch) -> None:
        launch = resolved.launch
        self.factory.resolved = resolved
        self.listener.change(tls=make_tls(launch.server), rules=AnswerRules.of_launch(launch))
        self.published.take_launch(launch)

    def stop(self) -> None:
        """Drain, and end everything that was started; works at any point of a start-up."""
        self.stopping = True
        if self.probe is not None and not self.forced.is_set():
            self.published.set_state("draining", "stopping: running requests finish, new ones are refused")
            self.listener.resume()
            attempt, drain_s = self.attempts[-1], self.launch.keep.drain_s
            if running := attempt.engine.pulse.running:
                console.say(f"{running} request(s) finish, for {drain_s:.0f} s at most; a second signal ends them")
            attempt.engine.drain(drain_s, self.forced.is_set, "the service was stopped")
        self.published.set_state("stopping")
        self.listener.resume()
        self.standby.dismiss()
        for attempt in [*self.attempts]:
            self._end_old(attempt)
        self.standby.close()
        self.factory.close()
        self.control.close()
        self.listener.close()
        self.listening.close()
        self.published.service.forget()
        self.restart_policy.close()
        console.say("stopped: engine, workers and port are gone")
