"""The result file of a load test (one JSON), and the rows file beside it (a compact line for each request).

`format_version` 1. A sweep's levels are in `levels`; the top level repeats the figures of the last one. What each key
means: docs/bench.md.
"""

import dataclasses
import gzip
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from raylaunch.base.errors import BenchError
from raylaunch.bench.connection import RequestRow
from raylaunch.bench.figures import BenchResult

FORMAT_VERSION = 1
KIND = "raylaunch bench"
_MICRO = 1e6
_NAME_RESULT = "name a file that `raylaunch bench` wrote"


def rows_path(result: Path) -> Path:
    """Where the rows of a result are."""
    return result.with_suffix(".rows.jsonl.gz")


def pack_row(row: RequestRow, start_s: float, level: int) -> list[Any]:
    """A row as it is written: times in microseconds from the level's start, arrivals as the gaps between them."""
    first = row.arrivals[0] if row.arrivals else None
    before = first or 0.0
    gaps = []
    for time in row.arrivals[1:]:
        gaps.append(round((time - before) * _MICRO))
        before = time

    def since(time: float) -> int:
        return round((time - start_s) * _MICRO)

    return [
        level, row.number, row.shard, since(row.due_s), since(row.sent_s or row.end_s), since(row.end_s),
        row.status, row.tokens_in, row.tokens_out, row.error, None if first is None else since(first), gaps,
    ]  # fmt: skip


COLUMNS = (
    *("level", "number", "shard", "due_us", "sent_us", "end_us", "status", "tokens_in", "tokens_out", "error"),
    *("first_us", "gaps_us"),
)
"""What pack_row's values are, in order; the rows file's first line names them."""


def unpack_row(values: list[Any]) -> tuple[int, RequestRow]:
    """The level and the row (times in seconds from the level's start) that pack_row wrote."""
    level, number, shard, due, sent, end, status, tokens_in, tokens_out, error, first, gaps = values
    row = RequestRow(
        number, due / _MICRO, sent / _MICRO, end / _MICRO, status, tokens_in, tokens_out, error, shard=shard
    )  # fmt: skip
    if first is not None:
        at = first
        row.arrivals.append(at / _MICRO)
        for gap in gaps:
            at += gap
            row.arrivals.append(at / _MICRO)
    return level, row


def write_result(path: Path, result: BenchResult, rows: Iterable[list[Any]]) -> None:
    """Write both files completely or not at all: the rows first, so that a result never lacks its rows.

    Raises:
        BenchError: the folder cannot be written to.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = rows_path(path)
        aside = beside.with_suffix(f".{os.getpid()}")
        with gzip.open(aside, "wt", compresslevel=6, encoding="utf-8") as file:
            file.write(json.dumps({"columns": COLUMNS}) + "\n")
            for row in rows:
                file.write(json.dumps(row, separators=(",", ":"), ensure_ascii=False) + "\n")
        aside.replace(beside)
        aside = path.with_suffix(f".{os.getpid()}")
        aside.write_text(json.dumps(to_json(result), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        aside.replace(path)
    except OSError as error:
        raise BenchError(f"cannot write {path}: {error.strerror}", fix="name another file with --output") from error


def to_json(result: BenchResult) -> dict[str, Any]:
    """The result file's content: the result, and the last level's figures once more at the top."""
    fields = dataclasses.asdict(result)
    last = {key: value for key, value in fields["levels"][-1].items() if key not in ("samples", "series", "load")}
    return {"format_version": FORMAT_VERSION, "kind": KIND} | last | fields


def read_result(path: Path) -> BenchResult:
    """Read a result file.

    Raises:
        BenchError: it cannot be read, or is not a result of a version that this raylaunch reads.
    """
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BenchError(f"cannot read {path}: {error.strerror}", fix=_NAME_RESULT) from error
    except ValueError as error:
        raise BenchError(f"{path} is not JSON: {error}", fix=_NAME_RESULT) from error
    if not isinstance(fields, dict) or fields.get("kind") != KIND:
        raise BenchError(f"{path} is not a result of `raylaunch bench`", fix=_NAME_RESULT)
    if (version := fields.get("format_version")) != FORMAT_VERSION:
        raise BenchError(
            f"{path} has format version {version}; this raylaunch reads version {FORMAT_VERSION}",
            fix="read it with the raylaunch that wrote it",
        )
    try:
        return TypeAdapter(BenchResult).validate_python(fields)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"]))
        raise BenchError(f"{path} is damaged: {where}: {problem['msg']}", fix="run the load test again") from error


def read_rows(result: Path) -> dict[int, list[RequestRow]]:
    """The rows of each level of a result.

    Raises:
        BenchError: the rows file is missing or damaged.
    """
    path = rows_path(result)
    levels: dict[int, list[RequestRow]] = {}
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            columns = json.loads(next(file))["columns"]
            if tuple(columns) != COLUMNS:
                raise BenchError(f"{path} has unknown columns", fix="read it with the raylaunch that wrote it")
            for line in file:
                level, row = unpack_row(json.loads(line))
                levels.setdefault(level, []).append(row)
    except (OSError, EOFError, ValueError, KeyError, StopIteration) as error:
        raise BenchError(f"cannot read {path}: {error}", fix=f"put it beside {result.name}") from error
    return levels
