"""An explanation, for people and for programs."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from raylaunch.explain.causes import Cause, Evidence, Explanation

_PLACES = 4
"""Of one cause, on one line."""
_FIRST_ERRORS = 12


def to_lines(found: Explanation) -> list[str]:
    """For people: the heaviest cause first, or the first error of each process."""
    if not found.causes:
        return _describe_unknown(found)
    lines = _describe_cause(found.causes[0])
    for cause in found.causes[1:]:
        lines += ["", *_describe_cause(cause, also=True)]
    return [*lines, *(["", "ruled out:"] if found.ruled_out else []), *(f"  {text}" for text in found.ruled_out)]


def _describe_cause(cause: Cause, *, also: bool = False) -> list[str]:
    places = "; ".join(place.describe() for place in cause.where[:_PLACES])
    more = len(cause.where) - _PLACES
    lines = [
        f"{'also' if also else 'cause'}: {cause.what}",
        f"where: {places}{f'; and {more} more' if more > 0 else ''}",
        *(f"  | {_describe_line(evidence)}" for evidence in cause.evidence),
    ]
    lines += [f"  ({cause.echoes} more lines follow from it)"] if cause.echoes else []
    return [*lines, f"what to do: {cause.fix}", f"see {cause.link} ({cause.key}, weight {cause.weight})"]


def _describe_line(evidence: Evidence) -> str:
    at = evidence.head.at
    when = datetime.fromtimestamp(at).strftime("%m-%d %H:%M:%S ") if at is not None else ""
    host = f"{evidence.head.host} " if evidence.head.host else ""
    return f"{when}{host}{evidence.place}: {evidence.text}"


def _describe_unknown(found: Explanation) -> list[str]:
    read = f"{found.lines} lines of {found.logs} log{'s' if found.logs != 1 else ''}"
    if not found.first_errors:
        return [f"no known cause and no error in {read}", *found.ruled_out]
    lines = [f"no known cause in {read}; the first error of each process:"]
    lines += [f"  | {_describe_line(evidence)}" for evidence in found.first_errors[:_FIRST_ERRORS]]
    more = len(found.first_errors) - _FIRST_ERRORS
    return [*lines, *([f"  and of {more} more processes"] if more > 0 else []), *found.ruled_out]


def to_json(found: Explanation) -> dict[str, Any]:
    """For programs."""
    return {
        "explained": bool(found.causes),
        "causes": [
            {
                "key": cause.key,
                "what": cause.what,
                "where": [asdict(place) for place in cause.where],
                "evidence": _list_lines(cause.evidence),
                "fix": cause.fix,
                "weight": cause.weight,
                "link": cause.link,
                "echoes": cause.echoes,
            }
            for cause in found.causes
        ],
        "first_errors": _list_lines(found.first_errors),
        "ruled_out": list(found.ruled_out),
        "logs": found.logs,
        "lines": found.lines,
    }


def _list_lines(evidence: Sequence[Evidence]) -> list[dict[str, Any]]:
    return [
        {
            "file": entry.origin.name,
            "line": entry.line,
            "at": None if entry.head.at is None else datetime.fromtimestamp(entry.head.at).astimezone().isoformat(),
            "host": entry.head.host,
            "process": entry.head.name,
            "pid": entry.head.pid,
            "text": entry.text,
        }
        for entry in evidence
    ]
