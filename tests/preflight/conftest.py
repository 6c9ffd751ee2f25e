"""Facts of a healthy cluster, to be broken by one thing in each test."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from raylaunch.node.facts import NodeFacts
from raylaunch.node.model_folder import FolderFacts, FolderFile
from raylaunch.node.nvml import DriverFacts, NodeGpu
from raylaunch.preflight.requirements import CheckRequest

GIB = 1 << 30
PATH = "/data/model"


def make_gpu(index: int = 0, **changes: Any) -> NodeGpu:
    healthy = NodeGpu(index, f"GPU-{index}", "NVIDIA GeForce RTX 4090", 24 * GIB, GIB // 2, 24 * GIB - GIB // 2)
    return replace(healthy, **changes)


def make_facts(number: int = 1, **changes: Any) -> NodeFacts:
    ip = f"10.0.0.{number}"
    files = (
        FolderFile("config.json", 700, "c0"),
        FolderFile("model-00001-of-00002.safetensors", 4 * GIB),
        FolderFile("model-00002-of-00002.safetensors", 3 * GIB),
        FolderFile("tokenizer.json", 9_000_000),
    )
    healthy = NodeFacts(
        node_ip=ip,
        hostname=f"box{number}",
        machine=f"machine-{number}",
        python="3.12.11",
        packages={"ray": "2.60.0", "vllm": "0.32.0", "torch": "2.13.0+cu130"},
        torch_cuda="13.0",
        environment={"VLLM_HOST_IP": ip},
        vllm_ip=ip,
        model=FolderFacts(PATH, exists=True, files=files, has_weights=True, has_tokenizer=True),
        shm_total=10 * GIB,
        shm_free=10 * GIB,
        open_files_soft=1 << 20,
        ram_available=240 * GIB,
        disk_free=500 * GIB,
        driver=DriverFacts("", "580.82.07", (13, 0), tuple(make_gpu(index) for index in range(8))),
    )
    return replace(healthy, **changes)


@pytest.fixture
def request_16() -> CheckRequest:
    """Two nodes of eight GPUs, TP=4 x PP=4."""
    return CheckRequest("owner/name", PATH, 8, 4, 4, gpu_memory_utilization=0.92)


@pytest.fixture
def cluster() -> Callable[..., list[NodeFacts]]:
    """Three healthy nodes; keyword arguments change the last one."""
    return lambda **changes: [make_facts(1), make_facts(2), make_facts(3, **changes)]
