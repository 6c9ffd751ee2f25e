"""The forecast of `raylaunch plan` against what vLLM reports, on this machine's GPUs.

    python -m benchmarks.plan_check --output benchmarks/results/plan-gpu.json [--limit-s 420] [--gpus 1]

Each case starts vLLM's engine with dummy weights in a process of its own, reads its log, and stops it. Cases that need
more GPUs than there are, or that would begin after --limit-s, are left out and named. Two model shapes: a dense one
with grouped queries (Llama 8B) and one with experts.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from raylaunch.node.nvml import read_gpus
from raylaunch.plan.forecast import make_model
from raylaunch.plan.gpus import GIB, make_fleet
from raylaunch.plan.layout import Planner
from raylaunch.plan.settings import PlanSettings, read_version

_LLAMA = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128,
    "vocab_size": 128256, "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "rope_theta": 500000.0,
    "tie_word_embeddings": False, "hidden_act": "silu", "torch_dtype": "bfloat16", "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
_EXPERTS = {
    "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "hidden_size": 2048,
    "intermediate_size": 6144, "moe_intermediate_size": 768, "num_hidden_layers": 24, "num_attention_heads": 32,
    "num_key_value_heads": 4, "head_dim": 128, "num_experts": 128, "num_experts_per_tok": 8, "norm_topk_prob": True,
    "decoder_sparse_step": 1, "mlp_only_layers": [], "vocab_size": 151936, "max_position_embeddings": 40960,
    "rms_norm_eps": 1e-6, "rope_theta": 1000000.0, "tie_word_embeddings": False, "hidden_act": "silu",
    "torch_dtype": "bfloat16", "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
_SERVER = {"max_num_batched_tokens": 8192, "max_num_seqs": 1024}
"""The API server's defaults on a card of this size."""
_START = """
import json, sys
from vllm import LLM
if __name__ == "__main__":
    LLM(**json.loads(sys.argv[1]))
"""
_LINES = {
    "weights_gib": r"Model loading took ([\d.]+) GiB",
    "kv_cache_gib": r"Available KV cache memory: (-?[\d.]+) GiB",
    "kv_cache_tokens": r"KV cache size: ([\d,]+) tokens",
    "graphs_gib": r"Estimated CUDA graph memory: ([\d.]+) GiB",
}


@dataclass(frozen=True)
class Case:
    """One start."""

    name: str
    model: str
    engine: dict[str, Any]
    tp: int = 1
    pp: int = 1


@dataclass(frozen=True)
class Result:
    """Forecast and report of one start; sizes in GiB of a rank, ranges as [low, high]."""

    case: Case
    forecast: dict[str, Any]
    reported: dict[str, list[float]]
    """A value for each rank, in the order of the log."""
    seconds: float
    inside: bool | None
    """Whether vLLM's tokens are inside the forecast; None where it reported none."""
    log: list[str] = field(default_factory=list)
    """Its last lines, where it failed."""


CASES = (
    Case("dense, the server's defaults", "llama", {}),
    Case("dense, few requests", "llama", {"max_num_seqs": 64, "max_num_batched_tokens": 2048}),
    Case("experts, the server's defaults", "experts", {}),
    Case("dense, fp8 KV cache, half of the card", "llama", {"kv_cache_dtype": "fp8", "gpu_memory_utilization": 0.5}),
    Case("experts, eager, 256 requests", "experts", {"enforce_eager": True, "max_num_seqs": 256}),
    Case("dense, the defaults again, warm", "llama", {}),
    Case("dense, TP=2", "llama", {}, tp=2),
    Case("dense, PP=2", "llama", {}, pp=2),
    Case("experts, TP=2", "experts", {}, tp=2),
)


