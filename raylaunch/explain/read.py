"""Read logs of every kind (files, folders, compressed ones, stdin) and explain what they show."""

import gzip
import re
import shlex
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, cast

from raylaunch.base.errors import LogError
from raylaunch.explain.causes import Collector, Evidence, Explanation, Hit
from raylaunch.explain.line_heads import LineHead, LogOrigin, clean, read_head
from raylaunch.explain.scan import Candidate, Scanner
from raylaunch.explain.signatures import Signature, SignatureMatch, load, read_groups

_ERROR_LINE = Signature(
    key="",
    weight=0,
    source="any",
    link="",
    patterns=(r"\b(?:ERROR|CRITICAL|FATAL|Fatal)\b|(?:Error|Exception)\b(?::|$)|\b[Ee]rror: |\b[Ff]ailed to\b|panic",),
    cause="",
    fix="",
    lines=(),
)
"""What looks like an error, for the answer where no cause is known."""
_RANK_LINE = replace(_ERROR_LINE, patterns=(r"\bworld_size=\d+ rank=(?P<rank>\d+) local_rank=",))
_REMOTE_LINE = replace(_ERROR_LINE, patterns=(r"\bray::\S+ \(pid=(?P<pid>\d+), ip=(?P<ip>[0-9a-fA-F.:]+)",))
"""What tells where a failure is: the rank of a process (vLLM), and a worker's exception in another process (Ray)."""
_ERROR_LEVELS = frozenset({"ERROR", "CRITICAL", "FATAL"})
_NOT_LOGS = re.compile(r"\.(sock|pid|db|sqlite3?|pyc|so|safetensors|bin|pt|gguf|zst|xz|bz2|zip|tar|tgz|lock|port)$")
_GZIP = b"\x1f\x8b"
_HARMLESS_ABOVE = (b"while starting the metrics server", b"Report event failed")
"""What is raised after such a line ends nothing: a second Ray on one machine finds that port taken, and a worker's
agent reports events to a dashboard that listens on the head's loopback only (Ray 2.60)."""


@dataclass(frozen=True)
class LogInput:
    """A log that can be opened."""

    origin: LogOrigin
    open: Callable[[], AbstractContextManager[IO[bytes]]]
    size: int | None = None
    """Bytes; None where it is not known, or compressed."""


def find_logs(paths: Iterable[Path]) -> list[LogInput]:
    """The logs of files and folders, with all that is below these; "-" is stdin.

    Raises:
        LogError: one does not exist or cannot be read.
    """
    found: list[LogInput] = []
    for path in paths:
        if str(path) == "-":
            found.append(LogInput(LogOrigin("stdin"), lambda: nullcontext(sys.stdin.buffer)))
        elif path.is_dir():
            inside = sorted(entry for entry in path.rglob("*") if entry.is_file() and not _NOT_LOGS.search(entry.name))
            if not inside:
                raise LogError(f"{path} holds no logs")
            found += [source for entry in inside if (source := _try_file(entry))]
        else:
            found.append(open_file(path))
    return list({source.origin.name: source for source in found}.values())


def _try_file(path: Path) -> LogInput | None:
    """A file of a folder; None for one that must not be read or is no text."""
    try:
        with path.open("rb") as file:
            start = file.read(512)
    except OSError:
        return None
    return None if b"\0" in start and not start.startswith(_GZIP) else open_file(path)


