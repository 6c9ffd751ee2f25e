"""The heads of log lines: when, which host, process, rank and GPU wrote a line, in a cluster's formats.

A line may carry several heads, one inside the other::

    Nov 24 02:47:02 gpu07 kernel: [  512.345678] NVRM: ...                       journal, kernel
    {"log":"...","stream":"stderr","time":"2026-11-24T02:47:02.1Z"}              docker's json-file
    {"label":"RAY_WORKER_FAILURE","message":"...","timestamp":1795488422}        Ray's events
    2026-11-24T02:47:02.1Z stderr F (RayWorkerProc pid=7, ip=10.0.0.2) ERROR 11-24 02:47:02 [w.py:9] ...
    [2026-11-24 02:47:02,730 E 1 1] gcs_rpc_client.h:179: ...                    Ray (C++)
    [rank3]:[E1124 02:47:02.123456789 ProcessGroupNCCL.cpp:629] ...              torch (C++)
    gpu617:22841:22841 [0] bootstrap.cc:37 NCCL WARN ...                         NCCL

Times without a year get that of the log's last change; times without a zone are in the log's own (LogOrigin).
"""

import json
import re
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone

from raylaunch.base import rank_names

_ANSI = re.compile(r"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?)")
_REPEATED = re.compile(r"[\[(]repeated (?P<count>\d+)x[^\])]*[\])]")
_MONTHS = {
    text: at // 3 + 1
    for at, text in ((at, "JanFebMarAprMayJunJulAugSepOctNovDec"[at : at + 3]) for at in range(0, 36, 3))
}
_MONTH = "(?P<month>" + "|".join(_MONTHS) + ")"
_CLOCK = r"(?P<clock>\d\d:\d\d:\d\d(?:[.,]\d+)?)"
_ISO = rf"(?P<year>\d{{4}})-(?P<month>\d\d)-(?P<day>\d\d)[T ]{_CLOCK}"
_ZONE = r"(?P<zone>Z|[+-]\d\d:?\d\d)"
_LEVEL = r"(?P<level>TRACE|DEBUG|INFO|WARNING|WARN|ERROR|CRITICAL|FATAL)"
_HEADS = tuple(
    re.compile(pattern)
    for pattern in (
        rf"{_ISO}{_ZONE} (?:stdout|stderr) [FP] ",  # Kubernetes (CRI)
        rf"{_ISO}{_ZONE}? (?P<host>[\w.-]+) (?P<name>[\w.@/-]+)(?:\[(?P<pid>\d+)\])?: ",  # journal, ISO
        rf"{_ISO}{_ZONE}\s+",  # docker logs -t
        rf"{_MONTH} +(?P<day>\d+) {_CLOCK} (?P<host>[\w.-]+) (?P<name>[\w.@/-]+)(?:\[(?P<pid>\d+)\])?: ",  # journal
        rf"\[\w{{3}} {_MONTH} +(?P<day>\d+) {_CLOCK} (?P<year>\d{{4}})\] ",  # dmesg -T
        r"\[ *(?P<uptime>\d+\.\d{6})\] ",  # dmesg
        r"\((?P<name>[A-Za-z][\w:.]*)(?: rank=(?P<rank>\d+))?(?: pid=(?P<pid>\d+))?(?:, ip=(?P<ip>[\w.:]+))?\) ?",
        r"\((?P<name>autoscaler) \+[\dhms]+\) ",
        rf"\[{_ISO} (?P<level>[DIWEF]) (?P<pid>\d+) \d+\] (?:\((?P<name>\w+)\) )?(?:\S+:\d+: )?",  # Ray, C++
        rf"\[{_ISO}\] ",  # NCCL from 2.27
        rf"{_ISO}\s+{_LEVEL}\s+(?:\S+:\d+ -- )?",  # Ray, Python
        rf"{_ISO} \| {_LEVEL} +\| ",  # loguru
        rf"{_LEVEL} (?P<month>\d\d)-(?P<day>\d\d) {_CLOCK} \[?[^\]\s]+\] ?",  # vLLM
        r"\[(?:rank|RANK|Rank )(?P<rank>\d+)\]:? ?",
        rf"\[?(?P<level>[IWEF])(?P<month>\d\d)(?P<day>\d\d) {_CLOCK} (?:\d+ )?\S+?:\d+\] ",  # torch, C++
        r"(?P<host>[A-Za-z][\w.-]*):(?P<pid>\d+):\d+ \[(?P<gpu>\d+)\] ",  # NCCL
        rf'time="{_ISO}{_ZONE}" level=(?P<level>\w+) ',  # docker's daemon
        rf"{_LEVEL}:\s+",
    )
)
_LEVELS = {"E": "ERROR", "F": "FATAL", "W": "WARNING", "I": "INFO", "D": "DEBUG", "WARN": "WARNING"}
_MOST_HEADS = 6
_KERNEL = re.compile(r"NVRM: |\bkernel: ")
_RANK = re.compile(r"\bRank (?P<rank>\d+)\]|\brank[= ](?P<rank2>\d+)\b|RANK (?P<rank3>\d+)")
_IP = re.compile(r"\bip[=:] ?(?P<ip>\d+\.\d+\.\d+\.\d+)", re.IGNORECASE)


@dataclass(frozen=True)
class LogOrigin:
    """A log, and what is known about the machine that wrote it."""

    name: str
    """As it is shown: a path, or "host: kernel"."""
    host: str = ""
    """"" where it is not known."""
    utc_offset_s: int | None = None
    """Of times without a zone; None is this machine's zone."""
    clock_ahead_s: float = 0.0
    """How far that machine's clock is ahead of this one."""
    boot_at: float | None = None
    """When that machine started, in its own seconds since 1970; for the kernel's raw times."""
    changed_at: float | None = None
    """When the log was last written, seconds since 1970: it gives the year."""


