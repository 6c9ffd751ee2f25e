"""Layouts, refusals and partitions, by arithmetic alone."""

from dataclasses import replace
from typing import Any

import pytest

from raylaunch.base.errors import LaunchFileError
from raylaunch.plan.forecast import make_model
from raylaunch.plan.gpus import GIB, find_kind, make_fleet, parse_gpus
from raylaunch.plan.layout import Layout, Planner
from raylaunch.plan.layouts import list_layouts
from raylaunch.plan.report import Plan, to_lines
from raylaunch.plan.settings import PlanSettings
from raylaunch.plan.weights import Tensor, summarize_checkpoint
from tests.plan.shapes import CONFIGS

_NOW = PlanSettings(max_model_len=32768, dtype="float16", vllm=(0, 32, 0))


def make_planner(config: dict[str, Any], gpus: str, settings: PlanSettings = _NOW) -> Planner:
    return Planner(make_model(config, [], settings, ""), parse_gpus(gpus), settings)


def plan(name: str, gpus: str, tp: int, pp: int, **settings: Any) -> Layout:
    return make_planner(CONFIGS[name], gpus, replace(_NOW, **settings)).plan(tp, pp)


def test_reference_case() -> None:
    """The figures in configs/deepseek-r1-70b.yaml: stages of 8.49 and 8.00 GiB, 605,000 to 663,000 tokens."""
    layout = plan("llama-70b", "2x8x4090", 4, 4)
    assert [round(size / GIB, 2) for size in layout.weights] == [8.49, 8.0, 8.0, 8.49]
    assert layout.tokens.low == pytest.approx(605_000, rel=0.002)
    assert layout.tokens.high == pytest.approx(663_000, rel=0.002)
    assert layout.fits
    assert layout.lost == "all"


def test_hop_carries_states_and_residual() -> None:
    """Of an 8k prefill of a 70B model 268 MB: 0.21 s at 10 Gbit/s; TP over the same link takes half a minute."""
    hop = plan("llama-70b", "2x1xH200", 1, 2, max_num_batched_tokens=8192)
    assert hop.wire.prefill_s == pytest.approx(0.215, rel=0.01)
    across = plan("llama-70b", "2x8x4090", 16, 1, max_num_batched_tokens=8192, tp_across_nodes=True)
    assert 18 < across.wire.prefill_s < 35
    assert any("across machines" in warning for warning in across.warnings)


@pytest.mark.parametrize(
    ("layout", "words"),
    [
        (plan("llama-70b", "1x6x4090", 6, 1), "64 attention heads"),
        (plan("qwen2-7b", "1x8x4090", 8, 1), "28 attention heads"),
        (plan("llama-70b", "1x128x4090", 1, 128), "80 layers"),
        (plan("llama-70b", "2x4x4090", 8, 1), "each inside one machine"),
        (plan("llama-70b", "1x4x4090", 4, 1), "exceed 23.52 GiB x 0.92"),
        (plan("llama-3.1-8b", "1x1x4090", 1, 1, gpu_memory_utilization=0.995), "CUDA context"),
        (plan("llama-3.1-8b", "1x1x4090", 1, 1, max_model_len=131072), "at most 5"),
        (plan("qwen3-14b-awq", "1x8xH200", 16, 1), "each inside one machine"),
    ],
)
def test_what_cannot_fit_is_refused_with_its_arithmetic(layout: Layout, words: str) -> None:
    assert not layout.fits
    assert words in "; ".join(layout.refusals)


def test_quantization_groups_are_not_cut() -> None:
    """17408 columns over 16 ranks are 8.5 groups of 128."""
    config = CONFIGS["qwen3-14b-awq"] | {"num_attention_heads": 64, "num_key_value_heads": 16}
    layout = make_planner(config, "1x16xH200").plan(16, 1)
    assert "quantization groups of 128" in "; ".join(layout.refusals)


def test_what_a_range_allows_is_not_refused() -> None:
    """At the length that the high end holds the layout passes; one block more is refused."""
    longest = plan("llama-3.1-8b", "1x1x4090", 1, 1, max_model_len=131072).longest
    assert plan("llama-3.1-8b", "1x1x4090", 1, 1, max_model_len=longest).fits
    assert not plan("llama-3.1-8b", "1x1x4090", 1, 1, max_model_len=longest + 32).fits


