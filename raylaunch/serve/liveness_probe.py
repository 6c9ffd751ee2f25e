"""The first completion of an engine, and one from time to time while it is idle: each is requested in a thread."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future

from raylaunch.base import console
from raylaunch.base.errors import EngineError
from raylaunch.config.launch import LaunchConfig
from raylaunch.serve import readiness
from raylaunch.serve.faults import EngineFault, EngineProgress, Fault


def request_completion(
    url: str, launch: LaunchConfig, is_alive: Callable[[], bool], task: str = "generate"
) -> "Future[float]":
    """Ask what the model answers, in a thread; the result is the seconds that it took, or an EngineError."""
    answer: Future[float] = Future()

    def run() -> None:
        try:
            answer.set_result(readiness.complete_once(url, launch, is_alive, task))
        except EngineError as error:
            answer.set_exception(error)

    threading.Thread(target=run, name="completion", daemon=True).start()
    return answer


class LivenessProbe:
    """Requests a completion from an idle engine: a wedge then shows as a request without progress."""

    def __init__(self, url: str, launch: LaunchConfig, task: str = "generate") -> None:
        self._url, self._launch, self._task = url, launch, task
        self._reported = ""
        self._busy_at = time.monotonic()
        self._request: Future[float] | None = None

    def update(self, progress: EngineProgress, every_s: float) -> None:
        """Send a request after `every_s` idle seconds (0: never), and check the answer.

        A request that failed for a reason that is not the engine's is reported once, and the engine serves on.

        Raises:
            EngineFault: the answer is an error.
        """
        now = time.monotonic()
        if self._request is not None and self._request.done():
            try:
                self._request.result()
            except readiness.UnaskedError as error:
                if error.what != self._reported:
                    self._reported = error.what
                    console.say(f"warning: no liveness probe: {error.what}", style="yellow")
            except EngineError as error:
                raise EngineFault(Fault("canary", f"an idle engine failed its liveness probe: {error.what}")) from error
            finally:
                self._request = None
        if progress.running or self._request is not None:
            self._busy_at = now
        elif every_s and now - self._busy_at >= every_s:
            self._request = request_completion(self._url, self._launch, lambda: False, self._task)
