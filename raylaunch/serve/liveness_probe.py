"""A small completion, asked for as a client asks, in a thread: the first one, and one while nobody else asks."""

import threading
import time
from collections.abc import Callable

from raylaunch.base.errors import EngineError
from raylaunch.config.launch import LaunchConfig
from raylaunch.serve import readiness
from raylaunch.serve.faults import EngineTroubled, Progress, Trouble


class Question:
    """One token, asked for in a thread."""

    def __init__(self, url: str, launch: LaunchConfig, is_alive: Callable[[], bool]) -> None:
        self._seconds: float | None = None
        self._error: EngineError | None = None
        key = launch.api_keys[0] if launch.api_keys else None
        self._asked = (url, launch.served_model_names[0], key, is_alive)
        self._thread = threading.Thread(target=self._ask, name="canary", daemon=True)
        self._thread.start()

    def _ask(self) -> None:
        try:
            self._seconds = readiness.complete_once(*self._asked)
        except EngineError as error:
            self._error = error

    @property
    def is_done(self) -> bool:
        """Whether an answer, or the lack of it, is known."""
        return not self._thread.is_alive()

    def read_s(self) -> float:
        """Seconds that the answer took.

        Raises:
            EngineError: there was none.
        """
        if self._error is not None:
            raise self._error
        assert self._seconds is not None
        return self._seconds


class Canary:
    """Asks once in a while where no client does: a wedge of an idle engine then shows as a wedge under way."""

    def __init__(self, url: str, launch: LaunchConfig) -> None:
        self._url, self._launch = url, launch
        self._busy_at = time.monotonic()
        self._question: Question | None = None

    def turn(self, progress: Progress, every_s: float) -> None:
        """Ask when it is time, and look at the answer.

        Raises:
            EngineTroubled: the engine answered, but not with a completion.
        """
        now = time.monotonic()
        if self._question is not None and self._question.is_done:
            try:
                self._question.read_s()
            except EngineError as error:
                raise EngineTroubled(Trouble("canary", f"an idle engine failed its canary: {error.what}")) from error
            finally:
                self._question = None
        if progress.running or self._question is not None:
            self._busy_at = now
        elif every_s and now - self._busy_at >= every_s:
            self._question = Question(self._url, self._launch, lambda: False)
