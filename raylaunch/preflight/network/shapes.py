"""What a model sends from rank to rank, and what its stages compute: from its config.json."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from raylaunch.config.launch import LaunchConfig

_PREFILL_TOKENS = 2048
"""vLLM's own default of max_num_batched_tokens for its API server (0.32: EngineArgs, cards under 70 GiB). A hop's share
of its stage does not depend on it: both grow with the tokens."""
_DECODE_REQUESTS = 64


@dataclass(frozen=True, slots=True)
class ModelShapes:
    """Sizes that decide what a hop between pipeline stages costs."""

    hidden_size: int
    layers: int
    layer_parameters: int
    """Of one layer, those that one token uses."""
    bytes_per_value: int = 2
    prefill_tokens: int = _PREFILL_TOKENS

    def count_hop_bytes(self, tokens: int) -> int:
        """Hidden states and residual of `tokens` tokens, from one stage to the next."""
        return 2 * tokens * self.hidden_size * self.bytes_per_value

    @property
    def prefill_hop_bytes(self) -> int:
        """Of one prefill chunk."""
        return self.count_hop_bytes(self.prefill_tokens)

    @property
    def decode_hop_bytes(self) -> int:
        """Of one decode step of 64 requests."""
        return self.count_hop_bytes(_DECODE_REQUESTS)

    def count_stage_flop(self, stages: int) -> float:
        """Operations of one stage for a prefill chunk: two for each parameter and token."""
        return 2.0 * self.prefill_tokens * self.layer_parameters * self.layers / stages


def read_shapes(launch: LaunchConfig) -> ModelShapes | None:
    """The shapes of a launch's model; None where its config.json is missing or names none."""
    try:
        config = json.loads((launch.model_folder / "config.json").read_text(encoding="utf-8"))
        return make_shapes(config, int(launch.engine.get("max_num_batched_tokens") or _PREFILL_TOKENS))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def make_shapes(config: Mapping[str, Any], prefill_tokens: int = _PREFILL_TOKENS) -> ModelShapes:
    """The shapes in a Hugging Face configuration.

    Raises:
        KeyError: it lacks a size.
    """
    text = config.get("text_config") or config
    hidden, heads = int(text["hidden_size"]), int(text["num_attention_heads"])
    head_size = int(text.get("head_dim") or hidden // heads)
    kv_heads = int(text.get("num_key_value_heads") or heads)
    attention = 2 * hidden * head_size * (heads + kv_heads)
    experts = int(text.get("num_experts_per_tok") or 0)
    width = int((experts and text.get("moe_intermediate_size")) or text["intermediate_size"])
    return ModelShapes(
        hidden_size=hidden,
        layers=int(text["num_hidden_layers"]),
        layer_parameters=attention + 3 * hidden * width * max(1, experts),
        prefill_tokens=prefill_tokens,
    )
