"""Layouts that are known in public to serve, and ones known to fail: what is refused, and with which arithmetic."""

from dataclasses import replace
from typing import Any

import pytest

from raylaunch.plan.forecast import make_model
from raylaunch.plan.gpus import parse_gpus
from raylaunch.plan.layout import Layout, Planner
from raylaunch.plan.settings import PlanSettings
from tests.plan.shapes import CONFIGS
from tests.plan.test_points import RANGED, Point

_NOW = PlanSettings(gpu_memory_utilization=0.9, vllm=(0, 32, 0))


def plan(name: str, gpus: str, tp: int, pp: int, length: int, **settings: Any) -> Layout:
    chosen = replace(_NOW, max_model_len=length, named=(tp, pp), **settings)
    return Planner(make_model(CONFIGS[name], [], chosen, ""), parse_gpus(gpus), chosen).plan(tp, pp, is_named=True)


@pytest.mark.parametrize("point", RANGED, ids=lambda point: point.row["id"])
def test_what_a_log_shows_is_not_refused(point: Point) -> None:
    """Except where vLLM itself found nothing left for the cache."""
    is_failing = (point.number("avail_kv_gib") or 0.0) < 0
    assert bool(point.plan().refusals) == is_failing


@pytest.mark.parametrize(
    ("name", "gpus", "tp", "pp", "length"),
    [
        ("llama-3.1-8b", "1x1xL4", 1, 1, 8192),
        ("llama-3.1-8b", "1x1x3090", 1, 1, 16384),
        ("llama-3.1-8b", "1x1xA10", 1, 1, 8192),
        ("llama-3.1-8b", "1x2xT4", 2, 1, 4096),
        ("llama-70b", "1x4xA100", 4, 1, 32768),
        ("llama-70b", "1x4xH100", 4, 1, 131072),
        ("llama-70b", "1x8x4090", 8, 1, 8192),
        ("llama-70b", "2x4xL40S", 4, 2, 32768),
        ("llama-70b-fp8", "1x2xH100", 2, 1, 32768),
        ("llama-70b-awq", "1x1xA100", 1, 1, 32768),
        ("llama-70b-awq", "1x2x4090", 2, 1, 2048),
        ("llama-70b-awq", "1x4x3090", 4, 1, 16384),
        ("qwen2.5-14b", "1x2x4090", 2, 1, 16384),
        ("qwen2.5-14b-awq", "1x1x4090", 1, 1, 16384),
        ("qwen3-8b", "1x1x4090", 1, 1, 16384),
        ("qwen3-14b", "1x2x3090", 2, 1, 16384),
        ("qwen3-30b-a3b", "1x4x4090", 4, 1, 32768),
        ("qwen3-30b-fp8", "1x1xL40S", 1, 1, 32768),
        ("qwen3-30b-fp8", "1x2x4090", 2, 1, 32768),
        ("qwen3-235b-fp8", "1x4xH100", 4, 1, 32768),
        ("gpt-oss-20b", "1x1x4090", 1, 1, 32768),
        ("gpt-oss-20b", "1x1xL4", 1, 1, 32768),
        ("gpt-oss-120b", "1x2xH100", 2, 1, 131072),
        ("gpt-oss-120b", "1x4xL40S", 4, 1, 131072),
        ("deepseek-r1", "1x8xH200", 8, 1, 131072),
        ("deepseek-r1", "2x8xH100", 8, 2, 32768),
        ("glm-4.7", "1x8xH200", 8, 1, 131072),
        ("exaone-4-32b-fp8", "1x1xL40S", 1, 1, 16384),
        ("gemma-3-27b", "1x2xA6000", 2, 1, 16384),
        ("ministral-3-14b", "1x1xA6000", 1, 1, 32768),
    ],
)
def test_what_serves_in_public_is_not_refused(name: str, gpus: str, tp: int, pp: int, length: int) -> None:
    assert plan(name, gpus, tp, pp, length).refusals == ()


@pytest.mark.parametrize(
    ("layout", "words"),
    [
        (plan("qwen2.5-0.5b", "1x4x4090", 4, 1, 4096), "14 attention heads"),
        (plan("qwen2.5-1.5b", "1x8xL4", 8, 1, 4096), "12 attention heads"),
        (plan("qwen2.5-7b", "1x8xL4", 8, 1, 4096), "28 attention heads"),
        (plan("qwen2.5-14b", "1x16xL4", 16, 1, 4096), "40 attention heads"),
        (plan("qwen3-14b", "1x3x3090", 3, 1, 4096), "40 attention heads"),
        (plan("llama-70b", "1x6xA100", 6, 1, 4096), "64 attention heads"),
        (plan("gpt-oss-120b", "1x3xL40S", 3, 1, 4096), "64 attention heads"),
        (plan("llama-3.2-1b", "1x32xL4", 1, 32, 4096), "16 layers"),
        (plan("qwen2.5-14b-awq", "1x8x4090", 8, 1, 4096), "quantization groups of 128"),
        (plan("llama-70b", "1x1xH100", 1, 1, 4096), "weights 131"),
        (plan("llama-70b", "1x2xA6000", 2, 1, 4096), "weights 65"),
        (plan("llama-70b-fp8", "1x1xA100-40GB", 1, 1, 4096), "weights 67"),
        (plan("llama-70b-awq", "1x1x4090", 1, 1, 2048), "weights 37"),
        (plan("qwen3-30b-a3b", "1x1xL40S", 1, 1, 4096), "weights 56"),
        (plan("gpt-oss-120b", "1x1xA6000", 1, 1, 4096), "weights 65"),
        (plan("deepseek-r1", "1x8xH100", 8, 1, 4096), "exceed"),
        (plan("qwen3-14b", "1x1x4090", 1, 1, 4096), "weights 27"),
        (plan("llama-3.1-8b", "1x1xA10", 1, 1, 131072), "max_model_len 131,072 does not fit"),
        (plan("llama-3.1-8b", "1x1xL4", 1, 1, 65536), "max_model_len 65,536 does not fit"),
        (plan("qwen3-8b", "1x1x3090", 1, 1, 40960), "max_model_len 40,960 does not fit"),
        (plan("llama-70b-fp8", "1x1xH100", 1, 1, 131072, kv_cache_dtype="fp8"), "max_model_len 131,072 does not fit"),
        (plan("gpt-oss-20b", "1x1xT4", 1, 1, 131072), "exceed"),
        (plan("llama-3.1-8b", "1x1xA10", 1, 1, 4096, gpu_memory_utilization=0.999), "CUDA context"),
    ],
)
def test_what_fails_in_public_is_refused(layout: Layout, words: str) -> None:
    assert words in "; ".join(layout.refusals)
