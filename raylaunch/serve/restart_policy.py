"""When to start again after a failure, and when to give up."""

from dataclasses import dataclass

from raylaunch.base.errors import EngineError
from raylaunch.serve.faults import Fault
from raylaunch.serve.incident import Incident

STAGE_TIMEOUT_S = 7200.0
"""Longest start-up: a 400 GB model from a slow disk."""
_RESTART_S, _RESTART_TIMES = 600.0, 4.0
_FIRST_S, _LONGEST_S = 1.0, 60.0


@dataclass
class StartLimit:
    """How long a restart may take once its ranks are placed: 600 s, or four times the slowest start before."""

    slowest_s: float = 0.0
    """Of all starts, from placed ranks to the first completion."""

    def note(self, start_s: float) -> None:
        """A start was completed."""
        self.slowest_s = max(self.slowest_s, start_s)

    @property
    def limit_s(self) -> float:
        """Longest restart."""
        return max(_RESTART_S, _RESTART_TIMES * self.slowest_s)


class RestartPolicy:
    """Counts failed starts, and closes incidents with their outcome.

    No wait before the first start after an incident, then 1, 2, 4 and so on up to 60 s, until an engine is ready. After
    `limit` starts in a row that failed for the same cause: give up.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._causes: list[tuple[str, ...]] = []
        self._open: list[Incident] = []
        self._last: Fault | None = None

    def note_ready(self) -> None:
        """An engine is ready: close the open incidents."""
        self._causes.clear()
        self._close("serving again")

    def note_failure(self, incident: Incident, fault: Fault, *, was_serving: bool) -> bool:
        """An engine failed, or did not become ready; returns whether to start again."""
        self._open.append(incident)
        self._last = fault
        if was_serving:
            self._causes.clear()
            return True
        self._causes.append(fault.identity)
        return len(self._causes) < self._limit or len({*self._causes[-self._limit :]}) > 1

    def note(self, text: str) -> None:
        """Add a line to the open incidents."""
        self._open = [incident.note(text) for incident in self._open]

    def wait_s(self) -> float:
        """Seconds to wait before the next start."""
        failed = len(self._causes)
        return 0.0 if not failed else min(_LONGEST_S, _FIRST_S * 2.0 ** (failed - 1))

    def give_up(self) -> EngineError:
        """The error to raise after the last start."""
        assert self._last is not None
        self._close("gave up")
        return EngineError(f"{self._limit} starts in a row failed for one cause: {self._last.what}", fix=self._last.fix)

    def close(self) -> None:
        """The service ends: close the open incidents."""
        self._close("stopped")

    def _close(self, outcome: str) -> None:
        for incident in self._open:
            incident.note(outcome).close(outcome)
        self._open.clear()
