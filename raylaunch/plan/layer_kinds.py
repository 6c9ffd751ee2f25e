"""What each layer of a model keeps of past tokens: keys and values, a latent vector, a window, or a state."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal

from raylaunch.plan.fields import Fields

Kind = Literal["full", "sliding", "chunked", "mla", "mamba1", "mamba2", "gdn", "conv", "none"]

_INDEX_SCALE_BYTES = 4
"""Beside a key of the indexer in fp8 (0.32: DeepseekV32IndexerCache)."""
_WINDOW_EVERY: Mapping[str, int] = {
    "gemma2": 2,
    "gpt_oss": 2,
    "gemma3": 6,
    "gemma3_text": 6,
    "gemma3n_text": 5,
    "cohere2": 4,
}
"""Families of which every so-manieth layer has full attention, where config.json does not say."""


@dataclass(frozen=True, slots=True)
class Mixer:
    """A layer's attention or state space part."""

    kind: Kind
    window: int = 0
    """Tokens that sliding or chunked attention sees."""
    head_size: int = 0
    """Elements of a key; of MLA of the latent vector with its rope part."""
    shapes: tuple[tuple[tuple[int, ...], int], ...] = ()
    """States of one request: dimensions, of which TP divides the first, and bytes of an element."""
    inner: int = 0
    groups: int = 0
    state: int = 0
    state_heads: int = 0
    has_attention: bool = False
    """Attention beside the state, in one layer (Falcon-H1)."""
    beside_bytes: int = 0
    """Of one token, on every rank: what DeepSeek 3.2's indexer keeps."""

    @property
    def is_state(self) -> bool:
        """Whether it keeps one state per request, not something per token."""
        return bool(self.shapes)

    def measure_state(self, tp: int) -> int:
        """Bytes of one request's state on a rank."""
        return sum(prod((-(-dimensions[0] // tp), *dimensions[1:])) * size for dimensions, size in self.shapes)

    def measure_token(self, tp: int, kv_heads: int, kv_bytes: float) -> float:
        """Bytes of one token on a rank; 0 for a state.

        MLA's vector is on every rank; KV heads are divided, and replicated where TP exceeds their number.
        """
        if self.kind == "mla":
            return self.head_size * kv_bytes + self.beside_bytes
        if self.is_state and not self.has_attention:
            return 0.0
        return 0.0 if self.kind == "none" else 2 * max(1, kv_heads // tp) * self.head_size * kv_bytes


def find_mixers(fields: Fields, count: int) -> list[Mixer]:
    """The mixer of each layer, from whichever fields the model's family uses."""
    if fields.is_mla:
        latent = fields.size("kv_lora_rank") + fields.size("qk_rope_head_dim")
        index = fields.size("index_head_dim")
        mla = Mixer("mla", head_size=latent, beside_bytes=index + _INDEX_SCALE_BYTES if index else 0)
        return [mla] * count
    full = Mixer("full", head_size=fields.head_size)
    window = fields.size("sliding_window", "sliding_window_size")
    sliding = Mixer("sliding", window=window, head_size=fields.head_size) if window else full
    chunk = fields.size("attention_chunk_size")
    chunked = Mixer("chunked", window=chunk, head_size=fields.head_size) if chunk else full
    kinds = {"full_attention": full, "attention": full, "sliding_attention": sliding, "chunked_attention": chunked}
    kinds |= {"*": full, "-": Mixer("none"), "E": Mixer("none")}
    if fields.size("linear_num_value_heads"):
        kinds["linear_attention"] = _make_gdn(fields)
    if kernel := fields.size("conv_L_cache"):
        width = fields.size("conv_dim") or fields.need("hidden_size")
        kinds["conv"] = Mixer("conv", shapes=(((width, kernel - 1), 2),))
    if fields.size("mamba_d_state", "ssm_state_size", "state_size", "mamba_state_dim"):
        kinds["mamba"] = kinds["linear_attention"] = kinds["M"] = kinds["m"] = kinds["hybrid"] = _make_mamba(fields)
    return [kinds.get(name, full) for name in _name_layers(fields, count, has_window=bool(window))]


def _name_layers(fields: Fields, count: int, *, has_window: bool) -> Sequence[str]:
    """A kind's name for each layer."""
    for key in ("layer_types", "layers_block_type"):
        if len(names := fields.names(key)) >= count:
            return names[:count]
    pattern = fields.get("hybrid_override_pattern")
    if isinstance(pattern, str):
        return pattern[:count]
    family = fields.get("model_type")
    if family == "falcon_h1":
        return ["hybrid"] * count
    if family in ("mamba", "mamba2", "falcon_mamba"):
        return ["mamba"] * count
    if period := fields.size("attn_layer_period"):
        offset = fields.size("attn_layer_offset")
        return ["attention" if at % period == offset else "mamba" for at in range(count)]
    if isinstance(indices := fields.get("attn_layer_indices"), list):
        return ["attention" if at in indices else "mamba" for at in range(count)]
    if isinstance(indices := fields.get("full_attn_idxs"), list):
        return ["full_attention" if at in indices else "conv" for at in range(count)]
    if fields.is_llama4 and fields.size("attention_chunk_size"):  # layers without rope attend to everything
        every = fields.size("no_rope_layer_interval") or 4
        return ["full_attention" if (at + 1) % every == 0 else "chunked_attention" for at in range(count)]
    if every := fields.size("full_attention_interval"):
        return ["full_attention" if (at + 1) % every == 0 else "linear_attention" for at in range(count)]
    if not has_window or not fields.flag("use_sliding_window", default=not str(family).startswith("qwen")):
        return ["full_attention"] * count
    if every := fields.size("sliding_window_pattern", "_sliding_window_pattern") or _WINDOW_EVERY.get(str(family), 0):
        return ["full_attention" if (at + 1) % every == 0 else "sliding_attention" for at in range(count)]
    first = fields.size("max_window_layers") if str(family).startswith("qwen2") else 0
    return ["full_attention" if at < first else "sliding_attention" for at in range(count)]


def _make_gdn(fields: Fields) -> Mixer:
    """Gated delta net (Qwen3-Next and later); vLLM's MambaStateShapeCalculator.gated_delta_net_state_shape."""
    keys, values = fields.need("linear_num_key_heads"), fields.need("linear_num_value_heads")
    key_size, value_size = fields.need("linear_key_head_dim"), fields.need("linear_value_head_dim")
    kernel = fields.size("linear_conv_kernel_dim") or 4
    state_bytes = 4 if fields.get("mamba_ssm_dtype") == "float32" else 2
    convolution = ((2 * keys * key_size + values * value_size, kernel - 1), 2)
    return Mixer("gdn", shapes=(convolution, ((values, value_size, key_size), state_bytes)))


def _make_mamba(fields: Fields) -> Mixer:
    """Mamba 1 or 2; vLLM's mamba1_state_shape and mamba2_state_shape."""
    state = fields.size("mamba_d_state", "ssm_state_size", "state_size", "mamba_state_dim")
    hidden = fields.need("hidden_size", "d_model")
    heads = fields.size("mamba_n_heads", "mamba_num_heads", "num_heads")
    size = fields.size("mamba_d_head", "mamba_head_dim", "head_dim")
    kernel = fields.size("mamba_d_conv", "conv_kernel", "mamba_conv_kernel") or 4
    default = "float32" if fields.get("model_type") == "nemotron_h" else ""  # 0.32: NemotronHForCausalLMConfig
    state_bytes = 4 if (fields.get("mamba_ssm_cache_dtype", "mamba_ssm_dtype") or default) == "float32" else 2
    both = fields.get("model_type") == "falcon_h1"
    if not heads:
        inner = fields.size("mamba_d_inner", "intermediate_size") if fields.get("model_type") == "mamba" else 0
        inner = inner or hidden * (fields.size("mamba_expand", "expand") or 2)
        shapes = (((inner, kernel - 1), 2), ((inner, state), state_bytes))
        return Mixer("mamba1", shapes=shapes, inner=inner, state=state, has_attention=both)
    inner = fields.size("mamba_d_ssm") or heads * size
    groups = fields.size("mamba_n_groups", "n_groups", "mamba_num_groups") or 1
    shapes2 = (((inner + 2 * groups * state, kernel - 1), 2), ((heads, size, state), state_bytes))
    return Mixer(
        "mamba2", head_size=fields.head_size, shapes=shapes2, inner=inner, groups=groups, state=state,
        state_heads=heads, has_attention=both,
    )  # fmt: skip
