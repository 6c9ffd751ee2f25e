"""What a user sees: a line typed on a terminal of 80 columns, and the commands that its output tells to type."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

COLUMNS = 80
_CONTROL = re.compile(r"\x1b\[([0-9;?]*)([A-Za-z])|([\r\n])")
_COMMAND = re.compile(r"`((?:raylaunch|ray) [^`]+)`|^(?:next: |ready: | +)?((?:raylaunch|curl) .*?)(?:  #.*)?$", re.M)


@dataclass(frozen=True)
class Typed:
    """The end of a typed command."""

    line: str
    status: int
    seconds: float
    text: str
    """What stands on the terminal."""

    def __str__(self) -> str:
        return f"$ {self.line}\n{self.text}[exit {self.status}, {self.seconds:.1f} s]\n\n"

    @property
    def lines(self) -> list[str]:
        return self.text.splitlines()

    @property
    def commands(self) -> list[str]:
        """The commands in it."""
        return list_commands(self.text)

    def list_wide(self, home: Path) -> list[str]:
        """Lines wider than the terminal, but for commands, which are pasted as one line, and a load test's reason.

        Args:
            home: the user's, which counts as one of usual length.
        """
        wide = [line for line in self.lines if len(line.replace(str(home), "/home/ubuntu")) > COLUMNS]
        return [line for line in wide if not list_commands(line) and not line.startswith("INVALID")]


def list_commands(text: str) -> list[str]:
    """The commands of raylaunch, ray and curl that a text tells to type."""
    return [quoted or line for quoted, line in _COMMAND.findall(text)]


def type_line(
    line: str, *, environ: Mapping[str, str], folder: Path, interrupt_at: str = "", deadline_s: float
) -> Typed:
    """Type a line in a shell on a terminal of its own.

    Args:
        folder: where it is typed.
        interrupt_at: text at which Ctrl-C is typed.
    """
    controller, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, COLUMNS, 0, 0))
    process = subprocess.Popen(
        ["setsid", "--ctty", "bash", "-c", line], stdin=terminal, stdout=terminal, stderr=terminal, cwd=folder,
        env={**environ, "TERM": "xterm"},
    )  # fmt: skip
    os.close(terminal)
    seen, began = b"", time.monotonic()
    while piece := _read(controller):
        seen += piece
        assert time.monotonic() - began < deadline_s, (
            f"{line}: no end within {deadline_s} s:\n{seen.decode(errors='replace')}"
        )
        if interrupt_at and interrupt_at.encode() in seen:
            interrupt_at = ""
            os.write(controller, b"\x03")
    os.close(controller)
    status = process.wait(30)
    return Typed(line, status, time.monotonic() - began, draw(seen.decode(errors="replace")))


def draw(written: str) -> str:
    """What stands on an endless screen after all that was written; lines that are updated in place stand there once."""
    screen, row, column, at = [""], 0, 0, 0
    for found in _CONTROL.finditer(written + "\n"):
        text, at = written[at : found.start()], found.end()
        screen[row] = screen[row][:column].ljust(column) + text + screen[row][column + len(text) :]
        column += len(text)
        number, command, moves = found.groups()
        if moves == "\r":
            column = 0
        elif moves == "\n":
            row, column = row + 1, 0
            screen += [""] * (row + 1 - len(screen))
        elif command == "A":
            row = max(0, row - int(number or 1))
        elif command == "K":
            screen[row] = ""
    return "\n".join(line.rstrip() for line in screen).rstrip("\n") + "\n"


def _read(controller: int) -> bytes:
    try:
        return os.read(controller, 1 << 16)
    except OSError:  # the other side is closed
        return b""
