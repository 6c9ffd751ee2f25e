"""Why a start-up failed: the first real error in the engine's log, and where it happened.

The last traceback of such a log is always the outermost ("Engine core initialization failed. See root cause above"),
and each process on the way adds its own. So this finds the first exception that is not just the report of another one;
without such an exception, a killed worker; without that, a lost connection.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum

from raylaunch.explain.log_lines import LogLine, LogSource, RaisedError, Ranks, find_raised, parse_line
from raylaunch.explain.signatures import find_heaviest, find_remedy, fix_of, reword

_MESSAGE_CHARS = 400
_EXCERPT_LINES = 8
_EXCERPT_CHARS = 240
_OUTER = re.compile(
    r"Engine core initialization failed|EngineCore encountered an issue|EngineDeadError|RayTaskError|"
    r"RayWorkerError|Executor failed\b|WorkerProc initialization failed|KeyboardInterrupt|SystemExit|CancelledError|"
    r"ActorDiedError: The actor died because of an error raised in its creation task"
)
_DEAD = re.compile(
    r"ActorDiedError|ActorUnavailableError|WorkerCrashedError|LocalRayletDiedError|NodeDiedError|"
    r"ray\.exceptions\.OutOfMemoryError|died unexpectedly"
)
_PEER_LOST = re.compile(
    r"Connection (reset|closed) by peer|Connection reset|Broken ?pipe|recvValue failed|failed to recv|DistNetworkError|"
    r"ncclRemoteError|remote process exited|DistStoreError|Socket Timeout|Timed out after \d+ms waiting for",
    re.IGNORECASE,
)
_WRAPPED = re.compile(r"Worker failed with error '(?P<message>.*)', please check the stack trace", re.DOTALL)
_RAYLET_REPORT = re.compile(
    r"A worker died or was killed.*?Worker IP address: (?P<ip>\S+).*?Worker PID: (?P<pid>\d+)"
    r".*?Worker exit detail: (?P<detail>.*)"
)
_RAYLET_DEAD = re.compile(r"Raylet is terminated\.|node with node id.*has been marked dead")
_OUT_OF_MEMORY = re.compile(r"killed due to (the node running low on memory|memory pressure)")
_CRASHED = re.compile(
    r"Fatal Python error: (?P<what>.*)|terminate called after throwing an instance of '(?P<thrown>[^']*)'|"
    r"\*\*\* (?P<signal>SIG\w+) received"
)
_CORE_DEAD = re.compile(r"Failed core proc\(s\): \{'[^']*': -(?P<signal>\d+)")
_VAGUE = ("AssertionError", "AttributeError", "IndexError", "KeyError", "NameError", "StopIteration", "TypeError")


class _Weight(IntEnum):
    """How near to the root cause an error is; the first one of the lowest weight is reported."""

    REAL = 0
    WRAPPED = 1
    LOST_PEER = 2
    OUTER = 3


@dataclass(frozen=True, slots=True)
class Failure:
    """What went wrong, where, and the lines of the log that show it."""

    message: str
    where: str
    """"worker rank 3 on node 10.0.0.2 (pid 4711)", "engine" or "API server"."""
    exception: str = ""
    """Type of the exception, without its module; "" where a process was killed."""
    excerpt: tuple[str, ...] = ()
    fix: str = ""
    """What to do, where this kind of failure has a remedy of its own; see suggest_fix."""


def find_first_error(lines: Iterable[str]) -> Failure | None:
    """The first real error of a start-up; None where the log has none.

    Args:
        lines: the engine's log: vLLM's server, its EngineCore and Ray's workers, in the order of writing.
    """
    parsed = [parse_line(line) for line in lines]
    ranks = Ranks()
    for line in parsed:
        ranks.note(line)
    raised = [error for error in find_raised(parsed) if error.type]
    weighed = [(_weigh(error), error.position, error) for error in _drop_chained(raised)]
    dead = _find_killed(parsed, raised, ranks)
    best = min(weighed, key=lambda entry: entry[:2], default=None)
    if best is not None and best[0] is _Weight.REAL:
        same_worker = {error.source.pid for weight, _, error in weighed if weight is _Weight.REAL}
        if dead is None or best[1] < dead.position or dead.pid in same_worker:
            return _describe(best[2], ranks)
    if dead is not None:
        return dead.failure
    if best is not None and best[0] < _Weight.OUTER:
        return _describe(best[2], ranks)
    return _find_logged(parsed, ranks) or (_describe(best[2], ranks) if best else None)


def _weigh(error: RaisedError) -> _Weight:
    if _WRAPPED.search(error.text):
        return _Weight.WRAPPED
    if _OUTER.search(error.text) or _DEAD.search(error.text):
        return _Weight.OUTER  # a dead process is reported by _find_killed
    return _Weight.LOST_PEER if _PEER_LOST.search(error.text) else _Weight.REAL


def _drop_chained(errors: Sequence[RaisedError]) -> list[RaisedError]:
    """Without one of each two chained exceptions.

    Of an exception raised "from" another, the inner one is the cause. Of one raised while another was handled, the
    outer one is what its author wanted to report, unless the handling itself failed.
    """
    dropped: set[int] = set()
    for error in errors:
        inner = error.before
        if inner is None or _weigh(error) is not _Weight.REAL:
            continue
        inner_is_vague = inner.short_type in _VAGUE
        keep_outer = inner_is_vague or (error.relation == "handling" and error.short_type not in _VAGUE)
        dropped.add(inner.position if keep_outer else error.position)
    return [error for error in errors if error.position not in dropped]


def _describe(error: RaisedError, ranks: Ranks) -> Failure:
    wrapped = _WRAPPED.search(error.text)
    message = summarise(error) if wrapped is None else wrapped["message"]
    where = "a worker" if wrapped and "Worker" not in error.source.name else describe_source(error.source, ranks)
    text = re.sub(r" \[type=\w+, input_value=.*", "", error.text)  # a repr of all arguments, keys among them
    shown = [*(frame.rstrip() for frame in error.frames[-2:]), *text.splitlines()]
    plain, fix = reword(error.short_type, message) or (message, "")
    return Failure(
        message=_cut(plain, _MESSAGE_CHARS),
        where=where,
        exception=error.short_type,
        excerpt=tuple(_cut(line, _EXCERPT_CHARS) for line in shown if line.strip() and "pydantic.dev" not in line)[
            :_EXCERPT_LINES
        ],
        fix=fix,
    )


def describe_source(source: LogSource, ranks: Ranks, *, actor: str = "") -> str:
    """Which part of the engine a process is, as in Failure.where."""
    if source.name.startswith(("RayWorker", "Worker", "raylaunch")):
        rank = ranks.find(source, actor)
        part = "worker" if rank is None else f"worker rank {rank}"
        part += f" on node {source.ip}" if source.ip else ""
        return part + (f" (pid {source.pid})" if source.pid else "")
    if source.name == "raylet":
        return f"node {source.ip}" if source.ip else "a node"
    return "engine" if source.name.startswith(("EngineCore", "DPEngine")) else "API server"


def summarise(error: RaisedError) -> str:
    """The exception's message as one sentence."""
    lines = [line.strip() for line in error.message]
    if error.short_type == "ValidationError" and "validation error" in lines[0]:
        return _summarise_pydantic(lines[1:]) or lines[0]
    if nccl := re.search(r"NCCL error in: [^,]*, ([^,(]+)", lines[0]):
        last = lines.index("Last error:") + 1 if "Last error:" in lines[:-1] else 0
        return f"NCCL: {nccl[1].strip()}" + (f": {lines[last]}" if last else "")
    text = lines[0]
    for line in lines[1:]:
        if text and not text.endswith(":") and not line.startswith("("):
            break
        text = f"{text} {line}".strip()
    text = re.sub(r"^\[enforce fail at [^\]]*\] (?:\S+ [!=]= \S+\. )?", "", text)
    text = re.sub(r" See https?://\S+( for more details)?\.?", "", text)
    if error.short_type in _VAGUE or not text:
        place = next((frame.strip() for frame in reversed(error.frames) if frame.strip().startswith("File ")), "")
        found = re.match(r'File "(?:[^"]*/)?([^/"]+/[^/"]+|<\w+>)", line (\d+)', place)
        at = f" (at {found[1]}:{found[2]})" if found else ""
        return f"{error.short_type}{': ' if text else ''}{text}{at}"
    return text


