"""From the lines of all logs to the causes: what broke, where, the evidence, and what was ruled out."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from raylaunch.base import text as words
from raylaunch.explain.line_heads import LineHead, LogOrigin
from raylaunch.explain.signatures import Signature, SignatureMatch

_EVIDENCE = 8
"""Lines of evidence of one cause."""
_CHARS = 400
"""Of one line of evidence."""
_ENOUGH = 300
"""Lines of one signature in one log that are looked at in full."""
_REMOTE_LINES = 200
"""Longest traceback of a worker, in lines."""
_NO_REMOTE = (-_REMOTE_LINES, 0, "")
_STALE_S, _STALE_WEIGHT = 86400.0, 60
"""A cause that is so much older than the newest has so much less weight."""
_END_LINES = 3
"""A line that near to the log's end counts as repeated: the process wrote nothing after it."""

_SECRET = re.compile(r"\b(?:hf_|sk-|ghp_)[A-Za-z0-9_-]{16,}|(?<=[Bb]earer )[\w.~+/=-]{8,}")


@dataclass(frozen=True)
class Evidence:
    """One line of a log."""

    origin: LogOrigin
    line: int
    """From 1."""
    head: LineHead

    @property
    def process(self) -> tuple[str, str, str, int | None]:
        """What wrote it."""
        return (self.origin.name, self.head.host, self.head.name, self.head.pid)

    @property
    def place(self) -> str:
        """ "engine.log:12"."""
        return f"{self.origin.name}:{self.line}"

    @property
    def text(self) -> str:
        """The line without its heads, printable and cut."""
        text = _SECRET.sub(words.MASK, words.escape(self.head.text.strip().replace("\t", " ")))
        return text if len(text) <= _CHARS else text[: _CHARS - 3] + "..."


@dataclass(frozen=True)
class Hit:
    """A signature found in a line."""

    finding: SignatureMatch
    evidence: Evidence

    @property
    def signature(self) -> Signature:
        """The signature."""
        return self.finding.signature


@dataclass(frozen=True)
class Place:
    """Where something broke; "" and None where the line does not tell."""

    host: str = ""
    rank: int | None = None
    gpu: str = ""
    file: str = ""
    line: int = 0
    process: str = ""

    def describe(self) -> str:
        """ "host 10.0.0.2, rank 3, GPU 1 (engine.log:12)"."""
        parts = [f"host {self.host}"] if self.host else []
        parts += [f"rank {self.rank}"] if self.rank is not None else ([self.process] if self.process else [])
        parts += [f"GPU {self.gpu}"] if self.gpu else []
        return f"{', '.join(parts)} ({self.file}:{self.line})" if parts else f"{self.file}:{self.line}"


@dataclass(frozen=True)
class Cause:
    """Something that broke."""

    key: str
    what: str
    where: tuple[Place, ...]
    evidence: tuple[Evidence, ...]
    """In order of time."""
    fix: str
    weight: int
    link: str
    echoes: int
    """Lines that follow from it."""


@dataclass(frozen=True)
class Explanation:
    """What the logs show."""

    causes: tuple[Cause, ...]
    """Heaviest first."""
    first_errors: tuple[Evidence, ...]
    """The first error of each process, where no cause is known."""
    ruled_out: tuple[str, ...]
    logs: int
    lines: int


