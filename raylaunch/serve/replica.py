"""One replica of the service: an engine that is started, watched and started again, in a thread of its own.

Each start is an Attempt; after a death or wedge the next one is made. The replicas share the front, and nothing else:
each has its processes, its placement, its standby and, where the launch brings its own, its Ray.
"""

import contextlib
import threading
import time
from collections.abc import Callable
from pathlib import Path

from raylaunch.base import console
from raylaunch.base.errors import EngineError, NoProcessError, RaylaunchError
from raylaunch.config.launch import LaunchConfig
from raylaunch.engine.messages import StopAccepting
from raylaunch.engine.rehearsal.plan import ResolvedLaunch
from raylaunch.serve import faults
from raylaunch.serve import incident as incidents
from raylaunch.serve.announcement import announce
from raylaunch.serve.attempt import Attempt, rotate_log
from raylaunch.serve.attempts import AttemptFactory
from raylaunch.serve.faults import EngineFault, EngineProgress, Fault
from raylaunch.serve.front import Front
from raylaunch.serve.liveness_probe import LivenessProbe, request_completion
from raylaunch.serve.reload import Reload
from raylaunch.serve.restart_policy import RestartPolicy
from raylaunch.serve.standby import Standby
from raylaunch.serve.start_progress import StartProgress

_STAGE_TIMEOUT_S = 7200.0
"""Longest start-up: a 400 GB model from a slow disk."""
_RESTART_S, _RESTART_TIMES = 600.0, 4.0
"""Longest restart once its ranks are placed: so many seconds, or so many times the slowest start before."""
_CHECK_EVERY_S = 0.2
_NO_PROCESS_S = 1.0
_ROLLING_DRAIN_S = 600.0
"""For running requests while other replicas serve: no client waits for the end of this one."""
_KEEP_ALIVE_S = 5.0
"""vLLM closes an idle connection after so long (VLLM_HTTP_TIMEOUT_KEEP_ALIVE, 0.32)."""


class Stopping(BaseException):
    """The service stops; raised in a replica's thread, at its next check."""


