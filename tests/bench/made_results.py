"""Results as two machines with eight GPUs each would give them: figures made up, files written as ours are."""

import math
import random
from array import array
from dataclasses import replace
from pathlib import Path

from raylaunch.bench import result as result_file
from raylaunch.bench import stats
from raylaunch.bench.connection import RequestRow
from raylaunch.bench.figures import (
    EngineSummary,
    Level,
    LoadSample,
    NodeHardware,
    SampledEngine,
    SampledGpu,
    SampledNode,
    ServerGpu,
)
from raylaunch.bench.load import LoadTest
from raylaunch.bench.prompts import RequestOptions
from raylaunch.bench.run import make_result, summarise_level
from raylaunch.bench.self_check import SelfCheck
from raylaunch.bench.shard_plan import ShardResult
from raylaunch.bench.target import Target

NODES = ("10.0.0.1", "10.0.0.2")


def make_rows(
    concurrency: int, requests: int, *, seed: int = 0, slower: float = 1.0, fail_each: int = 0
) -> list[RequestRow]:
    """A closed loop on a server whose first tokens queue and whose tokens come slower the more there are at once."""
    draw = random.Random(seed)
    free = [0.0] * concurrency
    rows = []
    for number in range(requests):
        lane = min(range(concurrency), key=free.__getitem__)
        due = free[lane]
        first = slower * (0.08 + 0.004 * concurrency * draw.random()) * math.exp(draw.gauss(0, 0.25))
        each = slower * (0.022 + 0.0001 * concurrency)
        at, arrivals = due + first, array("d")
        for _ in range(draw.randint(24, 64)):
            arrivals.append(at)
            at += each * math.exp(draw.gauss(0, 0.2))
        row = RequestRow(number, due, due + 1e-4, arrivals[-1], 200, 60, len(arrivals), arrivals=arrivals)
        if fail_each and number % fail_each == fail_each - 1:
            row.error, row.detail, row.status = "http 503", "the engine is restarting", 503
            row.end_s = due + 0.3
            row.arrivals = array("d")
        rows.append(row)
        free[lane] = row.end_s
    return rows


def make_node(number: int, ip: str, second: int, busy: float) -> SampledNode:
    """One node at one second."""
    gpus = tuple(
        SampledGpu(
            gpu=gpu,
            use_percent=round(busy * (97 - gpu % 3 * 2 - number * 3 + 2 * math.sin(second + gpu))),
            memory_gib=21.2 + 0.1 * gpu,
            power_w=round(65 + busy * (240 + 6 * gpu + 9 * math.sin(second * 2 + gpu)), 1),
            temperature_c=round(44 + gpu + number * 3 + 22 * (1 - math.exp(-second / 8))),
        )
        for gpu in range(8)
    )
    return SampledNode(
        node=ip,
        cpu_percent=12.0 + 9 * busy + number + math.sin(second),
        ram_used_gib=80.0 + number,
        net_in_mb_s=210.0 * busy + 8 * math.sin(second + number),
        net_out_mb_s=180.0 * busy + 6 * math.cos(second + number),
        gpus=gpus,
    )


def make_samples(duration_s: float) -> tuple[LoadSample, ...]:
    """Two nodes, sixteen GPUs, each second."""
    samples = []
    for second in range(math.ceil(duration_s) + 1):
        busy = 1.0 if 0 < second < duration_s else 0.1
        nodes = tuple(make_node(number, ip, second, busy) for number, ip in enumerate(NODES))
        use = 0.42 * busy + 0.01 * (second % 5)
        engine = SampledEngine(round(60 * busy), round(12 * busy), use)
        samples.append(LoadSample(second + 0.2, nodes, engine if second else SampledEngine()))
    return tuple(samples)


def make_hardware() -> dict[str, NodeHardware]:
    """What the nodes have."""
    gpu = ServerGpu("NVIDIA GeForce RTX 4090", 24.0, 450.0)
    return {ip: NodeHardware(f"box{number + 1}", 64, 256.0, (gpu,) * 8) for number, ip in enumerate(NODES)}


def write(path: Path, *loads: list[RequestRow], gpus: bool = True) -> Path:
    """A result file of one level for each list of rows."""
    levels, packed = [], []
    # Nothing listens at port 1: the server's version stays unknown.
    target = Target("http://127.0.0.1:1", "deepseek-ai/DeepSeek-R1-Distill-Llama-70B")
    concurrencies = [1, 8, 64, 256, 500][: len(loads)] if len(loads) > 1 else [64]
    test = LoadTest(
        target, RequestOptions("chat", 256), ["?"] * 500, (), warmup=0, timeout_s=300.0, seed=0, requests=100,
        slo=stats.Slo(2.0, 0.05), source="made by a test",
    )  # fmt: skip
    for number, rows in enumerate(loads):
        notes = SelfCheck(began_s=0.0, ended_s=max(row.end_s for row in rows), cpu_s=1.2, max_loop_lag_s=0.004)
        notes.connects_s, notes.turns, notes.reads = [0.001] * 64, 1000, 40000
        shard = ShardResult(rows, notes, 0.0, notes.ended_s, "whole", node="laptop")
        level = summarise_level(test, Level(concurrencies[number]), [shard], 0.0, None)
        engine = EngineSummary(
            running_max=60, waiting_max=12, waiting_mean=7.0, kv_cache_use_max=0.46, queue_ms_mean=55.0,
            prefix_cache_hit_share=0.1,
        )  # fmt: skip
        levels.append(replace(level, samples=make_samples(level.duration_s) if gpus else (), engine=engine))
        packed += [result_file.pack_row(row, 0.0, number) for row in rows]
    result = make_result(test, levels, 1_800_000_000.0, None)
    result_file.write_result(path, replace(result, nodes=make_hardware() if gpus else {}), packed)
    return path
