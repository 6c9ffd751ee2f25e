"""Printing: results go to stdout, progress to stderr.

Progress goes through one rich console, which prints plain lines where stderr is no terminal.
"""

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from rich.console import Console, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from raylaunch.base.errors import LaunchFileError, RaylaunchError

_STDERR = Console(stderr=True, highlight=False, soft_wrap=True)
_speaker: ContextVar[str] = ContextVar("speaker", default="")


def is_terminal() -> bool:
    """Whether progress goes to a terminal."""
    return _STDERR.is_terminal


def speak_as(name: str) -> None:
    """Begin this thread's lines of progress with a name, as one of several replicas; "" ends that."""
    _speaker.set(name)


def say(text: str, *, style: str | None = None, named: bool = True) -> None:
    """Write a line of progress to stderr; one that cannot be written (full disk, closed terminal) is dropped.

    Args:
        named: begin it with the name that `speak_as` gave.
    """
    name = _speaker.get() if named else ""
    with contextlib.suppress(OSError):
        _STDERR.print(Text(f"{name}: {text}" if name else text), style=style)


def print_result(text: str) -> None:
    """Write a result to stdout, unformatted."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def print_json(value: Any) -> None:
    """Write a result to stdout for a program to read (UTF-8 kept readable, keys in the order given)."""
    print_result(json.dumps(value, ensure_ascii=False, indent=2, default=str))


def print_json_line(value: Any) -> None:
    """Write one of a stream of results to stdout, on one line."""
    print_result(json.dumps(value, ensure_ascii=False, default=str))


_STYLES = {"failed": "bold red", "not checked": "magenta", "warning": "yellow", "ok": "green"}


def print_states(lines: Sequence[tuple[str | None, str]]) -> None:
    """Write lines of a result to stdout, unfolded; on a terminal the state at the start of a line is coloured."""
    shown = Console(highlight=False, soft_wrap=True)
    for state, line in lines:
        shown.print(_colour_state(state, line))


def say_state(state: str | None, line: str) -> None:
    """Write a line of progress to stderr with its state coloured, as print_states does."""
    with contextlib.suppress(OSError):
        _STDERR.print(_colour_state(state, line))


def _colour_state(state: str | None, line: str) -> Text:
    length = len(state or "")
    return Text.assemble((line[:length], _STYLES.get(state or "", "")), line[length:])


def find_width(*, stdout: bool = False) -> int | None:
    """Columns of the terminal of stderr, or of stdout; None where it is none."""
    console = Console() if stdout else _STDERR
    return console.width if console.is_terminal else None


def make_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A table with headers and without a box; cells are plain text, not markup."""
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    return table


def show(renderable: RenderableType) -> None:
    """Write a table or other rich object to stderr."""
    with contextlib.suppress(OSError):
        if name := _speaker.get():
            _STDERR.print(f"{name}:")
        _STDERR.print(renderable)


def print_error(error: RaylaunchError) -> None:
    """Print an expected failure: what and where, the relevant lines of the log, what to do, the path of the log."""
    _STDERR.print(Text.assemble(("error: ", "bold red"), error.what))
    if isinstance(error, LaunchFileError):
        for problem in error.problems:
            _STDERR.print(Text(f"  {problem}"))
    for line in error.excerpt:
        _STDERR.print(Text(f"  | {line}"), style="dim")
    if error.fix:
        _STDERR.print(Text.assemble(("what to do: ", "bold"), error.fix))
    if error.log is not None:
        _STDERR.print(Text(f"full log: {error.log}"))


@contextlib.contextmanager
def waiting(text: str) -> Iterator[None]:
    """On a terminal: `text` with the seconds that the block has taken; it is gone when the block ends."""
    if not is_terminal():
        yield
        return
    began = time.monotonic()

    def render() -> Text:
        return Text(f"{text} | {time.monotonic() - began:.0f} s")

    with Live(console=_STDERR, get_renderable=render, refresh_per_second=2, transient=True):
        yield


@dataclass(frozen=True, slots=True)
class ProgressLine:
    """A line for `live_lines`."""

    name: str
    """Whose line it is: a host, a stage."""
    state: str
    detail: str = ""
    """What changes all the time, as seconds do: without a terminal its change alone prints no line."""

    def __str__(self) -> str:
        return f"{self.name}: " + " | ".join(part for part in (self.state, self.detail) if part)


@contextlib.contextmanager
def live_lines() -> Iterator[Callable[[Sequence[ProgressLine]], None]]:
    """Lines that are updated in place on a terminal; elsewhere each is written when its state changes.

    Yields:
        A function to call with all lines.
    """
    if is_terminal():
        with Live(console=_STDERR, refresh_per_second=4, transient=False) as live:
            yield lambda lines: live.update(Text("\n".join(map(str, lines))))
        return
    shown: dict[str, str] = {}

    def write_changed(lines: Sequence[ProgressLine]) -> None:
        for line in lines:
            if shown.get(line.name) != line.state:
                shown[line.name] = line.state
                say(str(line))

    yield write_changed
