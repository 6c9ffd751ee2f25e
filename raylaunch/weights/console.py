"""A pull's progress on the console."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from raylaunch import output

_PLAIN_EVERY_POLLS = 10


@dataclass
class ConsoleReporter:
    """Live lines on a terminal; elsewhere plain ones, every ten seconds."""

    lines: Callable[[Sequence[str]], None]
    """As output.live_lines gives it."""
    _polls: int = 0

    def say(self, line: str) -> None:
        """Tell something once."""
        output.say(line)

    def show(self, lines: Sequence[str]) -> None:
        """Tell how far each node is."""
        self._polls += 1
        if output.console.is_terminal or self._polls % _PLAIN_EVERY_POLLS == 1:
            self.lines(lines)
