"""Families of models: parameters as their publishers state them, and what each layer keeps of a token."""

from typing import Any

import pytest

from raylaunch.base.errors import WeightsError
from raylaunch.plan.forecast import make_model
from raylaunch.plan.kv_cache import CacheSettings, plan_cache
from raylaunch.plan.quantization import read_quantization
from raylaunch.plan.settings import PlanSettings
from tests.plan.shapes import CONFIGS

_BASE = {"num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 8192}
_FAMILIES: list[tuple[dict[str, Any], float, set[str]]] = [
    (
        {"model_type": "mixtral", "hidden_size": 4096, "num_hidden_layers": 32, "intermediate_size": 14336,
         "num_local_experts": 8, "num_experts_per_tok": 2, "vocab_size": 32000},
        46.7, {"full"},
    ),
    (
        {"model_type": "gemma3_text", "hidden_size": 5376, "num_hidden_layers": 62, "num_key_value_heads": 16,
         "head_dim": 128, "intermediate_size": 21504, "vocab_size": 262208, "sliding_window": 1024,
         "sliding_window_pattern": 6},
        27.0, {"full", "sliding"},
    ),
    (
        {"model_type": "falcon", "hidden_size": 4544, "num_hidden_layers": 32, "num_attention_heads": 71,
         "num_key_value_heads": None, "multi_query": True, "vocab_size": 65024, "tie_word_embeddings": True},
        6.92, {"full"},
    ),
    (
        {"model_type": "mamba2", "hidden_size": 2560, "num_hidden_layers": 64, "num_attention_heads": None,
         "num_key_value_heads": None, "num_heads": 80, "head_dim": 64, "state_size": 128, "n_groups": 1, "expand": 2,
         "vocab_size": 50288, "max_position_embeddings": None},
        2.70, {"mamba2"},
    ),
    (
        {"model_type": "jamba", "hidden_size": 4096, "num_hidden_layers": 32, "intermediate_size": 14336,
         "num_experts": 16, "num_experts_per_tok": 2, "expert_layer_period": 2, "expert_layer_offset": 1,
         "attn_layer_period": 8, "attn_layer_offset": 4, "mamba_d_state": 16, "mamba_expand": 2, "vocab_size": 65536},
        51.6, {"full", "mamba1"},
    ),
    (
        {"model_type": "falcon_h1", "hidden_size": 3072, "num_hidden_layers": 44, "num_attention_heads": 12,
         "num_key_value_heads": 2, "head_dim": 128, "intermediate_size": 12288, "mamba_d_ssm": 3072,
         "mamba_n_heads": 24, "mamba_d_head": 128, "mamba_d_state": 256, "mamba_n_groups": 1, "vocab_size": 130048},
        7.59, {"mamba2"},
    ),
    (
        {"text_config": {
            "model_type": "llama4_text", "hidden_size": 5120, "num_hidden_layers": 48, "num_attention_heads": 40,
            "head_dim": 128, "intermediate_size": 8192, "intermediate_size_mlp": 16384, "num_local_experts": 16,
            "num_experts_per_tok": 1, "interleave_moe_layer_step": 1, "attention_chunk_size": 8192,
            "vocab_size": 202048, "layer_types": (["chunked_attention"] * 3 + ["full_attention"]) * 12,
        }},
        107.8, {"chunked", "full"},
    ),
    (
        {"model_type": "deepseek_v2", "hidden_size": 2048, "num_hidden_layers": 27, "num_attention_heads": 16,
         "kv_lora_rank": 512, "qk_rope_head_dim": 64, "qk_nope_head_dim": 128, "v_head_dim": 128,
         "n_routed_experts": 64, "num_experts_per_tok": 6, "n_shared_experts": 2, "moe_intermediate_size": 1408,
         "intermediate_size": 10944, "first_k_dense_replace": 1, "vocab_size": 102400},
        15.7, {"mla"},
    ),
    (
        {"model_type": "dbrx", "d_model": 6144, "n_layers": 40, "n_heads": 48, "max_seq_len": 32768,
         "num_attention_heads": None, "num_key_value_heads": None, "vocab_size": 100352,
         "attn_config": {"kv_n_heads": 8},
         "ffn_config": {"ffn_hidden_size": 10752, "moe_num_experts": 16, "moe_top_k": 4}},
        131.6, {"full"},
    ),
    (
        {"model_type": "minicpm3", "hidden_size": 2560, "num_hidden_layers": 62, "num_attention_heads": 40,
         "num_key_value_heads": 40, "q_lora_rank": 768, "kv_lora_rank": 256, "qk_rope_head_dim": 32,
         "qk_nope_head_dim": 64, "intermediate_size": 6400, "vocab_size": 73448, "tie_word_embeddings": True},
        4.07, {"full"},
    ),
    (  # Gemma 3 27B as it is published: sizes that its class fills in are missing
        {"model_type": "gemma3", "num_attention_heads": None, "num_key_value_heads": None,
         "max_position_embeddings": None, "text_config": {
             "model_type": "gemma3_text", "head_dim": 128, "hidden_size": 5376, "intermediate_size": 21504,
             "num_attention_heads": 32, "num_hidden_layers": 62, "num_key_value_heads": 16, "sliding_window": 1024},
         "vision_config": {"model_type": "siglip_vision_model", "hidden_size": 1152, "intermediate_size": 4304,
                           "num_hidden_layers": 27, "image_size": 896, "patch_size": 14}},
        27.43, {"full", "sliding"},
    ),
    (  # LLaVA 1.5, whose language model is "a llama"
        {"model_type": "llava", "num_attention_heads": None, "num_key_value_heads": None,
         "text_config": {"model_type": "llama", "max_position_embeddings": 4096, "vocab_size": 32064},
         "vision_config": {"model_type": "clip_vision_model", "hidden_size": 1024, "intermediate_size": 4096,
                           "num_hidden_layers": 24, "image_size": 336, "patch_size": 14}},
        7.06, {"full"},
    ),
    (
        {"model_type": "llama4", "num_attention_heads": None, "num_key_value_heads": None, "text_config": {
            "model_type": "llama4_text", "hidden_size": 5120, "num_hidden_layers": 48, "num_attention_heads": 40,
            "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 8192, "intermediate_size_mlp": 16384,
            "num_local_experts": 128, "num_experts_per_tok": 1, "interleave_moe_layer_step": 2,
            "attention_chunk_size": 8192, "vocab_size": 202048}},
        400.7, {"chunked", "full"},
    ),
    (
        {"model_type": "qwen2_5_vl", "hidden_size": 3584, "num_hidden_layers": 28, "num_attention_heads": 28,
         "num_key_value_heads": 4, "intermediate_size": 18944, "vocab_size": 152064, "use_sliding_window": False,
         "sliding_window": 32768,
         "vision_config": {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "out_hidden_size": 3584,
                           "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2}},
        8.29, {"full"},
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("config", "billions", "kinds"), _FAMILIES, ids=[f"{config.get('model_type')}" for config, _, _ in _FAMILIES]
)
def test_parameters_are_the_published_ones(config: dict[str, Any], billions: float, kinds: set[str]) -> None:
    """Within 1 %."""
    model = make_model({**_BASE, **config}, [], PlanSettings(), "")
    assert (model.measure_all() - 2 * model.shape.rotary) / 2e9 == pytest.approx(billions, rel=0.01)
    assert {layer.mixer.kind for layer in model.shape.layers} == kinds


def test_towers_are_divided_and_on_every_stage() -> None:
    """Half of a tower is on a rank of TP=2, on the last stage too."""
    config = {**_BASE, **next(config for config, _, _ in _FAMILIES if config.get("model_type") == "gemma3")}
    model, plain = (make_model(c, [], PlanSettings(), "") for c in (config, {**config, "vision_config": None}))
    beside = [
        model.measure_stage(range(31, 62), tp, is_first=False, is_last=True)
        - plain.measure_stage(range(31, 62), tp, is_first=False, is_last=True)
        for tp in (1, 2)
    ]
    assert beside[0] == pytest.approx(0.85e9, rel=0.05)
    assert beside[1] == pytest.approx(beside[0] / 2, rel=0.02)


def test_parts_that_are_not_quantized() -> None:
    """Kimi K2 Thinking: experts in 4 bit, the rest in 16: 594 GB. DeepSeek V3 in FP8, no draft layer: 674 GB."""
    kimi = CONFIGS["deepseek-r1"] | {
        "num_attention_heads": 64, "n_routed_experts": 384, "first_k_dense_replace": 1, "vocab_size": 163840,
        "quantization_config": {
            "quant_method": "compressed-tensors",
            "ignore": ["lm_head", "re:.*self_attn.*", "re:.*shared_experts.*", r"re:.*mlp\.(gate|up|down)_proj.*"],
            "config_groups": {"group_0": {"weights": {"num_bits": 4, "group_size": 32, "type": "int"}}},
        },
    }  # fmt: skip
    assert make_model(kimi, [], PlanSettings(), "").measure_all() == pytest.approx(594e9, rel=0.01)
    assert make_model(CONFIGS["deepseek-r1"], [], PlanSettings(), "").measure_all() == pytest.approx(674e9, rel=0.01)


@pytest.mark.parametrize(
    ("skipped", "layer", "roles"),
    [
        ("model.layers.1.self_attn.q_proj", 1, {"attention"}),
        ("model.layers.1.self_attn.q_proj", 11, set()),
        ("model.layers.*.self_attn", 7, {"attention"}),
        ("mlp", 0, {"mlp", "shared", "experts"}),
        ("visual.blocks.0.mlp", 0, set()),
        ("re:.*(", 0, set()),
    ],
)
def test_lists_of_what_is_not_quantized(skipped: str, layer: int, roles: set[str]) -> None:
    """Names, parts of names, globs and expressions, a broken one too."""
    read = read_quantization({"quantization_config": {"quant_method": "fp8", "modules_to_not_convert": [skipped]}})
    assert read.list_skipped(12)[layer] == roles


def test_kv_dtype_of_the_checkpoint() -> None:
    """A checkpoint may say that its KV cache is in fp8."""
    scheme = {"kv_cache_scheme": {"num_bits": 8, "type": "float"}, "quant_method": "compressed-tensors"}
    assert read_quantization({"quantization_config": scheme}).kv_dtype == "fp8"


def test_too_many_layers_are_no_model() -> None:
    """A damaged config.json is an error, not all of this machine's memory."""
    with pytest.raises(WeightsError, match="not understood"):
        make_model(CONFIGS["llama-3-8b"] | {"num_hidden_layers": 10**9}, [], PlanSettings(), "x")


@pytest.mark.parametrize(
    ("family", "tp", "batches", "block", "held"),
    [("mistral", 1, 2, 128, 65), ("falcon_h1", 1, 1, 3200, 6 + 3), ("jamba", 2, 1, 256, 64 + 7 * 2)],
)
def test_blocks_of_a_request_are_vllms(family: str, tp: int, batches: int, block: int, held: int) -> None:
    """As vLLM 0.32 counts them: a window holds a batch for each stage; a state two blocks, or three."""
    mistral = CONFIGS["llama-3-8b"] | {"model_type": "mistral", "sliding_window": 4096}
    config = next((config for config, _, _ in _FAMILIES if config.get("model_type") == family), mistral)
    shape = make_model({**_BASE, **config, "mamba_ssm_dtype": "float32"}, [], PlanSettings(), "").shape
    cache = CacheSettings(tp, 16384, batches * 2048, block=128, state_blocks=2)
    plan = plan_cache(shape, cache)
    assert plan.groups[0].block == block
    assert plan.count_request(16384, cache.in_flight) == held
