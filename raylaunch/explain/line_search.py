"""The lines of a log that hold one of many texts; in large logs, several processes look for them."""

import multiprocessing
import signal
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field

from raylaunch.explain.literals import Literals

DIGITS = b"0123456789"
"""Left out of lines and texts before they are compared."""
_ASCII = bytes(char if char < 128 else 0 for char in range(256))
"""For bytes.translate: other characters are in no literal."""
_WORTH_BYTES = 24_000_000
"""Searched by one process first: in that time, others start."""


def find_lines(literals: Literals, block: bytes) -> dict[int, list[bytes]]:
    """Line of a block, from 0 -> the literals in it; digits do not count."""
    text = block.translate(_ASCII, DIGITS)
    found: dict[int, list[bytes]] = {}
    line = seen = 0
    for at, literal in literals.search(text):
        line += text.count(b"\n", seen, at)
        seen = at
        found.setdefault(line, []).append(literal)
    return found


@dataclass
class LineSearch:
    """Searches one block after the other."""

    literals: Literals
    processes: int
    """At most."""
    _searched: int = 0
    """Bytes."""
    _pool: ProcessPoolExecutor | None = field(default=None, repr=False)

    def find(self, block: bytes) -> dict[int, list[bytes]]:
        """As find_lines."""
        self._searched += len(block)
        if self.processes == 1 or self._searched < _WORTH_BYTES:
            return find_lines(self.literals, block)
        if self._pool is None:
            self._pool = ProcessPoolExecutor(
                self.processes, multiprocessing.get_context("spawn"), _start, (self.literals,)
            )
        found: dict[int, list[bytes]] = {}
        line = 0
        pieces = [*_cut(block, len(block) // self.processes + 1)]
        for piece, inside in zip(pieces, self._pool.map(_find, pieces), strict=True):
            found |= {line + at: literals for at, literals in inside.items()}
            line += piece.count(b"\n") + 1
        return found

    def close(self) -> None:
        """End the processes."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None


def _cut(block: bytes, size: int) -> Iterator[bytes]:
    """A block in pieces of about a size, each ending with a line."""
    start = 0
    while start <= len(block):
        end = block.find(b"\n", start + size)
        end = len(block) if end < 0 else end
        yield block[start:end]
        start = end + 1


_shared: list[Literals] = []
"""Of a process of the pool."""


def _start(literals: Literals) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that waits for this one
    _shared.append(literals)


def _find(piece: bytes) -> dict[int, list[bytes]]:
    return find_lines(_shared[0], piece)
