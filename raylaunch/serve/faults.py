"""Finds the faults of a running service: a death, or a wedge.

A dead child shows by its exit, a dead worker or node in Ray, and a wedge (all processes live, no token moves) by the
engine's progress, for which the liveness probe keeps an idle engine busy.
"""

import time
from collections.abc import Sized
from dataclasses import dataclass

from raylaunch.base.errors import RaylaunchError
from raylaunch.base.ports import accepts_connections
from raylaunch.base.processes import describe_status
from raylaunch.engine.messages import EnginePulse
from raylaunch.serve.attempt import Attempt
from raylaunch.serve.driver_process import DriverProcess
from raylaunch.serve.engine_process import EngineProcess
from raylaunch.serve.messages import DeadRank, DriverPulse
from raylaunch.serve.private_ray_process import PrivateRayProcess

_SILENT_S = 2.0
"""Without a pulse from the driver process (two a second) for so long, the port of Ray's head is probed."""
_DEAF_S = 20.0
"""Without a pulse for so long the driver process hangs, though Ray's head accepts."""
_CONNECT_TIMEOUT_S = 1.0
_TAKEN_ALONG = ("its owner has died", "killed by `ray.kill`", "placement group was removed")
"""In Ray's reason (2.60) for a worker's death: EngineCore ended it, or ended itself."""
SETTLE_S = 1.5
"""Ray marks a node dead a second or two after its workers."""
_DEPTH = {"engine": 0, "driver": 0, "worker": 2, "wedge": 3, "canary": 3, "gcs": 3, "node": 3, "gpu": 3}
"""By cause: how near to the root. A node's death ends its workers, a worker's ends the engine. A wedge has no deeper
cause to wait for: Ray had the progress limit to report it."""
NAMED = _DEPTH["worker"]
"""Depth of a cause that names the process that died first."""

_KEYS = {
    "worker": "worker_killed",
    "engine": "worker_killed",
    "node": "ray_node_lost",
    "gcs": "ray_head_unreachable",
    "gpu": "gpu_off_the_bus",
    "wedge": "engine_stalled",
    "canary": "engine_stalled",
}


@dataclass(frozen=True, slots=True)
class Fault:
    """Why the engine has to be ended."""

    cause: str
    """One word, for counting: "worker", "node", "gcs", "engine", "wedge", "driver", "gpu", "start", "canary"."""
    what: str
    """What happened and where, in one sentence."""
    fix: str = ""
    kind: tuple[str, str] = ("", "")
    """Of a start that failed: the class of the error, and its own key."""

    @property
    def identity(self) -> tuple[str, ...]:
        """Equal for faults of one cause, whatever the pids, addresses and times in their sentences."""
        return (self.cause, *self.kind)

    @property
    def key(self) -> str:
        """The signature (explain/signatures.txt) of this kind of fault; "" where only the log can tell."""
        return _KEYS.get(self.cause, "")

    @classmethod
    def of_error(cls, error: RaylaunchError) -> "Fault":
        """The fault of a start that failed."""
        return cls("start", error.what, error.fix, (type(error).__name__, error.fault_key))


class EngineProgress:
    """Whether tokens move while requests run."""

    def __init__(self, now: float) -> None:
        self._moves = -1
        self._since = now
        self._running = 0

    def take(self, pulse: EnginePulse, now: float) -> None:
        """Count from a pulse of the API server."""
        if pulse.moves != self._moves or pulse.running == 0 or self._running == 0:
            self._moves, self._since = pulse.moves, now
        self._running = pulse.running

    def age_s(self, now: float) -> float:
        """Seconds for which requests have run and nothing has moved; 0 when idle."""
        return now - self._since if self._running else 0.0

    @property
    def running(self) -> int:
        """Running requests."""
        return self._running


class EngineFault(Exception):
    """The engine has to be ended."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.what)
        self.fault = fault


def raise_on_fault(attempt: Attempt, progress: EngineProgress, limit_s: float) -> None:
    """Check an engine that serves; the most specific fault first.

    Raises:
        EngineFault: a process, node or GPU died, or the engine is wedged.
    """
    engine, driver = attempt.engine, attempt.driver
    assert driver is not None
    fault = (
        judge_ray(driver.pulse)
        or _check_private_ray(attempt.ray)
        or _check_driver(driver)
        or _check_engine(engine)
        or _check_progress(engine, progress, limit_s)
    )
    if fault is not None:
        raise EngineFault(fault)


def raise_on_failed_start(attempt: Attempt) -> None:
    """Check an engine that is being started.

    Raises:
        RaylaunchError: one of its processes ended.
        EngineFault: Ray lost a node or a worker.
    """
    engine, driver = attempt.engine, attempt.driver
    if attempt.ray is not None and (failure := attempt.ray.find_failure()) is not None:
        raise failure
    if driver is not None:
        if (ended := driver.find_failure()) is not None:
            raise ended
        fault = judge_ray(driver.pulse)
        # Until it is up the engine reports a worker's death itself, and better: with the worker's own error.
        if fault is not None and engine.is_alive() and (engine.ready is not None or fault.cause == "node"):
            raise EngineFault(fault)
    if not engine.is_alive():
        raise engine.explain_death()


def describe_first(first: Fault) -> str:
    """What to show before `settle`: no cause where it is most often another one's consequence."""
    return first.what if _DEPTH.get(first.cause, NAMED) else "the engine failed; its cause is being determined"


