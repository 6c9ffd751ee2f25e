"""Find the lines of a log that a signature may match, at more than 100 MB/s, without holding the log in memory.

Most lines of a log repeat others but for counters, addresses and ids. So the characters of these are deleted from a
complete block at once (signatures.VARYING), each distinct rest is compared with the signatures' literals once, and only
lines with such a rest are decoded and searched.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import IO

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
_DIGITS = b"0123456789"
_KEY = 4
_FREQUENT = b"QZXJKqYWUVGHBjzxw_kMSFOLPNRTIDCAEvybf/.:;,()[]{}'\"-=*`<>|#$%&!?+@^~\\gpmucldhrsnioate "
"""Characters from rare to frequent in logs."""
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


def _choose_starts(texts: Sequence[bytes]) -> bytes:
    """Few and rare characters of which every text has one (the greedy solution of a set cover)."""
    left, starts = set(texts), b""
    while left:
        counts = Counter(bytes((char,)) for text in left for char in {*text})
        starts += max(counts, key=lambda char: counts[char] / (1 + _FREQUENT.find(char)) ** 2)
        left = {text for text in left if not {*text} & {*starts}}
    return starts


class Literals:
    """Texts, found in a line all at once.

    Python's `re` skips to the next character that may begin a match, which is fast while such characters are rare. So
    it looks for a part of each literal that begins with a rare character.
    """

    def __init__(self, texts: Iterable[bytes]) -> None:
        texts = [*texts]
        starts = _choose_starts(texts)
        self._by_key: dict[bytes, list[bytes]] = {}
        for text in texts:
            parts = [text[at : at + _KEY] for at in range(len(text)) if text[at : at + 1] in starts]
            rarest = max(parts, key=lambda part: (len(part), -_FREQUENT.find(part[:1])))
            self._by_key.setdefault(rarest, []).append(text)
        keys = sorted(self._by_key, reverse=True)
        branches = [
            re.escape(first) + b"(?:" + b"|".join(re.escape(key[1:]) for key in keys if key[:1] == first) + b")"
            for first in sorted({key[:1] for key in keys})
        ]
        one_of = b"[" + b"".join(map(re.escape, (starts[at : at + 1] for at in range(len(starts))))) + b"]"
        self._pattern = re.compile(one_of + b"(?<=(?=(" + b"|".join(branches) + b")).)", re.DOTALL)
        for key in keys:  # the pattern finds the longest of two keys of which one begins the other
            shorter = [text for other in keys if other != key and key.startswith(other) for text in self._by_key[other]]
            self._by_key[key] = [*self._by_key[key], *shorter]

    def find(self, line: bytes) -> list[bytes]:
        """Those that are in the line."""
        keys = set(self._pattern.findall(line))
        return [text for key in keys for text in self._by_key[key] if text in line]


@dataclass(frozen=True)
class _Index:
    literals: Literals
    by_literal: dict[bytes, list[Signature]]
    always: tuple[Signature, ...]
    """Signatures without a literal: they are searched in every new line."""


@lru_cache(maxsize=4)
def _make_index(signatures: tuple[Signature, ...]) -> _Index:
    by_literal: dict[bytes, list[Signature]] = {}
    for signature in signatures:
        for literal in signature.literals:
            by_literal.setdefault(literal.encode().translate(None, _DIGITS), []).append(signature)
    always = tuple(signature for signature in signatures if not signature.literals)
    return _Index(Literals(by_literal), by_literal, always)


@dataclass
class Scanner:
    """Scans logs for a set of signatures; what it learns of one log's lines serves the next."""

    signatures: Sequence[Signature]
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
        shapes = block.translate(None, _VARYING).split(b"\n")
        distinct = set(shapes)
        fresh = distinct.difference(self._known)
        lines: list[bytes] = []
        if fresh:
            lines = block.split(b"\n")
            for shape, line in zip(shapes, lines, strict=True):
                if shape in fresh:
                    fresh.discard(shape)
                    self._known[shape] = self._compare(line)
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
                raw = lines[at][:_LONGEST_LINE]
                yield Candidate(self.lines + at + 1, raw, lines[max(0, at - 40) : at], self._known[shape])
        self.lines += len(shapes)
        if len(self._known) > _KNOWN:
            self._known = {shape: found for shape, found in self._known.items() if found}

    def _compare(self, line: bytes) -> tuple[Signature, ...]:
        line = line.translate(None, _DIGITS)
        if any(quote in line for quote in _QUOTES):
            return ()
        by_literal = self._index.by_literal
        found = {id(entry): entry for literal in self._index.literals.find(line) for entry in by_literal[literal]}
        return (*found.values(), *self._index.always)

    def settle(self, candidate: Candidate, key: str) -> None:
        """A candidate was judged: it has the signature `key`, or none (""). Enough of one shape are only counted."""
        shape = candidate.raw.translate(None, _VARYING)
        self._judged[shape] += 1
        is_numbered = any(signature.asks_for_number for signature in candidate.signatures)
        if self._judged[shape] >= (_ENOUGH_NUMBERED if is_numbered else _ENOUGH):
            self._settled[shape] = key
