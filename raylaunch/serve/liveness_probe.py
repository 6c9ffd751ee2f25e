"""The first completion of an engine, and one from time to time while it is idle: each is requested in a thread."""

import threading
import time
from collections.abc import Callable

from raylaunch.base.errors import EngineError
from raylaunch.config.launch import LaunchConfig
from raylaunch.serve import readiness
from raylaunch.serve.faults import EngineFault, EngineProgress, Fault


class CompletionRequest:
    """A request for one token, as a client sends it."""

    def __init__(self, url: str, launch: LaunchConfig, is_alive: Callable[[], bool]) -> None:
        self._seconds: float | None = None
        self._error: EngineError | None = None
        key = launch.api_keys[0] if launch.api_keys else None
        self._arguments = (url, launch.served_model_names[0], key, is_alive)
        self._thread = threading.Thread(target=self._run, name="completion", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._seconds = readiness.complete_once(*self._arguments)
        except EngineError as error:
            self._error = error

    @property
    def is_done(self) -> bool:
        """Whether it was answered, or has failed."""
        return not self._thread.is_alive()

    def read_s(self) -> float:
        """Seconds until the answer.

        Raises:
            EngineError: it has failed.
        """
        if self._error is not None:
            raise self._error
        assert self._seconds is not None
        return self._seconds


class LivenessProbe:
    """Requests a completion from an idle engine: a wedge then shows as a request without progress."""

    def __init__(self, url: str, launch: LaunchConfig) -> None:
        self._url, self._launch = url, launch
        self._busy_at = time.monotonic()
        self._request: CompletionRequest | None = None

    def update(self, progress: EngineProgress, every_s: float) -> None:
        """Send a request after `every_s` idle seconds (0: never), and check the answer.

        Raises:
            EngineFault: the answer is not a completion.
        """
        now = time.monotonic()
        if self._request is not None and self._request.is_done:
            try:
                self._request.read_s()
            except EngineError as error:
                raise EngineFault(Fault("canary", f"an idle engine failed its liveness probe: {error.what}")) from error
            finally:
                self._request = None
        if progress.running or self._request is not None:
            self._busy_at = now
        elif every_s and now - self._busy_at >= every_s:
            self._request = CompletionRequest(self._url, self._launch, lambda: False)
