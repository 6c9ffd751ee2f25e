"""The progress of an engine's start: published as the service's note, and printed."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from raylaunch.base import console
from raylaunch.explain.load_stage import read_stage
from raylaunch.serve.engine_process import EngineProcess

_LOOK_S = 1.0
_PRINT_S = 15.0
"""Longest time without a printed line."""
_TAIL_BYTES = 1 << 17


@dataclass
class StartProgress:
    """Follows one engine from its order to an accepting server."""

    engine: EngineProcess
    workers: int
    publish: Callable[[str], None]
    """Takes the note."""
    _began: float = field(default_factory=time.monotonic)
    _looked_at: float = 0.0
    _printed_at: float = field(default_factory=time.monotonic)
    _stage: str = ""

    def __post_init__(self) -> None:
        what = f"starting {self.workers} vLLM worker(s)"
        self.publish(what)
        console.say(f"{what}; log: {self.engine.log}")

    def follow(self) -> bool:
        """Publish and print what is new; whether the server accepts."""
        now = time.monotonic()
        if now - self._looked_at >= _LOOK_S:
            self._looked_at = now
            self._report(now)
        return self.engine.is_accepting

    def _report(self, now: float) -> None:
        stage = read_stage(self._read_tail()) or self._stage
        if not stage or (stage == self._stage and now - self._printed_at < _PRINT_S):
            return
        if stage != self._stage:
            self.publish(f"starting {self.workers} vLLM worker(s): {stage}")
        self._stage, self._printed_at = stage, now
        console.say(f"{stage} | {now - self._began:.0f} s")

    def _read_tail(self) -> str:
        try:
            with self.engine.log.open("rb") as file:
                file.seek(max(0, file.seek(0, 2) - _TAIL_BYTES))
                return file.read().decode(errors="replace")
        except OSError:
            return ""
