"""The table of known failures (signatures.txt): how a line of a log is recognised, what it means, what to do."""

import importlib
import importlib.resources
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

SYMPTOM_BELOW = 50
"""A signature of a lower weight is a consequence of something; it folds under a cause."""
_HEADER = re.compile(
    r"(?P<key>[a-z][a-z0-9_]*) {2,}(?P<weight>\d{1,2}) {2,}(?P<source>[a-z]+) {2,}(?P<link>https?://\S+)"
)
_FIELD = re.compile(r"  (?P<name>[a-z]+) {1,}(?P<text>\S.*)")
_FIELDS = frozenset({"match", "unless", "until", "least", "under", "cause", "says", "fix", "line"})
_XID = re.compile(r"@xid\(([\d|]+)\)")
_PLACEHOLDER = re.compile(r"\{(\w+)(?:\|([^}]*))?\}")
_ESCAPED = re.compile(r"[^ !#-%'-;=?-\[\]-~]+")
"""What JSON writes differently: a literal must be found in docker's json-file logs too."""
VARYING = "0123456789abcdef"
"""Characters of counters, addresses and ids; messages that differ in nothing else are one message (see scan.py)."""
_NUMBER = re.compile(r"(?<![\\{,\d\w])[1-9]\d{1,}(?![\d,]*\})")
_SHORTEST_LITERAL = 3
"""Characters of a literal, digits not counted (see scan.py)."""
_WITHOUT_DIGITS = str.maketrans("", "", "0123456789")


@dataclass(frozen=True)
class Signature:
    """A known failure."""

    key: str
    weight: int
    """90 hardware and kernel, 80 a certain cause, 60 a probable one, below SYMPTOM_BELOW a symptom."""
    source: str
    """The software that writes the line: "vllm", "nccl", "kernel", ..."""
    link: str
    patterns: tuple[str, ...]
    cause: str
    fix: str
    lines: tuple[str, ...]
    """Real lines that it finds."""
    says: str = ""
    """Replaces a misleading message of an exception; "" for a message that is fine."""
    unless: str = ""
    """A line that matches this too is something else."""
    until: str = ""
    """What the same process writes once it is over."""
    least: int = 1
    """How often one process has to write it."""
    under: frozenset[str] = frozenset()
    """Keys of causes that it follows from."""

    @property
    def is_symptom(self) -> bool:
        """Whether it is a consequence of something else."""
        return self.weight < SYMPTOM_BELOW

    @cached_property
    def pattern(self) -> "re.Pattern[str]":
        """One expression for all its patterns."""
        return re.compile("|".join(self.patterns))

    @cached_property
    def literals(self) -> frozenset[str]:
        """Texts of which one is in every line that matches; empty where there are none.

        A pattern that matches more than one of its groups' names has them in its first alternatives.
        """
        found = [_find_literals(pattern) for pattern in self.patterns]
        return frozenset().union(*found) if all(found) else frozenset()

    @cached_property
    def asks_for_number(self) -> bool:
        """Whether a pattern names a number, as that of an Xid: lines that differ in numbers may differ in meaning."""
        return any(_NUMBER.search(pattern) for pattern in self.patterns)

    def search(self, line: str) -> "re.Match[str] | None":
        """The match in one line, or None."""
        found = self.pattern.search(line)
        return None if found is None or (self.unless and re.search(self.unless, line)) else found


@dataclass(frozen=True, slots=True)
class SignatureMatch:
    """A signature in one line, its texts filled with what the line names."""

    signature: Signature
    groups: dict[str, str]

    @property
    def cause(self) -> str:
        """What broke."""
        return _fill(self.signature.cause, self.groups)

    @property
    def fix(self) -> str:
        """What to do."""
        return _fill(self.signature.fix, self.groups)

    @property
    def says(self) -> str:
        """The plainer message, or ""."""
        return _fill(self.signature.says, self.groups)


def _fill(template: str, groups: dict[str, str]) -> str:
    def insert(found: "re.Match[str]") -> str:
        value = groups.get(found[1], "")
        return value or (found[2] or "")

    return " ".join(_PLACEHOLDER.sub(insert, template).split())


def _find_literals(pattern: str) -> frozenset[str]:
    parser: Any = importlib.import_module("re._parser")  # there is no public one; Python 3.11 to 3.14 have it
    return frozenset(_require(parser.parse(pattern)) or ())


def _count_letters(text: str) -> int:
    return len(text.translate(_WITHOUT_DIGITS))


def _measure(literals: frozenset[str]) -> int:
    return min(map(_count_letters, literals))