def _summarise_pydantic(lines: Sequence[str]) -> str:
    """The first problem in a pydantic error: "  Value error, TEXT [type=...]", or the field and its valid values."""
    field_name = ""
    for line in lines:
        text, _, rest = line.partition(" [type=")
        if text.startswith("Value error, "):
            return text.removeprefix("Value error, ")
        if text.startswith("Assertion failed, "):
            return text.removeprefix("Assertion failed, ")
        if rest:
            value = re.search(r"input_value=(.*), input_type=", rest)
            return f"{field_name}: {text}" + (f", not {value[1]}" if value else "")
        field_name = field_name or text.partition(".")[0]
    return ""


def _cut(text: str, most: int) -> str:
    if len(text) <= most:
        return text
    end = text.rfind(". ", 0, most)
    return text[: end + 1] if end > most // 3 else text[: most - 3] + "..."


@dataclass(frozen=True, slots=True)
class _Killed:
    """A process that ended without an exception."""

    position: int
    pid: int | None
    failure: Failure
    is_ranked: bool = False
    """Whether `failure.where` has the rank."""


def _find_killed(lines: Sequence[LogLine], raised: Sequence[RaisedError], ranks: Ranks) -> _Killed | None:
    """The first process that was killed or crashed, according to its raylet, its own log or Ray's exception."""
    found = [killed for at, line in enumerate(lines) if (killed := _read_killed(at, line, ranks))]
    found += [_read_dead_actor(error, ranks) for error in raised if _is_dead_actor(error)]
    if not found and raised and (core := _CORE_DEAD.search(raised[-1].text)):
        cause, fix = (
            ("; often the kernel, out of memory", fix_of("worker_killed")) if core["signal"] == "9" else ("", "")
        )
        message = f"the engine's process was killed (signal {core['signal']}{cause})"
        found = [_Killed(raised[-1].position, None, Failure(message, "engine", "", (raised[-1].text,), fix))]
    first = min(found, key=lambda killed: killed.position, default=None)
    # The raylet reports the pid only; Ray's exception about the same process also has the rank.
    same = [killed for killed in found if first and first.pid and killed.pid == first.pid]
    ranked = next((killed for killed in same if killed.is_ranked), None)
    return first if first is None or ranked is None else replace(first, failure=ranked.failure)


