"""Facts of a node's NVIDIA GPUs, through NVML (nvidia-ml-py, where it is installed)."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from raylaunch.node.host import read_process_name

NO_BINDING = "nvidia-ml-py is not installed"


@dataclass(frozen=True, slots=True)
class GpuProcess:
    """A process that holds memory of a GPU."""

    pid: int
    name: str
    """"" where it lives outside this container."""
    used_bytes: int | None
    """None where the driver does not report it (MIG, WSL)."""


@dataclass(frozen=True, slots=True)
class NodeGpu:
    """One GPU, from NVML."""

    index: int
    uuid: str
    name: str
    total_bytes: int
    used_bytes: int
    free_bytes: int
    processes: tuple[GpuProcess, ...] = ()
    error: str = ""
    """NVML's error message; "" where it answered."""
    cuda_bytes: int | None = None
    """What CUDA reports as its total, which is below NVML's; None where CUDA does not answer."""

    @property
    def usable_bytes(self) -> int:
        """The memory that vLLM counts with."""
        return self.cuda_bytes or self.total_bytes


@dataclass(frozen=True, slots=True)
class DriverFacts:
    """The NVIDIA driver of a node and its GPUs."""

    error: str = ""
    """NVML's error message; "" where it answers."""
    driver_version: str = ""
    cuda_version: tuple[int, int] | None = None
    """Newest CUDA that libcuda supports; a cuda-compat package raises it."""
    gpus: tuple[NodeGpu, ...] = ()
    lacks_binding: bool = False
    """Whether nvidia-ml-py is not installed there."""


def import_nvml() -> Any:
    """The binding of NVML; raises ImportError where nvidia-ml-py is not installed."""
    import pynvml

    return pynvml


def read_gpus(import_nvml: Callable[[], Any] = import_nvml) -> DriverFacts:
    """The driver and all GPUs; never raises NVML's errors."""
    try:
        nvml = import_nvml()
    except ImportError:
        return DriverFacts(error=NO_BINDING, lacks_binding=True)
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        return DriverFacts(error=str(error))
    try:
        measured = measure_cuda()
        cuda = int(nvml.nvmlSystemGetCudaDriverVersion_v2())
        return DriverFacts(
            driver_version=read_text(nvml.nvmlSystemGetDriverVersion()),
            cuda_version=(cuda // 1000, cuda % 1000 // 10),
            gpus=tuple(_read_gpu(nvml, index, measured) for index in range(nvml.nvmlDeviceGetCount())),
        )
    except nvml.NVMLError as error:
        return DriverFacts(error=str(error))
    finally:
        nvml.nvmlShutdown()


def _read_gpu(nvml: Any, index: int, measured: Mapping[str, int]) -> NodeGpu:
    try:
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        return NodeGpu(
            index=index,
            uuid=read_text(nvml.nvmlDeviceGetUUID(handle)),
            name=read_text(nvml.nvmlDeviceGetName(handle)),
            total_bytes=int(memory.total),
            used_bytes=int(memory.used),
            free_bytes=int(memory.free),
            processes=read_processes(nvml, handle),
            cuda_bytes=measured.get(read_text(nvml.nvmlDeviceGetUUID(handle)).removeprefix("GPU-")),
        )
    except nvml.NVMLError as error:
        return NodeGpu(index, "", "", 0, 0, 0, error=str(error))


_MEASURE = """
import ctypes, json, uuid
cuda, found = ctypes.CDLL("libcuda.so.1"), {}
count, size, device = ctypes.c_int(), ctypes.c_size_t(), ctypes.c_int()
if cuda.cuInit(0) == 0 and cuda.cuDeviceGetCount(ctypes.byref(count)) == 0:
    for index in range(count.value):
        key = (ctypes.c_ubyte * 16)()
        cuda.cuDeviceGet(ctypes.byref(device), index)
        cuda.cuDeviceGetUuid(key, device)
        if cuda.cuDeviceTotalMem_v2(ctypes.byref(size), device) == 0:
            found[str(uuid.UUID(bytes=bytes(key)))] = size.value
print(json.dumps(found))
"""
_MEASURE_S = 20.0


def measure_cuda() -> dict[str, int]:
    """UUID of each GPU -> the total memory that CUDA reports, without a context on it; empty where there is no CUDA.

    In a child, for CUDA cannot be left again; without CUDA_VISIBLE_DEVICES, which Ray empties for tasks without GPUs.
    """
    environ = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    try:
        done = subprocess.run(
            [sys.executable, "-c", _MEASURE], env=environ, capture_output=True, timeout=_MEASURE_S, check=True
        )
        return {str(key): int(size) for key, size in json.loads(done.stdout).items()}
    except (OSError, subprocess.SubprocessError, ValueError):
        return {}


def read_processes(nvml: Any, handle: Any) -> tuple[GpuProcess, ...]:
    """Processes that hold memory of a GPU, this one left out."""
    found: dict[int, GpuProcess] = {}
    for ask in (nvml.nvmlDeviceGetComputeRunningProcesses, nvml.nvmlDeviceGetGraphicsRunningProcesses):
        try:
            processes = ask(handle)
        except nvml.NVMLError:
            continue  # not supported on this card or under MIG
        for process in processes:
            pid, used = int(process.pid), process.usedGpuMemory
            found.setdefault(pid, GpuProcess(pid, read_process_name(pid), None if used is None else int(used)))
    found.pop(os.getpid(), None)
    return tuple(found.values())


def read_text(value: str | bytes) -> str:
    """NVML bindings before 11.510 return bytes."""
    return value.decode() if isinstance(value, bytes) else value