@dataclass
class Collector:
    """Gathers what was found in several logs."""

    hits: list[Hit] = field(default_factory=list)
    errors: dict[tuple[str, str, str, int | None], Evidence] = field(default_factory=dict)
    """The first error of each process."""
    error_lines: int = 0
    ends: dict[str, int] = field(default_factory=dict)
    """Log -> its number of lines."""
    kernel_hosts: set[str] = field(default_factory=set)
    has_nccl: bool = False
    ranks: dict[int, set[int]] = field(default_factory=lambda: defaultdict(set))
    """Pid -> ranks of workers with it; two nodes may use one pid."""
    over: dict[tuple[str, tuple[str, str, str, int | None]], int] = field(default_factory=dict)
    """Key and process -> last line in which the process says that it is over."""
    remotes: dict[tuple[str, str, int | None], tuple[int, int, str]] = field(default_factory=dict)
    """Log, process and pid -> line, pid and address of the worker whose exception it last began to print."""
    uncounted: Counter[str] = field(default_factory=Counter)
    """Key -> further lines of it, which are only counted."""
    _seen: Counter[tuple[str, str]] = field(default_factory=Counter)

    def is_enough(self, key: str, origin: LogOrigin) -> bool:
        """Whether a log has shown a signature so often that further lines of it are only counted; counts this one."""
        self._seen[key, origin.name] += 1
        if self._seen[key, origin.name] <= _ENOUGH:
            return False
        self.uncounted[key] += 1
        return True

    def note_error(self, evidence: Evidence) -> None:
        """A line that looks like an error, whatever it means."""
        self.error_lines += 1
        self.errors.setdefault(evidence.process, evidence)

    def add(self, hit: Hit) -> None:
        """Take a hit; one in an exception that Ray brought from a worker is that worker's."""
        evidence = hit.evidence
        line, pid, ip = self.remotes.get((evidence.origin.name, evidence.head.name, evidence.head.pid), _NO_REMOTE)
        if evidence.line - line < _REMOTE_LINES:
            head = replace(evidence.head, host=evidence.origin.host or ip, pid=pid, name="worker")
            hit = replace(hit, evidence=replace(evidence, head=head))
        self.hits.append(hit)

    def _name_rank(self, hit: Hit) -> Hit:
        head = hit.evidence.head
        ranks = self.ranks.get(int(hit.finding.groups.get("pid", head.pid or 0)), set())
        if head.rank is not None or len(ranks) != 1:
            return hit
        return replace(hit, evidence=replace(hit.evidence, head=replace(head, rank=min(ranks))))

    def explain(self) -> Explanation:
        """The causes of everything that was found."""
        hits = [self._name_rank(hit) for hit in self._drop_rare(self.hits)]
        by_key: dict[str, list[Hit]] = defaultdict(list)
        for hit in hits:
            by_key[hit.signature.key].append(hit)
        stale = _find_stale(by_key)
        folded = _fold({key: found for key, found in by_key.items() if key not in stale}) | {
            key: [] for key in by_key if key in stale
        }
        causes = [
            self._make_cause(by_key[key], [hit for other in followers for hit in by_key[other]], is_stale=key in stale)
            for key, followers in folded.items()
        ]
        causes.sort(key=lambda cause: (-cause.weight, cause.evidence[0].head.at or float("inf")))
        return Explanation(
            causes=tuple(causes),
            first_errors=() if causes else tuple(_sort(self.errors.values())),
            ruled_out=tuple(self._rule_out(hits)),
            logs=len(self.ends),
            lines=sum(self.ends.values()),
        )

    def _drop_rare(self, hits: Sequence[Hit]) -> list[Hit]:
        """Without lines that are over, or mean something only where a process repeats them or writes nothing more."""
        hits = [hit for hit in hits if hit.evidence.line > self.over.get((hit.signature.key, hit.evidence.process), 0)]
        counts: dict[tuple[str, tuple[str, str, str, int | None]], int] = defaultdict(int)
        for hit in hits:
            at_end = hit.evidence.line > self.ends.get(hit.evidence.origin.name, 0) - _END_LINES
            weight = hit.signature.least if at_end else hit.evidence.head.repeats
            counts[hit.signature.key, hit.evidence.process] += weight
        return [hit for hit in hits if counts[hit.signature.key, hit.evidence.process] >= hit.signature.least]

    def _make_cause(self, hits: Sequence[Hit], followers: Sequence[Hit], *, is_stale: bool) -> Cause:
        ordered = sorted(hits, key=lambda hit: _order(hit.evidence))
        first = ordered[0]
        places: dict[tuple[str, int | None, str, str], Place] = {}
        shown: list[Evidence] = []
        for hit in ordered:
            place = _locate(hit)
            identity = (place.host, place.rank, place.gpu, place.process)
            if identity not in places and len(places) < _EVIDENCE:
                places[identity] = place
                shown.append(hit.evidence)
        distinct = {(evidence.text, evidence.process) for evidence in shown}
        for hit in (*ordered, *sorted(followers, key=lambda follower: _order(follower.evidence))):
            if len(shown) < _EVIDENCE and (hit.evidence.text, hit.evidence.process) not in distinct:
                distinct.add((hit.evidence.text, hit.evidence.process))
                shown.append(hit.evidence)
        best = max(ordered, key=lambda hit: len(hit.finding.groups))
        repeats = sum(hit.evidence.head.repeats for hit in (*hits, *followers))
        repeats += sum(self.uncounted[key] for key in {hit.signature.key for hit in (*hits, *followers)})
        return Cause(
            key=first.signature.key,
            what=best.finding.cause,
            where=tuple(places.values()),
            evidence=tuple(_sort(shown)),
            fix=best.finding.fix,
            weight=max(1, first.signature.weight - (_STALE_WEIGHT if is_stale else 0)),
            link=first.signature.link,
            echoes=max(0, repeats - len(shown)),
        )

    def _rule_out(self, hits: Sequence[Hit]) -> Iterable[str]:
        found = {hit.signature.key for hit in hits if hit.evidence.head.is_kernel}
        if self.kernel_hosts:
            names = ", ".join(sorted(filter(None, self.kernel_hosts)))
            absent = [
                text
                for text, keys in _KERNEL_QUESTIONS.items()
                if not any(key.startswith(prefix) for key in found for prefix in keys)
            ]
            if absent:
                yield f"no {', no '.join(absent)} in the kernel's log{f' of {names}' if names else ''}"
        else:
            yield "not checked: the kernel's log, for GPU faults and killed processes (sudo dmesg -T > kernel.log)"
        if self.has_nccl and not any(" NCCL WARN" in hit.evidence.head.text for hit in hits):
            yield "no known warning of NCCL in its debug output"


