"""What quantization makes of a model's matrices: bytes per element, groups, padding."""

import fnmatch
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from pydantic import JsonValue

Role = Literal["attention", "mlp", "shared", "experts"]
_MODULES: Mapping[Role, tuple[str, ...]] = {
    "attention": ("self_attn.q_proj", "self_attn.o_proj", "self_attn.qkv_proj", "self_attn.kv_b_proj"),
    "mlp": ("mlp.gate_proj", "mlp.down_proj", "feed_forward.gate_proj"),
    "shared": ("mlp.shared_experts.gate_proj", "mlp.shared_expert.gate_proj", "feed_forward.shared_expert.gate_proj"),
    "experts": ("mlp.experts.0.gate_proj", "feed_forward.experts.gate_up_proj", "block_sparse_moe.experts.0.w1"),
}
"""Modules of a layer that stand for its parts, by the names that model families give them."""
_LISTS = ("ignore", "modules_to_not_convert", "ignored_layers", "exclude_modules", "llm_int8_skip_modules")
"""What the methods call their list of modules that are not quantized."""
_NF4 = 0.5 + 4 / 64
"""bitsandbytes: a float32 scale for 64 elements; scales that are quantized too vLLM unpacks (0.32: dequantize_dq)."""
_OTHER_TOWERS = ("visual", "vision", "audio", "multi_modal", "mm_")


@dataclass(frozen=True, slots=True)
class Quantization:
    """How the linear layers and experts are stored."""

    method: str = ""
    """"" is none."""
    linear_bytes: float = 2.0
    """Per element, scales included."""
    expert_bytes: float = 2.0
    group: int = 0
    """Elements of the inner dimension that share a scale and cannot be divided over ranks; 0 is no limit."""
    block: int = 0
    """Of FP8 by blocks: rows and columns that share a scale; 0 without."""
    is_online: bool = False
    """The checkpoint has 16 bit, vLLM quantizes while it loads."""
    skipped: tuple[str, ...] = ()
    """Modules that are not quantized: names, parts of names, globs, or "re:" and an expression."""
    kv_dtype: str = ""
    """Of the KV cache, where the checkpoint says so."""

    @property
    def is_quantized(self) -> bool:
        """Whether anything is."""
        return bool(self.method)

    def list_skipped(self, layers: int) -> list[frozenset[Role]]:
        """The parts of each layer that are not quantized."""
        known = [name for name in self.skipped if not any(word in name for word in _OTHER_TOWERS)]
        plain = {re.sub(r"^.*?(?=layers\.)", "", name) for name in known if not _is_pattern(name)}
        patterns = [re.compile(_to_expression(name)) for name in known if _is_pattern(name)]
        return [
            frozenset(
                role
                for role, modules in _MODULES.items()
                if any(_is_skipped(f"layers.{at}.{module}", plain, patterns) for module in modules)
            )
            for at in range(layers)
        ]


def _is_pattern(name: str) -> bool:
    return name.startswith("re:") or "*" in name


def _to_expression(name: str) -> str:
    if not name.startswith("re:"):
        return fnmatch.translate(name + "*")
    try:
        re.compile(name[3:])
    except re.error:
        return "(?!)"
    return name[3:]


def _is_skipped(module: str, plain: set[str], patterns: Iterable[re.Pattern[str]]) -> bool:
    words = module.split(".")
    spans = (".".join(words[a:b]) for a in range(len(words)) for b in range(a + 1, len(words) + 1))
    if plain and any(span in plain for span in spans):
        return True
    names = (module, f"model.{module}", f"language_model.model.{module}", f"model.language_model.{module}")
    return any(pattern.match(name) for pattern in patterns for name in names)


def read_quantization(config: Mapping[str, JsonValue], asked: str | None = None) -> Quantization:
    """The quantization of a checkpoint (quantization_config of its config.json), or the one that the launch asks for.

    Args:
        asked: engine.quantization.
    """
    inner = config.get("text_config")
    block = config.get("quantization_config") or (isinstance(inner, Mapping) and inner.get("quantization_config"))
    if isinstance(block, Mapping):
        named = next((value for name in _LISTS if isinstance(value := block.get(name), list)), [])
        return replace(
            _read_method(block), skipped=tuple(str(entry) for entry in named), kv_dtype=_read_kv_dtype(block)
        )
    if asked in ("fp8", "int8"):
        return Quantization(asked, 1.0, 1.0, is_online=True)
    return Quantization("bitsandbytes", _NF4, _NF4, is_online=True) if asked == "bitsandbytes" else Quantization()