def _is_dead_actor(error: RaisedError) -> bool:
    return bool(_DEAD.search(error.text)) and not _OUTER.search(error.text)


def _read_killed(at: int, line: LogLine, ranks: Ranks) -> _Killed | None:
    body = line.body
    excerpt = (_cut(body, _EXCERPT_CHARS),)
    if report := _RAYLET_REPORT.search(body):
        source = LogSource("RayWorkerProc", int(report["pid"]), report["ip"])
        message, fix = _explain_exit(report["detail"])
        failure = Failure(message, describe_source(source, ranks), "", excerpt, fix)
        return _Killed(at, source.pid, failure, ranks.find(source) is not None)
    if _RAYLET_DEAD.search(body):
        address = re.search(r"address: ([0-9a-f.:]+)", body)
        where = f"node {address[1]}" if address else describe_source(LogSource("raylet", None, line.source.ip), ranks)
        message = "its Ray node (raylet) was killed or is out of reach"
        return _Killed(at, None, Failure(message, where, "", excerpt, fix_of("ray_node_lost")))
    if crash := _CRASHED.search(body):
        what = crash["what"] or crash["thrown"] or crash["signal"]
        where = describe_source(line.source, ranks)
        return _Killed(
            at,
            line.source.pid,
            Failure(f"the process crashed: {what}", where, "", (body,), fix_of("process_crashed")),
        )
    if _OUT_OF_MEMORY.search(body) and line.source.name == "raylet":
        message, fix = _explain_exit(body)
        return _Killed(at, None, Failure(message, describe_source(line.source, ranks), "", excerpt, fix))
    return None


def _read_dead_actor(error: RaisedError, ranks: Ranks) -> _Killed:
    """From Ray's exception about a dead worker: lines of fields ("pid: 21010"), then the reason."""
    fields = dict(re.findall(r"^\s*(pid|ip|name): (\S+)", error.text, re.MULTILINE))
    pid = int(fields["pid"]) if "pid" in fields else None
    source = LogSource("RayWorkerProc", pid, fields.get("ip"))
    excerpt = tuple(_cut(line.strip(), _EXCERPT_CHARS) for line in error.text.splitlines() if line.strip())
    actor = fields.get("name", "")
    message, fix = _explain_exit(error.text)
    where = describe_source(source, ranks, actor=actor)
    failure = Failure(message, where, error.short_type, excerpt[:_EXCERPT_LINES], fix)
    return _Killed(error.position, pid, failure, ranks.find(source, actor) is not None)


def _explain_exit(detail: str) -> tuple[str, str]:
    """Why a worker ended, from Ray's text, and what to do."""
    if _OUT_OF_MEMORY.search(detail) or "OutOfMemoryError" in detail:
        return "the worker was killed by Ray because the node ran low on host memory", fix_of("worker_killed")
    if re.search(r"node (has|was) (died|dead|terminated)|its node|NodeDiedError|raylet died", detail):
        return "the worker was lost with its node", fix_of("ray_node_lost")
    if "ActorUnavailableError" in detail:
        return "the worker does not answer any more: its process or its node is gone", fix_of("ray_node_lost")
    if "SIGSEGV" in detail and "exit code" not in detail and "End of file" not in detail:
        return "the worker crashed (segmentation fault)", fix_of("process_crashed")
    return "the worker was killed (most likely signal 9; often the kernel, out of memory)", fix_of("worker_killed")


def _find_logged(lines: Sequence[LogLine], ranks: Ranks) -> Failure | None:
    """The first line that a logger marked ERROR, for a log without exceptions."""
    for line in lines:
        is_traceback = line.body.startswith((" ", "Traceback "))
        if line.level in {"ERROR", "CRITICAL"} and line.body.strip() and not is_traceback:
            return Failure(_cut(line.body, _MESSAGE_CHARS), describe_source(line.source, ranks), "", (line.body,))
    return None


def identify(failure: Failure) -> str:
    """What kind of failure it is: the key of its signature, else the type of its exception, else "killed"."""
    finding = find_heaviest([failure.message])
    return finding.signature.key if finding else failure.exception or "killed"


def suggest_fix(failure: Failure) -> str:
    """What to do about it; "" where no remedy is known."""
    return failure.fix or find_remedy(failure.exception, failure.message, failure.excerpt)