def settle(attempt: Attempt, first: Fault, until: float, depth: int = _DEPTH["node"]) -> Fault:
    """Wait for the cause behind `first`, until it is at `depth` or the monotonic time `until`."""
    best = first
    while attempt.driver is not None and time.monotonic() < until and _DEPTH.get(best.cause, depth) < depth:
        time.sleep(0.1)
        is_last = not attempt.driver.is_alive()
        attempt.driver.receive()
        attempt.engine.receive()
        found = judge_ray(attempt.driver.pulse)
        if found is not None and _DEPTH[found.cause] > _DEPTH[best.cause]:
            best = found
        if is_last:
            break
    return _judge_core(attempt.engine) or best if best.cause == "engine" else best


def judge_ray(pulse: DriverPulse) -> Fault | None:
    """The fault in a pulse of the driver process: dead nodes, then lost GPUs, then the worker that died first."""
    if pulse.gone:
        return Fault("node", f"node {pulse.gone[0]} is gone: Ray has lost it" + _count_more(pulse.gone))
    if pulse.lost_gpus:
        return Fault("gpu", pulse.lost_gpus[0] + _count_more(pulse.lost_gpus))
    if pulse.dead:
        first = [rank for rank in pulse.dead if not any(words in rank.why for words in _TAKEN_ALONG)]
        if not first:
            return Fault("engine", "the engine's core process (EngineCore) died, and its workers ended with it")
        return Fault("worker", describe_worker(min(first, key=lambda rank: rank.ended_at)))
    return None


def _count_more(entries: Sized) -> str:
    return f" (and {len(entries) - 1} more)" if len(entries) > 1 else ""


def describe_worker(rank: DeadRank) -> str:
    """A dead worker: rank, node, pid, and Ray's reason."""
    return f"worker rank {rank.rank} on node {rank.ip} (pid {rank.pid}) died: {_shorten(rank.why)}"


def _shorten(why: str) -> str:
    """Ray's reason without its advice."""
    if "running low on memory" in why or "memory pressure" in why:
        return "killed by Ray because the node ran low on host memory"
    if "Worker unexpectedly exits" in why or "connection error code 2" in why:
        return "killed (most likely signal 9; often the kernel, out of memory)"
    lines = [line.strip() for line in why.splitlines() if line.strip()]
    first = lines[0] if lines else "Ray gives no reason"
    return first if len(first) <= 240 else first[:240] + "..."


def _check_private_ray(ray: PrivateRayProcess | None) -> Fault | None:
    """Its nodes end with it, which takes up to 30 s and is not waited for."""
    if ray is None or ray.is_alive():
        return None
    return Fault("node", f"the process that keeps the private Ray ended {ray.describe_end()}, and its nodes with it")


def _check_driver(driver: DriverProcess) -> Fault | None:
    if driver.silent_s() > _SILENT_S and driver.address and not accepts_connections(driver.address, _CONNECT_TIMEOUT_S):
        return Fault("gcs", f"Ray's head (GCS) at {driver.address} is gone: nothing accepts connections there")
    if not driver.is_alive():
        return Fault("driver", "the process that holds the GPUs in Ray ended " + driver.describe_end())
    if driver.silent_s() > _DEAF_S:
        return Fault("gcs", f"Ray at {driver.address} has not answered for {driver.silent_s():.0f} s")
    return None


def _check_engine(engine: EngineProcess) -> Fault | None:
    if not engine.is_alive():
        error = engine.explain_death()
        return Fault("engine", error.what, error.fix)
    return _judge_core(engine)


def _judge_core(engine: EngineProcess) -> Fault | None:
    pulse = engine.pulse
    if not pulse.is_dead:
        return None
    how = "" if pulse.core_exit is None else f" {describe_status(pulse.core_exit)}"
    return Fault("engine", f"the engine's core process (EngineCore, on the serving node) died{how}")


def _check_progress(engine: EngineProcess, progress: EngineProgress, limit_s: float) -> Fault | None:
    if (silent_s := engine.silent_s()) > limit_s:
        return Fault("wedge", f"the API server has sent nothing for {silent_s:.0f} s: it is wedged")
    if (age_s := progress.age_s(time.monotonic())) > limit_s:
        return Fault(
            "wedge",
            f"no token has moved for {age_s:.0f} s while {progress.running} request(s) run: the engine is wedged, "
            "though all its processes live",
        )
    return None
