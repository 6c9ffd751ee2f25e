"""Find many texts in a log at once, with `re` alone.

Python's `re` skips quickly to the next character that may begin a match. So each text is looked for by a part of it
that begins with one of a few, rare characters; where such a part is found, the text around it is compared.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

_KEY = 4
"""Bytes of the part."""
_PER_MILLE = dict(
    zip(
        b" etaoinshrdlcumwfgypbvkjxqz",
        (170, 102, 75, 65, 62, 57, 57, 53, 50, 50, 35, 33, 23, 23, 20, 20, 18, 17, 16, 16, 12, 8, 6, 1, 1, 1, 1),
        strict=True,
    )
)
"""How frequent a character is in English text; in logs, capitals and punctuation come on top."""
_OTHER_PER_MILLE = 6


def _weigh(char: int) -> int:
    return _PER_MILLE.get(char, _OTHER_PER_MILLE)


def _choose_starts(texts: Iterable[bytes]) -> frozenset[int]:
    """Few and rare characters of which every text has one, a key's length before its end (a greedy set cover)."""
    chars = [frozenset(text[: max(1, len(text) - _KEY + 1)]) for text in texts]
    left, starts = chars, frozenset[int]()
    while left:
        counts = Counter(char for some in left for char in some)
        chosen = max(sorted(counts), key=lambda char: counts[char] ** 0.5 / _weigh(char))
        starts |= {chosen}
        left = [some for some in left if chosen not in some]
    for char in sorted(starts, key=_weigh, reverse=True):
        if all(some & (starts - {char}) for some in chars):
            starts -= {char}
    return starts


def _write_trie(keys: Iterable[bytes]) -> bytes:
    """An expression that finds the shortest of the keys that begin at a place; frequent characters come first."""
    groups: dict[bytes, list[bytes]] = {}
    for key in keys:
        if not key:
            return b""
        groups.setdefault(key[:1], []).append(key[1:])
    order = sorted(groups, key=lambda first: (-_weigh(first[0]), first))
    branches = [re.escape(first) + _write_trie(groups[first]) for first in order]
    return branches[0] if len(branches) == 1 else b"(?:" + b"|".join(branches) + b")"


class Literals:
    """Texts, found all at once."""

    def __init__(self, texts: Iterable[bytes]) -> None:
        texts = [*texts]
        starts = _choose_starts(texts)
        parts: dict[bytes, list[tuple[bytes, int]]] = {}
        for text in texts:
            places = [at for at, char in enumerate(text) if char in starts]
            at = max(places, key=lambda at: (len(text[at : at + _KEY]), -sum(map(_weigh, text[at : at + _KEY]))))
            parts.setdefault(text[at : at + _KEY], []).append((text, at))
        self._pattern = re.compile(_write_trie(parts))
        self._by_key: dict[bytes, Sequence[tuple[bytes, int]]] = {
            key: [text for other, found in parts.items() if other.startswith(key) for text in found] for key in parts
        }

    def search(self, text: bytes) -> Iterator[tuple[int, bytes]]:
        """Which of them is where: a place in it, in the order of these places."""
        search, by_key = self._pattern.search, self._by_key
        found = search(text)
        while found:
            start = found.start()
            for literal, at in by_key[found[0]]:
                if start >= at and text.startswith(literal, start - at):
                    yield start, literal
            found = search(text, start + 1)
