"""Two nodes of eight GPUs under load, one thing of which each test changes."""

import time
from dataclasses import replace
from typing import Any

from raylaunch.base.processes import ProcessId
from raylaunch.cluster.monitor import ClusterSample
from raylaunch.cluster.ranks import Rank
from raylaunch.engine.metrics import EngineFigures, EngineRates
from raylaunch.node.gpu_sample import GpuSample, GpusSample
from raylaunch.node.host_sample import HostSample, InterfaceSample
from raylaunch.node.nvml import GpuProcess
from raylaunch.node.sampler import NodeSample
from raylaunch.serve.messages import PlacedRank
from raylaunch.serve.service_record import Service

GIB = 1 << 30
TP, PP = 4, 4
FIGURES = EngineFigures(running=1498, waiting=502, kv_cache_use=1.0)
RATES = EngineRates(123_456.0, 98_765.0, 12.34, 0.43, 60.0)


def make_host(**changes: Any) -> HostSample:
    interfaces = (
        InterfaceSample("lo", 1e3, 1e3, False, None),
        InterfaceSample("enp129s0f0", 123.4e6, 119.9e6, True, 10_000),
    )
    return replace(HostSample(128, 12.3, 503 * GIB, 101 * GIB, interfaces, ()), **changes)


def make_gpu(index: int, rank: int, **changes: Any) -> GpuSample:
    """A card whose every figure has as many digits as it can have."""
    busy = GpuSample(
        index=index,
        uuid=f"GPU-{rank:04}",
        name="NVIDIA H200",
        use_percent=100,
        memory_used_bytes=int(139.8 * GIB),
        memory_total_bytes=int(140.4 * GIB),
        power_w=698.7,
        power_cap_w=700.0,
        temperature_c=88,
        fan_percent=100,
        sm_clock_mhz=1980,
        memory_clock_mhz=10501,
        reasons=("sw_power_cap", "sw_thermal_slowdown"),
        processes=(GpuProcess(5000 + rank, "ray::RayWorkerP", 130 * GIB),),
    )
    return replace(busy, **changes)


def make_cluster(nodes: int = 2, gpus_per_node: int = 8) -> ClusterSample:
    """Rank r is on GPU r % gpus_per_node of node r // gpus_per_node, as the process 5000 + r."""
    samples, workers = [], []
    for number in range(nodes):
        ranks = range(number * gpus_per_node, (number + 1) * gpus_per_node)
        gpus = tuple(make_gpu(index, rank) for index, rank in enumerate(ranks))
        ip, node_id = f"192.168.100.{101 + number}", f"node{number}"
        samples.append(
            NodeSample(node_id, ip, f"gpu-box-{number}", time.time(), make_host(), GpusSample(gpus), 0.1, 60.0)
        )
        workers += [Rank(node_id, 5000 + rank, rank % TP, rank // TP) for rank in ranks]
    return ClusterSample(time.time(), tuple(samples), (), tuple(workers))


def make_service(nodes: int = 2, gpus_per_node: int = 8, **changes: Any) -> Service:
    ranks = tuple(
        PlacedRank(
            rank,
            rank % TP,
            rank // TP,
            f"192.168.100.{101 + rank // gpus_per_node}",
            rank % gpus_per_node,
            f"node{rank // gpus_per_node}",
        )
        for rank in range(nodes * gpus_per_node)
    )
    serving = Service(
        port=8080,
        host="0.0.0.0",
        models=("unsloth/DeepSeek-R1-Distill-Llama-70B",),
        fingerprint="f",
        supervisor=ProcessId(1, 1),
        started_at=time.time() - 12_345,
        state="ready",
        state_since=time.time() - 12_000,
        ready_at=time.time() - 12_000,
        ranks=ranks,
    )
    return replace(serving, **changes)


def change_gpu(seen: ClusterSample, node: int, index: int, **changes: Any) -> ClusterSample:
    """The cluster with one GPU changed."""
    was = seen.nodes[node]
    gpus = tuple(replace(gpu, **changes) if gpu.index == index else gpu for gpu in was.gpus.gpus)
    nodes = list(seen.nodes)
    nodes[node] = replace(was, gpus=GpusSample(gpus))
    return replace(seen, nodes=tuple(nodes))
