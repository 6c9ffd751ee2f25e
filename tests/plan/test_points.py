"""The plan against public start-up logs of vLLM (points.tsv: what was served where, and what vLLM reported)."""

import csv
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from raylaunch.plan import overhead
from raylaunch.plan.forecast import make_model
from raylaunch.plan.gpus import GIB, Fleet, Machine, find_kind
from raylaunch.plan.kv_cache import CacheSettings, measure_tokens, plan_cache
from raylaunch.plan.layout import Layout, Planner
from raylaunch.plan.overhead import RunSettings, estimate_overhead
from raylaunch.plan.settings import PlanSettings, measure_element, read_version
from raylaunch.plan.shape import read_shape
from tests.plan.shapes import CONFIGS

_ROWS = list(csv.DictReader((Path(__file__).parent / "points.tsv").open(), delimiter="\t"))


WIDE = {"111", "114", "120", "204", "205", "208", "209", "210", "216", "217", "220", "221", "231", "232", "239", "304"}
"""Little is left for the cache. 148 and 149 are one launch, and differ by 20.3 % of the smaller, in each of 100 starts:
so with less than that no range can be narrower."""
HEAVIER = {"206", "218", "219", "241", "242", "243", "322", "325"}
"""Logs of 1.3 to 3.5 % more than the tensors; of two the same model elsewhere has what is computed."""


@dataclass(frozen=True)
class Point:
    row: dict[str, str]

    def number(self, name: str) -> float | None:
        return float(self.row[name]) if self.row[name] else None

    def whole(self, name: str) -> int | None:
        return int(self.row[name]) if self.row[name] else None

    def plan(self) -> Layout:
        tp, pp = int(self.row["tp"]), int(self.row["pp"])
        kind = replace(find_kind(self.row["gpu"] or "A100"), memory_gib=float(self.row["total_gib"]))
        settings = PlanSettings(
            max_model_len=self.whole("max_model_len"), max_num_batched_tokens=self.whole("batched"),
            max_num_seqs=self.whole("seqs"), gpu_memory_utilization=self.number("util") or 0.9, named=(tp, pp),
            vllm=read_version(self.row["vllm"]), enforce_eager=bool(self.row["eager"]),
            kv_cache_dtype=self.row["kv"] or "auto", quantization=self.row["quantization"] or None,
        )  # fmt: skip
        model = make_model(CONFIGS[self.row["config"]], [], settings, "")
        return Planner(model, Fleet((Machine(kind, tp * pp),)), settings).plan(tp, pp, is_named=True)

    def has_range(self) -> bool:
        """Whether the log has all that the range depends on, of the engine that vLLM has now (V1, since 0.8.5)."""
        needed = (self.number("avail_kv_gib"), self.number("util"), self.row["gpu"] or None)
        return None not in needed and read_version(self.row["vllm"]) >= (0, 8, 5)

    def is_inside(self) -> bool:
        found = self.plan().kv_cache
        return found.low <= (self.number("avail_kv_gib") or 0.0) * GIB <= found.high


POINTS = [Point(row) for row in _ROWS]
RANGED = [point for point in POINTS if point.has_range()]


@pytest.mark.parametrize("point", [p for p in POINTS if p.number("load_gib")], ids=lambda point: point.row["id"])
def test_weights_are_those_of_the_log(point: Point) -> None:
    """Within 1 %, quantized ones within 2 %."""
    loaded = point.number("load_gib")
    assert loaded is not None
    is_quantized = "quantization_config" in CONFIGS[point.row["config"]] or point.row["quantization"]
    limit = 0.035 if point.row["id"] in HEAVIER else 0.02 if is_quantized else 0.01
    assert max(point.plan().weights) / GIB == pytest.approx(loaded, rel=limit)


