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


_MORE: dict[str, dict[str, Any]] = {
    "qwen2.5-72b": CONFIGS["qwen2.5-14b"] | {
        "hidden_size": 8192, "num_hidden_layers": 80, "num_attention_heads": 64, "intermediate_size": 29568
    },
    "qwen2.5-72b-awq": CONFIGS["qwen2.5-14b-awq"] | {
        "hidden_size": 8192, "num_hidden_layers": 80, "num_attention_heads": 64, "intermediate_size": 29696
    },
    "llama-405b-fp8": CONFIGS["llama-70b"] | {
        "hidden_size": 16384, "num_hidden_layers": 126, "num_attention_heads": 128, "intermediate_size": 53248,
        "quantization_config": {"quant_method": "fbgemm_fp8", "modules_to_not_convert": ["lm_head"]},
    },
    "mixtral-8x7b": {
        "model_type": "mixtral", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
        "num_key_value_heads": 8, "intermediate_size": 14336, "num_local_experts": 8, "num_experts_per_tok": 2,
        "vocab_size": 32000, "max_position_embeddings": 32768, "tie_word_embeddings": False,
    },
    "deepseek-v2-lite": {
        "model_type": "deepseek_v2", "hidden_size": 2048, "num_hidden_layers": 27, "num_attention_heads": 16,
        "kv_lora_rank": 512, "qk_rope_head_dim": 64, "qk_nope_head_dim": 128, "v_head_dim": 128,
        "n_routed_experts": 64, "num_experts_per_tok": 6, "n_shared_experts": 2, "moe_intermediate_size": 1408,
        "intermediate_size": 10944, "first_k_dense_replace": 1, "vocab_size": 102400,
        "max_position_embeddings": 163840, "tie_word_embeddings": False,
    },
    "glm-4.5-air": CONFIGS["glm-4.7"] | {
        "hidden_size": 4096, "num_hidden_layers": 46, "intermediate_size": 10944, "moe_intermediate_size": 1408,
        "n_routed_experts": 128, "first_k_dense_replace": 1, "max_position_embeddings": 131072,
    },
    "kimi-k2": CONFIGS["deepseek-r1"] | {
        "n_routed_experts": 384, "num_attention_heads": 64, "num_key_value_heads": 64, "first_k_dense_replace": 1,
        "vocab_size": 163840, "max_position_embeddings": 131072,
    },
    "qwen3-coder-480b": CONFIGS["qwen3-235b-fp8"] | {
        "hidden_size": 6144, "num_hidden_layers": 62, "num_attention_heads": 96, "num_key_value_heads": 8,
        "num_experts": 160, "moe_intermediate_size": 2560, "max_position_embeddings": 262144,
    },
    "qwen3.5-27b-int4": CONFIGS["qwen3.5-27b"] | {
        "quantization_config": {
            "quant_method": "compressed-tensors", "ignore": ["lm_head", "re:.*linear_attn.*", "re:.*visual.*"],
            "config_groups": {"group_0": {"weights": {"num_bits": 4, "type": "int", "group_size": 128}}},
        }
    },
}  # fmt: skip
_MORE["glm-4.5-air-awq"] = _MORE["glm-4.5-air"] | {
    "quantization_config": {
        "quant_method": "awq", "bits": 4, "group_size": 128, "modules_to_not_convert": ["model.layers.0.mlp"]
    }
}  # fmt: skip
_MORE["glm-4.5-air-fp8"] = _MORE["glm-4.5-air"] | {"quantization_config": {"quant_method": "fp8"}}


def plan_as_reported(name: str, gpus: str, tp: int, pp: int, length: int, options: dict[str, Any]) -> Layout:
    chosen = replace(_NOW, max_model_len=length, named=(tp, pp), **options)
    model = make_model((CONFIGS | _MORE)[name], [], chosen, "")
    return Planner(model, parse_gpus(gpus), chosen).plan(tp, pp, is_named=True)


