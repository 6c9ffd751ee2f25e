"""The settings of a launch that decide what fits."""

import os
import re
from dataclasses import dataclass

from raylaunch.base import versions
from raylaunch.config.defaults import GPU_MEMORY_UTILIZATION
from raylaunch.config.launch import LaunchConfig

PARTITION = "VLLM_PP_LAYER_PARTITION"
"""vLLM's variable for the layers of each stage, as 22,20,20,18."""
_UNKNOWN = (
    *("cpu_offload_gb", "offload_backend", "offload_config", "hf_overrides", "speculative_config"),
    *("decode_context_parallel_size", "kv_transfer_config", "kv_offloading_size", "num_gpu_blocks_override"),
    *("additional_config", "model_impl", "runner", "convert", "enable_lora"),
)
_LESS_IMAGES = ("limit_mm_per_prompt", "mm_processor_kwargs", "language_model_only", "skip_mm_profiling")
"""With any of these a vision tower's profile run is smaller, or none."""
_KNOWN_METHODS = (
    "fp8",
    "int8",
    "bitsandbytes",
    "awq",
    "awq_marlin",
    "gptq",
    "gptq_marlin",
    "compressed-tensors",
    "mxfp4",
)
_DTYPES = {"half": "float16", "float": "float32", "auto": ""}
_ELEMENT_BYTES = {"float32": 4.0}


@dataclass(frozen=True, slots=True)
class PlanSettings:
    """Settings of a plan; None is vLLM's default, which may depend on the GPU or the model."""

    max_model_len: int | None = None
    fits_length: bool = False
    """max_model_len -1: vLLM takes the longest that fits."""
    max_num_batched_tokens: int | None = None
    max_num_seqs: int | None = None
    gpu_memory_utilization: float = GPU_MEMORY_UTILIZATION
    dtype: str = ""
    """"" is the checkpoint's own."""
    kv_cache_dtype: str = "auto"
    quantization: str | None = None
    enforce_eager: bool = False
    sees_images: bool = True
    expert_parallel: bool = False
    prefix_caching: bool = True
    kv_cache_memory_bytes: int | None = None
    block_size: int = 16
    tp_across_nodes: bool = False
    named: tuple[int, int] | None = None
    """TP and PP of the launch file."""
    partition: tuple[int, ...] | None = None
    """VLLM_PP_LAYER_PARTITION of this process."""
    is_partial: bool = False
    """The launch has settings that the arithmetic does not know: nothing is refused for its memory."""
    vllm: tuple[int, ...] = ()

    def choose_dtype(self, stored: str) -> str:
        """The dtype that the engine computes in; vLLM runs a float32 checkpoint in 16 bit."""
        plain = stored.removeprefix("torch.")
        return self.dtype or ("bfloat16" if plain == "float32" else plain)

    def choose_kv_dtype(self, dtype: str) -> str:
        """The KV cache's dtype, `dtype` unless the launch names one."""
        return dtype if self.kv_cache_dtype == "auto" else self.kv_cache_dtype


def measure_element(dtype: str) -> float:
    """Bytes of an element of a weight's or KV cache's dtype."""
    if dtype.startswith(("fp8", "int8", "float8")):
        return 1.0
    if dtype.startswith(("nvfp4", "int4")):
        return 0.5625
    return _ELEMENT_BYTES.get(dtype, 2.0)


def read_settings(config: LaunchConfig) -> PlanSettings:
    """The settings of a launch."""
    engine = config.engine
    asked = config.max_model_len
    dtype, quantization = str(engine.get("dtype") or "auto"), engine.get("quantization")
    partition = os.environ.get(PARTITION, "")
    return PlanSettings(
        max_model_len=asked if isinstance(asked, int) and asked > 0 else None,
        fits_length=asked is not None and not _read_int(asked),
        max_num_batched_tokens=_read_int(engine.get("max_num_batched_tokens")),
        max_num_seqs=_read_int(engine.get("max_num_seqs")),
        gpu_memory_utilization=float(engine.get("gpu_memory_utilization") or GPU_MEMORY_UTILIZATION),
        dtype=_DTYPES.get(dtype, dtype),
        kv_cache_dtype=str(engine.get("kv_cache_dtype") or "auto"),
        quantization=quantization,
        enforce_eager=bool(engine.get("enforce_eager")),
        sees_images=not any(engine.get(name) for name in _LESS_IMAGES),
        prefix_caching=engine.get("enable_prefix_caching") is not False,
        expert_parallel=bool(engine.get("enable_expert_parallel")),
        kv_cache_memory_bytes=_read_int(engine.get("kv_cache_memory_bytes")),
        block_size=_read_int(engine.get("block_size")) or 16,
        tp_across_nodes=config.cluster.tp_across_nodes,
        named=(config.tensor_parallel_size, config.pipeline_parallel_size),
        partition=tuple(map(int, partition.split(","))) if re.fullmatch(r"\d+(,\d+)*", partition) else None,
        is_partial=any(engine.get(name) for name in _UNKNOWN) or quantization not in (None, *_KNOWN_METHODS),
        vllm=read_version(),
    )


def read_version(version: str | None = None) -> tuple[int, ...]:
    """A vLLM release as numbers; of the installed one, or of the one in the image."""
    known = version or versions.find_version("vllm") or versions.VLLM
    return tuple(int(part) for part in re.findall(r"\d+", known)[:3])


def _read_int(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
