"""What quantization makes of a model's matrices: bytes per element, groups, padding."""

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import JsonValue


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
    is_online: bool = False
    """The checkpoint has 16 bit, vLLM quantizes while it loads."""

    @property
    def is_quantized(self) -> bool:
        """Whether anything is."""
        return bool(self.method)


def read_quantization(config: Mapping[str, JsonValue], asked: str | None = None) -> Quantization:
    """The quantization of a checkpoint (quantization_config of its config.json), or the one that the launch asks for.

    Args:
        asked: engine.quantization.
    """
    inner = config.get("text_config")
    block = config.get("quantization_config") or (isinstance(inner, Mapping) and inner.get("quantization_config"))
    if not isinstance(block, Mapping):
        if asked in ("fp8", "int8"):
            return Quantization(asked, 1.0, 1.0, is_online=True)
        return Quantization("bitsandbytes", 0.516, 0.516, is_online=True) if asked == "bitsandbytes" else Quantization()
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
        return Quantization(method, 1.0 + 4 / 128**2, 1.0 + 4 / 128**2)
    if method in ("bitsandbytes", "bitsandbytes-4bit"):
        size = 1.0 if block.get("load_in_8bit") else 0.516 if block.get("bnb_4bit_use_double_quant") else 0.5625
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
    """compressed-tensors: the weights of the first group of layers."""
    groups = block.get("config_groups")
    first = next(iter(groups.values()), None) if isinstance(groups, Mapping) else None
    weights = first.get("weights") if isinstance(first, Mapping) else None
    if not isinstance(weights, Mapping):
        return Quantization("compressed-tensors", 1.0, 1.0)
    bits, group = _read_int(weights.get("num_bits")) or 8, _read_int(weights.get("group_size"))
    if weights.get("type") == "float" and bits == 4:
        scale = 1 / (group or 16)
        return Quantization("compressed-tensors", 0.5 + scale, 0.5 + scale)
    packed = _pack("compressed-tensors", bits, group, has_zeros=weights.get("symmetric") is False)
    return packed if bits < 8 else Quantization("compressed-tensors", packed.linear_bytes, packed.expert_bytes)