@pytest.mark.parametrize(
    "point",
    [p for p in POINTS if p.number("avail_kv_gib") and p.number("kv_tokens")],
    ids=lambda point: point.row["id"],
)
def test_tokens_follow_from_available_bytes(point: Point) -> None:
    """Within 0.5 %, by the rule of that version of vLLM."""
    layout, shape = point.plan(), read_shape(CONFIGS[point.row["config"]])
    element = measure_element(point.row["kv"] or "bfloat16")
    held = 2 if read_version(point.row["vllm"]) >= (0, 28) else 1
    cache = CacheSettings(layout.tp, layout.max_model_len, layout.run.max_num_batched_tokens, element, 16, held)
    plan = plan_cache(shape, cache)
    begins = [sum(layout.sizes[:at]) for at in range(layout.pp)]
    stages = [range(begin, begin + size) for begin, size in zip(begins, layout.sizes, strict=True)]
    available = (point.number("avail_kv_gib") or 0.0) * GIB
    blocks = plan.count_blocks(stages, [available] * layout.pp)
    by_concurrency = read_version(point.row["vllm"]) >= (0, 20, 2)
    assert measure_tokens(plan, blocks, cache, by_concurrency=by_concurrency) == pytest.approx(
        point.number("kv_tokens"), rel=0.005
    )


def test_range_holds_what_vllm_took() -> None:
    """In at least 90 % of the logs, and at most 20 % wide on cards under 50 GB, but for known ones."""
    inside = [point.is_inside() for point in RANGED]
    assert sum(inside) >= 0.9 * len(inside)
    wide = set()
    for point in RANGED:
        layout = point.plan()
        middle = (layout.tokens.low + layout.tokens.high) / 2
        if float(point.row["total_gib"]) < 50 and layout.tokens.high - layout.tokens.low > 0.205 * middle:
            assert layout.kv_cache.low < 11 * GIB, point.row["id"]
            wide.add(point.row["id"])
    assert wide == WIDE


def test_ends_of_a_range_are_a_first_and_a_later_start() -> None:
    """One launch of Qwen3-8B on a 4090: 4.92 GiB while it compiles, 5.91 GiB with a compile cache."""
    first, later = (next(point for point in POINTS if point.row["id"] == wanted) for wanted in ("148", "149"))
    layout = first.plan()
    assert layout == later.plan()
    assert layout.kv_cache.low / GIB == pytest.approx(first.number("avail_kv_gib"), abs=0.07)
    assert layout.kv_cache.high / GIB == pytest.approx(later.number("avail_kv_gib"), abs=0.07)
    assert layout.overhead.first_start / GIB == pytest.approx(5.911 - 4.92, abs=0.05)


@pytest.mark.parametrize(
    ("change", "gib"),
    [
        ({"tp": 1}, 151_936 * 4096 * 2 / GIB),
        ({"tp": 4}, 151_936 / 4 * 4096 * 2 / GIB),
        ({"is_first": False}, 0.0),
        ({"eager": True}, 0.0),
        ({"vllm": (0, 11, 0)}, 0.0),
    ],
)
def test_first_start_copies_the_embedding_that_is_compiled(change: dict[str, Any], gib: float) -> None:
    """A rank's share of it, on the first stage, since torch 2.9, and only where something is compiled."""
    shape = read_shape(CONFIGS["qwen3-8b"])
    run = RunSettings(64, 4, change.pop("eager", False))
    where = {"tp": 1, "world": 1, "is_first": True, "is_last": True, "vllm": (0, 32, 0)} | change
    found = estimate_overhead(shape, run, find_kind("4090"), **where)
    assert found.first_start / GIB == pytest.approx(gib, abs=0.01)


@pytest.mark.no_cover  # thirteen times what the tests above run
def test_bounds_do_not_hang_on_one_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave one out: the upper base that the other logs allow is at most 0.2 GiB smaller."""
    names = ("_SORTING", "_FIRST", "_SECOND")
    kept = {name: getattr(overhead, name) for name in names}
    inside = [point for point in RANGED if point.is_inside()]

    def shrink(by: float) -> list[Point]:
        for name, runner in kept.items():
            monkeypatch.setattr(overhead, name, replace(runner, base=(runner.base[0], runner.base[1] - by)))
        return [point for point in inside if not point.is_inside()]

    outside = {step: len(shrink(step / 10)) for step in range(13)}
    first = min(step for step, count in outside.items() if count)
    second = min(step for step, count in outside.items() if count > 1)
    assert second - first <= 2
