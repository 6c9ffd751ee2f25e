"""The exceptions in an engine's log: which process raised which, in which order.

The log mixes vLLM's server, its EngineCore and Ray's workers. A line may carry prefixes and a logger's head::

    (RayWorkerProc pid=4711, ip=10.0.0.2) (Worker_PP0_TP1 pid=4711) ERROR 11-24 02:47:02 [core.py:1510] Traceback ...
    `- Ray: process and node            `- vLLM: process            `- logger                           `- body

Lines of several processes interleave, so tracebacks are followed per process. Formats seen in vLLM 0.32 and Ray 2.60.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from raylaunch.base import rank_names

_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_PREFIX = re.compile(r"\((?P<name>[A-Za-z]\w*)(?: pid=(?P<pid>\d+))?(?:, ip=(?P<ip>[0-9a-fA-F.:]+))?\) ?")
_HEAD = re.compile(r"(?P<level>DEBUG|INFO|WARNING|ERROR|CRITICAL) \d\d-\d\d \d\d:\d\d:\d\d \[(?P<place>[^\]]+)\] ?")
_EXCEPTION = re.compile(r"(?P<type>[A-Za-z_][\w.]*)(?:\((?P<inner>[\w.]+)\))?(?:: ?(?P<message>.*))?$")
_REMOTE = re.compile(r"\bray::\S+ \(pid=(?P<pid>\d+), ip=(?P<ip>[^,)]+)")
_BREAKS = re.compile(r"Process \w+:$|/\S+: \w*Warning: |\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d+\t|INFO: |\[rank\d+\]:\[")
_TRACEBACK = "Traceback (most recent call last):"
_IN_HANDLING = "During handling of the above exception"
_DIRECT_CAUSE = "The above exception was the direct cause"
_MESSAGE_LINES = 16
_FRAME_LINES = 4


@dataclass(frozen=True, slots=True)
class LogSource:
    """The process that wrote a line; an empty one is the server itself."""

    name: str = ""
    """"EngineCore", "RayWorkerProc", "Worker_TP0", "raylet"; the innermost where there are several."""
    pid: int | None = None
    ip: str | None = None


@dataclass(frozen=True, slots=True)
class LogLine:
    """A parsed line of the log."""

    source: LogSource
    level: str
    place: str
    """The logger's file and line, "core.py:1510"; "" for a line without a logger's head."""
    body: str


@dataclass
class RaisedError:
    """One exception in the log."""

    type: str
    """As printed, with its module where Python prints one."""
    source: LogSource
    position: int
    """Number of the line that names it, from 0."""
    message: list[str] = field(default_factory=list)
    """Its text, line by line."""
    frames: list[str] = field(default_factory=list)
    """The last lines of its traceback: files and code."""
    relation: str = ""
    """To the exception above it: "handling" (raised while that was handled), "cause" (raised from it) or ""."""
    before: "RaisedError | None" = None
    """The exception that `relation` refers to."""

    @property
    def short_type(self) -> str:
        """The type without its module."""
        return self.type.rpartition(".")[2]

    @property
    def text(self) -> str:
        """Type and message as one text."""
        return f"{self.type}: " + "\n".join(self.message)


def parse_line(raw: str) -> LogLine:
    """Split a line into process, logger's head and body."""
    rest = _ANSI.sub("", raw.rstrip("\r\n"))
    source = LogSource()
    while (found := _PREFIX.match(rest)) and (found["pid"] or found["name"] == "raylet"):
        name = found["name"] if found["name"] != "MainProcess" or not source.name else source.name
        source = LogSource(name, int(found["pid"]) if found["pid"] else source.pid, found["ip"] or source.ip)
        rest = rest[found.end() :]
    if head := _HEAD.match(rest):
        return LogLine(source, head["level"], head["place"], rest[head.end() :])
    return LogLine(source, "", "", rest)


