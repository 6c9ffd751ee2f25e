"""A scan finds the lines that a signature may match, whether a log's lines repeat or not."""

import io
import random
from contextlib import closing

import pytest

from raylaunch.explain import line_search, scan
from raylaunch.explain.scan import Candidate, Scanner
from raylaunch.explain.signatures import load

KNOWN = [(signature.key, line) for signature in load() for text in signature.lines for line in text.split("\n")]


def write_words(source: random.Random, count: int) -> list[bytes]:
    letters = "eeeetttaaaoooiiinnnssshhhrrrddlluucmwfgypbvkjxqz"
    return [
        " ".join("".join(source.choices(letters, k=source.randrange(2, 10))) for _ in range(12)).encode()
        for _ in range(count)
    ]


def find(log: list[bytes], processes: int) -> dict[int, set[str]]:
    """Line, from 0 -> the keys of which one may be its own."""
    with closing(Scanner(load(), processes)) as scanner:
        found = [entry for entry in scanner.scan(io.BytesIO(b"\n".join(log))) if isinstance(entry, Candidate)]
        assert scanner.lines == len(log)
    assert all(entry.raw == log[entry.number - 1] for entry in found)
    assert [entry.number for entry in found] == sorted(entry.number for entry in found)
    return {entry.number - 1: {signature.key for signature in entry.signatures} for entry in found}


@pytest.mark.parametrize("processes", [1, 2])
def test_every_known_line_is_found_in_a_log_that_never_repeats(monkeypatch: pytest.MonkeyPatch, processes: int) -> None:
    """By the signature whose line it is, as when all lines are compared one by one."""
    monkeypatch.setattr(line_search, "_WORTH_BYTES", 0)
    monkeypatch.setattr(scan, "_BLOCK", 1 << 18)
    log = write_words(random.Random(3), 6000)
    places = random.Random(4).sample(range(1000, len(log)), len(KNOWN))
    wanted = {}
    for at, (key, line) in zip(places, KNOWN, strict=True):
        log[at] = line.encode()
        wanted[at] = key
    found = find(log, processes)
    by_key = {signature.key: signature for signature in load()}
    for at, key in wanted.items():
        if by_key[key].search(log[at].decode()):
            assert key in found[at], log[at]
    monkeypatch.setattr(scan, "_VARIED", 1.0)  # no block is varied
    assert find(log, processes) == found
