"""A model's shape, from its config.json: what each layer stores, and what it keeps of a token."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pydantic import JsonValue

from raylaunch.base.errors import WeightsError
from raylaunch.plan.fields import Fields
from raylaunch.plan.layer_kinds import Mixer, find_mixers
from raylaunch.plan.quantization import Quantization, read_quantization

_TIED = ("gemma", "gemma2", "gemma3", "gemma3n", "gpt2", "bloom", "opt", "cohere", "cohere2", "mamba", "mamba2")
"""Families whose configuration class ties the embeddings unless config.json says otherwise."""

Split = Literal["rank", "kv", "all"]
"""How TP divides a matrix: over ranks, over KV heads (replicated beyond their number), or not at all."""


@dataclass(frozen=True, slots=True)
class Matrix:
    """Weights of a layer: how many elements, how TP divides them, and what quantization does to them."""

    elements: int
    split: Split = "rank"
    part: Literal["linear", "expert", "plain"] = "linear"
    """"plain" is never quantized."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One decoder layer."""

    mixer: Mixer
    matrices: tuple[Matrix, ...]


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What a plan needs of a model."""

    architecture: str
    hidden: int
    heads: int
    kv_heads: int
    vocab: int
    is_tied: bool
    """One matrix is input embedding and output head."""
    max_len: int
    dtype: str
    layers: tuple[Layer, ...]
    widest: int
    """Elements per token of the widest intermediate result of a layer that TP splits."""
    widest_dense: int
    """Inner width of a dense feed-forward layer; 0 where all layers have experts."""
    widest_expert: int
    """Inner width of an expert; 0 without experts."""
    experts_per_token: int
    quantization: Quantization
    rotary: int
    """Elements of the table of rotary embeddings, which every rank keeps."""
    extra: int
    """Elements outside the decoder that every rank of stage 0 stores (a vision tower), TP not regarded."""

    @property
    def is_moe(self) -> bool:
        """Whether it has experts."""
        return self.experts_per_token > 0

    @property
    def is_mla(self) -> bool:
        """Whether attention keeps one latent vector per token."""
        return any(layer.mixer.kind == "mla" for layer in self.layers)


def read_shape(config: Mapping[str, JsonValue], quantization: str | None = None) -> ModelShape:
    """The shape in a config.json, of a multimodal model its text_config.

    Args:
        quantization: engine.quantization, where the launch sets it: it applies to a checkpoint of 16 bit.

    Raises:
        WeightsError: a size that the arithmetic needs is missing.
    """
    fields = Fields(config)
    hidden, vocab, heads = fields.need("hidden_size", "n_embd", "d_model"), fields.need("vocab_size"), fields.heads
    count = fields.need("num_hidden_layers", "n_layer", "num_layers", "n_layers")
    mixers = find_mixers(fields, count)
    architectures = config.get("architectures")
    layers = tuple(
        Layer(mixer, (*_mix(fields, mixer, hidden), *_feed(fields, at, hidden), Matrix(2 * hidden, "all", "plain")))
        for at, mixer in enumerate(mixers)
    )
    expert = fields.expert_width if fields.experts else 0
    return ModelShape(
        architecture=str(architectures[0]) if isinstance(architectures, list) and architectures else "",
        hidden=hidden,
        heads=heads,
        kv_heads=fields.kv_heads,
        vocab=-(-vocab // 64) * 64,
        is_tied=fields.flag("tie_word_embeddings", default=str(fields.get("model_type")).split("_")[0] in _TIED),
        max_len=fields.size("max_position_embeddings", "n_positions", "max_seq_len", "model_max_length") or 2048,
        dtype=str(fields.get("torch_dtype") or fields.get("dtype") or "bfloat16"),
        layers=layers,
        widest=max(fields.intermediate, expert, heads * fields.head_size),
        widest_dense=fields.intermediate if any(not fields.is_moe_layer(at) for at in range(count)) else 0,
        widest_expert=expert,
        experts_per_token=fields.size("num_experts_per_tok", "experts_per_token", "moe_topk") if fields.experts else 0,
        quantization=read_quantization(config, quantization),
        rotary=_count_rotary(fields),
        extra=_count_vision(config),
    )


def _mix(fields: Fields, mixer: Mixer, hidden: int) -> list[Matrix]:
    """The matrices of a layer's attention or state space part."""
    heads, kv_heads, size = fields.heads, fields.kv_heads, fields.head_size
    bias = fields.flag("attention_bias", default=False)
    attention = [
        Matrix(hidden * heads * size * (2 if fields.has_gated_attention else 1)),
        Matrix(2 * hidden * kv_heads * mixer.head_size, "kv"),
        Matrix(heads * size * hidden),
        *([Matrix(heads * size + 2 * kv_heads * size + hidden, "rank", "plain")] if bias else []),
    ]
    if mixer.kind == "mla":
        rank, latent, rope = fields.size("q_lora_rank"), fields.need("kv_lora_rank"), fields.need("qk_rope_head_dim")
        nope, value = fields.need("qk_nope_head_dim"), fields.need("v_head_dim")
        query = heads * (nope + rope)
        up = latent * heads * (nope + value)
        # Of a quantized kv_b_proj vLLM keeps a 16-bit copy for decode (0.32: MLAAttention's W_UV and W_UK_T).
        copies = [Matrix(up, "rank", "plain")] if read_quantization(fields.top).is_quantized else []
        queries = [Matrix(hidden * rank, "all"), Matrix(rank * query)] if rank else [Matrix(hidden * query)]
        return [*queries, Matrix(hidden * (latent + rope), "all"), Matrix(up), *copies, Matrix(heads * value * hidden)]
    if mixer.kind == "gdn":
        keys = fields.need("linear_num_key_heads") * fields.need("linear_key_head_dim")
        values = fields.need("linear_num_value_heads") * fields.need("linear_value_head_dim")
        into = Matrix(hidden * (2 * keys + 2 * values + 2 * fields.need("linear_num_value_heads")))
        return [into, Matrix(values * hidden), Matrix((2 * keys + values) * 4, "rank", "plain")]
    if mixer.kind in ("mamba1", "mamba2"):
        mamba = _mix_mamba(mixer, hidden)
        return [*mamba, *attention] if mixer.has_attention else mamba
    return [] if mixer.kind == "none" else attention