@pytest.mark.parametrize(
    ("name", "gpus", "tp", "pp", "length", "options"),
    [
        ("qwen3-32b", "1x2xPRO6000", 2, 1, 32768, {"gpu_memory_utilization": 0.426}),
        ("qwen3-32b", "1x2xPRO6000", 1, 2, 32768, {"gpu_memory_utilization": 0.426}),
        ("qwen3-32b", "1x4x4090", 4, 1, 32768, {}),
        ("qwen3-32b", "1x2xA6000", 2, 1, 32768, {}),
        ("qwen3-32b", "1x1xA100", 1, 1, 32768, {}),
        ("qwen2.5-32b-awq", "1x1x4090", 1, 1, 4096, {}),
        ("qwen2.5-32b-awq", "1x2x3090", 2, 1, 32768, {}),
        ("qwen3.5-27b-fp8", "1x2x5090", 2, 1, 262144, {"gpu_memory_utilization": 0.92}),
        (
            "qwen3.5-27b-int4", "1x2x3090", 2, 1, 262144,
            {"kv_cache_dtype": "fp8", "gpu_memory_utilization": 0.95, "max_num_seqs": 4, "sees_images": False},
        ),
        ("qwen3.5-27b-int4", "1x1xA100-40GB", 1, 1, 131072, {"max_num_seqs": 16}),
        ("qwen3.5-27b", "1x1xH100", 1, 1, 131072, {"gpu_memory_utilization": 0.92}),
        ("qwen3.5-35b-a3b", "1x1xPRO6000", 1, 1, 4096, {}),
        ("qwen3-8b", "1x1x3090", 1, 1, 32768, {}),
        ("qwen3-8b-fp8", "1x1x5080", 1, 1, 8192, {}),
        ("qwen3-14b-nvfp4", "1x1x5080", 1, 1, 8192, {}),
        ("qwen3-8b-awq", "1x1x5080", 1, 1, 16384, {}),
        ("llama-3-70b-awq", "1x2xL40S", 2, 1, 8192, {}),
        ("llama-70b", "2x8x4090", 4, 4, 32768, {}),
        ("llama-70b", "2x4x4090", 4, 2, 8192, {}),
        ("llama-70b", "1x2xH100", 2, 1, 8192, {"gpu_memory_utilization": 0.95}),
        ("llama-70b", "2x1xH200", 1, 2, 32768, {}),
        ("qwen2.5-72b-awq", "1x2xA6000", 2, 1, 16384, {}),
        ("qwen2.5-72b", "1x4xA100", 4, 1, 32768, {}),
        ("qwen2.5-72b", "2x4xL40S", 4, 2, 32768, {}),
        ("llama-405b-fp8", "1x8xH100", 8, 1, 16384, {"gpu_memory_utilization": 0.95}),
        ("llama-405b-fp8", "2x8xA100", 8, 2, 32768, {}),
        ("mixtral-8x7b", "1x2xA100", 2, 1, 32768, {}),
        ("mixtral-8x7b", "1x8xL4", 8, 1, 16384, {}),
        ("deepseek-v2-lite", "1x1xL40S", 1, 1, 32768, {}),
        ("deepseek-v2-lite", "1x2x3090", 2, 1, 16384, {}),
        ("glm-4.5-air-awq", "1x4x3090", 4, 1, 32768, {}),
        ("glm-4.5-air-fp8", "1x4xH100", 4, 1, 131072, {}),
        ("glm-4.7-flash", "1x1xA100", 1, 1, 40960, {}),
        ("glm-4.7-flash", "1x4x4090", 4, 1, 32768, {}),
        ("qwen3-coder-480b", "1x8xH200", 8, 1, 131072, {"expert_parallel": True}),
        ("kimi-k2", "2x8xH200", 8, 2, 131072, {}),
        ("kimi-k2", "2x8xH200", 16, 1, 131072, {"tp_across_nodes": True}),
        ("deepseek-r1", "1x8xB200", 8, 1, 163840, {}),
        ("deepseek-r1", "2x8xH100", 16, 1, 8192, {"tp_across_nodes": True}),
        ("deepseek-r1", "4x8xA100", 8, 4, 32768, {}),
        ("qwen3-235b-fp8", "1x8xL40S", 8, 1, 32768, {"expert_parallel": True}),
        ("qwen3-next-80b", "1x4xH100", 4, 1, 262144, {}),
        ("gpt-oss-120b", "1x1xA100", 1, 1, 65536, {"max_num_batched_tokens": 2048}),
        ("gpt-oss-120b", "1x8x4090", 8, 1, 131072, {}),
        ("gpt-oss-120b", "1x4x3090", 4, 1, 65536, {}),
        ("gpt-oss-20b", "1x1x5080", 1, 1, 8192, {"gpu_memory_utilization": 0.95}),
        ("gemma-3-27b", "1x4x3090", 4, 1, 8192, {}),
        ("qwen2.5-vl-7b", "1x1x4090", 1, 1, 32768, {}),
        ("qwen3-vl-30b", "1x4x3090", 4, 1, 65536, {}),
        ("mistral-nemo-12b", "1x1xA6000", 1, 1, 32768, {}),
        ("devstral-24b-fp8", "1x4xL4", 4, 1, 262144, {"gpu_memory_utilization": 0.95, "max_num_seqs": 32}),
        ("mistral-7b-awq", "1x1xT4", 1, 1, 4096, {}),
        ("qwen2.5-7b", "1x2xT4", 2, 1, 8192, {}),
        ("qwen3-30b-fp8", "1x4xL4", 4, 1, 8192, {"expert_parallel": True}),
        ("qwen3-30b-fp8", "1x1x5080+1x1x5090", 1, 2, 34736, {"partition": (16, 32)}),
    ],
)  # fmt: skip
def test_reported_launch_is_not_refused(
    name: str, gpus: str, tp: int, pp: int, length: int, options: dict[str, Any]
) -> None:
    """Launches that people report as running, with the options that they name."""
    assert plan_as_reported(name, gpus, tp, pp, length, options).refusals == ()


