"""Find many texts in a log at once, with `re` alone.

Python's `re` skips quickly to the next character that may begin a match, but with so many texts nearly every letter
may. So two bytes are read as one character (UTF-16), from either offset: each text is looked for by a part of it that
begins with one of a few rare pairs; where such a part is found, the text around it is compared.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence

_KEY_BYTES = (2, 4, 6)
"""Lengths that such a part may have."""
_LEAST_BYTES = 4
"""Of a part, where the text has as many."""
_PER_MILLE = dict(
    zip(
        b" etaoinshrdlcumwfgypbvkjxqz",
        (170, 102, 75, 65, 62, 57, 57, 53, 50, 50, 35, 33, 23, 23, 20, 20, 18, 17, 16, 16, 12, 8, 6, 1, 1, 1, 1),
        strict=True,
    )
)
"""How frequent a character is in English text; in logs, capitals and punctuation come on top."""
_OTHER_PER_MILLE = 6


def _weigh(pair: bytes) -> int:
    """How frequent it is, in millionths."""
    return _PER_MILLE.get(pair[0], _OTHER_PER_MILLE) * _PER_MILLE.get(pair[1], _OTHER_PER_MILLE)


def _list_places(text: bytes) -> range:
    """Where a part of it may begin."""
    return range(max(1, len(text) - _LEAST_BYTES + 1))


def _choose_starts(texts: Sequence[bytes]) -> frozenset[bytes]:
    """Few and rare pairs of which every text has one (a greedy set cover)."""
    holders: dict[bytes, set[int]] = {}
    for number, text in enumerate(texts):
        for at in _list_places(text):
            holders.setdefault(text[at : at + 2], set()).add(number)
    pairs, left, starts = sorted(holders), {*range(len(texts))}, set[bytes]()
    while left:
        chosen = max(pairs, key=lambda pair: len(holders[pair] & left) ** 1.5 / _weigh(pair))
        starts.add(chosen)
        left -= holders[chosen]
    counts = Counter(number for pair in starts for number in holders[pair])
    for pair in sorted(starts, key=lambda pair: (-_weigh(pair), pair)):
        if all(counts[number] > 1 for number in holders[pair]):
            starts.remove(pair)
            counts.subtract(holders[pair])
    return frozenset(starts)


def _choose_part(text: bytes, starts: frozenset[bytes]) -> tuple[bytes, int]:
    """The rarest part of a text that begins with one of the pairs, and where it is."""

    def cut(at: int) -> bytes:
        return text[at : at + max(size for size in _KEY_BYTES if size <= len(text) - at)]

    def weigh(at: int) -> float:
        part, frequency = cut(at), 1.0
        for begin in range(0, len(part), 2):
            frequency *= _weigh(part[begin : begin + 2]) / 1e6
        return frequency

    at = min((at for at in _list_places(text) if text[at : at + 2] in starts), key=weigh)
    return cut(at), at


def _write_trie(keys: Iterable[str]) -> str:
    """An expression that finds the shortest of the keys that begin at a place; frequent characters come first.

    No character of a pair of printable bytes is special to `re`.
    """
    groups: dict[str, list[str]] = {}
    for key in keys:
        if not key:
            return ""
        groups.setdefault(key[0], []).append(key[1:])
    order = sorted(groups, key=lambda first: (-_weigh(first.encode("utf-16-le")), first))
    branches = [first + _write_trie(groups[first]) for first in order]
    return branches[0] if len(branches) == 1 else f"(?:{'|'.join(branches)})"


class Literals:
    """Texts of three or more printable ASCII characters, found all at once."""

    def __init__(self, texts: Iterable[bytes]) -> None:
        texts = [*texts]
        starts = _choose_starts(texts)
        self._by_key: dict[bytes, list[tuple[bytes, int]]] = {}
        for text in texts:
            key, at = _choose_part(text, starts)
            self._by_key.setdefault(key, []).append((text, at))
        by_start: dict[str, list[str]] = {}
        for key in self._by_key:
            pairs = key.decode("utf-16-le")
            by_start.setdefault(pairs[0], []).append(pairs[1:])
        order = sorted(by_start, key=lambda first: (-_weigh(first.encode("utf-16-le")), first))
        # What follows is looked at, not taken: another part may begin in it.
        self._pattern = re.compile("|".join(f"{first}(?={_write_trie(by_start[first])})" for first in order))

    def search(self, text: bytes) -> Sequence[tuple[int, bytes]]:
        """Which of them is where: a place in it, in the order of these places.

        Args:
            text: ASCII, so that no pair of bytes is a surrogate.
        """
        found = []
        for offset in (0, 1):
            pairs = text[offset : len(text) - (len(text) - offset) % 2].decode("utf-16-le")
            for match in self._pattern.finditer(pairs):
                start = 2 * match.start() + offset
                for size in _KEY_BYTES:
                    for literal, at in self._by_key.get(text[start : start + size], ()):
                        if start >= at and text.startswith(literal, start - at):
                            found.append((start, literal))
        return sorted(found)
