"""A stand-in model: random weights of a few MB with the real model's divisibility, written without PyTorch.

A Llama whose head count, KV-head count and layer count split over TP and PP as the real model's do. Greedy decoding of
random weights is as deterministic as that of trained ones, so ranks that disagree are found.
"""

import array
import itertools
import json
import math
import random
import struct
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from raylaunch.base.errors import ClusterError
from raylaunch.cluster import ship

if TYPE_CHECKING:
    from raylaunch.cluster.ray_session import ClusterNode

_VOCAB_SIZE = 512
_HIDDEN_SIZE = 64
_MLP_SIZE = 128
_HEAD_DIM = 32
"""The smallest that vLLM's CPU attention accepts."""
_MAX_POSITIONS = 2048
_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


_SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
"""Padding, beginning and end of a text."""
_PARSER_TOKENS = (
    *("<think>", "</think>", "<response>", "</response>", "<mm:think>", "</mm:think>"),
    *("<ifm|think>", "</ifm|think>", "<ifm|think_fast>", "</ifm|think_fast>", "<ifm|think_faster>"),
    *("</ifm|think_faster>", "<ifm|tool_calls>", "</ifm|tool_calls>"),
    *("<tool_calls>", "</tool_calls>", "<tool_call>", "</tool_call>", "<tool_sep>"),
    *("<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>", "<|tool_call_start|>", "<|tool_call_end|>"),
    *(
        "<｜tool▁calls▁begin｜>",
        "<｜tool▁calls▁end｜>",
        "<｜tool▁call▁begin｜>",
        "<｜tool▁call▁end｜>",
        "<｜tool▁sep｜>",
    ),
    "<|python_tag|>",
)
"""What vLLM's parsers of reasoning and tool calls (0.32) look for in a model's tokenizer."""


@dataclass(frozen=True, slots=True)
class Shape:
    """The counts that decide whether TP x PP can split a model."""

    heads: int
    kv_heads: int
    layers: int

    @classmethod
    def parse(cls, config_json: str) -> "Shape":
        """The shape in a Hugging Face config.json.

        Raises:
            ValueError, KeyError, TypeError: it is not JSON, or names no attention heads or layers.
        """
        config = json.loads(config_json)
        text = config.get("text_config", config)
        heads = int(text["num_attention_heads"])
        return cls(heads, int(text.get("num_key_value_heads") or heads), int(text["num_hidden_layers"]))


def shrink(real: Shape, *, tp: int, pp: int) -> Shape:
    """The smallest shape that TP x PP splits, or fails to split, as it does `real`.

    What stays equal: whether TP divides the heads; whether TP and the KV heads divide each other; whether the query
    heads form complete groups; the layers beyond equal stages, of two layers each where `real` has as many.
    """

    def fits(heads: int, kv_heads: int) -> tuple[bool, bool, bool]:
        return heads % tp == 0, kv_heads % tp == 0 or tp % kv_heads == 0, heads % kv_heads == 0

    heads, kv_heads = next(
        (heads, kv_heads)
        for kv_heads in range(1, real.kv_heads + 1)
        for heads in range(kv_heads, real.heads + 1)
        if fits(heads, kv_heads) == fits(real.heads, real.kv_heads)
    )
    rest = real.layers % pp
    layers = min(real.layers, rest + (2 * pp if rest + 2 * pp <= real.layers else pp))
    return Shape(heads, kv_heads, layers)


def smallest_shape(*, tp: int, pp: int) -> Shape:
    """A shape that TP x PP can split, for a model whose config.json is unknown."""
    return Shape(heads=2 * tp, kv_heads=tp, layers=2 * pp)


_MARKER = "standin.json"
_WRITE_TIMEOUT_S = 120.0
"""Includes the start of a Ray worker process; writing takes 1 to 2 s."""


def is_standin(folder: Path) -> bool:
    """Whether `folder` holds a stand-in model."""
    return (folder / _MARKER).is_file()


def write_on_nodes(folder: Path, nodes: "Sequence[ClusterNode]") -> None:
    """Write the stand-in of `folder` on this machine to the same path on every node that lacks it.

    Each node generates it: equal shapes and seeds give equal files. This process must have joined Ray.

    Raises:
        ClusterError: a node could not write it.
    """
    import ray

    from raylaunch.engine import rehearsal

    fields = json.loads((folder / _MARKER).read_text())
    shape = Shape(**{field: fields[field] for field in Shape.__dataclass_fields__})
    with ship.by_value(rehearsal):
        task = ray.remote(num_cpus=0, max_retries=0)(write_standin)
        written = {
            task.options(
                name=f"raylaunch stand-in {node.ip}",
                scheduling_strategy=ship.on_node(node.node_id),
            ).remote(folder, shape, seed=fields["seed"]): node
            for node in nodes
        }
    for answer, node in written.items():
        try:
            ray.get(answer, timeout=_WRITE_TIMEOUT_S)
        except ray.exceptions.RayError as error:
            raise ClusterError(
                f"{node.ip}: cannot write the stand-in model to {folder}: {str(error).strip().splitlines()[-1]}",
                fix="give Ray's user write permission there, or set RAYLAUNCH_HOME to a folder that it can write",
            ) from error


