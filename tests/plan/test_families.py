"""Families of models: parameters as their publishers state them, and what each layer keeps of a token."""

from typing import Any

import pytest

from raylaunch.plan.forecast import make_model
from raylaunch.plan.settings import PlanSettings

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
]  # fmt: skip


@pytest.mark.parametrize(
    ("config", "billions", "kinds"), _FAMILIES, ids=[f"{config.get('model_type')}" for config, _, _ in _FAMILIES]
)
def test_parameters_are_the_published_ones(config: dict[str, Any], billions: float, kinds: set[str]) -> None:
    """Within 1 %."""
    model = make_model({**_BASE, **config}, [], PlanSettings(), "")
    assert (model.measure_all() - 2 * model.shape.rotary) / 2e9 == pytest.approx(billions, rel=0.01)
    assert {layer.mixer.kind for layer in model.shape.layers} == kinds
