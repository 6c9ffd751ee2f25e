"""Options of a launch that need the real model or real GPUs: a rehearsal leaves them out, and says so."""

from collections.abc import Iterator
from pathlib import Path

from raylaunch.config.launch import LaunchConfig

_ENGINE = frozenset(
    {
        # the real weights, their format and their tokenizer
        *("quantization", "quantization_config", "allow_deprecated_quantization", "load_format", "config_format"),
        *("model_loader_extra_config", "hf_config_path", "hf_overrides", "model_impl", "code_revision"),
        *("safetensors_load_strategy", "tokenizer", "tokenizer_mode", "tokenizer_revision"),
        # other models beside it
        *("speculative_config", "enable_lora", "default_mm_loras", "fully_sharded_loras"),
        # experts, images and sound, which the stand-in has not
        *("enable_expert_parallel", "enable_eplb", "eplb_config", "all2all_backend", "moe_backend"),
        *("expert_placement_strategy", "enable_ep_weight_filter", "enable_dbo", "enable_return_routed_experts"),
        *("limit_mm_per_prompt", "mm_processor_kwargs", "media_io_kwargs", "mm_encoder_tp_mode", "language_model_only"),
        *("mm_encoder_attn_backend", "enable_mm_embeds", "video_pruning_rate"),
        # the memory and the kernels of real GPUs
        *("gpu_memory_utilization", "kv_cache_dtype", "kv_cache_dtype_skip_layers", "num_gpu_blocks_override"),
        *("attention_backend", "attention_config", "kernel_config", "enable_flashinfer_autotune", "block_size"),
        *("mamba_cache_dtype", "mamba_ssm_cache_dtype", "mamba_block_size", "gdn_prefill_backend"),
        *("cpu_offload_gb", "offload_backend", "kv_offloading_size", "kv_offloading_backend", "kv_transfer_config"),
        *("enable_sleep_mode", "decode_context_parallel_size", "weight_transfer_config", "ray_workers_use_nsight"),
    }
)
_REASONING_PARSERS = frozenset({"hf", "mistral", "olmo3", "poolside_v1"})
_TOOL_PARSERS = frozenset({"mistral"})
"""Parsers of vLLM (0.32) that need more of a tokenizer than tokens of given names."""


def list_left_out(config: LaunchConfig) -> tuple[str, ...]:
    """The options of `config` that a rehearsal leaves out, as dotted keys in the order of the file."""
    return tuple(dict.fromkeys(_list_keys(config)))


def _list_keys(config: LaunchConfig) -> Iterator[str]:
    engine, server = config.engine, config.server
    yield from (f"engine.{name}" for name in engine if name in _ENGINE)
    if str(engine.get("generation_config", "auto")) not in ("auto", "vllm"):
        yield "engine.generation_config"
    plugin = engine.get("reasoning_parser_plugin")
    if engine.get("reasoning_parser") in _REASONING_PARSERS or _is_missing(plugin):
        yield from (f"engine.{name}" for name in ("reasoning_parser", "reasoning_parser_plugin") if name in engine)
    plugin = server.get("tool_parser_plugin")
    if server.get("tool_call_parser") in _TOOL_PARSERS or _is_missing(plugin):
        names = ("enable_auto_tool_choice", "tool_call_parser", "tool_parser_plugin")
        yield from (f"server.{name}" for name in names if name in server)
    if "lora_modules" in server:
        yield "server.lora_modules"
    template = server.get("chat_template")
    if isinstance(template, str) and not set(template) & set("{}\n") and _is_missing(template):
        yield "server.chat_template"


def _is_missing(path: object) -> bool:
    """Whether an option names a file that is not on this machine: it may be on the real nodes."""
    return bool(path) and not Path(str(path)).expanduser().exists()
