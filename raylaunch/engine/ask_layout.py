"""Ask the installed vLLM what a layout stores, without GPU and weights: `python -m raylaunch.engine.ask_layout`.

A process of its own, for it replaces vLLM's process groups and imports vLLM (7 to 60 s): a JSON object Question on
stdin; version, seconds and an Answer for each layout on stdout. vLLM's own code builds each stage's model on torch's
meta device and divides a KV cache of given bytes into blocks (seen with 0.32.0). It imports nothing of raylaunch: its
text runs on nodes, too.
"""

import dataclasses
import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_GROUPS = ("_DP", "_DCP", "_PCP", "_EPLB", "_ETP")


@dataclass(frozen=True)
class Question:
    """A model's config.json, the engine's options, and the layouts to ask for."""

    config: Mapping[str, Any]
    engine: Mapping[str, Any]
    layouts: list[dict[str, Any]]
    """Each: tp, pp, and budgets: for the low and the high end, the bytes of each stage that weights and KV share."""


@dataclass(frozen=True)
class Answer:
    """What vLLM says of one layout; bytes of a rank of each stage, tokens at the low and the high end."""

    weights: list[int]
    tokens: list[int]
    error: str = ""


class _Rank(int):
    """A group's rank: GroupCoordinator has a number, torch's ProcessGroup a method."""

    def __call__(self) -> int:
        return int(self)


class _Group:
    """As much of a process group as a model asks for while it is built."""

    def __init__(self, rank: int, ranks: list[int], name: str) -> None:
        import torch

        self.ranks, self.rank, self.unique_name = ranks, _Rank(rank), name
        self.world_size, self.rank_in_group, self.local_rank = len(ranks), ranks.index(rank), rank
        self.first_rank, self.last_rank = ranks[0], ranks[-1]
        self.is_first_rank, self.is_last_rank = rank == ranks[0], rank == ranks[-1]
        self.device = torch.device("meta")
        self.cpu_group = self.device_group = self
        self.device_communicator = self.mq_broadcaster = None
        self.use_custom_op_call = False

    def size(self) -> int:
        return self.world_size


def _take_place(tp: int, pp: int, stage: int) -> None:
    """Become the first rank of a stage, to vLLM."""
    import vllm.distributed.parallel_state as state

    rank = stage * tp
    own = list(range(rank, rank + tp))
    state._WORLD = _Group(rank, list(range(tp * pp)), "world")
    state._TP, state._EP = _Group(rank, own, "tp"), _Group(rank, own, "ep")
    state._PP = _Group(rank, [other * tp for other in range(pp)], "pp")
    for name in _GROUPS:
        if hasattr(state, name):
            setattr(state, name, _Group(rank, [rank], name))


def ask(folder: str, engine: Mapping[str, Any], layout: Mapping[str, Any]) -> Answer:
    """Build every stage of a layout, and divide its KV cache."""
    from vllm.engine.arg_utils import EngineArgs
    from vllm.platforms import current_platform
    from vllm.v1.attention.backends.utils import record_kv_cache_layout
    from vllm.v1.core import kv_cache_utils

    tp, pp = int(layout["tp"]), int(layout["pp"])
    config = EngineArgs(
        **{
            **engine, "model": folder, "tokenizer": folder, "skip_tokenizer_init": True, "load_format": "dummy",
            "enforce_eager": True, "tensor_parallel_size": tp, "pipeline_parallel_size": pp,
            "distributed_executor_backend": "mp", "async_scheduling": False,  # as with Ray's executor
        }
    ).create_engine_config()  # fmt: skip
    built = []
    for stage in range(pp):
        config.parallel_config.rank = stage * tp
        config.compilation_config.static_forward_context.clear()
        _take_place(tp, pp, stage)
        built.append(_build(config, update=stage == 0, platform=current_platform))
    weights, specs = [size for size, _ in built], [spec for _, spec in built]
    record_kv_cache_layout(config.cache_config, "LBNHC")
    tokens = []
    for budgets in layout["budgets"]:
        available = [max(0, int(budget) - size) for budget, size in zip(budgets, weights, strict=True)]
        try:
            caches = kv_cache_utils.get_kv_cache_configs(config, specs, available)
        except ValueError:  # not one request of max_model_len
            tokens.append(0)
            continue
        merged = kv_cache_utils.generate_scheduler_kv_cache_config(caches)
        tokens.append(int(kv_cache_utils.get_kv_cache_capacity(config, merged)[0]))
    return Answer(weights, tokens)


def _build(config: Any, *, update: bool, platform: Any) -> tuple[int, Any]:
    """Bytes of a stage's parameters and buffers, and the specs of its KV cache."""
    import torch
    from vllm.config import set_current_vllm_config
    from vllm.model_executor.model_loader.utils import initialize_model
    from vllm.v1.worker.gpu.attn_utils import get_kv_cache_spec

    before = torch.get_default_dtype()
    with torch.device("meta"), set_current_vllm_config(config):
        torch.set_default_dtype(config.model_config.dtype)
        model = initialize_model(vllm_config=config)
        torch.set_default_dtype(before)
    if update:
        platform.update_block_size_for_backend(config)
    tensors = {id(t): t for t in [*model.parameters(), *(buffer for _, buffer in model.named_buffers())]}
    return sum(t.numel() * t.element_size() for t in tensors.values()), get_kv_cache_spec(config)


def main() -> None:
    """Answer the question on stdin; what vLLM prints goes to stderr."""
    out = os.dup(1)
    os.dup2(2, 1)
    os.environ.update(HF_HUB_OFFLINE="1", VLLM_LOGGING_LEVEL="ERROR", VLLM_CPU_KVCACHE_SPACE="1")
    if not os.environ.get("CUDA_VISIBLE_DEVICES"):  # empty in a Ray task without GPUs: vLLM asks the driver by number
        os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    began = time.monotonic()
    question = Question(**json.load(sys.stdin))
    import vllm

    answers = []
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(question.config))
        for layout in question.layouts:
            try:
                answers.append(ask(folder, question.engine, layout))
            except Exception as error:  # noqa: BLE001 (whatever vLLM raises is its answer, of this layout alone)
                lines = str(error).strip().splitlines()
                answers.append(Answer([], [], f"{type(error).__name__}: {lines[-1] if lines else ''}"))
    with os.fdopen(out, "w") as stream:
        json.dump(
            {
                "vllm": vllm.__version__,
                "seconds": round(time.monotonic() - began, 2),
                "layouts": [dataclasses.asdict(answer) for answer in answers],
            },
            stream,
        )


if __name__ == "__main__":
    main()