def _read_kv_dtype(block: Mapping[str, JsonValue]) -> str:
    """vLLM's own reading (0.32: get_kv_cache_quant_algo_string, CompressedTensorsConfig.kv_cache_scheme)."""
    scheme, algorithm = block.get("kv_cache_scheme"), block.get("kv_cache_quant_algo")
    if isinstance(scheme, Mapping):
        return {8: "fp8", 4: "nvfp4"}.get(_read_int(scheme.get("num_bits")), "")
    return algorithm.lower() if isinstance(algorithm, str) and algorithm.lower() in ("fp8", "nvfp4") else ""


def _read_method(block: Mapping[str, JsonValue]) -> Quantization:
    method = str(block.get("quant_method", "")).lower()
    bits = _read_int(block.get("bits"), block.get("w_bit"))
    group = _read_int(block.get("group_size"), block.get("q_group_size"))
    if method in ("awq", "awq_marlin"):
        return _pack(method, bits or 4, group or 128, has_zeros=True)
    if method in ("gptq", "gptq_marlin", "auto-round"):
        return _pack(method, bits or 4, group or 128, has_zeros=block.get("sym") is False)
    if method == "mxfp4":
        return Quantization(method, 2.0, 0.5 + 1 / 32)
    if method == "fp8":
        sizes = block.get("weight_block_size")
        edge = _read_int(*sizes) if isinstance(sizes, list) else 0
        each = 1.0 + (4 / edge**2 if edge else 0.0)
        return Quantization(method, each, each, block=edge)
    if method in ("bitsandbytes", "bitsandbytes-4bit"):
        size = 1.0 if block.get("load_in_8bit") else _NF4
        return Quantization(method, size, size)
    if method == "compressed-tensors":
        return _read_compressed(block)
    if method in ("modelopt", "modelopt_fp4", "nvfp4"):
        is_fp4 = "FP4" in str(block.get("quant_algo", "")).upper() or "fp4" in method
        size = 0.5 + 1 / 16 if is_fp4 else 1.0
        return Quantization(method, size, size)
    return Quantization(method, 1.0, 1.0)


def _read_int(*values: JsonValue) -> int:
    return next((value for value in values if isinstance(value, int) and not isinstance(value, bool)), 0)


def _pack(method: str, bits: int, group: int, *, has_zeros: bool) -> Quantization:
    """Packed integers with a 16-bit scale, and a zero point where there is one, for each group."""
    size = bits / 8 + ((2 + (bits / 8 if has_zeros else 0)) / group if group > 0 else 0)
    return Quantization(method, size, size, max(0, group))


def _read_compressed(block: Mapping[str, JsonValue]) -> Quantization:
    """compressed-tensors: the weights of the first group of layers, and of the one that names experts."""
    groups = block.get("config_groups")
    listed = [group for group in groups.values() if isinstance(group, Mapping)] if isinstance(groups, Mapping) else []
    found = [_read_weights(group.get("weights")) for group in listed]
    if not found:
        return Quantization("compressed-tensors", 1.0, 1.0)
    of_experts = next((one for one, group in zip(found, listed, strict=True) if "expert" in str(group)), found[0])
    rest = next((one for one, group in zip(found, listed, strict=True) if "expert" not in str(group)), found[0])
    return replace(rest, expert_bytes=of_experts.expert_bytes)


def _read_weights(weights: JsonValue) -> Quantization:
    if not isinstance(weights, Mapping):
        return Quantization("compressed-tensors", 1.0, 1.0)
    bits, group = _read_int(weights.get("num_bits")) or 8, _read_int(weights.get("group_size"))
    if weights.get("type") == "float" and bits == 4:
        scale = 1 / (group or 16)
        return Quantization("compressed-tensors", 0.5 + scale, 0.5 + scale)
    packed = _pack("compressed-tensors", bits, group, has_zeros=weights.get("symmetric") is False)
    return packed if bits < 8 else Quantization("compressed-tensors", packed.linear_bytes, packed.expert_bytes)
