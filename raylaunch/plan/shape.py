"""A model's shape, from its config.json: what each layer stores, and what it keeps of a token."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from pydantic import JsonValue

from raylaunch.base.errors import WeightsError
from raylaunch.plan.fields import Fields
from raylaunch.plan.layer_kinds import Mixer, find_mixers
from raylaunch.plan.quantization import Quantization, Role, read_quantization
from raylaunch.plan.vision import Tower, measure_tower

_TIED = (
    *("gemma", "gemma2", "gemma3", "gemma3n", "gemma4", "gpt2", "gpt_bigcode", "bloom", "opt", "mpt", "falcon"),
    *("falcon_mamba", "starcoder2", "cohere", "cohere2", "mamba", "mamba2", "lfm2"),
)
"""Families whose configuration class ties the embeddings unless config.json says otherwise."""

_MOST_LAYERS = 10_000
"""More is no model, and would take the memory of this machine."""

Split = Literal["rank", "kv", "groups", "all"]
"""How TP divides a matrix: over ranks, over KV heads or state groups (replicated beyond their number), or not."""


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
    """Inner width of a dense feed-forward layer, as far as it is quantized; 0 where all layers have experts."""
    widest_expert: int
    """Inner width of an expert; 0 without experts."""
    experts_per_token: int
    quantization: Quantization
    rotary: int
    """Elements of the table of rotary embeddings, which every rank keeps."""
    positions: int
    """Elements of a learned table of positions, on each rank of the first stage."""
    tower: Tower

    @property
    def is_moe(self) -> bool:
        """Whether it has experts."""
        return self.experts_per_token > 0

    @property
    def has_states(self) -> bool:
        """Whether layers of linear attention keep a state instead of keys and values."""
        return any(layer.mixer.shapes for layer in self.layers)

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
    hidden, heads = fields.need("hidden_size", "n_embd", "d_model"), fields.heads
    vocab = fields.need("padded_vocab_size", "vocab_size")
    count = fields.need("num_hidden_layers", "n_layer", "num_layers", "n_layers")
    if count > _MOST_LAYERS:
        raise ValueError(f"{count:,} layers")
    mixers = find_mixers(fields, count)
    architectures = config.get("architectures")
    stored = read_quantization(config, quantization)
    left_out = stored.list_skipped(count)
    norms = Matrix(2 * hidden, "all", "plain")
    layers = tuple(
        Layer(mixer, (*_mix(fields, mixer, hidden, stored, skipped), *_feed(fields, at, hidden, skipped), norms))
        for at, (mixer, skipped) in enumerate(zip(mixers, left_out, strict=True))
    )
    expert = fields.expert_width if fields.experts else 0
    return ModelShape(
        architecture=str(architectures[0]) if isinstance(architectures, list) and architectures else "",
        hidden=hidden,
        heads=heads,
        kv_heads=fields.kv_heads,
        vocab=-(-vocab // 64) * 64,
        is_tied=fields.flag(
            "tie_word_embeddings", default=str(fields.get("model_type")).removesuffix("_text") in _TIED
        ),
        max_len=fields.size("max_position_embeddings", "n_positions", "max_seq_len", "model_max_length", "seq_length")
        or 2048,
        dtype=str(fields.get("torch_dtype") or fields.get("dtype") or "bfloat16"),
        layers=layers,
        widest=max(fields.intermediate, expert, heads * fields.head_size),
        widest_dense=fields.intermediate if any(_has_dense(fields, at, left_out[at]) for at in range(count)) else 0,
        widest_expert=expert,
        experts_per_token=fields.experts_per_token,
        quantization=stored,
        rotary=_count_rotary(fields),
        positions=_count_positions(fields, hidden),
        tower=measure_tower(config, hidden),
    )


def _has_dense(fields: Fields, at: int, skipped: frozenset[Role]) -> bool:
    return not fields.is_moe_layer(at) and "mlp" not in skipped


def _mix(fields: Fields, mixer: Mixer, hidden: int, stored: Quantization, skipped: frozenset[Role]) -> list[Matrix]:
    """The matrices of a layer's attention or state space part."""
    matrices = _list_mixing(fields, mixer, hidden)
    if mixer.kind == "mla" and stored.is_quantized and "attention" not in skipped:
        # Of a quantized kv_b_proj vLLM keeps a 16-bit copy for decode (0.32: MLAAttention's W_UV and W_UK_T).
        size = fields.need("qk_nope_head_dim") + fields.value_size
        matrices.append(Matrix(fields.need("kv_lora_rank") * fields.heads * size, "rank", "plain"))
    return [_make_plain(matrix) for matrix in matrices] if "attention" in skipped else matrices


def _make_plain(matrix: Matrix) -> Matrix:
    return replace(matrix, part="plain")


