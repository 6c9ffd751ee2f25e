"""Weights of each rank, in bytes: from the model's shape, corrected by what the checkpoint's headers say."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from raylaunch.plan.shape import Layer, Matrix, ModelShape

_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d+)\.")
_BESIDE = ("visual", "vision", "vit.", "audio", "multi_modal", "mm_", "encoder.")
_LEFT_OUT = ("mtp.", "talker.", "code2wav.")
"""Draft layers and speech: in the checkpoint, but not in what vLLM serves."""
_FULL_BYTES = {"F64": 8, "F32": 4}
_PADDED_INNER, _PADDED_HIDDEN = 128, 256
"""Marlin's tiles, to which vLLM pads MXFP4 experts (0.32: mxfp4_round_up_hidden_size_and_intermediate_size)."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Bytes of a checkpoint as vLLM would load them."""

    layers: Mapping[int, int]
    """Of the decoder's layers."""
    beside: int
    """Of vision towers and the like."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor of a safetensors header."""

    name: str
    kind: str
    """safetensors' name of its dtype."""
    size: int
    """In bytes."""


def summarize_checkpoint(tensors: Iterable[Tensor]) -> Checkpoint:
    """Bytes by layer; what is stored in more than 16 bit and is no scale counts as 16 bit, as vLLM loads it."""
    layers: dict[int, int] = {}
    beside = 0
    for tensor in tensors:
        if any(word in tensor.name for word in _LEFT_OUT):
            continue
        is_scale = tensor.name.endswith(("scale", "scales", "scale_inv", "absmax", "quant_map"))
        size = tensor.size if is_scale else tensor.size * 2 // _FULL_BYTES.get(tensor.kind, 2)
        # ChatGLM's decoder is named an encoder.
        if any(word in tensor.name.removeprefix("transformer.encoder.") for word in _BESIDE):
            beside += size
        elif found := _LAYER.search(tensor.name):
            layers[int(found[1])] = layers.get(int(found[1]), 0) + size
    return Checkpoint(layers, beside)


def partition_layers(count: int, pp: int) -> tuple[int, ...]:
    """Layers of each stage: vLLM's get_pp_indices (0.32); the remainder goes to the stages before the last."""
    sizes = [count // pp] * pp
    for back in range(2, count % pp + 2):
        sizes[-back] += 1
    return tuple(sizes)


@dataclass(frozen=True, slots=True)
class WeightModel:
    """The weights of a model, for any layout."""

    shape: ModelShape
    checkpoint: Checkpoint | None = None
    dtype_bytes: float = 2.0

    def measure_stage(self, layers: range, tp: int, *, is_first: bool, is_last: bool) -> int:
        """Bytes on each rank of a stage that has `layers`, all of its TP ranks being equal.

        Embedding and output head are on the first and last stage; a tied one is on both, once if they are the same.
        A vision tower is on every stage.
        """
        size = sum(self._measure_layer(at, tp) for at in layers) + self.shape.rotary * self.dtype_bytes
        table = self.shape.vocab * self.shape.hidden * self.dtype_bytes / tp
        tables = int(is_first) + int(is_last and not (self.shape.is_tied and is_first))
        if is_first:
            size += self.shape.positions * self.dtype_bytes
        size += self._measure_tower(tp)
        return round(size + tables * table + (self.shape.hidden * self.dtype_bytes if is_last else 0))

    def _measure_tower(self, tp: int) -> float:
        tower = self.shape.tower
        kept = tower.kept * self.dtype_bytes
        split = max(0.0, self.checkpoint.beside - kept) if self.checkpoint else tower.split * self.dtype_bytes
        return kept + split / tp

    def measure_all(self) -> int:
        """Bytes of the complete model on one GPU."""
        return self.measure_stage(range(len(self.shape.layers)), 1, is_first=True, is_last=True)

    def _measure_layer(self, at: int, tp: int) -> float:
        layer = self.shape.layers[at]
        size = self._add_up(layer, tp)
        if self.checkpoint is None or self.shape.quantization.is_online or at not in self.checkpoint.layers:
            return size
        copies = 0.0
        if self.shape.quantization.is_quantized and layer.mixer.kind == "mla":  # made while loading, not stored
            copies = sum(m.elements for m in layer.matrices if m.part == "plain" and m.split == "rank") * 2.0
        stored = self._add_up(layer, 1, padded=False) - copies
        return size * (self.checkpoint.layers[at] + copies) / (stored + copies)

    def _add_up(self, layer: Layer, tp: int, *, padded: bool = True) -> float:
        groups = layer.mixer.groups
        shares = {
            "rank": tp,
            "kv": min(tp, self.shape.kv_heads),
            "groups": tp if groups and groups % tp == 0 else max(1, groups),
            "all": 1,
        }
        return sum(self._measure_matrix(m, tp, padded=padded) / shares[m.split] for m in layer.matrices)

    def _measure_matrix(self, matrix: Matrix, tp: int, *, padded: bool) -> float:
        shape, quantization = self.shape, self.shape.quantization
        size = {"linear": quantization.linear_bytes, "expert": quantization.expert_bytes}.get(matrix.part, 2.0)
        size = self.dtype_bytes if size == 2.0 else size
        if matrix.part == "expert" and quantization.method == "mxfp4" and padded:
            inner = shape.widest_expert
            size *= _round_up(-(-inner // tp), _PADDED_INNER) * tp / inner
            size *= _round_up(shape.hidden, _PADDED_HIDDEN) / shape.hidden
        return matrix.elements * size


def measure_stages(model: WeightModel, tp: int, sizes: Sequence[int]) -> tuple[int, ...]:
    """Bytes on a rank of each stage, for stages of `sizes` layers."""
    begin, found = 0, []
    for stage, count in enumerate(sizes):
        layers = range(begin, begin + count)
        found.append(model.measure_stage(layers, tp, is_first=stage == 0, is_last=stage == len(sizes) - 1))
        begin += count
    return tuple(found)


def _round_up(value: int, to: int) -> int:
    return -(-value // to) * to