@pytest.mark.parametrize(
    ("name", "gpus", "tp", "pp", "length", "options", "words"),
    [
        ("qwen3-8b", "1x1x5080", 1, 1, 8192, {}, "weights 15.27 GiB"),
        ("qwen3-30b-fp8", "1x1x5090", 1, 1, 16384, {"gpu_memory_utilization": 0.95}, "16,384 does not fit"),
        ("qwen3.5-27b-fp8", "1x1x5090", 1, 1, 4096, {"gpu_memory_utilization": 0.95}, "weights 28.4"),
        ("qwen3.5-9b", "1x1x5080", 1, 1, 4096, {}, "weights 17.65"),
        ("qwen3-30b-fp8", "1x1x5080+1x1x5090", 1, 2, 262144, {"partition": (16, 32)}, "262,144 does not fit"),
        ("qwen2.5-14b", "1x2x4090", 2, 1, 131072, {"gpu_memory_utilization": 0.98}, "131,072 does not fit"),
        ("gpt-oss-120b", "1x1xH100", 1, 1, 131072, {"max_num_seqs": 1024}, "131,072 does not fit"),
        ("qwen3-vl-30b", "1x1xA100", 1, 1, 262144, {}, "262,144 does not fit"),
        ("qwen2.5-32b-awq", "1x1x4090", 1, 1, 40960, {}, "40,960 does not fit"),
        ("qwen2.5-7b", "1x1xT4", 1, 1, 4096, {}, "weights 14.19"),
        ("gemma-3-27b", "1x1xL40S", 1, 1, 4096, {}, "weights 51.1"),
        ("mixtral-8x7b", "1x1xA100", 1, 1, 4096, {}, "weights 87.0"),
        ("llama-405b-fp8", "1x8xA100-40GB", 8, 1, 4096, {}, "weights 47.7"),
        ("deepseek-v2-lite", "1x1x4090", 1, 1, 4096, {}, "weights 29.2"),
        ("glm-4.5-air", "1x2xA100", 2, 1, 4096, {}, "weights 99.5"),
        ("qwen3.5-27b", "1x1xA6000", 1, 1, 4096, {}, "weights 51.0"),
        ("qwen3.5-27b-fp8", "1x1xL40S", 1, 1, 262144, {"gpu_memory_utilization": 0.86}, "262,144 does not fit"),
    ],
)  # fmt: skip
def test_reported_failure_is_refused(
    name: str, gpus: str, tp: int, pp: int, length: int, options: dict[str, Any], words: str
) -> None:
    """Launches that people report as failing, with the number that shows it."""
    assert words in "; ".join(plan_as_reported(name, gpus, tp, pp, length, options).refusals)


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