def forecast(case: Case, config: dict[str, Any]) -> dict[str, Any]:
    """What the plan says of a case on this machine's GPUs."""
    gpus = read_gpus().gpus[: case.tp * case.pp]
    known = {name: value for name, value in case.engine.items() if name in PlanSettings.__dataclass_fields__}
    settings = PlanSettings(**{**_SERVER, **known}, named=(case.tp, case.pp), vllm=read_version())
    model = make_model(config, [], settings, case.model)
    fleet = make_fleet([[(gpu.name, gpu.usable_bytes) for gpu in gpus]])
    layout = Planner(model, fleet, settings).plan(case.tp, case.pp, is_named=True)
    return {
        "gpu": gpus[0].name,
        "memory_gib": round(gpus[0].usable_bytes / GIB, 3),
        "nvml_gib": round(gpus[0].total_bytes / GIB, 3),
        "weights_gib": [round(size / GIB, 3) for size in layout.weights],
        "overhead_gib": [round(layout.overhead.low / GIB, 3), round(layout.overhead.high / GIB, 3)],
        "kv_cache_gib": [round(layout.kv_cache.low / GIB, 3), round(layout.kv_cache.high / GIB, 3)],
        "kv_cache_tokens": [int(layout.tokens.low), int(layout.tokens.high)],
        "refusals": list(layout.refusals),
    }


def start(case: Case, folder: Path, config: dict[str, Any], limit_s: float) -> Result:
    """Start vLLM's engine for a case and compare."""
    (folder / "config.json").write_text(json.dumps(config))
    arguments = {
        "model": str(folder), "tokenizer": str(folder), "skip_tokenizer_init": True, "load_format": "dummy",
        "tensor_parallel_size": case.tp, "pipeline_parallel_size": case.pp, **_SERVER, **case.engine,
    }  # fmt: skip
    script = folder / "start.py"
    script.write_text(_START)
    read, began = forecast(case, config), time.monotonic()
    try:
        done = subprocess.run(
            [sys.executable, str(script), json.dumps(arguments)], env=os.environ | {"HF_HUB_OFFLINE": "1"},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=limit_s, check=False,
        )  # fmt: skip
        log, status = done.stdout, done.returncode
    except subprocess.TimeoutExpired as error:
        log, status = (error.stdout or b"").decode(errors="replace"), -1
    found = {
        name: [float(value.replace(",", "")) for value in re.findall(pattern, log)] for name, pattern in _LINES.items()
    }
    tokens = found["kv_cache_tokens"]
    low, high = read["kv_cache_tokens"]
    inside = low <= tokens[0] <= high if tokens else None
    tail = log.splitlines()[-30:] if status or not tokens else []
    return Result(case, read, found, round(time.monotonic() - began, 1), inside, tail)


def main() -> None:
    """Run the cases and write the results after each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--gpus", type=int, help="only cases that take as many GPUs")
    parser.add_argument("--limit-s", type=float, default=420.0, help="begin no case after this many seconds")
    options = parser.parse_args()
    began, count = time.monotonic(), len(read_gpus().gpus)
    results: list[Result] = []
    left_out: list[str] = []
    for case in (case for case in CASES if options.gpus in (None, case.tp * case.pp)):
        if case.tp * case.pp > count or time.monotonic() - began > options.limit_s:
            left_out.append(case.name)
            continue
        with tempfile.TemporaryDirectory() as folder:
            config = {"llama": _LLAMA, "experts": _EXPERTS}[case.model]
            result = start(case, Path(folder), config, max(60.0, options.limit_s + 60 - (time.monotonic() - began)))
        results.append(result)
        shown = result.reported["kv_cache_tokens"] or result.log[-3:]
        print(case.name, result.forecast["kv_cache_tokens"], shown, result.inside, f"{result.seconds} s", flush=True)
        written = {
            "vllm": ".".join(map(str, read_version())), "results": [asdict(entry) for entry in results],
            "left_out": left_out,
        }  # fmt: skip
        options.output.write_text(json.dumps(written, indent=1) + "\n")


if __name__ == "__main__":
    main()