_KERNEL_QUESTIONS = {
    "GPU fault (Xid)": ("gpu_",),
    "process killed for memory": ("host_memory", "container_oom"),
    "disk error": ("disk_",),
    "PCIe or IOMMU fault": ("pcie_", "iommu_"),
    "network link down": ("network_link", "rdma_link"),
}
"""What the kernel's log would show -> beginnings of the keys that it would be found by."""


def _find_stale(by_key: dict[str, list[Hit]]) -> set[str]:
    """Keys whose last line is a day older than the newest of all: a kernel's log goes back to the host's start."""
    last = {key: max((hit.evidence.head.at or 0.0 for hit in hits), default=0.0) for key, hits in by_key.items()}
    newest = max(last.values(), default=0.0)
    return {key for key, at in last.items() if 0.0 < at < newest - _STALE_S}


def _fold(by_key: dict[str, list[Hit]]) -> dict[str, list[str]]:
    """Cause -> what follows from it; a symptom follows from the heaviest cause, or from the heaviest symptom."""
    weights = {key: hits[0].signature.weight for key, hits in by_key.items()}
    causes = [
        key
        for key, hits in by_key.items()
        if not hits[0].signature.is_symptom and not hits[0].signature.under & by_key.keys()
    ] or sorted(by_key, key=lambda key: -weights[key])[:1]
    folded: dict[str, list[str]] = {key: [] for key in causes}
    for key, hits in by_key.items():
        if key not in folded:
            above = [cause for cause in causes if cause in hits[0].signature.under] or causes
            folded[max(above, key=lambda cause: weights[cause])].append(key)
    return folded


def _locate(hit: Hit) -> Place:
    head, groups = hit.evidence.head, hit.finding.groups
    rank = groups.get("rank", "")
    return Place(
        host=groups.get("host") or head.host or groups.get("ip", ""),
        rank=int(rank) if rank.isdigit() else head.rank,
        gpu=groups.get("gpu", head.gpu),
        file=hit.evidence.origin.name,
        line=hit.evidence.line,
        process=head.name if head.rank is None and not head.is_kernel else "",
    )


def _order(evidence: Evidence) -> tuple[float, str, int]:
    return (evidence.head.at if evidence.head.at is not None else float("inf"), evidence.origin.name, evidence.line)


def _sort(found: Iterable[Evidence]) -> list[Evidence]:
    return sorted(found, key=_order)