def write_standin(folder: Path, shape: Shape, *, seed: int = 0) -> Path:
    """Write the stand-in model and its tokenizer into `folder`, unless it holds the same one already.

    Args:
        seed: of the random weights.
    """
    marker = folder / _MARKER
    wanted = json.dumps(asdict(shape) | {"seed": seed, "format": 2})
    if marker.is_file() and marker.read_text() == wanted:
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    marker.unlink(missing_ok=True)
    _write_tokenizer(folder)
    _write_config(folder / "config.json", shape)
    _write_weights(folder / "model.safetensors", shape, random.Random(seed))
    marker.write_text(wanted)
    return folder


def _write_config(path: Path, shape: Shape) -> None:
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "dtype": "float32",
        "vocab_size": _VOCAB_SIZE, "hidden_size": _HIDDEN_SIZE, "intermediate_size": _MLP_SIZE,
        "num_hidden_layers": shape.layers, "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads, "head_dim": _HEAD_DIM, "max_position_embeddings": _MAX_POSITIONS,
        "hidden_act": "silu", "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "tie_word_embeddings": False,
        "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
    }  # fmt: skip
    path.write_text(json.dumps(config, indent=1))


def _list_tensors(shape: Shape) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of a Llama's tensors; one dimension means a norm, which is all ones."""
    yield "model.embed_tokens.weight", (_VOCAB_SIZE, _HIDDEN_SIZE)
    for layer in range(shape.layers):
        prefix = f"model.layers.{layer}"
        yield f"{prefix}.input_layernorm.weight", (_HIDDEN_SIZE,)
        yield f"{prefix}.self_attn.q_proj.weight", (shape.heads * _HEAD_DIM, _HIDDEN_SIZE)
        yield f"{prefix}.self_attn.k_proj.weight", (shape.kv_heads * _HEAD_DIM, _HIDDEN_SIZE)
        yield f"{prefix}.self_attn.v_proj.weight", (shape.kv_heads * _HEAD_DIM, _HIDDEN_SIZE)
        yield f"{prefix}.self_attn.o_proj.weight", (_HIDDEN_SIZE, shape.heads * _HEAD_DIM)
        yield f"{prefix}.post_attention_layernorm.weight", (_HIDDEN_SIZE,)
        yield f"{prefix}.mlp.gate_proj.weight", (_MLP_SIZE, _HIDDEN_SIZE)
        yield f"{prefix}.mlp.up_proj.weight", (_MLP_SIZE, _HIDDEN_SIZE)
        yield f"{prefix}.mlp.down_proj.weight", (_HIDDEN_SIZE, _MLP_SIZE)
    yield "model.norm.weight", (_HIDDEN_SIZE,)
    yield "lm_head.weight", (_VOCAB_SIZE, _HIDDEN_SIZE)


def _write_weights(path: Path, shape: Shape, rng: random.Random) -> None:
    """Write float32 weights as safetensors: 8 bytes of header length, the header in JSON, the tensors."""
    tensors = list(_list_tensors(shape))
    ends = [0, *itertools.accumulate(4 * math.prod(dims) for _, dims in tensors)]
    header = {
        name: {"dtype": "F32", "shape": dims, "data_offsets": offsets}
        for (name, dims), offsets in zip(tensors, itertools.pairwise(ends), strict=True)
    }
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, dims in tensors:
            values = (rng.gauss(0.0, 0.2) if len(dims) == 2 else 1.0 for _ in range(math.prod(dims)))
            file.write(array.array("f", values).tobytes())


def _write_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        ["the quick brown fox jumps over the lazy dog. Hello world, this is a tiny test model."] * 4,
        trainers.BpeTrainer(
            vocab_size=_VOCAB_SIZE,
            special_tokens=[*_SPECIAL_TOKENS, *_PARSER_TOKENS],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": _MAX_POSITIONS,
        "chat_template": _TEMPLATE,
    } | dict(zip(("pad_token", "bos_token", "eos_token"), _SPECIAL_TOKENS, strict=True))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
