"""Throughput and time to first token of `raylaunch serve` against vLLM's own server with the same arguments.

    python -m benchmarks.load demo        SmolLM2-135M on CPU, at 1, 8 and 32 at once
    python -m benchmarks.load gpu-8b      a Llama of 8B parameters with dummy weights on one GPU, at 64

Both servers are up during the run, and take turns: pair by pair, the order changes. Ratios are of medians,
raylaunch / vLLM: throughput above 1 is better, time to first token below 1 is better.
"""

import argparse
import asyncio
import json
import statistics
import time
from pathlib import Path
from typing import Any

import openai

from benchmarks import servers
from benchmarks.servers import Server

PROMPT = "Write a short story about a lighthouse keeper who finds a message in a bottle, in plain words."
OUTPUT_TOKENS = 48
DEMO_ENGINE = {"dtype": "bfloat16", "max_model_len": 2048, "enforce_eager": True, "kv_cache_memory_bytes": 512 << 20}
GPU_ENGINE = {
    "dtype": "float16", "max_model_len": 2048, "enforce_eager": True, "load_format": "dummy",
    "gpu_memory_utilization": 0.4, "kv_cache_memory_bytes": 8 << 30,
}  # fmt: skip


def write_8b_model(folder: Path) -> Path:
    """Llama-3.1-8B's config.json (its sizes are public) with the stand-in's tokenizer; the weights are dummies."""
    from raylaunch.engine.rehearsal import standin_model

    standin_model.write_standin(folder, standin_model.Shape(heads=8, kv_heads=8, layers=1))
    (folder / "model.safetensors").unlink()
    config = json.loads((folder / "config.json").read_text()) | {
        "vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 8192,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    return folder


async def ask(client: openai.AsyncOpenAI, model: str, number: int) -> tuple[float, int]:
    """One streamed completion: seconds to its first token, and its tokens."""
    began = time.perf_counter()
    first_s = 0.0
    tokens = 0
    stream = await client.completions.create(
        model=model, prompt=f"{number}. {PROMPT}", max_tokens=OUTPUT_TOKENS, temperature=0, stream=True,
        stream_options={"include_usage": True}, extra_body={"ignore_eos": True},
    )  # fmt: skip
    async for chunk in stream:
        if chunk.choices and not first_s:
            first_s = time.perf_counter() - began
        if chunk.usage:
            tokens = chunk.usage.completion_tokens
    return first_s, tokens


async def measure(server: Server, level: int, requests: int) -> dict[str, float]:
    """`requests` completions, `level` at once: output tokens/s, and the median time to first token in ms."""
    client = openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    gate = asyncio.Semaphore(level)

    async def gated(number: int) -> tuple[float, int]:
        async with gate:
            return await ask(client, server.model, number)

    began = time.perf_counter()
    done = await asyncio.gather(*(gated(number) for number in range(requests)))
    took_s = time.perf_counter() - began
    await client.close()
    return {
        "output_tokens_per_s": sum(tokens for _, tokens in done) / took_s,
        "ttft_ms": statistics.median(first_s for first_s, _ in done) * 1e3,
    }


def compare(ours: Server, theirs: Server, level: int, pairs: int) -> dict[str, Any]:
    """All pairs of one level, and the ratios of medians."""
    rows: list[dict[str, Any]] = []
    requests = max(2, level)  # short blocks: on a shared machine the two must meet the same weather
    for pair in range(pairs):
        order = (ours, theirs) if pair % 2 else (theirs, ours)
        row: dict[str, Any] = {}
        for server in order:
            row[server.name] = asyncio.run(measure(server, level, requests))
            time.sleep(1.5)  # vLLM's readers spin for a second after the last message
        rows.append(row)
    medians = {
        name: {key: statistics.median(row[name][key] for row in rows) for key in ("output_tokens_per_s", "ttft_ms")}
        for name in (ours.name, theirs.name)
    }
    return {
        "at_once": level,
        "requests": requests,
        "throughput_ratio": medians[ours.name]["output_tokens_per_s"] / medians[theirs.name]["output_tokens_per_s"],
        "ttft_ratio": medians[ours.name]["ttft_ms"] / medians[theirs.name]["ttft_ms"],
        "medians": medians,
        "throughput_ratio_of_pairs": statistics.median(
            row[ours.name]["output_tokens_per_s"] / row[theirs.name]["output_tokens_per_s"] for row in rows
        ),
        "pairs": rows,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", choices=("demo", "gpu-8b"))
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--levels", type=int, nargs="+")
    options = parser.parse_args()
    on_gpu = options.case == "gpu-8b"
    engine = GPU_ENGINE if on_gpu else DEMO_ENGINE
    ports = servers.find_free_port(), servers.find_free_port()
    with servers.scratch() as folder:
        model = str(write_8b_model(folder / "model") if on_gpu else servers.find_demo_model())
        launch = servers.write_launch(folder, model, engine)
        ours = servers.start(
            "raylaunch", servers.raylaunch_command(launch, ports[0]), port=ports[0], model=model,
            environ={"RAYLAUNCH_HOME": str(folder / "home")}, log=folder / "raylaunch.log",
        )  # fmt: skip
        theirs = servers.start(
            "vllm", servers.vllm_command(model, ports[1], engine), port=ports[1], model=model,
            environ={"HF_HUB_OFFLINE": "1"}, log=folder / "vllm.log",
        )  # fmt: skip
        with ours as our_server, theirs as their_server:
            for server in (our_server, their_server):
                asyncio.run(measure(server, 8, 8))  # warm-up
            at_once = options.levels or ([64] if on_gpu else [1, 8, 32])
            levels = [compare(our_server, their_server, level, options.pairs) for level in at_once]
    servers.write_result(f"load-{options.case}", {"case": options.case, "engine": engine, "levels": levels})


if __name__ == "__main__":
    main()