class Replica:
    """An engine of the service, from its first start to the end of the service."""

    def __init__(self, index: int, resolved: ResolvedLaunch, front: Front, folder: Path) -> None:
        """Prepare; `start` begins. `folder` is that of its logs."""
        self.index, self.front = index, front
        self.state = front.published.replicas[index]
        self.factory = AttemptFactory(
            resolved, front.listening, folder, loads=front.loads, index=index, is_forced=front.forced.is_set
        )
        self.attempts: list[Attempt] = []
        """Those that have not ended; the last one is current."""
        self.standby = Standby(self.factory, front.forced.is_set)
        self.progress = EngineProgress(time.monotonic())
        self.probe: LivenessProbe | None = None
        """None while the engine is not ready."""
        self.restart_policy = RestartPolicy(resolved.launch.keep.same_cause_limit)
        self.reload: Reload | None = None
        """The change to another launch that is this replica's turn; the supervisor sets it, the replica clears it."""
        self.slowest_s = 0.0  # of all starts, from placed ranks to the first completion
        self.was_ready = self._is_changing = False
        self.error: BaseException | None = None
        """What ended its thread, if it was not the end of the service."""
        self._thread = threading.Thread(target=self._run_to_end, name=f"replica-{index}")

    @property
    def launch(self) -> LaunchConfig:
        """The launch of this replica."""
        return self.factory.launch

    @property
    def is_ready(self) -> bool:
        """Whether its engine serves."""
        return self.probe is not None

    def start(self) -> None:
        """Start its thread, which outlives its children: the kernel ends them with the thread that started them."""
        self._thread.start()

    def join(self) -> None:
        """Wait until all that it started has ended; only when the front stops."""
        if self._thread.ident is None:  # it has not been started
            self.close()
        else:
            self._thread.join()

    def _run_to_end(self) -> None:
        try:
            self._run()
        except Stopping:
            pass
        except BaseException as error:  # noqa: BLE001 (the supervisor raises it)
            self.error = error
        try:
            if self.error is not None:
                self.front.leave(self.index)
                self.front.stopping.wait()
            self.close()
        except BaseException as error:  # noqa: BLE001
            self.error = self.error or error

    def _run(self) -> None:
        """Start engines and watch them, until the service stops or repeated failures for one cause."""
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
        self.state.note_stand_by(None)
        rotate_log(self.factory.log, self.attempts)
        if attempt is None:
            attempt = self.factory.begin()
        else:
            attempt.count_from_here(self.factory.log)
        self.attempts.append(attempt)
        self.state.note_processes(self.attempts, self.factory.rays, attempt.mark)
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
                self.state.set_note(error.what)
                self._sleep(_NO_PROCESS_S)
            else:
                return attempt

    def _sleep(self, seconds: float) -> None:
        if self.front.stopping.wait(seconds):
            raise Stopping

    def _start(self) -> None:
        """Start an engine, up to its first completion."""
        attempt = self.begin_and_place()
        self._wait(lambda: attempt.is_placed, 0.0 if self.was_ready else _STAGE_TIMEOUT_S)
        placed_at = time.monotonic()
        limit_s = max(_RESTART_S, _RESTART_TIMES * self.slowest_s) if self.was_ready else _STAGE_TIMEOUT_S
        attempt.order_engine(self.launch)
        self.state.note_processes(self.attempts, self.factory.rays, attempt.mark)
        self._wait(StartProgress(attempt.engine, self.launch.world_size, self.state.set_note).follow, limit_s)
        self.front.enter(self.index)
        url = self.factory.private_url or self.front.published.service.url
        first = request_completion(url, self.launch, attempt.engine.is_alive, attempt.task)
        self._wait(first.done, limit_s)
        self._become_ready(attempt, first.result(), url)
        self.slowest_s = max(self.slowest_s, time.monotonic() - placed_at)

    def _become_ready(self, attempt: Attempt, first_s: float, url: str) -> None:
        times = attempt.read_times(first_s)
        self.state.set_ready(attempt, times)
        service = self.front.published.service
        announce(service, self.factory.resolved, times, attempt.placed.forecast, again=self.front.was_ready)
        self.was_ready = self.front.was_ready = True
        self.progress = EngineProgress(time.monotonic())
        self.probe = LivenessProbe(url, self.launch, attempt.task)
        self.restart_policy.note_ready()
        if self.reload is not None and self._is_changing:
            self.reload.note_served(service.url)
            self.reload, self._is_changing = None, False

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
            Stopping: the service stops.
        """
        if self.front.stopping.is_set():
            raise Stopping
        attempt = self.attempts[-1]
        attempt.receive(_CHECK_EVERY_S)
        self.progress.take(attempt.engine.pulse, time.monotonic())
        if waiting := attempt.describe_wait(self.state.carried, self.state.state_s):
            self.state.set_note(waiting)
        if self.probe is not None:
            faults.raise_on_fault(attempt, self.progress, self.launch.keep.progress_limit_s)
            self.standby.update(self.state.state_s)
            self.state.note_stand_by(self.standby.pid)
            self.probe.update(self.progress, self.launch.keep.canary_s)
            if self.reload and not self.reload.is_accepted and attempt.driver and self.reload.check(attempt.driver):
                self.reload = None
        else:
            faults.raise_on_failed_start(attempt)
        self.state.update(attempt, self.progress)

    def _recover(self, error: EngineFault | RaylaunchError) -> None:
        """End a failed engine, write the incident, and prepare the next start.

        Raises:
            RaylaunchError: the service's first start failed, or too many did for one cause, and no replica serves.
        """
        if isinstance(error, RaylaunchError) and not self.front.was_ready:
            raise error
        fault = error.fault if isinstance(error, EngineFault) else Fault.of_error(error)
        attempt, was_serving, self.probe = self.attempts[-1], self.probe is not None, None
        attempt.engine.send(StopAccepting())
        self.front.leave(self.index)
        self.state.set_state("restarting", faults.describe_first(fault))
        settled_by = time.monotonic() + faults.SETTLE_S
        fault = faults.settle(attempt, fault, settled_by, faults.NAMED)
        self.state.set_note(fault.what)
        console.say(f"{fault.what}; ending it, then starting again", style="yellow")
        failing = attempt.engine.fail(f"the engine failed and is being started again: {fault.what}")
        fault = faults.settle(attempt, fault, settled_by)
        self.state.set_note(fault.what)
        running, published = attempt.engine.pulse.running if was_serving else 0, self.front.published
        incident = incidents.begin(published.service, fault, running, self.index)
        published.note_incident(incident.id, fault)
        self.factory.rays.judge(fault.cause, was_serving=was_serving)
        if was_serving:
            with contextlib.suppress(NoProcessError):  # what the old one frees may be enough
                self.factory.place(self._begin(), again=True, hold=True)  # joins Ray while the old one ends
        killed = self._end_old(attempt, failing=failing, wedged=fault.cause == "wedge")
        incident = incident.note_end(killed)
        incident = incidents.add_evidence(incident, attempt, self.launch)
        goes_on = self.restart_policy.note_failure(incident, fault, was_serving=was_serving)
        if self.reload is not None and not self.reload.is_proven:
            self._take_launch(self.reload.fall_back(fault))
            self.reload, self._is_changing = None, False
        elif not goes_on and not self.front.has_others(self.index):
            raise self.restart_policy.give_up()
        self.front.published.note_restart()
        self._sleep(self.restart_policy.wait_s())

    def _end_old(self, attempt: Attempt, *, failing: bool = False, wedged: bool = False) -> list[int]:
        killed = self.factory.end(attempt, failing=failing, wedged=wedged)
        self.attempts.remove(attempt)
        return killed

    def _end_for_reload(self) -> None:
        """Let the running requests finish, end the engine, and take over the accepted launch."""
        assert self.reload is not None
        self.probe, self._is_changing = None, True
        self.front.leave(self.index)
        self.state.set_state("restarting", "another launch is started")
        self.standby.dismiss()
        keep, others = self.launch.keep, self.front.has_others(self.index)
        self.attempts[-1].engine.drain(
            _ROLLING_DRAIN_S if others else keep.drain_s,
            self.front.stopping.is_set,
            "the service is being restarted",
            linger_s=_KEEP_ALIVE_S if others else 0.0,
        )
        self._end_old(self.attempts[-1])
        self._take_launch(self.reload.resolved)
        self.front.published.note_restart()

    def _take_launch(self, resolved: ResolvedLaunch) -> None:
        self.factory.resolved = resolved
        self.front.take_launch(resolved)

    def close(self) -> None:
        """Drain, and end everything that was started; works at any point of a start-up."""
        if self.probe is not None and not self.front.forced.is_set():
            self.state.set_state("draining", "stopping: running requests finish, new ones are refused")
            attempt, drain_s = self.attempts[-1], self.launch.keep.drain_s
            if running := attempt.engine.pulse.running:
                console.say(f"{running} request(s) finish, for {drain_s:.0f} s at most; a second signal ends them")
            attempt.engine.drain(drain_s, self.front.forced.is_set, "the service was stopped")
        self.state.set_state("stopping")
        self.standby.dismiss()
        for attempt in [*self.attempts]:
            self._end_old(attempt)
        self.standby.close()
        self.factory.close()
        self.restart_policy.close()
