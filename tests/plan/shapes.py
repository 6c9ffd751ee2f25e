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
    "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_size": 5120, "num_hidden_layers": 40,
    "num_attention_heads": 40, "num_key_value_heads": 8, "intermediate_size": 17408,
}  # fmt: skip
_QWEN2_7B = {
    "model_type": "qwen2", "hidden_size": 3584, "num_hidden_layers": 28, "num_attention_heads": 28,
    "num_key_value_heads": 4, "intermediate_size": 18944, "vocab_size": 152064, "max_position_embeddings": 32768,
    "sliding_window": 131072, "use_sliding_window": False,
}  # fmt: skip
_QWEN25 = {
    "model_type": "qwen2", "vocab_size": 151936, "max_position_embeddings": 32768, "num_key_value_heads": 2,
    "use_sliding_window": False, "sliding_window": 131072, "tie_word_embeddings": True,
}  # fmt: skip
_QWEN25_14B = _QWEN25 | {
    "hidden_size": 5120, "num_hidden_layers": 48, "num_attention_heads": 40, "num_key_value_heads": 8,
    "intermediate_size": 13824, "vocab_size": 152064, "tie_word_embeddings": False,
}  # fmt: skip
_QWEN3_8B = _QWEN3_14B | {
    "hidden_size": 4096, "num_hidden_layers": 36, "num_attention_heads": 32, "intermediate_size": 12288,
}  # fmt: skip
_MISTRAL_7B = {
    "model_type": "mistral", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 32000, "max_position_embeddings": 32768,
    "tie_word_embeddings": False,
}  # fmt: skip
_QWEN3_30B = _QWEN3 | _EXPERTS | {
    "hidden_size": 2048, "num_hidden_layers": 48, "num_attention_heads": 32, "moe_intermediate_size": 768,
    "intermediate_size": 6144,
}  # fmt: skip
_QWEN3_VISION = {
    "depth": 27, "hidden_size": 1152, "intermediate_size": 4304, "num_heads": 16, "patch_size": 16,
    "temporal_patch_size": 2, "spatial_merge_size": 2, "num_position_embeddings": 2304,
}  # fmt: skip
_AWQ = {"quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 128}}
_GPT_OSS = {
    "model_type": "gpt_oss", "hidden_size": 2880, "num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 64,
    "num_experts_per_tok": 4, "intermediate_size": 2880, "vocab_size": 201088, "sliding_window": 128,
    "attention_bias": True, "max_position_embeddings": 131072, "quantization_config": {"quant_method": "mxfp4"},
}  # fmt: skip

_NVFP4 = {
    "quantization_config": {
        "quant_method": "compressed-tensors", "ignore": ["lm_head"],
        "config_groups": {"group_0": {"weights": {"num_bits": 4, "type": "float", "group_size": 16}}},
    }
}  # fmt: skip
_MISTRAL_12B = {
    "model_type": "mistral", "hidden_size": 5120, "num_hidden_layers": 40, "num_attention_heads": 32,
    "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 14336, "vocab_size": 131072,
    "max_position_embeddings": 131072, "tie_word_embeddings": False,
}  # fmt: skip
_QWEN35 = {
    "head_dim": 256, "full_attention_interval": 4, "linear_num_key_heads": 16, "linear_key_head_dim": 128,
    "linear_value_head_dim": 128, "linear_conv_kernel_dim": 4, "mamba_ssm_dtype": "float32", "vocab_size": 248320,
    "max_position_embeddings": 262144, "tie_word_embeddings": False,
    "rope_parameters": {"partial_rotary_factor": 0.25, "mrope_section": [11, 11, 10]},
}  # fmt: skip
_QWEN35_27B = {
    "model_type": "qwen3_5", "tie_word_embeddings": False,
    "text_config": _QWEN35 | {
        "model_type": "qwen3_5_text", "hidden_size": 5120, "num_hidden_layers": 64, "num_attention_heads": 24,
        "num_key_value_heads": 4, "intermediate_size": 17408, "linear_num_value_heads": 48,
    },
    "vision_config": _QWEN3_VISION | {"out_hidden_size": 5120, "deepstack_visual_indexes": []},
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
    "qwen2-7b": _QWEN2_7B,
    "qwen3-14b": _QWEN3_14B,
    "qwen3-14b-awq": _QWEN3_14B | _AWQ,
    "qwen3-30b-a3b": _QWEN3_30B,
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
    "gpt-oss-120b": _GPT_OSS | {
        "num_hidden_layers": 36, "num_local_experts": 128, "layer_types": ["sliding_attention", "full_attention"] * 18
    },
    "gpt-oss-20b": _GPT_OSS | {
        "num_hidden_layers": 24, "num_local_experts": 32, "layer_types": ["sliding_attention", "full_attention"] * 12
    },
    "deepseek-r1": _FP8 | {
        "model_type": "deepseek_v3", "hidden_size": 7168, "num_hidden_layers": 61, "num_attention_heads": 128,
        "num_key_value_heads": 128, "q_lora_rank": 1536, "kv_lora_rank": 512, "qk_rope_head_dim": 64,
        "qk_nope_head_dim": 128, "v_head_dim": 128, "n_routed_experts": 256, "num_experts_per_tok": 8,
        "n_shared_experts": 1, "moe_intermediate_size": 2048, "intermediate_size": 18432, "first_k_dense_replace": 3,
        "vocab_size": 129280, "max_position_embeddings": 163840,
    },
    "llama-3.2-1b": _LLAMA_8B | {
        "hidden_size": 2048, "num_hidden_layers": 16, "head_dim": 64, "intermediate_size": 8192,
        "max_position_embeddings": 131072, "tie_word_embeddings": True,
    },
    "llama-70b-fp8": _LLAMA_70B | {
        "quantization_config": {"quant_method": "modelopt", "quant_algo": "FP8", "ignore": ["lm_head"]}
    },
    "llama-70b-awq": _LLAMA_70B | _AWQ,
    "qwen2.5-0.5b": _QWEN25 | {
        "hidden_size": 896, "num_hidden_layers": 24, "num_attention_heads": 14, "intermediate_size": 4864
    },
    "qwen2.5-1.5b": _QWEN25 | {
        "hidden_size": 1536, "num_hidden_layers": 28, "num_attention_heads": 12, "intermediate_size": 8960
    },
    "qwen2.5-3b": _QWEN25 | {
        "hidden_size": 2048, "num_hidden_layers": 36, "num_attention_heads": 16, "intermediate_size": 11008
    },
    "qwen2.5-7b": _QWEN2_7B,
    "qwen2.5-7b-base": _QWEN2_7B | {"max_position_embeddings": 131072},
    "qwen2.5-14b": _QWEN25_14B,
    "qwen2.5-14b-awq": _QWEN25_14B | _AWQ,
    "qwen2.5-14b-fp8-dynamic": _QWEN25_14B | {
        "quantization_config": {
            "quant_method": "compressed-tensors", "ignore": ["lm_head"],
            "config_groups": {"group_0": {"weights": {"num_bits": 8, "type": "float", "strategy": "channel"}}},
        }
    },
    "qwen2.5-vl-7b": _QWEN2_7B | {
        "model_type": "qwen2_5_vl", "max_position_embeddings": 128000,
        "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
        "vision_config": {
            "depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "out_hidden_size": 3584, "patch_size": 14,
            "spatial_merge_size": 2, "temporal_patch_size": 2,
        },
    },
    "qwen3-8b": _QWEN3_8B,
    "qwen3-8b-fp8": _QWEN3_8B | _FP8,
    "qwen3-30b-fp8": _QWEN3_30B | _FP8,
    "qwen3-vl-30b": {
        "model_type": "qwen3_vl_moe", "tie_word_embeddings": False,
        "text_config": _QWEN3_30B | {
            "model_type": "qwen3_vl_moe_text", "max_position_embeddings": 262144,
            "rope_scaling": {"mrope_interleaved": True, "mrope_section": [24, 20, 20], "rope_type": "default"},
        },
        "vision_config": _QWEN3_VISION | {
            "model_type": "qwen3_vl_moe", "out_hidden_size": 2048, "deepstack_visual_indexes": [8, 16, 24]
        },
    },
    "qwen3.5-9b": {
        "model_type": "qwen3_5", "tie_word_embeddings": False,
        "text_config": _QWEN35 | {
            "model_type": "qwen3_5_text", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 16,
            "num_key_value_heads": 4, "intermediate_size": 12288, "linear_num_value_heads": 32,
        },
        "vision_config": _QWEN3_VISION | {"out_hidden_size": 4096, "deepstack_visual_indexes": []},
    },
    "qwen3-0.6b": _QWEN3_8B | {
        "hidden_size": 1024, "num_hidden_layers": 28, "num_attention_heads": 16, "intermediate_size": 3072,
        "tie_word_embeddings": True,
    },
    "qwen3-4b-awq": _QWEN3_8B | _AWQ | {"hidden_size": 2560, "intermediate_size": 9728, "tie_word_embeddings": True},
    "qwen3-8b-awq": _QWEN3_8B | _AWQ,
    "qwen3-8b-nvfp4": _QWEN3_8B | _NVFP4,
    "qwen3-14b-nvfp4": _QWEN3_14B | _NVFP4,
    "qwen3-32b": _QWEN3_14B | {"num_hidden_layers": 64, "num_attention_heads": 64, "intermediate_size": 25600},
    "qwen2.5-7b-awq": _QWEN2_7B | _AWQ,
    "qwen2.5-32b-awq": _QWEN25_14B | _AWQ | {"num_hidden_layers": 64, "intermediate_size": 27648},
    "llama-3-70b-awq": _LLAMA_70B | _AWQ | {"max_position_embeddings": 8192},
    "mistral-7b-awq": _AWQ | {"model_type": "mistral", "max_position_embeddings": 32768, "sliding_window": 4096},
    "mistral-nemo-12b": _MISTRAL_12B,
    "devstral-24b-fp8": _MISTRAL_12B | {
        "intermediate_size": 32768, "max_position_embeddings": 393216, "quantization_config": {"quant_method": "fp8"}
    },
    "glm-4.7-flash": {
        "model_type": "glm4_moe_lite", "hidden_size": 2048, "num_hidden_layers": 47, "num_attention_heads": 20,
        "num_key_value_heads": 20, "q_lora_rank": 768, "kv_lora_rank": 512, "qk_nope_head_dim": 192,
        "qk_rope_head_dim": 64, "v_head_dim": 256, "n_routed_experts": 64, "num_experts_per_tok": 4,
        "n_shared_experts": 1, "moe_intermediate_size": 1536, "intermediate_size": 10240, "first_k_dense_replace": 1,
        "vocab_size": 154880, "max_position_embeddings": 202752, "tie_word_embeddings": False,
    },
    "qwen3.5-27b": _QWEN35_27B,
    "qwen3.5-27b-fp8": _QWEN35_27B | _FP8,
    "qwen3.5-35b-a3b": {
        "model_type": "qwen3_5_moe", "tie_word_embeddings": False,
        "text_config": _QWEN35 | {
            "model_type": "qwen3_5_moe_text", "hidden_size": 2048, "num_hidden_layers": 40, "num_attention_heads": 16,
            "num_key_value_heads": 2, "moe_intermediate_size": 512, "shared_expert_intermediate_size": 512,
            "num_experts": 256, "num_experts_per_tok": 8, "linear_num_value_heads": 32,
        },
        "vision_config": _QWEN3_VISION | {"out_hidden_size": 2048, "deepstack_visual_indexes": []},
    },
    "opt-2.7b": {
        "model_type": "opt", "hidden_size": 2560, "num_hidden_layers": 32, "num_attention_heads": 32,
        "ffn_dim": 10240, "vocab_size": 50272, "max_position_embeddings": 2048, "torch_dtype": "float16",
    },
    "gemma-3-27b": {
        "model_type": "gemma3",
        "text_config": {
            "model_type": "gemma3_text", "head_dim": 128, "hidden_size": 5376, "intermediate_size": 21504,
            "num_attention_heads": 32, "num_hidden_layers": 62, "num_key_value_heads": 16, "sliding_window": 1024,
        },
        "vision_config": {
            "model_type": "siglip_vision_model", "hidden_size": 1152, "intermediate_size": 4304,
            "num_attention_heads": 16, "num_hidden_layers": 27, "image_size": 896, "patch_size": 14,
        },
    },
    "llava-1.6-7b": {
        "model_type": "llava_next", "text_config": _MISTRAL_7B | {"vocab_size": 32064},
        "vision_config": {
            "model_type": "clip_vision_model", "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16,
            "intermediate_size": 4096, "image_size": 336, "patch_size": 14,
        },
    },
    "mistral-7b-gptq": _MISTRAL_7B | {
        "quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": True},
    },
    "glm-4-9b": {
        "model_type": "chatglm", "hidden_size": 4096, "num_layers": 40, "num_attention_heads": 32,
        "multi_query_attention": True, "multi_query_group_num": 2, "ffn_hidden_size": 13696, "kv_channels": 128,
        "padded_vocab_size": 151552, "seq_length": 131072, "add_qkv_bias": True, "tie_word_embeddings": False,
    },
    "gemma-3-1b": {
        "model_type": "gemma3_text", "hidden_size": 1152, "num_hidden_layers": 26, "num_attention_heads": 4,
        "num_key_value_heads": 1, "head_dim": 256, "intermediate_size": 6912, "vocab_size": 262144,
        "sliding_window": 512, "sliding_window_pattern": 6, "max_position_embeddings": 32768,
    },
    "qwen3-vl-8b": {
        "model_type": "qwen3_vl", "tie_word_embeddings": False,
        "text_config": _QWEN3_8B | {
            "max_position_embeddings": 262144, "rope_scaling": {"mrope_section": [24, 20, 20]},
        },
        "vision_config": _QWEN3_VISION | {"model_type": "qwen3_vl", "out_hidden_size": 4096},
    },
    "ministral-3-14b": {
        "model_type": "ministral3", "hidden_size": 5120, "num_hidden_layers": 40, "num_attention_heads": 32,
        "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 16384, "vocab_size": 131072,
        "max_position_embeddings": 262144, "tie_word_embeddings": False,
    },
    "glm-4.7": {
        "model_type": "glm4_moe", "hidden_size": 5120, "num_hidden_layers": 92, "num_attention_heads": 96,
        "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 12288, "moe_intermediate_size": 1536,
        "n_routed_experts": 160, "n_shared_experts": 1, "num_experts_per_tok": 8, "first_k_dense_replace": 3,
        "vocab_size": 151552, "max_position_embeddings": 202752, "partial_rotary_factor": 0.5, "attention_bias": True,
        "tie_word_embeddings": False,
    },
    "exaone-4-32b-fp8": {
        "model_type": "exaone4", "hidden_size": 5120, "num_hidden_layers": 64, "num_attention_heads": 40,
        "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 27392, "vocab_size": 102400,
        "max_position_embeddings": 131072, "sliding_window": 4096, "tie_word_embeddings": False,
        "layer_types": (["sliding_attention"] * 3 + ["full_attention"]) * 16,
        "quantization_config": {"quant_method": "fp8"},
    },
    "granite-3.3-2b": {
        "model_type": "granite", "hidden_size": 2048, "num_hidden_layers": 40, "num_attention_heads": 32,
        "num_key_value_heads": 8, "intermediate_size": 8192, "vocab_size": 49159, "max_position_embeddings": 131072,
        "tie_word_embeddings": True,
    },
}  # fmt: skip