def open_file(path: Path, origin: LogOrigin | None = None) -> LogInput:
    """A log in a file.

    Args:
        origin: what is known about it; None for a file of this machine.

    Raises:
        LogError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            is_gzip = file.read(2) == _GZIP
        status = path.stat()
    except OSError as error:
        raise LogError(f"{path} cannot be read: {error.strerror}", fix=f"ls -l {shlex.quote(str(path))}") from error
    return LogInput(
        origin or LogOrigin(str(path), changed_at=status.st_mtime),
        lambda: _open(path, is_gzip=is_gzip),
        None if is_gzip or not path.is_file() else status.st_size,
    )


def _open(path: Path, *, is_gzip: bool) -> IO[bytes]:
    file = path.open("rb")
    return cast(IO[bytes], gzip.GzipFile(fileobj=file)) if is_gzip else file


def _make_endings() -> list[Signature]:
    """Signatures of the lines that end others (`until`), which are in `under`."""
    ending = [entry for entry in load() if entry.until]
    return [replace(_ERROR_LINE, patterns=(entry.until,), under=frozenset({entry.key})) for entry in ending]


def explain_logs(
    sources: Sequence[LogInput], report: Callable[[str], None] = lambda _: None, *, processes: int = 1
) -> Explanation:
    """What logs show.

    Args:
        report: called with a line of progress after each block.
        processes: that read a large log whose lines do not repeat, at most.

    Raises:
        LogError: a log cannot be read to its end.
    """
    signatures = [*load(), _ERROR_LINE, _RANK_LINE, _REMOTE_LINE, *_make_endings()]
    with closing(Scanner(signatures, processes)) as scanner:
        return _explain(sources, report, scanner)


def _explain(sources: Sequence[LogInput], report: Callable[[str], None], scanner: Scanner) -> Explanation:
    collector = Collector()
    total = sum(source.size or 0 for source in sources)
    done = 0
    for source in sources:
        try:
            with source.open() as log:
                for found in scanner.scan(log):
                    if isinstance(found, int):
                        done += found
                        report(f"{_describe_bytes(done, total)}, {source.origin.name}")
                    else:
                        _judge(found, source.origin, scanner, collector)
        except (OSError, EOFError) as error:
            if not isinstance(error, EOFError | gzip.BadGzipFile):
                raise LogError(f"{source.origin.name} cannot be read: {error.strerror or error}") from error
        collector.ends[source.origin.name] = scanner.lines
    collector.uncounted += scanner.skipped
    return collector.explain()


def explain_lines(lines: Iterable[str]) -> Explanation:
    """What the lines of one log show."""
    import io

    text = "\n".join(lines).encode()
    return explain_logs([LogInput(LogOrigin("log"), lambda: nullcontext(io.BytesIO(text)))])


def _describe_bytes(done: int, total: int) -> str:
    return f"{done / 1e6:.0f} MB" + (f" of {total / 1e6:.0f} MB" if total > done else "")


def _judge(candidate: Candidate, origin: LogOrigin, scanner: Scanner, collector: Collector) -> None:
    known = _find_heaviest(candidate, clean(candidate.raw))
    if known is not None and collector.is_enough(known.signature.key, origin):
        scanner.settle(candidate, known.signature.key)
        return
    head = read_head(candidate.raw, origin)
    _note_kind(head, candidate, origin, collector)
    finding = _find_heaviest(candidate, head.text)
    scanner.settle(candidate, finding.signature.key if finding else "")
    if finding is not None and not any(text in line for line in candidate.before for text in _HARMLESS_ABOVE):
        collector.add(Hit(finding, Evidence(origin, candidate.number, _complete(head, candidate, origin))))
    elif finding is None and _looks_like_error(head):
        collector.note_error(Evidence(origin, candidate.number, _complete(head, candidate, origin)))


def _find_heaviest(candidate: Candidate, text: str) -> SignatureMatch | None:
    found = [(signature, match) for signature in candidate.signatures if (match := signature.search(text))]
    if not found:
        return None
    signature, match = max(found, key=lambda pair: pair[0].weight)
    return SignatureMatch(signature, read_groups(match)) if signature.key else None


def _looks_like_error(head: LineHead) -> bool:
    if head.text.startswith((" ", "\t", "Traceback ", "During handling of", "The above exception")) or not head.text:
        return False
    return head.level in _ERROR_LEVELS or (not head.level and _ERROR_LINE.search(head.text) is not None)


def _note_kind(head: LineHead, candidate: Candidate, origin: LogOrigin, collector: Collector) -> None:
    process = Evidence(origin, candidate.number, head).process
    for ending in (entry for entry in candidate.signatures if entry.under and not entry.weight):
        if ending.search(head.text):
            collector.over.update({(key, process): candidate.number for key in ending.under})
    if head.pid and _RANK_LINE in candidate.signatures and (found := _RANK_LINE.search(head.text)):
        collector.ranks[head.pid].add(int(found["rank"]))
    if _REMOTE_LINE in candidate.signatures and (found := _REMOTE_LINE.search(head.text)):
        collector.remotes[origin.name, head.name, head.pid] = (candidate.number, int(found["pid"]), found["ip"])
    if head.is_kernel:
        collector.kernel_hosts.add(head.host)
    collector.has_nccl = collector.has_nccl or " NCCL " in head.text


def _complete(head: LineHead, candidate: Candidate, origin: LogOrigin) -> LineHead:
    """The head with the time of the nearest line above that has one, where the line itself has none."""
    if head.at is not None:
        return head
    for raw in reversed(candidate.before):
        above = read_head(raw, origin)
        if above.at is not None and (above.pid == head.pid or not head.pid):
            return replace(head, at=above.at, host=head.host or above.host, name=head.name or above.name, pid=above.pid)
    return head
