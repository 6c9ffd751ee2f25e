"""Fields of a config.json, by the names that model families give them."""

from collections.abc import Mapping

from pydantic import JsonValue

from raylaunch.base.errors import WeightsError

_UNGATED = (
    *("gpt2", "gpt_neox", "gptj", "opt", "phi", "falcon", "gpt_bigcode", "starcoder2", "nemotron", "nemotron_h"),
    *("bloom", "mpt", "arcee", "apertus"),
)
_STATES_ALONE = ("mamba", "mamba2", "falcon_mamba")
_LLAMA: Mapping[str, int] = {
    "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "intermediate_size": 11008,
    "vocab_size": 32000, "max_position_embeddings": 2048,
}  # fmt: skip
_DEFAULTS: Mapping[str, Mapping[str, int]] = {
    "llama": _LLAMA,
    "mistral": {
        **_LLAMA, "num_key_value_heads": 8, "intermediate_size": 14336, "max_position_embeddings": 131072,
    },
    "gemma": {"head_dim": 256, "max_position_embeddings": 8192, "vocab_size": 256000},
    "gemma3_text": {
        "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "vocab_size": 262208,
        "max_position_embeddings": 131072, "sliding_window": 4096,
    },
}  # fmt: skip
"""What transformers' configuration classes fill in (5.x), where published files of wrappers leave it out."""