def _list_mixing(fields: Fields, mixer: Mixer, hidden: int) -> list[Matrix]:
    heads, kv_heads, size = fields.heads, fields.kv_heads, fields.head_size
    bias = fields.flag("attention_bias", default=False)
    attention = [
        Matrix(hidden * heads * size * (2 if fields.has_gated_attention else 1)),
        Matrix(2 * hidden * kv_heads * mixer.head_size, "kv"),
        Matrix(heads * size * hidden),
        *([Matrix(heads * size + 2 * kv_heads * size + hidden, "rank", "plain")] if bias else []),
    ]
    if fields.size("kv_lora_rank") and mixer.kind in ("mla", "full"):
        rank, latent, rope = fields.size("q_lora_rank"), fields.need("kv_lora_rank"), fields.need("qk_rope_head_dim")
        nope, value = fields.need("qk_nope_head_dim"), fields.value_size
        query = heads * (nope + rope)
        up = latent * heads * (nope + value)
        queries = [Matrix(hidden * rank, "all"), Matrix(rank * query)] if rank else [Matrix(hidden * query)]
        if index := fields.size("index_head_dim"):  # DeepSeek 3.2's indexer, on every rank
            index_heads = fields.need("index_n_heads")
            queries.append(Matrix(rank * index_heads * index + hidden * (index + index_heads), "all"))
        return [*queries, Matrix(hidden * (latent + rope), "all"), Matrix(up), Matrix(heads * value * hidden)]
    if mixer.kind == "gdn":
        keys = fields.need("linear_num_key_heads") * fields.need("linear_key_head_dim")
        values = fields.need("linear_num_value_heads") * fields.need("linear_value_head_dim")
        into = Matrix(hidden * (2 * keys + 2 * values + 2 * fields.need("linear_num_value_heads")))
        return [into, Matrix(values * hidden), Matrix((2 * keys + values) * 4, "rank", "plain")]
    if mixer.kind == "conv":
        return [Matrix(3 * hidden * hidden), Matrix(hidden * hidden), Matrix(hidden * 4, "rank", "plain")]
    if mixer.kind in ("mamba1", "mamba2"):
        mamba = _mix_mamba(mixer, hidden)
        return [*mamba, *attention] if mixer.has_attention else mamba
    return [] if mixer.kind == "none" else attention


def _mix_mamba(mixer: Mixer, hidden: int) -> list[Matrix]:
    inner, step = mixer.inner, hidden // 16
    if mixer.kind == "mamba1":
        low_rank = Matrix(inner * (step + 2 * mixer.state) + inner * step)
        return [Matrix(2 * hidden * inner), Matrix(inner * hidden), low_rank]
    grouped = Matrix(hidden * 2 * mixer.groups * mixer.state, "groups")
    return [Matrix(hidden * (2 * inner + mixer.state_heads)), grouped, Matrix(inner * hidden)]


def _feed(fields: Fields, at: int, hidden: int, skipped: frozenset[Role]) -> list[Matrix]:
    """The matrices of a layer's feed-forward part: dense, or experts with a router and shared experts."""
    if not fields.has_feed(at):
        return []
    matrices = 2 if fields.is_ungated else 3
    if not fields.is_moe_layer(at):
        dense = Matrix(matrices * hidden * fields.intermediate)
        return [_make_plain(dense) if "mlp" in skipped else dense]
    experts = Matrix(matrices * hidden * fields.expert_width * fields.experts, "rank", "expert")
    shared = Matrix(matrices * hidden * fields.shared_width)
    return [
        Matrix(hidden * fields.experts, "all", "plain"),
        _make_plain(experts) if "experts" in skipped else experts,
        _make_plain(shared) if "shared" in skipped else shared,
    ]


def _count_rotary(fields: Fields) -> int:
    """vLLM's cos_sin_cache: one row for each position that the model was made for."""
    size = fields.size("qk_rope_head_dim") or fields.head_size
    found = fields.get("rope_parameters", "rope_scaling")
    rope = found if isinstance(found, Mapping) else {}
    share = fields.get("partial_rotary_factor") or rope.get("partial_rotary_factor")
    tables = 2 if str(fields.get("model_type")).startswith("gemma3") else 1  # of windows and of full attention
    if "mrope_section" in rope:  # rows for positions in time, height and width too (0.32: MRotaryEmbedding)
        tables = 4
    return tables * int(fields.size("max_position_embeddings") * size * (share if isinstance(share, float) else 1.0))


def _count_positions(fields: Fields, hidden: int) -> int:
    rows = {"opt": 2, "gpt2": 0, "gpt_bigcode": 0}.get(str(fields.get("model_type")))
    return 0 if rows is None else (rows + fields.size("max_position_embeddings", "n_positions")) * hidden


def need_config(config: object, where: str) -> Mapping[str, JsonValue]:
    """`config` as the object that a config.json must be.

    Raises:
        WeightsError: it is none.
    """
    if not isinstance(config, dict):
        raise WeightsError(f"{where} is not a JSON object, so this is not a model's config.json")
    return config
