"""The engine of a replica: how it is started, in which layout, and watched until something ends it."""

import time
from collections.abc import Callable
from pathlib import Path

from raylaunch.base.errors import EngineError, NoProcessError
from raylaunch.config.launch import LaunchConfig
from raylaunch.engine.rehearsal.plan import ResolvedLaunch
from raylaunch.serve import faults
from raylaunch.serve.announcement import announce
from raylaunch.serve.attempt import Attempt, describe_missing
from raylaunch.serve.attempts import AttemptFactory
from raylaunch.serve.fallback import Layouts
from raylaunch.serve.faults import EngineFault, EngineProgress, Fault
from raylaunch.serve.front import Front
from raylaunch.serve.liveness_probe import LivenessProbe, request_completion
from raylaunch.serve.reload import Reload
from raylaunch.serve.restart_policy import STAGE_TIMEOUT_S, RestartPolicy, StartLimit
from raylaunch.serve.standby import Standby
from raylaunch.serve.start_progress import StartProgress

_CHECK_EVERY_S = 0.2
_NO_PROCESS_S = 1.0


class Stopping(BaseException):
    """The service stops; raised in a replica's thread, at its next check."""


class ReplicaEngine:
    """What a Replica keeps serving. Its methods run in the replica's thread, and end with Stopping."""

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
        self.layouts, self.is_due_back = Layouts(resolved), False
        """Whether the launch's own layout may be served again instead of a fallback."""
        self.restart_policy = RestartPolicy(resolved.launch.keep.same_cause_limit)
        self.reload: Reload | None = None
        """The change to another launch that is this replica's turn; the supervisor sets it, the replica clears it."""
        self.start_limit = StartLimit()
        self.was_ready = self._is_changing = False

    @property
    def launch(self) -> LaunchConfig:
        """The launch of this replica."""
        return self.factory.launch

    @property
    def is_ready(self) -> bool:
        """Whether its engine serves."""
        return self.probe is not None

    def _begin(self) -> Attempt:
        """Take the standby, or start the next API server importing."""
        attempt = self.standby.begin(self.attempts)
        self.state.note_stand_by(None)
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

    def _place(self) -> Attempt:
        """Start both processes of an attempt until its ranks are placed: in a fallback layout where nodes stay away."""
        while True:
            attempt = self.begin_and_place()
            following = self._wait_placed(attempt)
            if following is None:
                return attempt
            self._end_old(attempt)
            if self.reload is not None and self._is_changing:
                self._undo_reload(Fault("node", "nodes that it needs are gone"))
            else:
                self._take_launch(following)
                self.restart_policy.note(self.layouts.describe() or "the launch's own layout")

    def _wait_placed(self, attempt: Attempt) -> ResolvedLaunch | None:
        """Wait until the ranks are placed; returns the layout to start instead, where nodes stay away."""
        following: ResolvedLaunch | None = None

        def is_decided() -> bool:
            nonlocal following
            if attempt.ray is None:  # a private Ray has all its nodes, or ends
                following = self.layouts.find_next(attempt.gpu_wait, time.monotonic())
            return attempt.is_placed or following is not None

        self._wait(is_decided, 0.0 if self.was_ready else STAGE_TIMEOUT_S)
        return None if attempt.is_placed else following

    def _start(self) -> None:
        """Start an engine, up to its first completion."""
        attempt = self._place()
        placed_at = time.monotonic()
        limit_s = self.start_limit.limit_s if self.was_ready else STAGE_TIMEOUT_S
        attempt.order_engine(self.launch)
        self.state.note_processes(self.attempts, self.factory.rays, attempt.mark)
        self._wait(StartProgress(attempt.engine, self.launch.world_size, self.state.set_note).follow, limit_s)
        self.front.enter(self.index)
        url = self.factory.private_url or self.front.published.service.url
        first = request_completion(url, self.launch, attempt.engine.is_alive, attempt.task)
        self._wait(first.done, limit_s)
        self._become_ready(attempt, first.result(), url)
        self.start_limit.note(time.monotonic() - placed_at)

    def _become_ready(self, attempt: Attempt, first_s: float, url: str) -> None:
        times = attempt.read_times(first_s)
        self.state.set_ready(attempt, times)
        service = self.front.published.service
        announce(
            service,
            self.factory.resolved,
            times,
            attempt.placed.forecast,
            again=self.was_ready,
            too=self.front.was_ready and not self.was_ready,
        )
        self.was_ready = self.front.was_ready = True
        self.progress = EngineProgress(time.monotonic())
        self.probe = LivenessProbe(url, self.launch, attempt.task)
        self.restart_policy.note_ready()
        self.layouts.note_ready()
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
        wait = attempt.gpu_wait
        if wait and (missing := describe_missing(wait, self.state.carried, self.state.state_s)):
            self.state.set_note(missing + self.layouts.describe_plan())
        if self.probe is not None:
            faults.raise_on_fault(attempt, self.progress, self.launch.keep.progress_limit_s)
            self.standby.update(self.state.state_s)
            self.state.note_stand_by(self.standby.pid)
            self.probe.update(self.progress, self.launch.keep.canary_s)
            self._look_back(attempt)
            if self.reload and not self.reload.is_accepted and attempt.driver and self.reload.check(attempt.driver):
                self.reload = None
        else:
            faults.raise_on_failed_start(attempt)
        self.state.update(attempt, self.progress)

    def _look_back(self, attempt: Attempt) -> None:
        """See whether a fallback is to make room for the launch's own layout, which the supervisor begins."""
        assert attempt.driver is not None
        nodes, running = attempt.driver.pulse.node_gpus, self.progress.running
        is_due = self.layouts.is_due_back(nodes, running, time.monotonic())
        self.is_due_back = is_due and self.reload is None
        self.state.set_layout(self.layouts.number, self.layouts.describe())

    def _undo_reload(self, fault: Fault) -> None:
        assert self.reload is not None
        self._take_launch(self.reload.fall_back(fault))
        self.reload, self._is_changing = None, False

    def _take_launch(self, resolved: ResolvedLaunch) -> None:
        """Start another launch from now on, or another layout of this one."""
        if resolved.own is not self.layouts.own:
            self.layouts = Layouts(resolved.own)
            self.front.take_launch(resolved.own)
        self.layouts.take(resolved)
        self.factory.resolved = resolved
        self.state.set_layout(self.layouts.number, self.layouts.describe())

    def _end_old(self, attempt: Attempt, *, failing: bool = False, wedged: bool = False) -> list[int]:
        killed = self.factory.end(attempt, failing=failing, wedged=wedged)
        self.attempts.remove(attempt)
        return killed