@dataclass(frozen=True)
class LineHead:
    """What the heads of one line tell; empty where they do not."""

    text: str
    """The line without its heads."""
    at: float | None = None
    """Seconds since 1970 on this machine's clock."""
    level: str = ""
    host: str = ""
    name: str = ""
    pid: int | None = None
    rank: int | None = None
    gpu: str = ""
    repeats: int = 1
    is_kernel: bool = False


@dataclass
class _Heads:
    found: dict[str, str] = field(default_factory=dict)
    at: float | None = None


def clean(raw: bytes) -> str:
    """A line as text, without colours and with what a progress bar overwrote left out."""
    text = raw.decode("utf-8", "replace").rstrip("\r\n")
    return _ANSI.sub("", text).rpartition("\r")[2].rstrip()


def read_head(raw: bytes, origin: LogOrigin) -> LineHead:
    """Split a line into its heads and its text; never fails."""
    text, heads = clean(raw), _Heads()
    if text.startswith('{"'):
        text = _unpack_json(text, heads, origin)
    for _ in range(_MOST_HEADS):
        found = next((match for head in _HEADS if (match := head.match(text))), None)
        if found is None or found.end() == 0:
            break
        _take(found.groupdict(), heads, origin)
        text = text[found.end() :]
    named = heads.found
    repeated = _REPEATED.search(text)
    rank = named.get("rank") or _find_rank(named.get("name", ""), text)
    ip = named.get("ip") or (match["ip"] if (match := _IP.search(text)) else "")
    return LineHead(
        text=text,
        at=heads.at,
        level=_LEVELS.get(named.get("level", ""), named.get("level", "").upper()),
        host=origin.host or ip or named.get("host", ""),
        name=named.get("name", ""),
        pid=int(named["pid"]) if "pid" in named else None,
        rank=int(rank) if rank else None,
        gpu=named.get("gpu", ""),
        repeats=int(repeated["count"]) if repeated else 1,
        is_kernel=named.get("name") == "kernel" or "uptime" in named or _KERNEL.search(text) is not None,
    )


def _unpack_json(text: str, heads: _Heads, origin: LogOrigin) -> str:
    """The line inside docker's json-file, or another logger's JSON."""
    try:
        entry = json.loads(text)
    except ValueError:
        return text
    inner = entry.get("log") or entry.get("MESSAGE") or entry.get("message") or entry.get("msg")
    if not isinstance(inner, str):
        return text
    when = entry.get("time") or entry.get("timestamp") or ""
    if isinstance(when, int):  # Ray's events: seconds since 1970
        heads.at = when - origin.clock_ahead_s
    elif isinstance(when, str) and (found := re.match(rf"{_ISO}{_ZONE}?", when)):
        _take(found.groupdict(), heads, origin)
    return _ANSI.sub("", inner.rstrip("\r\n"))


def _take(found: "dict[str, str | None]", heads: _Heads, origin: LogOrigin) -> None:
    values = {name: value for name, value in found.items() if value}
    at = _read_time(values, origin)
    if at is not None and (heads.at is None or "zone" in values or "uptime" not in values):
        heads.at = at - origin.clock_ahead_s
    if values.get("name") == "MainProcess":
        values.pop("name")
    heads.found |= {name: value for name, value in values.items() if name not in ("year", "month", "day", "clock")}


def _read_time(values: dict[str, str], origin: LogOrigin) -> float | None:
    if "uptime" in values:
        return None if origin.boot_at is None else origin.boot_at + float(values["uptime"])
    if "clock" not in values:
        return None
    month = _MONTHS.get(values["month"]) or int(values["month"])
    clock, _, fraction = values["clock"].replace(",", ".").partition(".")
    hours, minutes, seconds = map(int, clock.split(":"))
    latest = datetime.fromtimestamp(origin.changed_at) if origin.changed_at else datetime.now()
    years = [int(values["year"])] if "year" in values else [latest.year - back for back in range(4)]
    for year in years:
        try:
            moment = datetime(year, month, int(values["day"]), hours, minutes, min(seconds, 59))
        except ValueError:  # 29 February of another year, or no date at all
            continue
        if "year" in values or moment <= latest + timedelta(days=2):
            return _to_seconds(moment, values.get("zone", ""), origin) + float(f"0.{fraction or 0}")
    return None


def _to_seconds(moment: datetime, zone: str, origin: LogOrigin) -> float:
    if zone and zone != "Z":
        sign = -1 if zone[0] == "-" else 1
        digits = zone[1:].replace(":", "")
        shift: timedelta | None = sign * timedelta(hours=int(digits[:2]), minutes=int(digits[2:]))
    elif zone == "Z":
        shift = timedelta()
    else:
        shift = None if origin.utc_offset_s is None else timedelta(seconds=origin.utc_offset_s)
    try:
        return (moment if shift is None else moment.replace(tzinfo=timezone(shift))).timestamp()
    except (OverflowError, OSError, ValueError):
        return 0.0


def _find_rank(name: str, text: str) -> str:
    if ranks := rank_names.read_ranks(name):
        tensor, pipeline = ranks
        return str(tensor) if pipeline == 0 else ""  # of later stages the name tells more than a number
    found = _RANK.search(text)
    return next((value for value in found.groups() if value), "") if found else ""
