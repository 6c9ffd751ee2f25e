"""Find the lines of a log that a signature may match, at more than 100 MB/s, without holding the log in memory.

Most lines of a log repeat others but for counters, addresses and ids. So the characters of these are deleted from a
complete block at once (signatures.VARYING), each distinct rest is compared with the signatures' literals once, and only
lines with such a rest are decoded and searched. Where lines do not repeat, the complete block is compared instead.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import IO

from raylaunch.explain.line_search import DIGITS, LineSearch, find_lines
from raylaunch.explain.literals import Literals
from raylaunch.explain.signatures import VARYING, Signature

_BLOCK = 1 << 22
"""Bytes read at once."""
_LONGEST_LINE = 1 << 20
"""Bytes of a line that are searched; the rest of it is skipped."""
_KNOWN = 200_000
"""Distinct lines that are remembered."""
_ENOUGH, _ENOUGH_NUMBERED = 300, 20_000
"""Lines of one shape in one log that are looked at, the second where a signature asks for a number; further ones are
only counted."""
_VARYING = VARYING.encode()
_SAMPLE, _VARIED = 1 << 16, 0.5
"""Bytes at a block's start, and the part of their lines that differ."""
_QUOTES = (b"Received request", b"non-default args")
"""A line with one of these quotes what users wrote, or the configuration."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A line that may match some signatures."""

    number: int
    """From 1."""
    raw: bytes
    before: Sequence[bytes]
    """Lines before it in the same block, the nearest last."""
    signatures: tuple[Signature, ...]


def _is_varied(block: bytes) -> bool:
    """Whether most lines of a block differ in more than counters: comparing them all is faster then."""
    shapes = block[:_SAMPLE].translate(None, _VARYING).split(b"\n")
    return len(set(shapes)) > _VARIED * len(shapes)


@dataclass(frozen=True)
class _Index:
    literals: Literals
    by_literal: dict[bytes, list[int]]
    """Literal -> places of its signatures among all."""
    always: tuple[Signature, ...]
    """Signatures without a literal: they are searched in every new line."""


@lru_cache(maxsize=4)
def _make_index(signatures: tuple[Signature, ...]) -> _Index:
    by_literal: dict[bytes, list[int]] = {}
    for place, signature in enumerate(signatures):
        for literal in signature.literals:
            by_literal.setdefault(literal.encode().translate(None, DIGITS), []).append(place)
    always = tuple(signature for signature in signatures if not signature.literals)
    return _Index(Literals(by_literal), by_literal, always)


@dataclass
class Scanner:
    """Scans logs for a set of signatures; what it learns of one log's lines serves the next."""

    signatures: Sequence[Signature]
    processes: int = 1
    """That search a large log whose lines do not repeat, at most."""
    lines: int = 0
    """Lines of the log read so far."""
    _known: dict[bytes, tuple[Signature, ...]] = field(default_factory=dict)
    """Line without varying characters -> the signatures that it may match."""
    skipped: Counter[str] = field(default_factory=Counter)
    """Key -> lines that were only counted."""
    _judged: Counter[bytes] = field(default_factory=Counter)
    _settled: dict[bytes, str] = field(default_factory=dict)
    """Line without varying characters -> the key that all its lines had so far, in this log."""

    def __post_init__(self) -> None:
        self._index = _make_index(tuple(self.signatures))
        self._line_search = LineSearch(self._index.literals, self.processes)

    def close(self) -> None:
        """End its processes."""
        self._line_search.close()

    def scan(self, log: IO[bytes]) -> Iterator[Candidate | int]:
        """The candidates of a log in their order; after each block the number of its bytes."""
        self.lines, rest = 0, b""
        self._judged.clear()
        self._settled.clear()
        while block := log.read(_BLOCK):
            size = len(block)
            complete, newline, rest = (rest + block).rpartition(b"\n")
            if newline:
                yield from self._search(complete)
            elif len(rest) > _BLOCK:
                rest = rest[:_LONGEST_LINE]
            yield size
        if rest:
            yield from self._search(rest)

    def _search(self, block: bytes) -> Iterator[Candidate]:
        if _is_varied(block) and not self._index.always:
            return self._search_all(block)
        return self._search_shapes(block)

    def _search_all(self, block: bytes) -> Iterator[Candidate]:
        found = self._line_search.find(block)
        lines = block.split(b"\n") if found else []
        for at, literals in found.items():
            shape = lines[at].translate(None, _VARYING)
            if shape in self._settled:
                self.skipped[self._settled[shape]] += 1
            elif signatures := self._choose(lines[at], literals):
                yield self._make_candidate(lines, at, signatures)
        self.lines += block.count(b"\n") + 1

    def _search_shapes(self, block: bytes) -> Iterator[Candidate]:
        shapes = block.translate(None, _VARYING).split(b"\n")
        distinct = set(shapes)
        lines: list[bytes] = []
        if fresh := distinct.difference(self._known):
            lines = block.split(b"\n")
            self._compare({shape: line for shape, line in zip(shapes, lines, strict=True) if shape in fresh})
        for shape in distinct.intersection(self._settled):
            self.skipped[self._settled[shape]] += shapes.count(shape)
        wanted = {shape for shape in distinct if self._known[shape] and shape not in self._settled}
        if wanted:
            lines = lines or block.split(b"\n")
            for at, shape in enumerate(shapes):
                if shape not in wanted:
                    continue
                if shape in self._settled:
                    self.skipped[self._settled[shape]] += 1
                    continue
                yield self._make_candidate(lines, at, self._known[shape])
        self.lines += len(shapes)
        if len(self._known) > _KNOWN:
            self._known = {shape: found for shape, found in self._known.items() if found}

    def _compare(self, fresh: dict[bytes, bytes]) -> None:
        """Note which signatures the lines of some shapes may match."""
        lines = [*fresh.values()]
        found = find_lines(self._index.literals, b"\n".join(lines))
        for at, shape in enumerate(fresh):
            self._known[shape] = self._choose(lines[at], found.get(at, ()))

    def _choose(self, line: bytes, literals: Iterable[bytes]) -> tuple[Signature, ...]:
        if any(quote in line for quote in _QUOTES):
            return ()
        places = sorted({place for literal in literals for place in self._index.by_literal[literal]})
        return (*(self.signatures[place] for place in places), *self._index.always)

    def _make_candidate(self, lines: Sequence[bytes], at: int, signatures: tuple[Signature, ...]) -> Candidate:
        before = lines[max(0, at - 40) : at]
        return Candidate(self.lines + at + 1, lines[at][:_LONGEST_LINE], before, signatures)

    def settle(self, candidate: Candidate, key: str) -> None:
        """A candidate was judged: it has the signature `key`, or none (""). Enough of one shape are only counted."""
        shape = candidate.raw.translate(None, _VARYING)
        self._judged[shape] += 1
        is_numbered = any(signature.asks_for_number for signature in candidate.signatures)
        if self._judged[shape] >= (_ENOUGH_NUMBERED if is_numbered else _ENOUGH):
            self._settled[shape] = key
