"""What the public config.json files of some models say about their sizes."""

from typing import Any

_QWEN3 = {"vocab_size": 151936, "head_dim": 128, "max_position_embeddings": 40960, "tie_word_embeddings": False}
_EXPERTS = {"model_type": "qwen3_moe", "num_experts": 128, "num_experts_per_tok": 8, "num_key_value_heads": 4}
_FP8 = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}
_LLAMA_8B = {
    "model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 128256, "max_position_embeddings": 8192,
    "tie_word_embeddings": False, "torch_dtype": "bfloat16",
}  # fmt: skip
_LLAMA_70B = _LLAMA_8B | {
    "hidden_size": 8192, "num_hidden_layers": 80, "num_attention_heads": 64, "intermediate_size": 28672,
    "max_position_embeddings": 131072,
}  # fmt: skip
_QWEN3_14B = _QWEN3 | {
    "model_type": "qwen3", "hidden_size": 5120, "num_hidden_layers": 40, "num_attention_heads": 40,
    "num_key_value_heads": 8, "intermediate_size": 17408,
}  # fmt: skip

CONFIGS: dict[str, dict[str, Any]] = {
    "llama-3-8b": _LLAMA_8B,
    "llama-3.1-8b": _LLAMA_8B | {"max_position_embeddings": 131072},
    "llama-70b": _LLAMA_70B,
    "llama-3.1-70b-w8a8": _LLAMA_70B | {
        "quantization_config": {
            "quant_method": "compressed-tensors",
            "config_groups": {"group_0": {"weights": {"num_bits": 8, "type": "int"}}},
        }
    },
    "qwen2-7b": {
        "model_type": "qwen2", "hidden_size": 3584, "num_hidden_layers": 28, "num_attention_heads": 28,
        "num_key_value_heads": 4, "intermediate_size": 18944, "vocab_size": 152064, "max_position_embeddings": 32768,
        "sliding_window": 131072, "use_sliding_window": False,
    },
    "qwen3-14b": _QWEN3_14B,
    "qwen3-14b-awq": _QWEN3_14B | {"quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 128}},
    "qwen3-30b-a3b": _QWEN3 | _EXPERTS | {
        "hidden_size": 2048, "num_hidden_layers": 48, "num_attention_heads": 32, "moe_intermediate_size": 768,
        "intermediate_size": 6144,
    },
    "qwen3-235b-fp8": _QWEN3 | _EXPERTS | _FP8 | {
        "hidden_size": 4096, "num_hidden_layers": 94, "num_attention_heads": 64, "moe_intermediate_size": 1536,
        "intermediate_size": 12288,
    },
    "qwen3-next-80b": {
        "model_type": "qwen3_next", "hidden_size": 2048, "num_hidden_layers": 48, "num_attention_heads": 16,
        "num_key_value_heads": 2, "head_dim": 256, "full_attention_interval": 4, "linear_num_key_heads": 16,
        "linear_num_value_heads": 32, "linear_key_head_dim": 128, "linear_value_head_dim": 128, "num_experts": 512,
        "moe_intermediate_size": 512, "shared_expert_intermediate_size": 512, "num_experts_per_tok": 10,
        "vocab_size": 151936, "intermediate_size": 5120, "max_position_embeddings": 262144,
        "partial_rotary_factor": 0.25,
    },
    "gpt-oss-120b": {
        "model_type": "gpt_oss", "hidden_size": 2880, "num_hidden_layers": 36, "num_attention_heads": 64,
        "num_key_value_heads": 8, "head_dim": 64, "num_local_experts": 128, "num_experts_per_tok": 4,
        "intermediate_size": 2880, "vocab_size": 201088, "sliding_window": 128, "attention_bias": True,
        "layer_types": ["sliding_attention", "full_attention"] * 18, "max_position_embeddings": 131072,
        "quantization_config": {"quant_method": "mxfp4"},
    },
    "deepseek-r1": _FP8 | {
        "model_type": "deepseek_v3", "hidden_size": 7168, "num_hidden_layers": 61, "num_attention_heads": 128,
        "num_key_value_heads": 128, "q_lora_rank": 1536, "kv_lora_rank": 512, "qk_rope_head_dim": 64,
        "qk_nope_head_dim": 128, "v_head_dim": 128, "n_routed_experts": 256, "num_experts_per_tok": 8,
        "n_shared_experts": 1, "moe_intermediate_size": 2048, "intermediate_size": 18432, "first_k_dense_replace": 3,
        "vocab_size": 129280, "max_position_embeddings": 163840,
    },
}  # fmt: skip
