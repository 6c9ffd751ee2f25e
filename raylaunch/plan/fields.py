"""Fields of a config.json, by the names that model families give them."""

from collections.abc import Mapping

from pydantic import JsonValue

from raylaunch.base.errors import WeightsError

_UNGATED = ("gpt2", "gpt_neox", "opt", "phi", "falcon", "gpt_bigcode", "starcoder2", "nemotron", "nemotron_h", "bloom")


class Fields:
    """A model's config.json, or the text_config in it."""

    def __init__(self, config: Mapping[str, JsonValue]) -> None:
        inner = config.get("text_config") or config.get("llm_config")
        self.top = config
        self._text: Mapping[str, JsonValue] = inner if isinstance(inner, Mapping) else {}

    def get(self, *names: str) -> JsonValue:
        """The first of these fields that is there, of the text part before the complete config; None without one."""
        for block in (self._text, self.top):
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
        if self.get("model_type") in ("mamba", "mamba2"):
            return self.size("num_heads") or self.need("hidden_size", "d_model")
        return self.need("num_attention_heads", "n_head", "n_heads")

    @property
    def kv_heads(self) -> int:
        """Heads that keep keys and values."""
        if self.flag("multi_query", default=False) and not self.size("num_kv_heads"):
            return 1
        return self.size("num_key_value_heads", "num_kv_heads", "n_head_kv") or self.heads

    @property
    def head_size(self) -> int:
        """Elements of a query head."""
        return (
            self.size("head_dim", "attention_head_dim") or self.need("hidden_size", "n_embd", "d_model") // self.heads
        )

    @property
    def intermediate(self) -> int:
        """Width of a dense feed-forward layer."""
        known = self.size("intermediate_size_mlp", "intermediate_size", "n_inner", "ffn_hidden_size")
        return known or 4 * self.need("hidden_size", "n_embd", "d_model")

    @property
    def is_ungated(self) -> bool:
        """Whether a feed-forward layer has two matrices, not three."""
        return self.get("model_type") in _UNGATED

    @property
    def has_gated_attention(self) -> bool:
        """Whether the query projection has a gate beside it, of the same size."""
        return self.flag("attn_output_gate", default=str(self.get("model_type")).startswith("qwen3_next"))

    @property
    def experts(self) -> int:
        """Routed experts of a layer."""
        return self.size("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")

    @property
    def expert_width(self) -> int:
        """Inner width of an expert."""
        return self.size("moe_intermediate_size", "moe_intermediate_dim", "intermediate_size") or self.intermediate

    @property
    def is_llama4(self) -> bool:
        """Llama 4 has a shared expert in each layer of experts, which its config.json does not name."""
        return str(self.get("model_type")).startswith("llama4")

    def has_feed(self, at: int) -> bool:
        """Whether layer `at` has a feed-forward part of its own (Nemotron-H has layers of one part each)."""
        pattern = self.get("hybrid_override_pattern")
        if self.get("model_type") in ("mamba", "mamba2"):
            return False
        return not isinstance(pattern, str) or pattern[at : at + 1] in ("-", "E")

    def is_moe_layer(self, at: int) -> bool:
        """Whether layer `at` has experts."""
        pattern = self.get("hybrid_override_pattern")
        if isinstance(pattern, str):
            return pattern[at : at + 1] == "E"
        if not self.experts or self.experts == 1 or at < self.size("first_k_dense_replace"):
            return False
        only = self.get("mlp_only_layers")
        if isinstance(only, list) and at in only:
            return False
        if period := self.size("expert_layer_period"):
            return at % period == self.size("expert_layer_offset")
        step = self.size("decoder_sparse_step", "interleave_moe_layer_step", "moe_layer_freq") or 1
        return (at + 1) % step == 0
