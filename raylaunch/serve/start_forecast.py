"""How long a start will take, and the Retry-After that follows from it.

The last start's length of the same launch is kept on disk. The official clients of OpenAI and Anthropic try a request
three times; they take Retry-After as it is only below 60 s, and wait about a second otherwise. With the listener's hold
of a second try (serve/listener.py: 58 s, and then 59 s) they get their answer, whenever they come, if the start takes
at most 117 s longer than the Retry-After at its begin: 161 s before one was measured, 176 s after a long one.
"""

import contextlib
import json
import math
import time
from collections.abc import Callable
from pathlib import Path

from raylaunch.base.paths import write_quietly

_FIRST_GUESS_S = 40.0
"""Before a start of the launch has been measured."""
_MARGIN = 0.1
"""Of the forecast: starts of one launch differ by about a tenth."""
_OVERRUN_SHARE = 2 / 3
"""Of the time passed, once a start takes longer than the forecast: a long start is checked less often."""
_SHORTEST_S, _SHORTEST_OVERRUN_S = 1, 5
LONGEST_S = 59
"""Clients of OpenAI and Anthropic that take no header of 60 s are in use."""
_KEPT = 20
"""Launches whose lengths are kept."""


class StartForecast:
    """The lengths of starts and restarts, by launch. For the supervisor's main thread, but for `retry_after_s`."""

    def __init__(self, file: Path, *, kind: str, clock: Callable[[], float] = time.monotonic) -> None:
        """A start begins, of a launch that is not known yet.

        Args:
            file: of the lengths; it need not exist.
            kind: as for `begin`.
            clock: monotonic seconds.
        """
        self._file, self._clock = file, clock
        self._lengths_s: dict[str, dict[str, float]] = {}
        with contextlib.suppress(OSError, ValueError):  # none yet, or damaged
            self._lengths_s = {
                str(launch): {str(kind): float(length_s) for kind, length_s in lengths.items()}
                for launch, lengths in json.loads(file.read_bytes()).items()
            }
        self._key = ""
        self.begin(kind)

    def take_launch(self, key: str) -> None:
        """Forecast for the launch with this key from now on."""
        self._key = key

    def begin(self, kind: str) -> None:
        """A start begins: "starting" or "restarting", whose lengths differ."""
        self._kind, self._began = kind, self._clock()

    def note_ready(self) -> None:
        """The start has ended well: remember its length."""
        lengths = self._lengths_s.pop(self._key, {}) | {self._kind: round(self._clock() - self._began, 1)}
        self._lengths_s = {**dict([*self._lengths_s.items()][1 - _KEPT :]), self._key: lengths}
        write_quietly(self._file, json.dumps(self._lengths_s, indent=1))

    def retry_after_s(self) -> int:
        """Whole seconds after which a client should try again."""
        known = self._lengths_s.get(self._key, {})
        expected_s = known.get(self._kind) or max(known.values(), default=_FIRST_GUESS_S)
        passed_s = self._clock() - self._began
        if passed_s < expected_s:
            return max(_SHORTEST_S, min(LONGEST_S, math.ceil(expected_s + expected_s * _MARGIN - passed_s)))
        return max(_SHORTEST_OVERRUN_S, min(LONGEST_S, math.ceil(passed_s * _OVERRUN_SHARE)))