def test_auto_length_is_not_refused() -> None:
    """max_model_len -1: vLLM shortens it itself."""
    assert plan("llama-3.1-8b", "1x1x4090", 1, 1, max_model_len=None, fits_length=True).fits


def test_fp8_cache_holds_twice_the_tokens() -> None:
    plain, fp8 = (plan("llama-3-8b", "H100", 1, 1, max_model_len=8192, kv_cache_dtype=d) for d in ("auto", "fp8"))
    assert fp8.tokens.low == pytest.approx(2 * plain.tokens.low, rel=0.001)


def test_latent_attention_is_not_divided() -> None:
    one, eight = (plan("deepseek-r1", "1x8xB200", tp, 8 // tp) for tp in (1, 8))
    assert any("MLA" in warning for warning in eight.warnings)
    assert not any("MLA" in warning for warning in one.warnings)


def test_heads_beyond_the_kv_heads_are_kept_twice() -> None:
    layout = plan("qwen3-30b-a3b", "1x8xL40S", 8, 1)
    assert "TP=8 is more than 4 KV heads: each is kept 2 times" in layout.warnings


def test_experts_in_fp8_blocks_need_expert_parallelism() -> None:
    """1536 columns over 8 ranks are 1.5 blocks: a warning, as vLLM starts with enable_expert_parallel."""
    plain, parallel = (plan("qwen3-235b-fp8", "1x8xH100", 8, 1, expert_parallel=on) for on in (False, True))
    assert plain.fits
    assert any("enable_expert_parallel" in warning for warning in plain.warnings)
    assert not any("enable_expert_parallel" in warning for warning in parallel.warnings)


def test_unequal_cards_get_unequal_layers() -> None:
    """The card with twice the memory gets more layers, and more tokens fit than with vLLM's own division."""
    planner = make_planner(CONFIGS["qwen3-14b"], "1x1xL40S+1x1x4090")
    layout, own = planner.plan(1, 2), planner.plan(1, 2, is_named=True)
    assert layout.is_partitioned
    assert layout.sizes[0] > layout.sizes[1]
    assert layout.tokens.low > own.tokens.low


def test_named_layout_is_always_listed() -> None:
    """Also where it cannot be placed."""
    layouts = list_layouts(make_planner(CONFIGS["llama-70b"], "1x8x4090", replace(_NOW, named=(16, 2))))
    named = [layout for layout in layouts if layout.is_named]
    assert [(layout.tp, layout.pp, layout.fits) for layout in named] == [(16, 2, False)]


def test_table_is_80_columns_wide() -> None:
    for name, gpus in (("llama-70b", "2x8x4090"), ("deepseek-r1", "4x8xB200"), ("llama-3-8b", "8x8xH200")):
        planner = make_planner(CONFIGS[name], gpus)
        layouts = tuple(list_layouts(planner))
        lines = to_lines(
            Plan(f"owner/{name}", planner.model.shape, planner.model.measure_all(), planner.fleet, layouts)
        )
        assert max(map(len, lines)) <= 80


def test_gpu_names() -> None:
    """Names as users and drivers write them; what is not known is answered with the nearest."""
    assert [m.gpus for m in parse_gpus("2x8x4090").machines] == [8, 8]
    assert parse_gpus("4090").gpus == 1
    assert parse_gpus("1x8x4090+1x4x3090").gpus == 12
    assert parse_gpus("2x23.5GiB").machines[0].kind.memory_gib == 23.5
    for name, kind in (
        ("NVIDIA GeForce RTX 4090", "4090"), ("NVIDIA L40S", "L40S"), ("NVIDIA L4", "L4"), ("NVIDIA H200", "H200"),
        ("NVIDIA A100-SXM4-80GB", "A100"), ("NVIDIA H100 80GB HBM3", "H100"), ("NVIDIA A10G", "A10G"),
        ("NVIDIA RTX 6000 Ada Generation", "6000Ada"), ("Tesla T4", "T4"),
    ):  # fmt: skip
        assert find_kind(name).name == kind
    for spelled, gpus, kind in (
        ("8 x 4090", 8, "4090"), ('2x8x"RTX 4090"', 16, "4090"), ("4xA100-80GB", 4, "A100"), ("4xA800", 4, "A100"),
        ("h100", 1, "H100"), ("rtx6000ada", 1, "6000Ada"), ("2X8xl40s", 16, "L40S"), ("8xH100_NVL", 8, "H100NVL"),
    ):  # fmt: skip
        fleet = parse_gpus(spelled)
        assert (fleet.gpus, fleet.machines[0].kind.name) == (gpus, kind)
    for spelled in ("4090x8", "2x8", "8"):
        with pytest.raises(LaunchFileError, match="kind has to be the last"):
            parse_gpus(spelled)
    assert make_fleet([[("NVIDIA A100-SXM4-40GB", 42_300_000_000)]]).machines[0].kind.name == "A100-40GB"
    with pytest.raises(LaunchFileError, match="nearest is 4090"):
        parse_gpus("2x8x4091")
    with pytest.raises(LaunchFileError, match="machines x GPUs x kind"):
        parse_gpus("2x8x!")


def test_headers_decide_over_the_shape() -> None:
    """A checkpoint with larger layers than its config.json implies weighs more; float32 counts as 16 bit."""
    config = CONFIGS["llama-3-8b"]
    plain = make_model(config, [], _NOW, "")
    size = plain.measure_stage(range(1), 1, is_first=False, is_last=False)
    stored = [(f"model.layers.{at}.mlp.up_proj.weight", "F32", 4 * size) for at in range(32)]
    assert make_model(config, stored, _NOW, "").measure_all() == pytest.approx(2 * plain.measure_all(), rel=0.1)
    found = summarize_checkpoint([Tensor("visual.blocks.0.w", "BF16", 10), Tensor("lm_head.weight", "BF16", 10)])
    assert (found.layers, found.beside) == ({}, 10)


def test_a_stage_above_its_budget_is_always_refused() -> None:
    """Also where another stage, which samples, has the lower end of the range."""
    for name, gpus in (("deepseek-r1", "2x8xH100"), ("llama-70b", "1x8x4090"), ("qwen3-235b-fp8", "1x4xH100")):
        for layout in list_layouts(make_planner(CONFIGS[name], gpus, replace(_NOW, fits_length=True))):
            memory = 79.10 if "H100" in gpus else 23.52
            assert not layout.fits or max(layout.weights) < memory * GIB * 0.92


def test_table_names_each_source() -> None:
    planner = make_planner(CONFIGS["llama-70b"], "2x8x4090")
    first, *rest = list_layouts(planner)
    layouts = (replace(first, source="vLLM asked"), *rest)
    lines = to_lines(Plan("owner/name", planner.model.shape, planner.model.measure_all(), planner.fleet, layouts))
    assert f"source: vLLM asked: {first.tp}x{first.pp}x{first.replicas}; else formulas" in lines


def test_what_of_a_checkpoint_is_served() -> None:
    """Draft layers and speech are left out, a tower stands beside, and ChatGLM's encoder is a decoder."""
    names = ("model.layers.0.a", "mtp.layers.0.a", "talker.model.layers.0.a", "model.visual.blocks.0.a")
    found = summarize_checkpoint(Tensor(name, "BF16", 10) for name in (*names, "transformer.encoder.layers.1.a"))
    assert (found.layers, found.beside) == ({0: 10, 1: 10}, 10)


def test_fewer_images_may_take_less() -> None:
    """limit_mm_per_prompt and the like: the tower's run may be smaller, so only the high end counts it whole."""
    whole = plan("qwen2.5-vl-7b", "1x1x4090", 1, 1, max_model_len=8192)
    less = plan("qwen2.5-vl-7b", "1x1x4090", 1, 1, max_model_len=8192, sees_images=False)
    assert less.overhead.low < whole.overhead.low - 0.5 * GIB
    assert less.overhead.high == whole.overhead.high


@pytest.mark.parametrize(
    ("reported", "name"),
    [
        *(("NVIDIA L40", "L40"), ("NVIDIA L40S", "L40S"), ("NVIDIA L4", "L4"), ("NVIDIA A30", "A30")),
        *(("NVIDIA H100 80GB HBM3", "H100"), ("NVIDIA A100-PCIE-40GB", "A100-40GB"), ("A100-SXM4-80GB", "A100")),
        ("NVIDIA RTX A4000", "NVIDIA RTX A4000"),  # of 16 GB, and no A40
    ],
)
def test_cards_of_like_names(reported: str, name: str) -> None:
    assert find_kind(reported).name == name