def _require(parsed: Any) -> frozenset[str] | None:
    """Texts of which every match holds one; None where a match may hold none.

    Args:
        parsed: a sequence as the standard library's parser returns it.
    """
    best: frozenset[str] | None = None
    run: list[str] = []

    def offer(candidate: frozenset[str] | None) -> None:
        nonlocal best
        if candidate and (best is None or _measure(candidate) > _measure(best)):
            best = candidate

    def end_run() -> None:
        longest = max(_ESCAPED.split("".join(run)), key=_count_letters)
        offer(frozenset({longest}) if _count_letters(longest) >= _SHORTEST_LITERAL else None)
        run.clear()

    for name, argument in parsed:
        if str(name) == "LITERAL":
            run.append(chr(argument))
            continue
        end_run()
        if str(name) == "SUBPATTERN" and not argument[1] & re.IGNORECASE:
            offer(_require(argument[3]))
        elif str(name) in ("MAX_REPEAT", "MIN_REPEAT") and argument[0] >= 1:
            offer(_require(argument[2]))
        elif str(name) == "BRANCH":
            branches = [_require(branch) for branch in argument[1]]
            offer(frozenset().union(*(branch or () for branch in branches)) if all(branches) else None)
    end_run()
    return best


@lru_cache(maxsize=1)
def load() -> tuple[Signature, ...]:
    """All signatures, in the order of the table."""
    return tuple(read_table((importlib.resources.files("raylaunch.explain") / "signatures.txt").read_text("utf-8")))


@lru_cache(maxsize=1)
def by_key() -> dict[str, Signature]:
    """Key -> signature."""
    return {signature.key: signature for signature in load()}


def read_table(text: str) -> Iterator[Signature]:
    """The signatures of a table's text.

    Raises:
        ValueError: a line of it is wrong; the message has its number.
    """
    block: list[tuple[int, str]] = []
    for number, line in enumerate([*text.splitlines(), ""], 1):
        if line.startswith("#"):
            continue
        if line.strip():
            block.append((number, line))
        elif block:
            yield _read_block(block)
            block = []


def _read_block(block: Sequence[tuple[int, str]]) -> Signature:
    number, head = block[0]
    found = _HEADER.fullmatch(head)
    if found is None:
        raise ValueError(f"line {number}: not KEY  WEIGHT  SOURCE  LINK: {head}")
    fields: dict[str, list[str]] = {name: [] for name in _FIELDS}
    for at, line in block[1:]:
        field = _FIELD.fullmatch(line)
        if field is None or field["name"] not in _FIELDS:
            raise ValueError(f"line {at}: not one of {', '.join(sorted(_FIELDS))}: {line}")
        fields[field["name"]].append(field["text"])
    if missing := [name for name in ("match", "cause", "fix", "line") if not fields[name]]:
        raise ValueError(f"line {number}: {found['key']} has no {missing[0]}")
    return Signature(
        key=found["key"],
        weight=int(found["weight"]),
        source=found["source"],
        link=found["link"],
        patterns=tuple(_XID.sub(_expand_xid, pattern) for pattern in fields["match"]),
        cause=" ".join(fields["cause"]),
        fix=" ".join(fields["fix"]),
        lines=tuple(line.replace("\\n", "\n") for line in fields["line"]),
        says=" ".join(fields["says"]),
        unless="|".join(fields["unless"]),
        until="|".join(fields["until"]),
        least=int(next(iter(fields["least"]), "1")),
        under=frozenset(" ".join(fields["under"]).split()),
    )


def _expand_xid(found: "re.Match[str]") -> str:
    """An Xid in the kernel's log: "NVRM: Xid (PCI:0000:3b:00): 79, pid=..."; older drivers leave out "PCI:"."""
    return rf"Xid(?: \((?:PCI:)?(?P<gpu>[0-9a-fA-F:.]+)\))?:? (?:{found[1]})\b"


def find(line: str, sources: Iterable[str] | None = None) -> SignatureMatch | None:
    """The heaviest signature in one line of a log; the first of equal ones.

    Args:
        sources: only signatures of these kinds.
    """
    wanted = None if sources is None else frozenset(sources)
    best: SignatureMatch | None = None
    for signature in load():
        if (wanted is None or signature.source in wanted) and (
            best is None or signature.weight > best.signature.weight
        ):
            found = signature.search(line)
            if found is not None:
                best = SignatureMatch(signature, read_groups(found))
    return best


def find_heaviest(lines: Iterable[str], sources: Iterable[str] | None = None) -> SignatureMatch | None:
    """The heaviest signature in several lines; the first of equal ones."""
    wanted = None if sources is None else frozenset(sources)
    found = [finding for line in lines if (finding := find(line, wanted))]
    return max(found, key=lambda finding: finding.signature.weight, default=None)


def read_groups(found: "re.Match[str]") -> dict[str, str]:
    """The named groups that matched; a number at a name's end is left out ("ip2" is another way to find "ip")."""
    groups: dict[str, str] = {}
    for name, value in found.groupdict().items():
        if value:
            groups.setdefault(name.rstrip("0123456789"), value)
    return groups


def reword(exception: str, message: str) -> tuple[str, str] | None:
    """A plainer text for a misleading message, and what to do; None for other messages."""
    finding = find(f"{exception}: {message}")
    return (finding.says, finding.fix) if finding and finding.says else None


def find_remedy(exception: str, message: str, excerpt: Sequence[str]) -> str:
    """What to do about an error; "" where no remedy is known. The message is matched before the excerpt."""
    for lines in (f"{exception}: {message}".splitlines(), excerpt):
        if finding := find_heaviest(lines):
            return finding.fix
    return ""


def fix_of(key: str) -> str:
    """What to do about a known failure."""
    return _fill(by_key()[key].fix, {})