class Fields:
    """A model's config.json, or the text_config in it."""

    def __init__(self, config: Mapping[str, JsonValue]) -> None:
        inner = config.get("text_config") or config.get("llm_config") or config.get("language_config")
        self.top = config
        text: Mapping[str, JsonValue] = inner if isinstance(inner, Mapping) else {}
        parts = [block for name in ("attn_config", "ffn_config") if isinstance(block := config.get(name), Mapping)]
        family = str(text.get("model_type") or config.get("model_type"))
        self._blocks = (text, config, *parts, dict(_DEFAULTS.get(family, {})))

    def get(self, *names: str) -> JsonValue:
        """The first of these fields that is there, of the text part before the complete config; None without one."""
        for block in self._blocks:
            for name in names:
                if block.get(name) is not None:
                    return block[name]
        return None

    def size(self, *names: str) -> int:
        """A size, 0 where it is missing or no positive whole number; of a list (one a layer) the largest."""
        value = self.get(*names)
        if isinstance(value, list):
            sizes = [entry for entry in value if isinstance(entry, int) and not isinstance(entry, bool)]
            value = max(sizes, default=0)
        return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0

    def need(self, *names: str) -> int:
        """A size that the arithmetic cannot do without.

        Raises:
            WeightsError: it is missing.
        """
        if not (value := self.size(*names)):
            raise WeightsError(
                f"config.json has no usable {names[0]}, so the model's size cannot be computed",
                fix="name a folder or repo of a decoder model in Hugging Face's format",
            )
        return value

    def flag(self, name: str, *, default: bool) -> bool:
        """A field that is true or false."""
        value = self.get(name)
        return value if isinstance(value, bool) else default

    def names(self, name: str) -> list[str]:
        """A list of strings, one a layer; empty where it is missing."""
        value = self.get(name)
        return [str(entry) for entry in value] if isinstance(value, list) else []

    @property
    def heads(self) -> int:
        """Attention heads; of a model of states alone what TP divides instead."""
        if self.get("model_type") in _STATES_ALONE:
            return self.size("num_heads") or self.need("hidden_size", "d_model")
        return self.need("num_attention_heads", "n_head", "n_heads")

    @property
    def kv_heads(self) -> int:
        """Heads that keep keys and values."""
        if self.flag("multi_query", default=False) and not self.size("num_kv_heads"):
            return 1
        names = ("num_key_value_heads", "num_kv_heads", "n_head_kv", "multi_query_group_num", "kv_n_heads")
        return self.size(*names, "num_attention_groups") or self.heads

    @property
    def head_size(self) -> int:
        """Elements of a query head, and of what is kept of a key."""
        if self.size("kv_lora_rank"):
            return self.need("qk_nope_head_dim") + self.need("qk_rope_head_dim")
        return (
            self.size("head_dim", "attention_head_dim", "kv_channels")
            or self.need("hidden_size", "n_embd", "d_model") // self.heads
        )

    @property
    def value_size(self) -> int:
        """Elements of a value head of latent attention."""
        return self.size("v_head_dim") or self.need("hidden_size") // self.heads

    @property
    def intermediate(self) -> int:
        """Width of a dense feed-forward layer."""
        known = self.size("intermediate_size_mlp", "intermediate_size", "n_inner", "ffn_hidden_size", "ffn_dim")
        return known or 4 * self.need("hidden_size", "n_embd", "d_model")

    @property
    def is_ungated(self) -> bool:
        """Whether a feed-forward layer has two matrices, not three."""
        return self.get("model_type") in _UNGATED

    @property
    def has_gated_attention(self) -> bool:
        """Whether the query projection has a gate beside it, of the same size."""
        return self.flag("attn_output_gate", default=str(self.get("model_type")).startswith(("qwen3_next", "qwen3_5")))

    @property
    def experts(self) -> int:
        """Routed experts of a layer."""
        return self.size("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")

    @property
    def expert_width(self) -> int:
        """Inner width of an expert."""
        return self.size("moe_intermediate_size", "moe_intermediate_dim", "intermediate_size") or self.intermediate

    @property
    def shared_width(self) -> int:
        """Inner width of the experts that every token uses, together; 0 without any."""
        known = self.size("shared_expert_intermediate_size", "shared_intermediate_size")
        names = ("n_shared_experts", "num_shared_experts", "num_shared_expert", "moe_num_shared_experts")
        return known or self.expert_width * (self.size(*names) or self.is_llama4)

    @property
    def experts_per_token(self) -> int:
        """Routed experts that a token is sent to; 0 without experts."""
        names = ("num_experts_per_tok", "num_experts_per_token", "experts_per_token", "moe_topk", "moe_top_k", "moe_k")
        return (self.size(*names) or 1) if self.experts > 1 else 0

    @property
    def is_mla(self) -> bool:
        """Whether vLLM keeps one latent vector of a token (0.32: of MiniCPM3 it keeps keys and values)."""
        return self.size("kv_lora_rank") > 0 and self.get("model_type") != "minicpm3"

    @property
    def is_llama4(self) -> bool:
        """Llama 4 has a shared expert in each layer of experts, which its config.json does not name."""
        return str(self.get("model_type")).startswith("llama4")

    def has_feed(self, at: int) -> bool:
        """Whether layer `at` has a feed-forward part of its own (Nemotron-H has layers of one part each)."""
        pattern = self.get("hybrid_override_pattern")
        if self.get("model_type") in _STATES_ALONE:
            return False
        return not isinstance(pattern, str) or pattern[at : at + 1] in ("-", "E")

    def is_moe_layer(self, at: int) -> bool:
        """Whether layer `at` has experts."""
        pattern = self.get("hybrid_override_pattern")
        if isinstance(pattern, str):
            return pattern[at : at + 1] == "E"
        if self.experts <= 1 or at < self.size("first_k_dense_replace", "moe_layer_start_index", "num_dense_layers"):
            return False
        only = self.get("mlp_only_layers")
        if isinstance(only, list) and at in only:
            return False
        if period := self.size("expert_layer_period"):
            return at % period == self.size("expert_layer_offset")
        chosen = self.get("moe_layer_freq")
        if isinstance(chosen, list):  # 0 or 1 for each layer
            return bool(chosen[at]) if at < len(chosen) else False
        step = self.size("decoder_sparse_step", "interleave_moe_layer_step", "moe_layer_freq") or 1
        return (at + 1) % step == 0
