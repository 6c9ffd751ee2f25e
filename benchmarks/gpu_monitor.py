"""What the sampling actors see on every node, and what they cost: run it on the head while the server is under load.

python -m benchmarks.gpu_monitor [--seconds 60]

It samples the Ray cluster of the service that runs here, or of RAY_ADDRESS, or a private one of a single node; the
result file holds for each GPU the least, the mean and the most of each figure, and what the card does not tell.
"""

import argparse
import dataclasses
import statistics
import sys
import threading
from collections.abc import Sequence
from typing import Any

from benchmarks import servers
from raylaunch.cluster import monitor, ray_session
from raylaunch.cluster.monitor import NodeSample
from raylaunch.cluster.private import PrivateRay
from raylaunch.node.gpu_sample import GpuSample
from raylaunch.serve import service_record

_FIGURES = (
    *("use_percent", "memory_used_bytes", "memory_total_bytes", "power_w", "power_cap_w", "temperature_c"),
    *("fan_percent", "sm_clock_mhz", "memory_clock_mhz"),
)


def find_address() -> str | None:
    running = [found for found in service_record.list_services() if found.is_alive() and found.ray_address]
    return running[0].ray_address if running else ray_session.find_address()


def watch(seconds: int) -> list[list[NodeSample]]:
    """The samples of each node, in time."""
    stop = threading.Event()
    nodes: dict[str, list[NodeSample]] = {}
    for rounds, seen in enumerate(monitor.follow(stop), 1):
        for node in seen.nodes:
            nodes.setdefault(node.node_id, []).append(node)
        if rounds > seconds:
            stop.set()
    return list(nodes.values())


def sum_up_gpu(samples: Sequence[GpuSample]) -> dict[str, Any]:
    reported: dict[str, Any] = {"index": samples[-1].index, "name": samples[-1].name}
    for figure in _FIGURES:
        values = [value for sample in samples if (value := getattr(sample, figure)) is not None]
        reported[figure] = (
            {"min": min(values), "mean": round(statistics.fmean(values), 1), "max": max(values)} if values else None
        )
    reported["not_told"] = [figure for figure in (*_FIGURES, "reasons") if getattr(samples[-1], figure) is None]
    reported["reasons_seen"] = sorted({reason for sample in samples for reason in sample.reasons or ()})
    reported["processes"] = [dataclasses.asdict(process) for process in samples[-1].processes]
    reported["faults"] = sorted({f"{sample.fault}: {sample.error}" for sample in samples if sample.fault})
    reported["xids"] = [dataclasses.asdict(event) for event in samples[-1].xids]
    return reported


def sum_up_node(samples: Sequence[NodeSample]) -> dict[str, Any]:
    first, last = samples[0], samples[-1]
    used = last.sampler_cpu_s - first.sampler_cpu_s
    indices = {gpu.index for sample in samples for gpu in sample.gpus.gpus}
    return {
        "samples": len(samples),
        "seconds": round(last.sampler_age_s - first.sampler_age_s, 1),
        "sampler_percent_of_a_core": round(100 * used / (last.sampler_age_s - first.sampler_age_s), 3),
        "nvml": last.gpus.error or "answers",
        "gpus": [
            sum_up_gpu([gpu for sample in samples for gpu in sample.gpus.gpus if gpu.index == index])
            for index in sorted(indices)
        ],
        "cores": last.host.cores,
        "machine_cpu_percent": round(statistics.fmean(sample.host.cpu_percent or 0.0 for sample in samples), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=60)
    options = parser.parse_args()
    address, private = find_address(), None
    if address is None:
        private = PrivateRay.start(nodes=1, gpus_per_node=1, env_vars={})
        address = private.address
    try:
        ray_session.join(address, env_vars={})
        nodes = watch(options.seconds)
        ray_session.leave()
    finally:
        if private is not None:
            private.stop()
    result = {"nodes": [sum_up_node(samples) for samples in nodes]}
    has_gpus = any(node["gpus"] for node in result["nodes"])
    servers.write_result("gpu-monitor" if has_gpus else "host-monitor", result)
    worst = max(node["sampler_percent_of_a_core"] for node in result["nodes"])
    sys.exit(0 if worst < 1.0 else f"the sampler takes {worst} % of a core")


if __name__ == "__main__":
    main()
