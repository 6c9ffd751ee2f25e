"""Vision towers: what a multimodal wrapper stores beside its language model, from its vision_config."""

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import JsonValue

from raylaunch.plan.fields import Fields

_GATED = ("qwen2_5_vl", "qwen2_5_omni", "pixtral")
"""Families whose tower has three matrices in a feed-forward part; Pixtral's is in mistral3's wrapper too."""
_ROTARY = ("qwen2_vl", "qwen2_5_vl", "pixtral", "mistral3", "llama4")
"""Without a table of positions."""


_LARGEST_IMAGE = 16_384
"""Tokens of an image where patches are joined: the limit of Qwen's processors."""


@dataclass(frozen=True, slots=True)
class TowerRun:
    """Bytes on a rank in vLLM's profile run of a tower: at its peak, and of the result that is kept beside the rest."""

    activation: float = 0.0
    output: float = 0.0


@dataclass(frozen=True, slots=True)
class Tower:
    """Elements of a vision tower and its projector, which vLLM keeps on every stage (0.32: no model leaves it out)."""

    split: int = 0
    """Divided by TP."""
    kept: int = 0
    """On every rank: patch embedding and positions."""
    hidden: int = 0
    inner: int = 0
    patches: int = 0
    """That become one token."""
    largest: int = 0
    """Tokens of the largest image."""
    levels: int = 1
    """Results for each token that are handed on."""

    def measure_run(self, batched: int, text_hidden: int, tp: int) -> TowerRun:
        """What the profile run takes: images for a batch of `batched` tokens, at least one (0.32: MultiModalBudget)."""
        if not self.patches:
            return TowerRun()
        tokens = max(batched, self.largest) * 2.0  # of 16 bit
        activation = tokens * self.patches * (3 * self.inner / tp + 4 * self.hidden)
        return TowerRun(activation, tokens * text_hidden * self.levels)


def measure_tower(config: Mapping[str, JsonValue], text_hidden: int) -> Tower:
    """The tower in a config.json; empty without one."""
    vision = config.get("vision_config")
    if not isinstance(vision, Mapping):
        return Tower()
    fields = Fields({str(key): value for key, value in vision.items()})
    families = {str(config.get("model_type")), str(vision.get("model_type"))}
    hidden = fields.size("embed_dim", "hidden_size", "width")
    layers = fields.size("num_hidden_layers", "depth", "layers")
    ratio = fields.get("mlp_ratio")
    inner = fields.size("intermediate_size") or int(hidden * (ratio if isinstance(ratio, (int, float)) else 4))
    matrices = 3 if families & set(_GATED) else 2
    patch, image = fields.size("patch_size"), fields.size("image_size")
    kept = 3 * patch**2 * hidden * (fields.size("temporal_patch_size") or 1)
    if patch and not families & set(_ROTARY):
        kept += (fields.size("num_position_embeddings") or (image // patch) ** 2) * hidden
    split = layers * (4 * hidden**2 + matrices * hidden * inner) + _measure_projector(fields, hidden, text_hidden)
    whole = (image // patch) ** 2 if patch else 0
    merge = fields.size("spatial_merge_size") ** 2
    levels = fields.get("deepstack_visual_indexes")
    tokens = _LARGEST_IMAGE if merge else Fields(config).size("mm_tokens_per_image") or whole
    return Tower(
        split, kept, hidden, inner, merge or (whole // tokens if tokens else 0), tokens,
        1 + (len(levels) if isinstance(levels, list) else 0),
    )  # fmt: skip


def _measure_projector(fields: Fields, hidden: int, text_hidden: int) -> int:
    """From the tower's width to the language model's."""
    merge = fields.size("spatial_merge_size") ** 2
    if merge:  # Qwen: neighbouring patches joined, and again for each level that is handed on
        levels = fields.get("deepstack_visual_indexes")
        count = 1 + (len(levels) if isinstance(levels, list) else 0)
        return count * (merge * hidden * (merge * hidden + text_hidden))
    return hidden * text_hidden + (text_hidden**2 if fields.get("model_type") != "siglip_vision_model" else 0)
