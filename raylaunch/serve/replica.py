"""One replica of the service: an engine that is started, watched and started again, in a thread of its own.

Each start is an Attempt; after a death or wedge the next one is made. The replicas share the front, and nothing else:
each has its processes, its placement, its standby and, where the launch brings its own, its Ray.
"""

import contextlib
import threading
import time
from pathlib import Path

from raylaunch.base import console
from raylaunch.base.errors import NoProcessError, RaylaunchError
from raylaunch.engine.messages import StopAccepting
from raylaunch.engine.rehearsal.plan import ResolvedLaunch
from raylaunch.serve import faults
from raylaunch.serve import incident as incidents
from raylaunch.serve.faults import EngineFault, Fault
from raylaunch.serve.front import Front
from raylaunch.serve.replica_engine import ReplicaEngine, Stopping

_ROLLING_DRAIN_S = 600.0
"""For running requests while other replicas serve: no client waits for the end of this one."""
_KEEP_ALIVE_S = 5.0
"""vLLM closes an idle connection after so long (VLLM_HTTP_TIMEOUT_KEEP_ALIVE, 0.32)."""


class Replica(ReplicaEngine):
    """An engine of the service, from its first start to the end of the service."""

    def __init__(self, index: int, resolved: ResolvedLaunch, front: Front, folder: Path) -> None:
        """Prepare; `start` begins. `folder` is that of its logs."""
        super().__init__(index, resolved, front, folder)
        self.error: BaseException | None = None
        """What ended its thread, if it was not the end of the service."""
        self._thread = threading.Thread(target=self._run_to_end, name=f"replica-{index}")

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
        console.speak_as(self.factory.speaker)
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
            self._undo_reload(fault)
        elif self.layouts.number and not was_serving:
            self._take_launch(self.layouts.note_failed_start())
        elif not goes_on and not self.front.has_others(self.index):
            raise self.restart_policy.give_up()
        self.front.published.note_restart()
        self._sleep(self.restart_policy.wait_s())

    def _end_for_reload(self) -> None:
        """Let the running requests finish, end the engine, and take over the accepted launch."""
        assert self.reload is not None
        self.probe, self._is_changing = None, True
        self.front.leave(self.index)
        note = "another launch is started" if self.reload.is_other_launch else "back to the launch's own layout"
        self.state.set_state("restarting", note)
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
