"""vLLM asked without GPU and weights agrees with the formulas."""

from typing import Any

import pytest

from raylaunch.plan.asked import SOURCE, ask_about, ask_installed
from raylaunch.plan.forecast import make_model
from raylaunch.plan.gpus import parse_gpus
from raylaunch.plan.layout import Layout, Planner
from raylaunch.plan.settings import PlanSettings
from tests.plan.shapes import CONFIGS

_FILLED = {"hidden_act": "silu", "rms_norm_eps": 1e-6, "rope_theta": 1e6, "torch_dtype": "bfloat16"}
_LLAMA = _FILLED | CONFIGS["llama-3.1-8b"] | {"architectures": ["LlamaForCausalLM"]}
_EXPERTS = _FILLED | CONFIGS["qwen3-30b-a3b"] | {
    "architectures": ["Qwen3MoeForCausalLM"], "decoder_sparse_step": 1, "mlp_only_layers": [], "norm_topk_prob": True,
}  # fmt: skip
_LATENT = _FILLED | {
    "architectures": ["DeepseekV2ForCausalLM"], "model_type": "deepseek_v2", "hidden_size": 2048,
    "num_hidden_layers": 27, "num_attention_heads": 16, "num_key_value_heads": 16, "q_lora_rank": None,
    "kv_lora_rank": 512, "qk_rope_head_dim": 64, "qk_nope_head_dim": 128, "v_head_dim": 128, "n_routed_experts": 64,
    "num_experts_per_tok": 6, "n_shared_experts": 2, "moe_intermediate_size": 1408, "intermediate_size": 10944,
    "first_k_dense_replace": 1, "moe_layer_freq": 1, "vocab_size": 102400, "max_position_embeddings": 16384,
    "n_group": 1, "topk_group": 1, "topk_method": "greedy", "scoring_func": "softmax", "norm_topk_prob": False,
    "tie_word_embeddings": False,
}  # fmt: skip
_PACKED = _FILLED | CONFIGS["qwen3-14b"] | {
    "architectures": ["Qwen3ForCausalLM"],
    "quantization_config": {
        "quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True, "version": "gemm",
    },
}  # fmt: skip


def compare(config: dict[str, Any], tp: int, pp: int) -> tuple[Layout, Layout]:
    """What the formulas and what vLLM says of a layout."""
    settings = PlanSettings(
        max_model_len=8192, max_num_batched_tokens=2048, max_num_seqs=256, named=(tp, pp), vllm=(0, 32)
    )
    planner = Planner(make_model(config, [], settings, ""), parse_gpus(f"{tp * pp}xL40S"), settings)
    ours = planner.plan(tp, pp, is_named=True)
    (asked,) = ask_about(planner, [ours], config, {}, ask_installed)
    return ours, asked


@pytest.mark.engine
@pytest.mark.parametrize(
    ("config", "tp", "pp"),
    [
        (_LLAMA, 2, 2),
        *(
            pytest.param(*case, marks=pytest.mark.whole)
            for case in ((_EXPERTS, 4, 1), (_LATENT, 2, 1), (_PACKED, 2, 2))
        ),
    ],
    ids=["dense", "experts", "latent", "packed"],
)
def test_vllm_and_formulas_agree(config: dict[str, Any], tp: int, pp: int) -> None:
    """Weights within 1 %, tokens within 1 %: the CPU's blocks are eight times as large."""
    ours, asked = compare(config, tp, pp)
    assert asked.source == SOURCE
    assert asked.weights == pytest.approx(ours.weights, rel=0.01)
    assert [asked.tokens.low, asked.tokens.high] == pytest.approx([ours.tokens.low, ours.tokens.high], rel=0.01)


@pytest.mark.engine
@pytest.mark.whole
def test_what_vllm_cannot_build_keeps_its_formulas(capsys: pytest.CaptureFixture[str]) -> None:
    """MXFP4 has no kernel on a CPU: the layout says so and stays."""
    config = _FILLED | CONFIGS["gpt-oss-120b"] | {"architectures": ["GptOssForCausalLM"], "torch_dtype": "bfloat16"}
    ours, asked = compare(config, 4, 1)
    assert asked == ours
    assert "cannot build TP=4 x PP=1" in capsys.readouterr().err