@dataclass
class _Stream:
    """The state of parsing one process's part of the log."""

    frames: list[str] | None = None
    """Lines of the current traceback; None outside of one."""
    last: RaisedError | None = None
    """The exception whose message may continue."""
    place: str = ""
    relation: str = ""
    remote: LogSource | None = None
    """The worker in which Ray reports that the traceback was raised."""

    def feed(self, line: LogLine, position: int) -> RaisedError | None:
        """Process one line; returns the exception that it ends, if it ends one."""
        body = line.body
        if body.startswith(_TRACEBACK):
            if line.place != self.place or not self.relation:
                self.relation = "" if self.last is None else self.relation
            self.frames, self.place = [], line.place
            return None
        if self.frames is not None:
            if not body.strip() or body[0] in " \t|":
                self.frames.append(body)
                return None
            return self._close(line, position)
        if self.last is not None:
            self._continue(line)
        return None

    def _close(self, line: LogLine, position: int) -> RaisedError | None:
        found = _EXCEPTION.match(line.body)
        frames, self.frames = self.frames or [], None
        if found is None:
            return None
        source = self.remote or line.source
        error = RaisedError(
            type=found["type"],
            source=source,
            position=position,
            message=[found["message"] or ""],
            frames=[text for text in frames if text.strip(" ^~")][-_FRAME_LINES:],
            relation=self.relation,
            before=self.last if self.relation else None,
        )
        self.relation, self.remote, self.last, self.place = "", None, error, line.place
        self._note_remote(line.body)
        return error

    def _note_remote(self, body: str) -> None:
        if found := _REMOTE.search(body):
            self.remote = LogSource("RayWorkerProc", int(found["pid"]), found["ip"])

    def _continue(self, line: LogLine) -> None:
        assert self.last is not None
        body = line.body
        if body.startswith((_IN_HANDLING, _DIRECT_CAUSE)):
            self.relation = "handling" if body.startswith(_IN_HANDLING) else "cause"
        elif self.remote is not None and (not body.strip() or body[0] == " "):
            self.frames = [body]  # Ray prints the worker's traceback without its first line
        elif line.place != self.place or _BREAKS.match(body):
            self.last, self.remote = None, None
        elif not self.relation and len(self.last.message) < _MESSAGE_LINES:
            self.last.message.append(body)
            self._note_remote(body)


def find_raised(lines: Iterable[LogLine]) -> list[RaisedError]:
    """Every exception in the log, in the order in which they were printed."""
    streams: dict[tuple[str, int | None], _Stream] = {}
    errors: list[RaisedError] = []
    after_engine = False
    for position, line in enumerate(lines):
        stream = streams.setdefault((line.source.name, line.source.pid), _Stream())
        if line.body.startswith("Process EngineCore"):
            after_engine = True
        error = stream.feed(line, position)
        if error is None:
            continue
        if after_engine and not error.source.name:
            error.source = replace(error.source, name="EngineCore")  # multiprocessing prints it without the prefix
            after_engine = False
        errors.append(error)
    return errors


@dataclass
class Ranks:
    """The rank of each worker process, as far as the log has it."""

    by_pid: dict[int, set[int]] = field(default_factory=dict)
    tensor_parallel_size: int = 1

    def note(self, line: LogLine) -> None:
        """Read a line: vLLM's parallel_state.py logs ranks, its core.py the layout."""
        if line.source.pid and (found := re.search(r"\bworld_size=\d+ rank=(\d+) local_rank=", line.body)):
            self.by_pid.setdefault(line.source.pid, set()).add(int(found[1]))
        elif found := re.search(r"\btensor_parallel_size=(\d+), pipeline_parallel_size=", line.body):
            self.tensor_parallel_size = int(found[1])

    def find(self, source: LogSource, name: str = "") -> int | None:
        """The rank of a worker by its name or its pid; None where that is unknown or ambiguous."""
        if ranks := rank_names.read_ranks(name or source.name):
            return rank_names.find_number(*ranks, self.tensor_parallel_size)
        known = self.by_pid.get(source.pid or 0, set())
        return next(iter(known)) if len(known) == 1 else None  # two nodes may use one pid


_LOAD_PATTERN = re.compile(r"(?:Model loading took .*? and|Loading weights took) ([\d.]+) s")
_INIT_PATTERN = re.compile(r"init engine \(.*?\) took ([\d.]+) s", re.IGNORECASE)


def read_engine_times(log: Path) -> tuple[float | None, float | None]:
    """Seconds of weight loading (slowest rank) and of profiling, KV cache and warm-up, from vLLM's log."""
    try:
        text = log.read_text(errors="replace")
    except OSError:  # there is no log
        text = ""
    loads = [float(found) for found in _LOAD_PATTERN.findall(text)]
    inits = [float(found) for found in _INIT_PATTERN.findall(text)]
    return (max(loads) if loads else None, inits[-1] if inits else None)
