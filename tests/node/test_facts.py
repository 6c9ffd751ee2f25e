"""Facts of this very machine, and of small file trees that stand for others."""

import importlib.metadata
import os
import resource
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from raylaunch.base import versions
from raylaunch.node import facts as node_facts
from raylaunch.node import host as node_facts_host
from raylaunch.node.facts import FactsRequest, collect_facts


def test_facts_of_this_machine(tmp_path, monkeypatch):
    monkeypatch.setenv("VLLM_HOST_IP", "10.9.9.9")
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    seen = collect_facts(FactsRequest("10.0.0.1", str(tmp_path), str(tmp_path / "not" / "yet"), ask_gpus=False))
    assert (seen.node_ip, seen.hostname, seen.vllm_ip) == ("10.0.0.1", socket.gethostname(), "10.9.9.9")
    assert seen.python == ".".join(map(str, sys.version_info[:3]))
    assert seen.packages["ray"] == importlib.metadata.version("ray")
    assert seen.packages.get("vllm") == versions.find_version("vllm")
    assert seen.environment["VLLM_HOST_IP"] == "10.9.9.9"
    assert "GLOO_SOCKET_IFNAME" not in seen.environment
    assert seen.model.exists
    assert not seen.model.is_complete
    assert seen.open_files_soft == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    assert seen.shm_total == shutil.disk_usage("/dev/shm").total
    assert seen.ram_available > 0
    assert seen.disk_free is not None
    assert seen.driver is None


@pytest.mark.engine
def test_the_address_that_vllm_takes_is_vllms(monkeypatch):
    network_utils = pytest.importorskip("vllm.utils.network_utils")
    monkeypatch.delenv("VLLM_HOST_IP", raising=False)
    assert node_facts._guess_vllm_ip() == network_utils.get_ip()


def test_looking_imports_no_engine():
    """A check that imported PyTorch would take seconds on every node."""
    script = (
        "import sys; from raylaunch.node.facts import *; collect_facts(FactsRequest('10.0.0.1', '/')); "
        "assert not {'torch', 'vllm', 'ray', 'pydantic'} & set(sys.modules), 'engine imported'"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


@pytest.mark.parametrize(
    ("text", "cuda"),
    [
        ("__version__ = '2.13.0+cu130'\ncuda: Optional[str] = '13.0'\nhip: Optional[str] = None\n", "13.0"),
        ("cuda = '12.8'\n", "12.8"),
        ("__version__ = '2.13.0+cpu'\ncuda: Optional[str] = None\n", None),
    ],
)
def test_the_cuda_that_pytorch_was_built_for(tmp_path, text, cuda):
    package = tmp_path / "torch"
    package.mkdir()
    (package / "__init__.py").write_text("raise SystemExit('imported')")
    (package / "version.py").write_text(text)
    script = "from raylaunch.node import facts; print(facts._find_torch_cuda())"
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    ran = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True, timeout=60
    )
    assert ran.stdout.strip() == str(cuda)


def write_tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


MEMINFO = {"proc/meminfo": "MemTotal: 1000 kB\nMemFree: 1 kB\nMemAvailable: 800 kB\n\n"}
V2, V1 = "sys/fs/cgroup/memory.", "sys/fs/cgroup/memory/memory."


def test_memory_of_a_machine_without_limits(tmp_path):
    unlimited = {V2 + "max": "max\n", V2 + "current": "5\n", V2 + "stat": ""}
    assert node_facts_host.measure_ram(write_tree(tmp_path, MEMINFO | unlimited)) == (1000 << 10, 800 << 10)


@pytest.mark.parametrize(
    "limit",
    [
        {V2 + "max": "500000\n", V2 + "current": "400000\n", V2 + "stat": "anon 1\ninactive_file 50000\n"},
        {
            V1 + "limit_in_bytes": "500000\n",
            V1 + "usage_in_bytes": "400000\n",
            V1 + "stat": "inactive_file 1\ntotal_inactive_file 50000\n",
        },
    ],
    ids=["v2", "v1"],
)
def test_memory_of_a_container(tmp_path, limit):
    assert node_facts_host.measure_ram(write_tree(tmp_path, MEMINFO | limit)) == (500_000, 150_000)


def test_a_limit_above_the_machine_is_none(tmp_path):
    limit = {V2 + "max": str(1 << 62), V2 + "current": "1", V2 + "stat": ""}
    assert node_facts_host.measure_ram(write_tree(tmp_path, MEMINFO | limit)) == (1000 << 10, 800 << 10)