def _mix_mamba(mixer: Mixer, hidden: int) -> list[Matrix]:
    inner, step = mixer.inner, hidden // 16
    if mixer.kind == "mamba1":
        low_rank = Matrix(inner * (step + 2 * mixer.state) + inner * step)
        return [Matrix(2 * hidden * inner), Matrix(inner * hidden), low_rank]
    return [Matrix(hidden * (2 * inner + 2 * mixer.groups * mixer.state + mixer.state_heads)), Matrix(inner * hidden)]


def _feed(fields: Fields, at: int, hidden: int) -> list[Matrix]:
    """The matrices of a layer's feed-forward part: dense, or experts with a router and shared experts."""
    if not fields.has_feed(at):
        return []
    matrices = 2 if fields.is_ungated else 3
    if not fields.is_moe_layer(at):
        return [Matrix(matrices * hidden * fields.intermediate)]
    expert = fields.expert_width
    shared = fields.size("shared_expert_intermediate_size", "shared_intermediate_size")
    shared = shared or expert * (fields.size("n_shared_experts", "num_shared_experts") or fields.is_llama4)
    return [
        Matrix(hidden * fields.experts, "all", "plain"),
        Matrix(matrices * hidden * expert * fields.experts, "rank", "expert"),
        *([Matrix(matrices * hidden * shared)] if shared else []),
    ]


def _count_rotary(fields: Fields) -> int:
    """vLLM's cos_sin_cache: one row for each position that the model was made for."""
    size = fields.size("qk_rope_head_dim") or fields.head_size
    share = fields.get("partial_rotary_factor")
    return int(fields.size("max_position_embeddings") * size * (share if isinstance(share, float) else 1.0))


def _count_vision(config: Mapping[str, JsonValue]) -> int:
    """Elements of a vision tower, from its config; 0 without one."""
    vision = config.get("vision_config")
    if not isinstance(vision, Mapping):
        return 0
    tower = Fields({str(key): value for key, value in vision.items()})
    hidden, layers = tower.size("hidden_size", "embed_dim", "width"), tower.size("num_hidden_layers", "depth", "layers")
    inner = tower.size("intermediate_size") or 4 * hidden
    return layers * (4 * hidden * hidden + 2 * hidden * inner)


def need_config(config: object, where: str) -> Mapping[str, JsonValue]:
    """`config` as the object that a config.json must be.

    Raises:
        WeightsError: it is none.
    """
    if not isinstance(config, dict):
        raise WeightsError(f"{where} is not a JSON object, so this is not a model's config.json")
    return config
